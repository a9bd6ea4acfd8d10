import pytest
import torch

from ml_backend.learning.iou_head import IoUHead, balanced, iou_loss, resize_masks


def disk(radius, side=40, x=20.0, y=20.0):
    at = torch.arange(side) + 0.5
    return (((at[None] - x) ** 2 + (at[:, None] - y) ** 2) <= radius**2).float()


@pytest.mark.parametrize(
    ("predicted", "target", "expected"),
    [([0.5, 1.0], [0.5, 0.0], 0.5), ([0.2], [0.9], 0.7), ([], [], 0.0)],
)
def test_loss_is_the_mean_absolute_error(predicted, target, expected):
    predicted = torch.tensor(predicted, requires_grad=True)
    loss = iou_loss(predicted, torch.tensor(target))
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert predicted.grad is not None


@pytest.mark.parametrize(("channels", "width", "hidden"), [(256, 256, 1024), (64, 64, 256), (8, 16, 32)])
def test_widths(channels, width, hidden, device):
    head = IoUHead(channels, width, hidden).to(device)
    predicted, feature = head(torch.rand(3, channels, 14, 14, device=device), torch.rand(3, 28, 28, device=device))
    assert (predicted.device.type, predicted.dtype) == (device, torch.float32)
    assert predicted.shape == (3,)
    assert feature.shape == (3, hidden)
    assert head.hidden == hidden
    assert ((predicted > 0) & (predicted < 1)).all()
    assert head.convolutions[0].in_channels == channels + 1
    assert [c.stride for c in head.convolutions] == [(1, 1)] * 3 + [(2, 2)]


def test_inputs_learn_nothing():
    head = IoUHead(8, 8, 8)
    features = torch.rand(2, 8, 14, 14, requires_grad=True)
    masks = torch.rand(2, 28, 28, requires_grad=True)
    head(features, masks)[0].sum().backward()
    assert features.grad is None
    assert masks.grad is None
    assert all(p.grad is not None for p in head.parameters())


def test_no_masks():
    head = IoUHead(8, 8, 8)
    predicted, hidden = head(torch.zeros(0, 8, 14, 14), torch.zeros(0, 28, 28))
    assert predicted.shape == (0,)
    assert hidden.shape == (0, 8)
    loss = iou_loss(predicted, torch.zeros(0))
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("target", "rows"),
    [
        ([0.9, 0.0, 0.5, 0.05, 0.0], [0, 2, 1, 3]),
        ([0.0, 0.0, 0.0], []),
        ([0.8, 0.6], [0, 1]),
        ([], []),
    ],
    ids=["more misses", "misses only", "hits only", "none"],
)
def test_hits_and_misses_in_balance(target, rows, device):
    assert balanced(torch.tensor(target, device=device)).tolist() == rows


@pytest.mark.parametrize("size", [7, 14, 56])
def test_resizing_keeps_the_covered_share(size, device):
    masks = torch.stack([disk(8), disk(15), torch.ones(40, 40), torch.zeros(40, 40)]).to(device)
    resized = resize_masks(masks, size)
    assert resized.shape == (4, size, size)
    assert resized.mean((1, 2)).tolist() == pytest.approx(masks.mean((1, 2)).tolist(), abs=0.02)
    assert resized.min() >= -1e-5
    assert resized.max() <= 1 + 1e-5


def test_it_learns_to_tell_good_masks_from_bad(device):
    torch.manual_seed(0)
    head = IoUHead(4, 8, 16).to(device)
    optimiser = torch.optim.Adam(head.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(1)

    def sample(n):
        radius = torch.rand(n, generator=generator) * 8 + 10
        shift = torch.rand(n, generator=generator) * 20
        true = torch.stack([disk(r) for r in radius])
        mask = torch.stack([disk(r, x=20 + s) for r, s in zip(radius, shift, strict=True)])
        features = resize_masks(true, 14)[:, None].repeat(1, 4, 1, 1)
        iou = (mask * true).sum((1, 2)) / torch.maximum(mask, true).sum((1, 2))
        return features.to(device), mask.to(device), iou.to(device)

    for _ in range(150):
        features, mask, target = sample(16)
        optimiser.zero_grad()
        iou_loss(head(features, mask)[0], target).backward()
        optimiser.step()
    features, mask, target = sample(100)
    predicted = head(features, mask)[0]
    assert torch.corrcoef(torch.stack([predicted, target]))[0, 1] > 0.9
    assert (predicted - target).abs().mean() < 0.1
