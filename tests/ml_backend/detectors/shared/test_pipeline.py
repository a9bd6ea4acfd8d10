from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.detectors.shared.pipeline import Pipeline
from ml_backend.detectors.shared.records import Detections
from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord
from tests.ml_backend.detectors.drawn import CLASSES, draw

OPTIONS = DetectorOptions(scale=2.0, tile=256, predict_batch=3, min_area=0.0, feature_width=4)


def pipeline(detect, device="cpu", options=OPTIONS):
    return Pipeline(detect, options, torch.device(device), list(CLASSES), lambda iou: iou, ["mask_iou"])


def one_square(pixels, sizes):
    """In the middle of each tile a square of 20 network pixels, with the tile's mean as its feature."""
    found = []
    for part, (height, width) in zip(pixels, sizes, strict=True):
        middle = torch.tensor([width, height, width, height], device=pixels.device) / 2
        box = (middle + torch.tensor([-10.0, -10, 10, 10], device=pixels.device))[None]
        one = torch.ones(1, device=pixels.device)
        mean = part[:, :height, :width].mean()
        found.append(
            Detections(
                box,
                one.long(),
                one,
                torch.ones(1, 28, 28, device=pixels.device),
                one * 0.5,
                torch.ones(1, 2, 14, 14, device=pixels.device),
                mean.reshape(1, 1),
                mean.reshape(1, 1),
            )
        )
    return found


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_images_of_several_tiles_keep_their_order(batch, tmp_path, device):
    """Images with 1, 9 and 1 tiles go through the network in batches that know no images."""
    small, large = draw(tmp_path / "a", 2, seed=1), draw(tmp_path / "b", 1, seed=2, side=280)
    images = [small.images[0], large.images[0], small.images[1]]
    sizes = []

    def detect(pixels, size):
        sizes.append(len(size))
        return one_square(pixels, size)

    found = list(pipeline(detect, device, OPTIONS.model_copy(update={"predict_batch": batch}))(iter(images)))
    assert [p.image_id.tolist() for p, _ in found] == [[i.id] * n for i, n in zip(images, (1, 9, 1), strict=True)]
    assert sum(sizes) == 11 and max(sizes) == min(batch, 11) and len(sizes) == -(-11 // batch)
    assert found[0][0].box.tolist() == [[43.0, 43.0, 10.0, 10.0]]
    assert found[0][0].stability.tolist() == [1.0]
    whole = np.sort(found[1][0].box[:, :2], axis=0)
    assert whole[[0, -1]].tolist() == [[59.0, 59.0], [211.0, 211.0]]


def test_what_fails_in_a_thread_is_raised(tmp_path):
    images = draw(tmp_path, 2, seed=1).images
    with pytest.raises(InputError, match="expected an image file, got no such file"):
        list(pipeline(one_square)([images[0], replace(images[1], path=tmp_path / "nowhere.png")]))

    def broken(pixels, sizes):
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        list(pipeline(broken)(images))


def test_threads_work_on_the_network_s_gpu(monkeypatch):
    """A thread that pins memory would open the first GPU, whichever the network is on."""
    entered = []
    monkeypatch.setattr(torch.cuda, "set_device", entered.append)
    with pytest.raises(InputError):
        list(pipeline(one_square, "cuda:1")([ImageRecord(1, "a.png", 9, 9, Path("nowhere.png"))]))
    assert set(entered) == {torch.device("cuda", 1)}
