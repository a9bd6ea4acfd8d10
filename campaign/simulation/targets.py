"""One simulated campaign under the default policy: a target of precision, a verifier, a promise made while asking.

The functions are those of production: verifier, selection, frozen order, promise, eyes. Everything that people see is
counted: questions, gold, and the draws of the promise.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.classes import ClassPromise
from campaign.certification.course import Course, Gold, Masks, Outcome, Terms
from campaign.certification.expectation import Chosen, Expected, Known, Tally, World, expected, like_pool
from campaign.certification.passing import EYES_KNOWN, no_passing
from campaign.certification.promise import Promise, share_of
from campaign.dataset.recall import Recall
from campaign.records.course import Point, thinned
from campaign.records.verdict import Verdict
from campaign.search.rivals import COVERED, overlaps_of
from campaign.search.sampling import draw_keys
from campaign.search.selection import NONE, PRICE
from campaign.search.verifier import Projection, Rows, logit, mask_inputs
from campaign.simulation.annotators import Annotators
from campaign.simulation.missing import MADE_UP, simulated_recall
from campaign.simulation.mixtures import default_mixture
from campaign.simulation.populations import Progress, class_sizes, draw_masks
from campaign.simulation.predictions import pool_of_round
from campaign.simulation.study import SimulationOptions, load_mixtures
from campaign.store import Store
from ml_backend.learning.evaluation import true_iou
from ml_backend.masks.coco import CocoDataset
from ml_backend.predictions import Predictions


@dataclass(frozen=True)
class Pool:
    """The masks of a campaign, all classes together, and the held-out ones.

    `iou` (n,) with the true masks, `correct` (n,) as an independent scorer matches them, one to one; `pairs` of
    rivals. `objects` are how many true ones there are in each image, {image: count}, found by the detector or not.
    The same of the held-out images.
    """

    rows: Rows
    iou: np.ndarray
    correct: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray]
    heldout: Rows
    heldout_iou: np.ndarray
    heldout_correct: np.ndarray
    heldout_pairs: tuple[np.ndarray, np.ndarray]
    objects: dict[int, int]
    heldout_objects: dict[int, int]

    def __len__(self) -> int:
        return len(self.iou)


def sampled_pool(options: SimulationOptions) -> Pool:
    """Made-up masks, as `sample_population` draws them, of no image in particular."""
    sizes, seed = class_sizes(options.masks, options.classes, options.skew), options.seed
    mixtures, heldout_share = load_mixtures(options.mixtures), options.heldout_share
    given = list((mixtures or {}).values())
    parts: dict[str, list[np.ndarray]] = {name: [] for name in ("inputs", "class_id", "iou")}
    heldout: dict[str, list[np.ndarray]] = {name: [] for name in parts}
    for class_id, size in enumerate(sizes):
        mixture = given[class_id % len(given)] if given else default_mixture(seed * 1_000_003 + class_id)
        rng = np.random.default_rng((seed, class_id, 5))
        for table, count in ((parts, size), (heldout, int(np.clip(heldout_share * size, 300, 2000)))):
            masks = draw_masks(mixture, count, rng)
            table["inputs"].append(np.column_stack([logit(masks.score), masks.features]).astype(np.float32))
            table["class_id"].append(np.full(count, class_id, np.int64))
            table["iou"].append(masks.iou)
    columns = {name: _stacked(values) for name, values in parts.items()}
    known = {name: _stacked(values) for name, values in heldout.items()}
    rows, own = (Rows(t["inputs"], t["class_id"], np.full(len(t["class_id"]), -1)) for t in (columns, known))
    iou, held = columns["iou"].astype(np.float64), known["iou"].astype(np.float64)
    none = (np.zeros(0, np.int64), np.zeros(0, np.int64))
    correct, right = iou >= options.k_iou, held >= options.k_iou
    return Pool(rows, iou, correct, none, own, held, right, none, {-1: int(correct.sum())}, {-1: int(right.sum())})


def _stacked(parts: list[np.ndarray]) -> np.ndarray:
    """Parts on top of each other; inputs of fewer columns are filled up with what is not known."""
    if parts[0].ndim == 1:
        return np.concatenate(parts)
    width = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=np.nan) for p in parts])


def campaign_pool(store: Store, truth: Path, images: Path, k_iou: float, round_number: int = 1) -> Pool:
    """The masks that a campaign predicted in a round. Raises InputError where it has none, or for a wrong file."""
    pool, data = pool_of_round(store, truth, images, round_number)
    heldout = store.masks.predictions(round_number, "heldout")
    annotated, projection = store.images.annotated("heldout"), Projection.learn(pool.features, store.settings.seed)
    tables = [_table(m, t, projection, k_iou, store) for m, t in ((pool, data), (heldout, annotated))]
    (rows, iou, correct, pairs, objects), (own, held, right, held_pairs, held_objects) = tables
    return Pool(rows, iou, correct, pairs, own, held, right, held_pairs, objects, held_objects)


def _table(
    masks: Predictions, truth: CocoDataset, projection: Projection, k_iou: float, store: Store
) -> tuple[Rows, np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray], dict[int, int]]:
    """Inputs, IoUs, what is correct one to one, rivals, and true objects by image."""
    overlaps = overlaps_of(masks)
    objects = Counter(a.image_id for a in truth.annotations if not a.iscrowd)
    return (
        mask_inputs(masks, overlaps, projection.apply(masks.features)),
        true_iou(masks, truth, one_to_one=False),
        true_iou(masks, truth, one_to_one=True) >= k_iou,
        overlaps.rivals(store.settings.rounds.dedupe_iou, COVERED),
        dict(objects),
    )


@dataclass
class TargetRun:
    """What a simulated campaign came to: `questions` are all that people saw, `gold` and `draws` are parts of them.

    `classes` says of each that was promised by itself: masks, precision, promised and met.
    """

    questions: int
    gold: int
    draws: int
    masks: int
    correct: int
    promise: Promise
    objects: int
    inside: np.ndarray
    recall_promised: float | None
    course: list[Point]
    classes: dict[int, dict[str, Any]]

    @property
    def precision(self) -> float:
        """Share of the delivered masks that is correct, 1 where there are none."""
        return self.correct / self.masks if self.masks else 1.0

    @property
    def recall(self) -> float:
        """Correct masks for each true object."""
        return self.correct / self.objects if self.objects else 1.0


class TargetCampaign(Course):
    """A campaign of one round under way. The same seed gives the same run."""

    def __init__(self, pool: Pool, options: SimulationOptions, gold: bool = True):
        annotators, seed = options.annotators(), options.seed
        terms = Terms(
            options.precision, share_of(1, 1 - options.confidence), PRICE if options.price is None else options.price,
            options.k_iou, seed, options.budget, options.precision_per_class,
        )  # fmt: skip
        masks = Masks(pool.rows, pool.pairs, pool.heldout, pool.heldout_iou)
        self.pool, self.options = pool, options
        self.course: list[Point] = []
        self._follower = _Follower(pool, options)
        answer = annotators.verdicts(pool.iou, seed * 1009 + 1)
        super().__init__(masks, answer, terms, gold_of(masks, annotators, terms) if gold else None)

    def note(self, inside: np.ndarray, draws: np.ndarray | None = None, bound: float | None = None) -> None:
        """Adds a point to the course."""
        right, known = int(self.pool.correct[inside].sum()), self._follower.expected(self, inside, draws)
        objects = sum(self.pool.objects.values())
        point = Point(
            self.questions, self.questions * self.options.seconds_per_answer, len(inside), known.precision, bound,
            known.recall, attempt=None if draws is None else 1, target=self.options.precision,
            true_precision=right / len(inside) if len(inside) else 1.0, true_recall=right / objects if objects else 1.0,
        )  # fmt: skip
        self.course.append(point)

    def finish(self) -> TargetRun:
        """Makes the promise, and says what it all came to."""
        end = self.certify()
        recall = self._recall(end)
        if recall is not None:
            end_of_it, found = self.course[-1], recall.overall
            self.course.append(
                replace(end_of_it, looked=recall.images, recall_looked=found.estimate, recall_promised=found.bound)
            )
        return TargetRun(
            self.questions, self.gold.shown if self.gold else 0, end.draws, int(end.inside.sum()),
            int(self.pool.correct[end.inside].sum()), end.promise, sum(self.pool.objects.values()), end.inside,
            None if recall is None else round(recall.overall.bound, 5), self.course,
            {c.class_id: self._of_class(c, end.inside) for c in end.classes},
        )  # fmt: skip

    def _of_class(self, promise: ClassPromise, inside: np.ndarray) -> dict[str, Any]:
        """What is delivered of a class and what is promised of that: nothing where its target is not met."""
        correct = self.pool.correct[inside & (self.pool.rows.class_id == promise.class_id)]
        promised = promise.target if promise.met else None
        return {
            "masks": len(correct), "precision": round(float(correct.mean()), 5), "promised": promised,
            "met": promise.met,
        }  # fmt: skip

    def _recall(self, end: Outcome) -> Recall | None:
        """The bound on recall, half of the error probability its own, half the precision's."""
        half = (1 - self.options.confidence) / 2
        precision, pool = self.bound_at(end, half), self.pool
        image, objects = with_images(pool.rows.image, pool.objects, pool.correct)
        _, held = with_images(pool.heldout.image, pool.heldout_objects, pool.heldout_correct)
        return simulated_recall(
            image, end.inside, pool.iou, objects, max(held.values(), default=0), self.options.looked, precision, half,
            self.options.confidence, self.options.answer_error, self.options.seed,
        )  # fmt: skip


