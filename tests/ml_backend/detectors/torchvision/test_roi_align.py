import pytest
import torch
from torchvision.ops import roi_align

from ml_backend.detectors.torchvision.roi_align import PyramidAlign


def pyramid(images=2, channels=3, side=128):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(images, channels, side // s, side // s, generator=generator) for s in (4, 8, 16)]


BOXES = [
    torch.tensor([[3.3, 4.1, 17.9, 30.2], [0.0, 0.0, 128.0, 128.0], [100.0, 90.0, 140.0, 150.0]]),
    torch.tensor([[-20.0, 5.0, 60.0, 70.0], [50.0, 50.0, 50.5, 51.0]]),
]


@pytest.mark.parametrize(("size", "samples"), [(7, 2), (14, 1), (14, 2)])
@pytest.mark.parametrize("finest", [False, True])
def test_values_and_gradients_equal_those_of_torchvision(size, samples, finest):
    align = PyramidAlign(size, samples, (4, 8, 16), 56.0)
    ours, theirs = ([f.clone().requires_grad_() for f in pyramid()] for _ in range(2))
    found = align(ours, BOXES, finest=finest)
    rois = torch.cat([torch.cat([torch.full((len(b), 1), float(i)), b], 1) for i, b in enumerate(BOXES)])
    levels = torch.zeros(5, dtype=torch.long) if finest else align.levels(rois[:, 1:])
    expected = torch.cat(
        [
            roi_align(theirs[level], rois[i : i + 1], size, 1 / align.strides[level], samples, True)
            for i, level in enumerate(levels.tolist())
        ]
    )
    assert torch.allclose(found, expected, atol=1e-3)
    pattern = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    (found * pattern).sum().backward()
    (expected * pattern).sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        if b.grad is not None:
            assert torch.allclose(a.grad, b.grad, atol=1e-2)


@pytest.mark.parametrize(("side", "level"), [(5, 0), (55, 0), (57, 1), (111, 1), (113, 2), (900, 2)])
def test_levels(side, level):
    boxes = torch.tensor([[0.0, 0.0, side, side]])
    assert PyramidAlign(7, 2, (4, 8, 16), 56.0).levels(boxes).tolist() == [level]


@pytest.mark.parametrize("size", [7, 14])
def test_no_boxes(size):
    found = PyramidAlign(size, 1, (4, 8, 16), 56.0)(pyramid(), [torch.zeros(0, 4), torch.zeros(0, 4)])
    assert found.shape == (0, 3, size, size)
