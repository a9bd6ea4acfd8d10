"""The GPU engine, on PyTorch's CPU device where there is no GPU."""

import numpy as np
import pytest
import torch

from campaign.clustering import LinkageOptions, cluster, device, engine, linkage
from campaign.clustering import neighbours as lists
from ml_backend.errors import InputError
from tests.campaign.clustering.reference import assert_complete_linkage, assert_same_tree, fused, masks

PLACE = "cuda:0" if torch.cuda.is_available() else "cpu:0"


@pytest.fixture
def on_device(monkeypatch):
    """Sizes so small that a few hundred masks take every path of a large run."""
    monkeypatch.setattr(engine, "find_device", lambda wanted: PLACE)
    monkeypatch.setattr(device, "HANDOVER", 20)
    monkeypatch.setattr(device, "ROWS", 32)
    monkeypatch.setattr(device, "COLUMNS", 64)
    monkeypatch.setattr(device, "MASKS", 50)
    monkeypatch.setattr(device, "SLAB", 1000)


@pytest.mark.usefixtures("on_device")
@pytest.mark.parametrize("n", [2, 3, 21, 300])
@pytest.mark.parametrize("kind", ["normal", "blobs", "duplicates", "grid"])
@pytest.mark.parametrize("fits", [1000, 60])
def test_same_tree_as_scipy(monkeypatch, n, kind, fits):
    monkeypatch.setattr(device.DeviceClusters, "matrix_budget", lambda self: 4 * fits**2)
    monkeypatch.setattr(lists, "LIST", 6)
    features, scores = masks(kind, n, 6, n)
    merges = linkage(features, scores, LinkageOptions(threads=2))
    check = assert_complete_linkage if kind == "grid" else assert_same_tree
    check(merges, fused(features, scores))


@pytest.mark.usefixtures("on_device")
def test_chain_on_device(monkeypatch):
    monkeypatch.setattr("campaign.clustering.dense.PATIENCE", 0)
    features, scores = masks("normal", 150, 4, 0)
    assert_same_tree(linkage(features, scores), fused(features, scores))


@pytest.mark.usefixtures("on_device")
def test_constant_features_end_in_few_rounds():
    merges = linkage(np.ones((500, 3)), np.ones(500))
    assert merges[:, 2].max() == 0 and merges[-1, 3] == 500


def test_the_engine_for_gpus_can_be_asked_for_on_a_cpu():
    features, scores = masks("normal", 100, 4, 0)
    clustering = cluster(features, scores, LinkageOptions(device="cpu:0"))
    assert clustering.device == "cpu:0"
    assert_same_tree(clustering.linkage, fused(features, scores))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_missing_device_is_named():
    with pytest.raises(InputError, match="device: expected a CUDA device, got none"):
        linkage(np.zeros((3, 2)), np.zeros(3), LinkageOptions(device="cuda"))
