"""Which masks are chosen, and which part an image belongs to."""

import numpy as np
import pytest

from campaign.dataset.choice import Choice, Division
from campaign.dataset.polygons import PolygonLoss
from ml_backend.errors import InputError
from tests.campaign.dataset.builders import CLASSES, dataset, ring_in_two_parts


@pytest.mark.parametrize(
    ("choice", "kept"),
    [
        (Choice(), [0, 1, 2, 3]),
        (Choice(classes=("nut",)), [0, 1]),
        (Choice(rounds=(2,)), [1, 3]),
        (Choice(min_score=0.7), [0, 2]),
        (Choice(verified_only=True), [0, 2]),
        (Choice(classes=("bolt",), verified_only=True), [2]),
    ],
)
def test_masks_are_chosen_by_all_that_is_said(choice, kept):
    masks = dataset([ring_in_two_parts()] * 4)
    columns = {n: getattr(masks, n) for n in masks.COLUMNS}
    columns |= {"class_id": [5, 5, 2, 2], "round": [1, 2, 1, 2], "confidence": [1, 0.8, 0.9, 0.7]}
    masks = type(masks)(**columns)
    assert np.flatnonzero(choice.select(masks, CLASSES)).tolist() == kept


def test_an_unknown_class_is_named():
    with pytest.raises(InputError, match="classes: expected some of nut, bolt, got screw"):
        Choice(classes=("nut", "screw")).kept(CLASSES)


def test_parts_are_stable_and_have_their_shares():
    division = Division.parse("0.8/0.1/0.1", "0")
    names = [f"{n}.png" for n in range(3000)]
    parts = [division.part_of(n) for n in names]
    shares = [parts.count(p) / len(parts) for p in ("train", "val", "test")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.03)
    assert [Division.parse("0.8/0.1/0.1", "0").part_of(n) for n in names] == parts
    assert [Division.parse("0.8/0.1/0.1", "1").part_of(n) for n in names] != parts
    # A larger share of train takes images from the others and gives none away.
    more = Division.parse("0.9/0.1", "0")
    assert all(more.part_of(n) == "train" for n, p in zip(names, parts, strict=True) if p == "train")


@pytest.mark.parametrize("text", ["0.8", "0.8/0.1", "a/b", "0.5/0.6", "1/0", "0.4/0.3/0.2/0.1", "-0.5/1.5"])
def test_bad_shares(text):
    with pytest.raises(
        InputError, match=r"split: expected two or three shares that sum to 1, such as 0.8/0.1/0.1, got"
    ):
        Division.parse(text, "0")


def test_losses_add_up():
    both = PolygonLoss(2, 1.9, 0.9).with_(PolygonLoss(1, 1.0, 1.0, {4: 0.5}))
    assert (both.masks, both.total, both.least, both.refused) == (3, 2.9, 0.9, {4: 0.5})
