"""Which predictions are worth keeping: a least score per class, learned from held-out masks before the pool's.

A detector that knows little predicts whatever passes its fixed score: many masks per object, of which nearly none is
correct. They cost time, memory and questions, and bring nothing that drawing would not bring sooner.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Under this name a round's metrics hold what was learned.
KEPT = "kept"
# A mask that is correct with a smaller chance is not worth a look: at 1.5 s for an answer the correct one among them
# costs as much as the 80 s that drawing it takes.
LEAST_CHANCE = 0.02
# More predictions than so many for an object are mostly its doubles and parts.
MOST_PER_OBJECT = 6
# Fewer objects than so many say too little of how many there are.
LEAST_OBJECTS = 10


@dataclass(frozen=True)
class LeastScore:
    """The lowest score that is worth keeping in a class, and what it leaves of the held-out masks.

    least: score from which on a mask is kept. masks, kept: held-out masks before and after. correct, correct_kept: the
    correct ones among them. objects: true ones on the held-out images. reason: what set it: chance, count, set by the
    lead, or nothing that would drop a mask.
    """

    least: float
    masks: int
    kept: int
    correct: int
    correct_kept: int
    objects: int
    reason: str


def learn_least_score(scores: np.ndarray, correct: np.ndarray, objects: int) -> LeastScore:
    """The least score of a class by two rules, of which the stricter counts.

    Below it a mask is correct with a chance under 2 % (isotonic regression of being correct on score, as if one more
    mask, the worst of all, had been correct: what some dozens of masks say is not enough to drop any); and it leaves
    at most six masks per object.

    Args:
        scores: of the class's held-out masks, (n,).
        correct: whether each is correct, (n,).
        objects: true objects of the class on the held-out images.

    >>> scores = np.linspace(0, 1, 1000)
    >>> learned = learn_least_score(scores, scores > 0.7, objects=300)
    >>> round(learned.least, 1), learned.correct - learned.correct_kept, learned.reason
    (0.7, 0, 'chance')
    """
    scores, correct = np.asarray(scores, float), np.asarray(correct, bool)
    rules = {"chance": _by_chance(scores, correct), "count": _by_count(scores, objects)}
    reason = max(rules, key=lambda rule: rules[rule])
    return _described(rules[reason], scores, correct, objects, reason)


def set_least_score(least: float, scores: np.ndarray, correct: np.ndarray, objects: int) -> LeastScore:
    """One that the lead set, and what it leaves; arguments are those of `learn_least_score`."""
    return _described(least, np.asarray(scores, float), np.asarray(correct, bool), objects, "set")


def _described(least: float, scores: np.ndarray, correct: np.ndarray, objects: int, reason: str) -> LeastScore:
    kept = scores >= least
    if kept.all() and reason != "set":
        least, reason = 0.0, "nothing"
    return LeastScore(
        float(least), len(scores), int(kept.sum()), int(correct.sum()), int(correct[kept].sum()), int(objects), reason
    )


def _by_chance(scores: np.ndarray, correct: np.ndarray) -> float:
    from sklearn.isotonic import IsotonicRegression

    if not len(scores):
        return 0.0
    order = np.argsort(scores, kind="stable")
    at = np.r_[scores[order[0]], scores[order]]
    chance = IsotonicRegression(y_min=0.0, y_max=1.0).fit_transform(at, np.r_[1.0, correct[order]])
    worth = at[chance >= LEAST_CHANCE]
    # Where none is, what scores more than all of them may still be.
    return float(worth[0]) if len(worth) else float(np.nextafter(np.float32(at[-1]), np.float32(2)))


def _by_count(scores: np.ndarray, objects: int) -> float:
    most = MOST_PER_OBJECT * max(objects, LEAST_OBJECTS)
    if len(scores) <= most or objects == 0:
        return 0.0
    return float(np.partition(scores, len(scores) - most)[len(scores) - most])
