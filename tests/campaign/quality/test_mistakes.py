"""What beginners are told of a wrong mask, from the true masks of its image."""

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.quality.mistakes import Fault, mistake


def box(x0: int, x1: int, y0: int = 0, y1: int = 10) -> dict:
    mask = np.zeros((40, 200), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    return mask_util.encode(mask)


OBJECT = (1, box(0, 100))


@pytest.mark.parametrize(
    ("mask", "truths", "fault", "missing", "extra"),
    [
        (box(0, 50), [OBJECT], Fault.TOO_SMALL, 0.5, 0.0),
        (box(0, 160), [OBJECT], Fault.TOO_LARGE, 0.0, 0.375),
        (box(30, 130), [OBJECT], Fault.BESIDE, 0.3, 0.3),
        (box(0, 100), [(2, box(0, 100))], Fault.OTHER_CLASS, 0.0, 0.0),
        (box(0, 100), [(2, box(0, 90)), (1, box(60, 100))], Fault.OTHER_CLASS, 0.0, 0.0),
        (box(0, 60), [(2, box(0, 100))], Fault.OTHER_CLASS, 0.0, 0.0),
        (box(0, 100), [(1, box(0, 50)), (1, box(50, 100))], Fault.SEVERAL, 0.0, 0.0),
        (box(110, 150), [OBJECT], Fault.NOTHING, 0.0, 0.0),
        (box(0, 100), [], Fault.NOTHING, 0.0, 0.0),
    ],
)
def test_what_is_wrong_is_named_and_measured(mask, truths, fault, missing, extra):
    found = mistake(mask, 1, truths, 0.75)
    assert found is not None and found.fault == fault
    assert (found.missing, found.extra) == pytest.approx((missing, extra))


def test_more_than_its_number_is_known_of_several_and_of_another_class():
    assert mistake(box(0, 100), 1, [(1, box(k, k + 20)) for k in (0, 30, 60)], 0.75).number == 3
    assert mistake(box(0, 100), 1, [(7, box(0, 100))], 0.75).class_id == 7


@pytest.mark.parametrize("k_iou", [0.5, 0.75, 0.9])
def test_a_mask_is_correct_from_the_threshold_on(k_iou):
    edge = round(100 * k_iou)
    assert mistake(box(0, edge), 1, [OBJECT], k_iou) is None
    assert mistake(box(0, edge - 1), 1, [OBJECT], k_iou).fault == Fault.TOO_SMALL