class _Follower:
    """Works out what a campaign would expect of its masks as it goes on."""

    def __init__(self, pool: Pool, options: SimulationOptions):
        image, objects = with_images(pool.heldout.image, pool.heldout_objects, pool.heldout_correct)
        self._pool_image, in_pool = with_images(pool.rows.image, pool.objects, pool.correct)
        numbers = np.array(sorted({*objects, *image.tolist()}), np.int64)
        self._place, self._truth = np.searchsorted(numbers, image), pool.heldout_iou >= options.k_iou
        self._objects = np.array([objects.get(int(i), 0) for i in numbers])
        self._images = len({*in_pool, *self._pool_image.tolist()})

    def expected(self, campaign: TargetCampaign, inside: np.ndarray, draws: np.ndarray | None) -> Expected:
        """What is expected of the masks `inside`, rows that would be delivered, after the `draws`, rows too."""
        verdict, chance, verifier = campaign.verdict, campaign.chance, campaign.verifier
        chances = like_pool(verifier.heldout_chance, self._truth, verifier.calibration)
        known = Known(chances, self._truth, self._place, len(self._objects))
        if draws is not None:
            known = known.beside(chance[draws], verdict[draws] == Verdict.YES, self._pool_image[draws])
        asked, unseen = verdict[inside] != NONE, campaign.unseen[inside]
        eyes = campaign.gold is not None and campaign.gold.shown >= EYES_KNOWN
        overlooked = (campaign.passing if eyes else no_passing()).overlooked(unseen[~asked], unseen[asked])
        chosen = Chosen(Tally.of(chance[inside[~asked]]), int(asked.sum()), overlooked)
        before = Known(campaign.judge.heldout_unseen, self._truth, self._place, len(self._objects))
        world = World(self._objects, self._images, Tally.of(campaign.unseen), before)
        return expected(chosen, known, world, campaign.terms.seed)


