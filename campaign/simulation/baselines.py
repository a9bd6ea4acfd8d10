"""What the search is measured against: drawing, verifying every mask, the LSUN cascade, one cut of all trees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.policies.paper import Cut
from campaign.search.thresholds import Thresholds
from campaign.search.truth import cluster_quality
from campaign.simulation.annotators import Annotators
from campaign.simulation.populations import ClassPopulation
from campaign.simulation.runs import MATCHED_IOU, Course, Dataset, Run, run_campaign
from ml_backend.errors import InputError

LABELS_A_ROUND = 4000
LOST_POSITIVES = 0.01
ACCEPT_PRECISION = 0.95
_LEAST_ACCEPTED = 20  # validation masks above the accepting score, below which it is not trusted


def draw_by_hand(seconds: np.ndarray, seconds_per_mask: float = 80.0) -> np.ndarray:
    """Masks drawn in so many seconds of one annotator's time, each taken for perfect."""
    return np.floor(np.asarray(seconds, np.float64) / seconds_per_mask)


def verify_every_mask(
    population: Sequence[ClassPopulation],
    annotators: Annotators,
    *,
    seed: int,
    k_iou: float = 0.75,
    seconds_per_answer: float = 2.0,
) -> Course:
    """Every mask of every class asked about once, the best scores first; those voted yes make the data set."""
    score = np.concatenate([c.score for c in population])
    iou = np.concatenate([c.iou for c in population])
    verdict = np.concatenate([annotators.verdicts(c.iou, seed * 1009 + c.class_id) for c in population])
    order = np.argsort(-score, kind="stable")
    yes, iou = verdict[order] == Verdict.YES, iou[order].astype(np.float64)
    questions = np.arange(1, len(order) + 1, dtype=np.float64)
    matched = yes & (iou >= MATCHED_IOU)
    columns = (yes, yes & (iou >= k_iou), matched, np.where(matched, iou, 0.0), np.zeros(len(order)))
    return Course(questions, questions, questions * seconds_per_answer, *(np.cumsum(c) for c in columns))


def cut_trees(
    population: Sequence[ClassPopulation],
    thresholds: Mapping[int, Thresholds],
    annotators: Annotators,
    *,
    seed: int,
    k_iou: float = 0.75,
    n_s: int = 15,
    k_a: float = 0.85,
    seconds_per_answer: float = 2.0,
) -> tuple[Run, float]:
    """Universal threshold: all trees cut at one height, every cluster asked about and accepted or rejected.

    The height is the one that brings most masks per question on the held-out trees. Returns the run and the height.
    """
    height = _best_height(population, k_iou, n_s, k_a)
    policy = Cut(n_s, k_a, height=height)
    run = run_campaign(
        population,
        policy,
        dict(thresholds),
        annotators,
        seed=seed,
        k_iou=k_iou,
        offspring=False,
        seconds_per_answer=seconds_per_answer,
    )
    return run, height


def _best_height(population: Sequence[ClassPopulation], k_iou: float, n_s: int, k_a: float) -> float:
    """The height at which held-out clusters of quality K_a hold most masks per question."""
    top = max(float(c.heldout_tree.height[-1]) for c in population)
    most, best = -1.0, top
    for height in np.linspace(0.05, 1.0, 20) * top:
        masks = questions = 0.0
        for c in population:
            tree = c.heldout_tree
            clusters = Cut(n_s, k_a, height=float(height)).start(tree)
            size = np.asarray(tree.size)[clusters] * (len(c) / tree.n)  # as many as it would have in the pool
            good = cluster_quality(tree, c.heldout_iou >= k_iou)[clusters] >= k_a
            masks += float(size[good].sum())
            questions += float(np.minimum(size, n_s).sum())
        if questions and masks / questions > most:
            most, best = masks / questions, float(height)
    return best


def cascade(
    population: Sequence[ClassPopulation],
    annotators: Annotators,
    *,
    seed: int,
    k_iou: float = 0.75,
    labels: int = LABELS_A_ROUND,
    seconds_per_answer: float = 2.0,
    most_rounds: int = 12,
) -> Course:
    """The cascade with which LSUN was labelled, adapted to masks.

    In every round and class `labels` undecided masks are drawn at random and asked about. A linear SVM on features and
    score is trained on half of the verdicts and calibrated; on the other half are found the probability below which
    1 % of the masks voted yes would be lost and the one above which 95 % are voted yes. Undecided masks below the one
    are rejected, above the other accepted, and the rest goes to the next round. Training and thresholds see verdicts
    only, never the truth.
    """
    totals: list[float] = [0, 0, 0, 0.0]
    datasets: dict[int, Dataset] = {}
    undecided: dict[int, np.ndarray] = {}
    verdicts: dict[int, np.ndarray] = {}
    for c in population:
        if c.features is None:
            raise InputError("cascade", "a population that keeps its features", "none")
        datasets[c.class_id] = Dataset.empty(c.iou, k_iou, totals)
        undecided[c.class_id] = np.arange(len(c))
        verdicts[c.class_id] = annotators.verdicts(c.iou, seed * 1009 + c.class_id)
    questions, accepted = 0, 0
    rows: list[tuple] = [(0, 0, 0, 0, 0, 0.0, 0)]
    for number in range(most_rounds):
        for c in population:
            left = undecided[c.class_id]
            if not len(left):
                continue
            rng = np.random.default_rng((seed, c.class_id, number, 9))
            asked = rng.permutation(left)[:labels]
            verdict, dataset = verdicts[c.class_id], datasets[c.class_id]
            for mask in asked.tolist():
                dataset.vote(mask, verdict[mask])
            questions += len(asked)
            left = np.setdiff1d(left, asked)
            if len(left):
                assert c.features is not None
                values = np.column_stack([c.features, c.score])
                low, high, chance = _stage(values, asked, verdict[asked] == Verdict.YES, left, number)
                taken = left[chance >= high]
                dataset.accept(taken)
                accepted += bool(len(taken))
                left = left[(chance >= low) & (chance < high)]
            undecided[c.class_id] = left
            rows.append((questions, questions, *totals, accepted))
        if not any(len(left) for left in undecided.values()):
            break
    return Course.of(rows, seconds_per_answer)


def _stage(
    values: np.ndarray, asked: np.ndarray, yes: np.ndarray, left: np.ndarray, seed: int
) -> tuple[float, float, np.ndarray]:
    """Rejecting and accepting probability of a stage, and the probabilities of the masks that are left."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import LinearSVC

    half = len(asked) // 2
    train, check = slice(0, half), slice(half, None)
    if min(yes[train].sum(), half - yes[train].sum()) < 5:
        return 0.0, np.inf, np.full(len(left), 0.5)
    svm = make_pipeline(StandardScaler(), LinearSVC(C=0.1, dual=False, random_state=seed))
    model = CalibratedClassifierCV(svm, method="sigmoid", cv=3).fit(values[asked[train]], yes[train])
    chance = model.predict_proba(values[asked[check]])[:, 1]
    good = yes[check]
    low = float(np.quantile(chance[good], LOST_POSITIVES)) if good.any() else 0.0
    order = np.argsort(-chance, kind="stable")
    precision = np.cumsum(good[order]) / np.arange(1, len(order) + 1)
    fine = np.flatnonzero((precision >= ACCEPT_PRECISION) & (np.arange(1, len(order) + 1) >= _LEAST_ACCEPTED))
    high = float(chance[order][fine[-1]]) if len(fine) else np.inf
    return min(low, high), high, model.predict_proba(values[left])[:, 1]
