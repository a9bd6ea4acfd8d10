"""The joined campaign: clusters are verified first, and what that leaves over is corrected by clicks.

On the predictions of a campaign whose pool's truth is known: how many objects have a correct mask after so many hours
of people, by verification alone, by verification and then clicks, by a box and clicks for every object, and by drawing.
The search is production's (policy `adaptive`), and where it ends verification alone goes on with single masks, the best
scores first. Corrected is what production offers for it: masks voted no whose object is missing, and, as in classes of
`page.single_classes`, masks that nobody was asked about, those worth most first. Nothing is trained anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from campaign.dataset.propagation import drop_known, unlike
from campaign.simulation.clicks import Begin, Case, count_progress, courses, from_box, from_mask
from campaign.simulation.populations import ClassPopulation
from campaign.simulation.predictions import population_of
from campaign.simulation.runs import MATCHED_IOU, Run
from campaign.simulation.study import SimulationOptions, learn, run_policy
from campaign.store import Store
from ml_backend.detector import Progress
from ml_backend.interactive.annotators import Annotator
from ml_backend.interactive.segmenter import Segmenter
from ml_backend.learning.evaluation import best_objects
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions

LEAST_OBJECT = 0.3  # IoU with every true mask below which people say that there is no object to correct
ENOUGH = 0.9  # IoU at which people see no error any more
MOST_CLICKS = 9
USUAL_CLICKS = 4  # of a correction, as a lead would reckon
WORTH_IT = 0.15  # more correct masks in the same hours
POINTS = 200  # of a curve


@dataclass(frozen=True)
class Pace:
    """Seconds of people: for an answer, to look at one object, for a click, a box, and a mask drawn by hand."""

    answer: float = 1.5
    look: float = 4.0
    click: float = 1.5
    box: float = 7.0
    drawing: float = 80.0


@dataclass
class Growth:
    """Objects that have a correct mask after so many hours, both rising, (n,); `quality` is the mean IoU of matched."""

    hours: np.ndarray
    correct: np.ndarray
    quality: np.ndarray

    def at(self, hours: float) -> float:
        """Correct masks after so many hours; as many as at the end where these are past it."""
        row = int(np.searchsorted(self.hours, hours + 1e-9, side="right")) - 1
        return float(self.correct[row]) if row >= 0 else 0.0

    def as_dict(self) -> dict[str, list[float]]:
        """For JSON, thinned: evenly over what happened, and over the hours."""
        events = np.linspace(0, len(self.hours) - 1, POINTS).round()
        hours = np.searchsorted(self.hours, np.linspace(0, self.hours[-1], POINTS), side="right") - 1
        rows = np.unique(np.concatenate([events, hours]).astype(int))
        return {name: np.round(column[rows], 4).tolist() for name, column in vars(self).items()}


def joined_campaign(
    store: Store,
    pool: tuple[Predictions, CocoDataset],
    segmenter: Segmenter,
    *,
    seed: int = 0,
    simulated: int = 400,
    pace: Pace | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """The growth of each way, `{name: Growth.as_dict()}` under `curves`, and what clicks add.

    Args:
        store: a campaign whose first round has predictions; settings give K_iou and what counts as one object twice.
        pool: its predictions in that round and the truth, see `pool_of_round`.
        segmenter: answers the clicks.
        seed: of search and annotators.
        simulated: corrections that are played of those that are made, evenly spread over their order: each of them
            stands for as many as there are to one. As many objects are begun from a box.
        pace: seconds of people.
        progress: called while it clicks.

    `gain` is what verification and clicks obtain over verification alone in the same hours: where clicks have taken as
    long as all before (`at_hours`), at most (`most`, `most_at_hours`), and the hour from which on it is 15 % or more
    (`worth_it_from_hours`, None where it never is).
    """
    clicking = _Clicking(segmenter, pace or Pace(), seed, simulated, progress)
    pace, k_iou, twice = clicking.pace, store.settings.search.k_iou, store.settings.rounds.dedupe_iou
    masks, data = pool
    objects, iou = best_objects(masks, data)
    population = population_of(store, masks, data)
    options = SimulationOptions(policy="adaptive", seed=seed, k_iou=k_iou, seconds_per_answer=pace.answer)
    run = run_policy(population, learn(population, options), options)
    rows = {c.class_id: np.flatnonzero(masks.class_id == c.class_id) for c in population}
    inside, refused, since = _outcome(run, rows, len(masks))

    searched = _Account(objects, iou, k_iou)
    order = np.flatnonzero(inside)[np.argsort(since[inside], kind="stable")]
    seconds = run.course.seconds[np.searchsorted(run.course.masks, np.arange(len(order)), side="right")]
    for row, spent in zip(order.tolist(), seconds.tolist(), strict=True):
        searched.obtain(spent, row)
    end = float(run.course.seconds[-1])
    searched.note(end)

    chance = _chances(run, population, rows, len(masks), k_iou)
    alone, left = searched.copy(), np.flatnonzero(~inside & ~refused)
    left = left[np.argsort(-masks.score[left], kind="stable")]
    _verify(alone, left, end, iou >= k_iou, pace)
    # Clicks begin where an answer brings less than a correction does in the same time.
    dear = pace.answer / (pace.look + USUAL_CLICKS * pace.click)
    asked = left[chance[left] >= dear]
    together = searched.copy()
    switched = _verify(together, asked, end, iou >= k_iou, pace)
    inside[asked], refused[asked] = iou[asked] >= k_iou, iou[asked] < k_iou
    chance[asked] = 0.0
    wanted = _left_over(masks, inside, refused, chance, twice)
    together = _corrected(together, switched, masks, iou, objects, data, wanted, clicking)
    boxed = _boxed(data, clicking, k_iou, seed)
    most = max(alone.growth().hours[-1], together.growth().hours[-1], boxed.hours[-1])
    drawn = np.linspace(0, most, POINTS)
    count = np.minimum(np.floor(drawn * 3600 / pace.drawing), len(data.annotations))
    curves = {
        "verification": alone.growth(),
        "verification, then clicks": together.growth(),
        "box and clicks": boxed,
        "drawing": Growth(drawn, count, np.ones(POINTS)),
    }
    return {
        "objects": len(data.annotations),
        "masks": len(masks),
        "searched_hours": round(end / 3600, 3),
        "searched_correct": searched.correct,
        "clicks_from_hours": round(switched / 3600, 3),
        "offered": len(wanted),
        "gain": _gain(curves["verification"], curves["verification, then clicks"], switched / 3600),
        "curves": {name: growth.as_dict() for name, growth in curves.items()},
        "pace": vars(pace),
    }


class _Account:
    """Which objects have a correct mask, and when they got it."""

    def __init__(self, objects: np.ndarray, iou: np.ndarray, k_iou: float):
        self._objects, self._iou, self._k_iou = objects, iou, k_iou
        self._done: set[int] = set()
        self._weight, self._quality, self._matched = 0.0, 0.0, 0.0
        self._rows: list[tuple[float, float, float]] = [(0.0, 0.0, 0.0)]

    @property
    def correct(self) -> int:
        """Objects with a correct mask."""
        return round(self._weight)

    def copy(self) -> _Account:
        """The same, to go on with otherwise."""
        other = _Account(self._objects, self._iou, self._k_iou)
        other._done, other._rows = set(self._done), list(self._rows)
        other._weight, other._quality, other._matched = self._weight, self._quality, self._matched
        return other

    def has(self, object_: int) -> bool:
        """Whether the object has a correct mask."""
        return object_ in self._done

    def obtain(self, seconds: float, row: int) -> None:
        """A predicted mask is in from then on."""
        self.add(seconds, int(self._objects[row]), float(self._iou[row]), 1.0)

    def add(self, seconds: float, object_: int, iou: float, stands_for: float) -> None:
        """A mask of an object is in from then on, and stands for so many."""
        if iou >= MATCHED_IOU:
            self._quality, self._matched = self._quality + iou * stands_for, self._matched + stands_for
        if iou >= self._k_iou and object_ >= 0 and object_ not in self._done:
            self._done.add(object_)
            self._weight += stands_for
        self.note(seconds)

    def note(self, seconds: float) -> None:
        """A point of the curve."""
        self._rows.append((seconds / 3600, self._weight, self._quality / self._matched if self._matched else 0.0))

    def growth(self) -> Growth:
        """The curve so far."""
        return Growth(*np.array(self._rows).T)


def _verify(account: _Account, rows: np.ndarray, begun: float, correct: np.ndarray, pace: Pace) -> float:
    """One answer of each of these masks in turn, from the second `begun` on; returns when the last is given."""
    for number, row in enumerate(rows.tolist(), 1):
        if correct[row]:
            account.obtain(begun + number * pace.answer, row)
    account.note(begun + len(rows) * pace.answer)
    return begun + len(rows) * pace.answer


def _outcome(run: Run, rows: dict[int, np.ndarray], count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all masks: which are in, which were voted no, and how many were in before."""
    inside, refused, at = np.zeros(count, bool), np.zeros(count, bool), np.zeros(count, np.int64)
    for class_id, own in rows.items():
        dataset = run.datasets[class_id]
        inside[own], refused[own], at[own] = dataset.inside, dataset.refused, dataset.since
    return inside, refused, at


