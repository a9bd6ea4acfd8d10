import pytest
import torch

from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.pointrend.whole_images import ImageSampler
from tests.ml_backend.detectors.drawn import draw


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("images"), 4, seed=1)


def test_whole_training_images(data):
    options = {"schedule": "published", "short_edges": (128, 160), "long_edge": 400, "batch": 4}
    chosen = PointRendOptions.create(options).resolve(data)
    sampler = ImageSampler(data, sorted(data.classes), chosen)
    images, targets = sampler.batch(3)
    again, _ = ImageSampler(data, sorted(data.classes), chosen).batch(3)
    assert torch.equal(images, again)
    assert images.shape[0] == 4
    assert {t.masks.shape[-1] for t in targets} <= {128, 160}
    for image, target in zip(images, targets, strict=True):
        assert len(target.boxes) == 5
        for mask, box, label in zip(target.masks, target.boxes, target.labels, strict=True):
            rows, columns = torch.nonzero(mask, as_tuple=True)
            tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (tight - box).abs().max() <= 2
            # Disks, label 1, are brighter than their ground and squares, label 2, darker.
            inside = image[:, rows, columns].mean()
            outside = image[:, : mask.shape[0], : mask.shape[1]][:, target.masks.amax(0) == 0].mean()
            assert (inside > outside) == (label == 1)
