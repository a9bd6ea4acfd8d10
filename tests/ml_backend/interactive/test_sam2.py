"""The loading code of `sam2` on a model of random weights; skipped where the optional package is missing."""

import numpy as np
import pytest
import torch

from ml_backend.errors import InputError
from ml_backend.interactive.options import Sam2Options
from ml_backend.interactive.sam2 import Sam2Segmenter, built, previous_logits
from ml_backend.interactive.segmenter import Click, Prompt, Segmenter


def test_a_mask_becomes_logits_over_the_whole_picture():
    mask = np.zeros((100, 200), bool)
    mask[:, 100:] = True
    logits = previous_logits(mask)
    assert logits.shape == (1, 256, 256) and logits.dtype == np.float32
    assert (logits[0, :, :128] == -8).all() and (logits[0, :, 128:] == 8).all()


def test_nothing_is_trained_and_weights_must_be_there(tmp_path):
    with pytest.raises(InputError, match="sam2: expected weights"):
        Sam2Segmenter.train(None, None, tmp_path, options={})
    with pytest.raises(InputError, match="expected weights of sam2, got no such file"):
        Sam2Segmenter.load(tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"segmenter option confg: .*the nearest is config"):
        Sam2Segmenter.load(tmp_path / "none.pt", confg="x")


def test_without_the_package_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sam2.build_sam", None)
    with pytest.raises(InputError, match=r"segmenter sam2: expected its package, pip install"):
        built(Sam2Options())


@pytest.mark.slow
def test_weights_are_loaded_and_prompts_answered(tmp_path):
    pytest.importorskip("sam2", reason="needs the package sam2")
    torch.manual_seed(0)
    options = Sam2Options(device="cpu")
    path = tmp_path / "sam2.pt"
    torch.save({"model": built(options).state_dict()}, path)
    segmenter = Sam2Segmenter.load(path, device="cpu")
    assert isinstance(segmenter, Segmenter)
    assert Sam2Segmenter.load(path, device="cpu").version == segmenter.version
    encoding = segmenter.encode(np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8))
    assert (encoding.height, encoding.width) == (90, 120) and encoding.nbytes > 1e6
    previous = np.zeros((90, 120), bool)
    previous[20:40, 30:60] = True
    for prompt in (
        Prompt(box=(10, 20, 50, 60)),
        Prompt(box=(10, 20, 50, 60), clicks=(Click(30, 30, True), Click(5, 5, False))),
        Prompt(clicks=(Click(30, 30, True),), previous=previous),
        Prompt(previous=previous),
    ):
        proposal, again = segmenter.segment(encoding, prompt), segmenter.segment(encoding, prompt)
        assert proposal.mask.shape == (90, 120) and proposal.mask.dtype == bool
        assert (proposal.mask == again.mask).all() and 0 <= proposal.predicted_iou <= 1
    with pytest.raises(InputError, match="a box, a positive click or a mask"):
        segmenter.segment(encoding, Prompt())
    torch.save({"model": {}}, path)
    with pytest.raises(InputError, match="weights of sam2 for"):
        Sam2Segmenter.load(path, device="cpu")