def _chances(
    run: Run, population: Sequence[ClassPopulation], rows: dict[int, np.ndarray], count: int, k_iou: float
) -> np.ndarray:
    """How likely each mask is correct, by its score, as held-out masks say; 0 where it was voted no."""
    from sklearn.isotonic import IsotonicRegression

    chance = np.zeros(count)
    for c in population:
        fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip")
        fitted.fit(c.heldout_score, (c.heldout_iou >= k_iou).astype(float))
        chance[rows[c.class_id]] = fitted.predict(c.score)
        chance[rows[c.class_id][run.datasets[c.class_id].refused]] = 0.0
    return chance


def _left_over(
    masks: Predictions, inside: np.ndarray, refused: np.ndarray, chance: np.ndarray, twice: float
) -> list[int]:
    """Rows of the masks to be corrected, those worth most first: each of an object that the data set does not have."""
    value = masks.score * (1 - chance)
    left = np.flatnonzero(~inside)
    left = left[np.lexsort((left, -value[left]))]
    new = drop_known(masks.select(left), masks.select(np.flatnonzero(inside)), twice)
    rows = left[np.isin(masks.mask_id[left], new.mask_id)]
    return rows[unlike(new, twice)].tolist()


def _corrected(
    account: _Account, end: float, masks: Predictions, iou: np.ndarray, objects: np.ndarray, data: CocoDataset,
    wanted: list[int], clicking: _Clicking,
) -> _Account:  # fmt: skip
    """What corrections add from the second `end` on."""
    each = max(len(wanted) / clicking.simulated, 1.0)
    played = [wanted[int(n * each)] for n in range(min(len(wanted), clicking.simulated))]
    images, rles = {i.id: i for i in data.images}, masks.rles()
    cases = {
        row: Case(row, images[int(masks.image_id[row])], data.annotations[int(objects[row])].rle, rles[row])
        for row in played
        if iou[row] >= LEAST_OBJECT and not account.has(int(objects[row]))
    }
    done = dict(zip(cases, clicking.play("corrections", list(cases.values()), from_mask), strict=True))
    spent = end
    for row in played:
        if row in done:
            clicks, reached = done[row]
            spent += each * (clicking.pace.look + clicks * clicking.pace.click)
            account.add(spent, int(objects[row]), reached, each)
        else:
            spent += each * clicking.pace.look
            account.note(spent)
    return account


