"""What two sets of masks have in common, on sets where it is known."""

import pytest

from campaign.dataset.comparison import compare
from campaign.dataset.mask_file import read_masks
from tests.campaign.dataset.test_evaluation import box_mask, write


def test_every_kind_of_change(tmp_path):
    first = [
        (0, 0, box_mask(0, 0, 10, 10)), (0, 0, box_mask(20, 0, 10, 10)), (0, 0, box_mask(40, 0, 10, 10)),
        (0, 0, box_mask(0, 20, 10, 10)),
    ]  # fmt: skip
    second = [
        (0, 0, box_mask(0, 0, 10, 10)), (0, 0, box_mask(20, 0, 10, 8)), (0, 1, box_mask(40, 0, 10, 10)),
        (1, 0, box_mask(0, 20, 10, 10)), (1, 0, box_mask(20, 20, 15, 15)),
    ]  # fmt: skip
    files = [read_masks(write(tmp_path / f"{n}.json", masks)) for n, masks in enumerate((first, second))]
    found = compare(*files)
    assert (found.same, found.lost, found.gained) == (1, [3], [4, 3])
    assert found.moved == [(1, 1, pytest.approx(0.8))] and found.renamed == [(2, 2, 1.0)]
    assert found.mean_iou == pytest.approx(0.9)
    figures = found.as_dict()
    assert {k: v for k, v in figures.items() if k not in ("classes", "mean_iou")} == {
        "first": 4, "second": 5, "gained": 2, "lost": 1, "moved": 1, "renamed": 1,
    }  # fmt: skip
    assert figures["classes"]["dot"] == {"first": 0, "second": 1, "gained": 0, "lost": 0, "moved": 0, "renamed": 0}
    assert compare(*files, alike=0.75).moved == []
