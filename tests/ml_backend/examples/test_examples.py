"""The worked examples keep the obligations of detectors, with weights drawn at random."""

import json
from pathlib import Path

import pytest
import torch

from ml_backend.masks.coco import annotation_json
from ml_backend.obligations import Trial, outcomes
from tests.ml_backend.detectors.drawn import draw


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return draw(folder, 2, seed=1), draw(folder, 2, seed=2)


def test_masks_by_transformers(sets, tmp_path):
    transformers = pytest.importorskip("transformers")
    from ml_backend.examples.transformers_instances import TransformersInstances

    torch.manual_seed(0)
    backbone = transformers.SwinConfig(
        embed_dim=12, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = transformers.Mask2FormerConfig(
        backbone_config=backbone, hidden_dim=32, feature_size=32, mask_feature_size=32, num_queries=6,
        num_attention_heads=2, encoder_layers=1, decoder_layers=2, encoder_feedforward_dim=32, dim_feedforward=32,
        train_num_points=64,
    )  # fmt: skip
    transformers.Mask2FormerForUniversalSegmentation(config).save_pretrained(tmp_path / "start")
    trial = Trial(TransformersInstances, *sets, tmp_path, {"model": str(tmp_path / "start"), "steps": 2})
    assert [one for one in outcomes(trial) if not one.kept] == []
    assert trial.masks.features.shape[1] == 32


@pytest.mark.parametrize("backbone", ["resnet18", "lcnet_035"])
def test_features_by_timm(sets, tmp_path, backbone):
    pytest.importorskip("timm")
    from ml_backend.examples.timm_features import TimmFeatures

    results = tmp_path / "results.json"
    rows = [
        {k: annotation_json(a)[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.5}
        for a in sets[1].annotations
    ]
    results.write_text(json.dumps(rows))
    trial = Trial(TimmFeatures, *sets, tmp_path / "out", {"results": str(results), "backbone": backbone})
    trial.folder.mkdir()
    assert [one for one in outcomes(trial) if not one.kept] == []
    assert trial.masks.features.shape == (len(sets[1].annotations), 512 if backbone == "resnet18" else 1280)


@pytest.mark.parametrize("name", ["transformers_instances", "timm_features"])
def test_examples_are_about_sixty_lines(name):
    import ml_backend.examples

    text = (Path(ml_backend.examples.__file__).parent / f"{name}.py").read_text()
    body = text.partition("class ")[2].splitlines()
    assert len([line for line in body if line.strip()]) <= 70
