import numpy as np
import pytest
import torch

from ml_backend.errors import InputError
from ml_backend.interactive.options import PublishedOptions
from ml_backend.interactive.published import (
    BoundaryRefinement,
    CropsOfObjects,
    _expected_iou,
    box_losses,
    click_losses,
    halves,
    published_channels,
    settled,
)
from ml_backend.interactive.segmenter import Click
from tests.ml_backend.builders import squares
from tests.ml_backend.detectors.drawn import draw


class Linear(torch.nn.Module):
    """A network of one convolution that keeps what it was asked."""

    def __init__(self, channels):
        super().__init__()
        self.layer = torch.nn.Conv2d(channels, 1, 1)
        self.asked = []

    def forward(self, inputs):
        self.asked.append(inputs)
        return self.layer(inputs)[:, 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn"), images=6, seed=1)


def test_the_published_numbers_are_the_defaults():
    options = PublishedOptions()
    assert (options.crop, options.object, options.radius, options.backbone) == (513, 385, 5.0, "resnet50")


def test_channels_are_box_and_signed_discs():
    options = PublishedOptions(crop=65, object=49)
    clicks = [Click(10.5, 20.5, True), Click(50.5, 40.5, False)]
    channels = published_channels(options, np.array([8.0, 8.0, 57.0, 57.0]), clicks, True)
    assert channels.shape == (3, 65, 65)
    assert channels[0].sum() == 49 * 49
    for channel, row, column in ((1, 20, 10), (2, 40, 50)):
        assert channels[channel, row, column] == 1 and channels[3 - channel, row, column] == 0
        assert channels[channel].sum() == pytest.approx(np.pi * 5.0**2, rel=0.1)
    assert published_channels(options, np.array([8.0, 8.0, 57.0, 57.0]), [], False).shape == (1, 65, 65)


def test_the_halves_are_disjoint_and_all(data):
    first, second = halves(data, 0)
    assert not first & second
    assert first | second == {i.id for i in data.images}
    assert abs(len(first) - len(second)) <= 1
    with pytest.raises(InputError, match="on at least two images"):
        halves(squares(5), 0)


def test_the_object_fills_its_share_of_the_crop(data):
    options = PublishedOptions(crop=65, object=49, colour_jitter=0)
    crops = CropsOfObjects(data, {i.id for i in data.images}, options).batch(0)
    assert crops.pixels.shape == (4, 3, 65, 65) and crops.truth.shape == (4, 65, 65)
    for box in crops.boxes:
        assert max(box[2] - box[0], box[3] - box[1]) == pytest.approx(49)
    again = CropsOfObjects(data, {i.id for i in data.images}, options).batch(0)
    assert torch.equal(crops.pixels, again.pixels)


def test_clicks_are_on_the_errors_of_the_first_network(data):
    options = PublishedOptions(crop=65, object=49)
    crops = CropsOfObjects(data, {i.id for i in data.images}, options).batch(3)
    first, second = Linear(4), Linear(6)
    with torch.no_grad():
        first.layer.weight.zero_()
        first.layer.bias.fill_(-1)  # nothing is masked, so that all clicks are positive
    losses = click_losses(options, first)(second, crops, 0)
    assert losses["mask"].requires_grad and first.layer.weight.grad is None
    positive, negative = second.asked[0][:, 4], second.asked[0][:, 5]
    assert (positive.amax((1, 2)) > 0.5).all() and not negative.any()
    assert box_losses(options)(first, crops, 0)["mask"] > 0


def test_batch_normalisation_settles_on_the_weights_that_are_kept(data):
    class Normalised(Linear):
        def __init__(self):
            super().__init__(4)
            self.norm = torch.nn.BatchNorm2d(1, momentum=0.01)

        def forward(self, inputs):
            return self.norm(super().forward(inputs)[:, None])[:, 0]

    options, network = PublishedOptions(crop=33, object=25, steps=10), Normalised()
    batches = CropsOfObjects(data, {i.id for i in data.images}, options).batch
    stale = {name: value.clone() for name, value in network.state_dict().items()}
    stale["norm.running_mean"] += 100
    kept = settled(network, stale, batches, box_losses(options), options)
    assert not network.training and torch.equal(kept["layer.weight"], stale["layer.weight"])
    met = torch.stack([network.layer(inputs).mean() for inputs in network.asked])
    assert len(met) == 50 and torch.equal(network.asked[0][:, :3], batches(10).pixels)
    torch.testing.assert_close(kept["norm.running_mean"][0], met.mean(), atol=1e-4, rtol=1e-4)


def test_refinement_begins_by_changing_nothing():
    logits = torch.randn(2, 1, 9, 9)
    assert torch.equal(BoundaryRefinement()(logits, torch.randn(2, 3, 9, 9)), logits)


@pytest.mark.parametrize(
    ("probability", "expected"), [([[1.0, 0.0]], 1.0), ([[0.0, 0.0]], 0.0), ([[0.8, 0.2]], 0.8 / 1.2)]
)
def test_expected_iou(probability, expected):
    assert _expected_iou(np.array(probability)) == pytest.approx(expected)
