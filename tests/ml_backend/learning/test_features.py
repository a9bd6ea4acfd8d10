import hashlib

import numpy as np
import pytest
import torch

from ml_backend.learning.features import KINDS, feature_width, project, projection, raw_feature, stability

CHANNELS = {"published": 256, "narrow": 64, "very narrow": 8}


def inputs(channels, hidden=1024, n=3, box_hidden=1024):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.rand(n, channels, 14, 14, generator=generator),
        torch.rand(n, 28, 28, generator=generator),
        torch.rand(n, hidden, generator=generator),
        torch.rand(n, box_hidden, generator=generator),
    )


@pytest.mark.parametrize(
    ("kind", "channels", "hidden", "raw", "stored"),
    [
        ("mask_attention", 256, 1024, 12544, 512),
        ("backbone", 256, 1024, 12544, 512),
        ("mask_logits", 256, 1024, 3136, 512),
        ("mask_iou", 256, 1024, 1024, 1024),
        ("box_head", 256, 256, 1024, 1024),
        ("box_and_iou_head", 256, 1024, 2048, 2048),
        ("mask_attention", 64, 256, 3136, 512),
        ("mask_iou", 64, 256, 256, 256),
        ("backbone", 8, 16, 392, 392),
        ("mask_iou", 8, 16, 16, 16),
    ],
)
def test_widths(kind, channels, hidden, raw, stored, device):
    feature = raw_feature(kind, *(t.to(device) for t in inputs(channels, hidden)))
    assert feature.shape == (3, raw)
    projected = project(kind, feature)
    assert projected.shape == (3, stored)
    assert projected.dtype == torch.float16
    assert feature_width(kind, raw) == stored


@pytest.mark.parametrize("kind", KINDS)
def test_no_masks(kind):
    feature = project(kind, raw_feature(kind, *inputs(16, 32, n=0)))
    assert feature.shape[0] == 0
    assert feature.shape[1] == project(kind, raw_feature(kind, *inputs(16, 32, n=1))).shape[1]


def test_unknown_kind():
    with pytest.raises(ValueError, match="expected a feature kind among mask_attention"):
        raw_feature("colour", *inputs(8))


def test_projection_is_the_same_everywhere():
    matrix = projection(3136)
    assert matrix.shape == (3136, 512)
    assert matrix.dtype == np.float32
    # Recorded once: stored features of a campaign must fit those of its next rounds, on whatever machine.
    rounded = np.round(matrix[:64] * 2**12).astype("<i4").tobytes()
    assert hashlib.sha256(rounded).hexdigest()[:16] == "bcbeebbc801f1b88"
    assert not np.array_equal(matrix, projection(3136, seed=1))


@pytest.mark.parametrize("kind", KINDS)
def test_every_device_gives_the_same(kind, device):
    here, there = (
        project(kind, raw_feature(kind, *(t.to(place) for t in inputs(64, 256)))).float().cpu()
        for place in ("cpu", device)
    )
    assert torch.allclose(here, there, rtol=2e-3, atol=2e-3 * float(here.abs().max()))


def test_projection_keeps_distances():
    generator = torch.Generator().manual_seed(0)
    raw = torch.rand(40, 3136, generator=generator)
    small = project("mask_logits", raw).float()
    ratio = torch.pdist(small) / torch.pdist(raw)
    assert ratio.mean() == pytest.approx(1, abs=0.03)
    assert ratio.std() < 0.06


def test_attention_blanks_what_the_mask_leaves_out():
    roi, _, *hidden = inputs(4)
    left = torch.zeros(3, 28, 28)
    left[:, :, :14] = 1
    attended = raw_feature("mask_attention", roi, left, *hidden).view(3, 4, 7, 7)
    plain = raw_feature("backbone", roi, left, *hidden).view(3, 4, 7, 7)
    assert attended[..., 5:].abs().max() < 1e-3
    assert torch.allclose(attended[..., :2], plain[..., :2], rtol=1e-3)


def test_values_stay_finite_in_half_precision():
    assert torch.isfinite(project("mask_iou", torch.full((1, 4), 1e9))).all()


def wedge(low, high, side=28):
    """A mask whose probability rises from `low` to `high` from its left to its right."""
    return torch.linspace(low, high, side).expand(1, side, side)


@pytest.mark.parametrize(
    ("masks", "expected"),
    [
        (wedge(1, 1), [1.0]),
        (wedge(0, 1), [2 / 3]),
        (wedge(0, 1, 280), [2 / 3]),
        (wedge(0.5, 0.5), [0.0]),
        (wedge(0, 0), [0.0]),
        (torch.cat([wedge(0, 1), wedge(1, 1)]), [2 / 3, 1.0]),
        (torch.zeros(0, 28, 28), []),
    ],
    ids=["sharp", "a slope", "a fine slope", "all in doubt", "nothing", "several", "none"],
)
def test_stability_is_the_share_that_does_not_depend_on_the_cut(masks, expected, device):
    assert stability(masks.to(device)).tolist() == pytest.approx(expected, abs=0.06)