def _boxed(data: CocoDataset, clicking: _Clicking, k_iou: float, seed: int) -> Growth:
    """A box and clicks for every true object."""
    own = [n for n, a in enumerate(data.annotations) if not a.iscrowd]
    drawn = np.sort(np.random.default_rng([seed, 7]).permutation(own)[: clicking.simulated])
    images = {i.id: i for i in data.images}
    cases = [Case(int(n), images[data.annotations[n].image_id], data.annotations[n].rle) for n in drawn]
    account, spent, each = _Account(np.zeros(0, np.int64), np.zeros(0), k_iou), 0.0, len(own) / max(len(cases), 1)
    for case, (clicks, reached) in zip(cases, clicking.play("boxes", cases, from_box), strict=True):
        spent += each * (clicking.pace.box + clicks * clicking.pace.click)
        account.add(spent, case.number, reached, each)
    return account.growth()


@dataclass(frozen=True)
class _Clicking:
    """Simulated annotators at a segmenter."""

    segmenter: Segmenter
    pace: Pace
    seed: int
    simulated: int
    progress: Progress | None

    def play(self, name: str, cases: list[Case], begin: Begin) -> list[tuple[int, float]]:
        """Clicks and final IoU of each case, in order; the cases of a picture are played after each other."""
        order = sorted(range(len(cases)), key=lambda n: cases[n].image.id)
        one = count_progress(self.progress, name, len(cases))
        plan = (1,) * MOST_CLICKS
        played = courses(self.segmenter, [cases[n] for n in order], begin, Annotator(), plan, self.seed, ENOUGH, one)
        done = {n: (sum(course.clicks), course.iou[-1]) for n, course in zip(order, played, strict=True)}
        return [done[n] for n in range(len(cases))]


def _gain(alone: Growth, together: Growth, switched: float) -> dict[str, float | None]:
    """How much more is obtained with clicks in the same hours, as a share."""
    hours = together.hours[together.hours >= switched]
    more = np.array([together.at(h) / max(alone.at(h), 1.0) - 1 for h in hours])
    most, enough = int(more.argmax()), np.flatnonzero(more >= WORTH_IT)
    return {
        "at_hours": round(2 * switched, 3),
        "at": round(together.at(2 * switched) / max(alone.at(2 * switched), 1.0) - 1, 4),
        "most": round(float(more[most]), 4),
        "most_at_hours": round(float(hours[most]), 3),
        "worth_it_from_hours": round(float(hours[enough[0]]), 3) if len(enough) else None,
    }
