"""Simulated visits: masks are corrected click by click, and `M_r` learns of how well each visit ended.

Like a visit in Label Studio: each click is answered on the mask that the one before made, and the next visit begins
anew where the last one ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ml_backend.interactive.annotators import Annotator
from ml_backend.interactive.ranking import visit_features
from ml_backend.interactive.segmenter import Click, Prompt, Segmenter


class Corrected(NamedTuple):
    """A mask after one visit: what `M_r` goes by (7,), and its IoU with the truth."""

    features: np.ndarray
    iou: float


def visits(
    segmenter: Segmenter,
    encoding: object,
    start: np.ndarray,
    truth: np.ndarray,
    plan: Sequence[int],
    rng: np.random.Generator,
    outside: int = 0,
) -> list[Corrected]:
    """The mask of one object after each visit; an annotator who finds no error worth a click makes no further one.

    Args:
        segmenter: answers the clicks.
        encoding: of the picture.
        start: (height, width) bool, the mask that is corrected.
        truth: (height, width) bool, of at least one pixel here or outside.
        plan: most clicks of each visit.
        rng: of the annotator.
        outside: pixels of the true mask beyond the picture, which no click reaches.
    """
    annotator, mask, ended = Annotator(), start, list[Corrected]()
    for visit, most in enumerate(plan, 1):
        before, clicks, predicted = mask, tuple[Click, ...](), 0.0
        for _ in range(most):
            made = annotator.click(mask, truth, rng)
            if not made:
                break
            clicks += made
            proposal = segmenter.segment(encoding, Prompt(None, clicks, mask if mask.any() else None))
            mask, predicted = proposal.mask.astype(bool), proposal.predicted_iou
        if not clicks:
            break
        iou = int((mask & truth).sum()) / (int((mask | truth).sum()) + outside)
        ended.append(Corrected(visit_features(before, mask, clicks, visit, predicted), iou))
        if not mask.any():
            break
    return ended