def with_images(image: np.ndarray, objects: dict[int, int], correct: np.ndarray) -> tuple[np.ndarray, dict[int, int]]:
    """(image of each mask, objects by image): as they are, or as many made-up masks to each image as `MADE_UP`."""
    if set(objects) != {-1}:
        return image, objects
    image = np.arange(len(image)) // MADE_UP
    return image, dict(enumerate(np.bincount(image, correct).astype(int).tolist()))


def gold_of(masks: Masks, annotators: Annotators, terms: Terms) -> Gold:
    """Gold as simulated annotators answer it."""
    seed = terms.seed
    user = draw_keys(seed, 91, np.arange(len(masks.heldout))) % np.uint64(annotators.users)
    return Gold(masks, annotators.verdicts(masks.heldout_iou, seed * 1009 + 500_009), user, terms.k_iou, seed)


def summary(run: TargetRun, seconds_per_answer: float) -> dict[str, Any]:
    """What a lead sees at the end, in the keys that all policies share."""
    return {
        "questions": run.questions,
        "gold": run.gold,
        "draws": run.draws,
        "hours": round(run.questions * seconds_per_answer / 3600, 4),
        "masks": run.masks,
        "correct": run.correct,
        "precision": round(run.precision, 5),
        "promised": round(run.promise.bound, 5),
        "met": run.promise.met,
        "recall": round(run.recall, 5),
        "recall_promised": run.recall_promised,
        "masks_per_question": round(run.masks / run.questions, 4) if run.questions else 0.0,
    }


def simulate_target(options: SimulationOptions, pool: Pool, progress: Progress | None = None) -> dict[str, Any]:
    """What `campaign simulate` prints: what came of the campaign, and its `course` as it went."""
    return as_result(run_target(pool, options, progress), pool, options)


def as_result(run: TargetRun, pool: Pool, options: SimulationOptions) -> dict[str, Any]:
    """What is printed of a campaign that was run.

    `classes` is how many there are, or what came of each where each has a target of its own.
    """
    given = {f.name: getattr(options, f.name) for f in fields(options)}
    head = {"policy": options.policy, "pool": len(pool), "classes": len(np.unique(pool.rows.class_id))}
    head |= {"seed": options.seed, "answer_error": options.answer_error}
    names = {k: str(v) if isinstance(v, Path) else v for k, v in given.items()}
    if options.precision_per_class is not None:
        head["classes"] = run.classes
    return head | summary(run, options.seconds_per_answer) | {
        "options": names, "course": [point.as_dict() for point in thinned(run.course)]
    }  # fmt: skip


def run_target(
    pool: Pool, options: SimulationOptions, progress: Progress | None = None, gold: bool = True
) -> TargetRun:
    """A whole campaign of one round."""
    campaign = TargetCampaign(pool, options, gold)
    if progress is not None:
        progress("fit", 1, 3)
    campaign.learn()
    if progress is not None:
        progress("ask", 2, 3)
    return campaign.finish()
