"""`campaign simulate`: one policy on simulated masks and annotators, its baselines, and the grid of its settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from campaign.records.verdict import Verdict
from campaign.search.evidence import Policy
from campaign.search.policies import ORDERS, AnnotatorQuality, Paper, make_policy, oracle_order
from campaign.search.thresholds import Thresholds
from campaign.search.truth import cluster_quality
from campaign.simulation.annotators import Annotators
from campaign.simulation.baselines import cascade, cut_trees, draw_by_hand, verify_every_mask
from campaign.simulation.mixtures import Mixture
from campaign.simulation.populations import ClassPopulation, Progress, class_sizes, sample_population
from campaign.simulation.runs import Course, Run, questions_of, run_campaign
from ml_backend.errors import InputError

GOLD_SHARE = 0.1  # of a budget, at most
TARGET = "target"
BASELINES = ("verify every mask", "cascade", "universal threshold")


@dataclass(frozen=True)
class SimulationOptions:
    """What to simulate.

    policy: target, adaptive, paper or curtailed. precision, confidence: what the target policy is to promise;
    precision_per_class: of every class by itself, None for nothing. order: of the last two, one of score, bfs, dfs,
    dfs-score and oracle.
    masks, classes: how many; skew: class sizes fall off as rank to the power of −skew. seed: of everything.
    answer_error, unsure: shares of wrong and of unsure answers; near: the share of the errors that falls on masks near
    where eyes cut, where all annotators err alike; eye_cut: that IoU, None for `k_iou`. users: annotators. gold:
    questions of known answer that the adaptive policy asks in advance to learn how often they err, at most a tenth of
    a budget; they count as questions.
    n_s, k_a, k_iou: sample size, quality and IoU asked for. k_pr, k_pa: None to learn them from held-out masks.
    price: correct masks that a question must bring, of the target and adaptive policies; None for the policy's own.
    looked: images that are looked through for what is missing, target policy. audit: questions of an audit at the end,
    other policies. budget: questions, None for no limit.
    mixtures: a mixture's JSON file or a folder of them; None for made-up classes. heldout_share: held-out masks of a
    class, as a share of its size, at least 300 and at most 2,000.
    seconds_per_answer, seconds_per_mask: of an annotator's time, for an answer and for a mask drawn by hand.
    baselines: whether to run them as well. cache: folder where trees are kept.
    """

    policy: str = "adaptive"
    masks: int = 100_000
    classes: int = 10
    seed: int = 0
    answer_error: float = 0.0
    unsure: float = 0.0
    near: float = 0.5
    users: int = 3
    gold: int = 200
    order: str = "score"
    n_s: int = 15
    k_a: float = 0.85
    k_iou: float = 0.75
    k_pr: float | None = None
    k_pa: float | None = None
    precision: float = 0.9
    confidence: float = 0.95
    looked: int = 100
    audit: int = 0
    price: float | None = None
    budget: int | None = None
    skew: float = 0.0
    mixtures: Path | None = None
    heldout_share: float = 0.1
    seconds_per_answer: float = 2.0
    seconds_per_mask: float = 80.0
    baselines: bool = False
    cache: Path | None = None
    eye_cut: float | None = None
    precision_per_class: float | None = None

    def __post_init__(self) -> None:
        if self.order not in (*ORDERS, "oracle"):
            raise InputError("order", "one of " + ", ".join((*ORDERS, "oracle")), self.order)
        if self.policy == "adaptive" and self.order != "score":
            raise InputError("order", "score, the adaptive policy has an order of its own", self.order)
        for name in ("seconds_per_answer", "seconds_per_mask"):
            if getattr(self, name) <= 0:
                raise InputError(name, "a positive number of seconds", getattr(self, name))
        if not 0 < self.k_iou < 1:
            raise InputError("k_iou", "an IoU above 0 and below 1", self.k_iou)
        if self.gold < 0:
            raise InputError("gold", "a whole number of at least 0", self.gold)
        for name in ("precision", "confidence", "precision_per_class"):
            value = getattr(self, name)
            if value is not None and not 0.5 <= value < 1:
                raise InputError(name, "a share of at least 0.5 and below 1", value)
        if self.policy != TARGET:
            make_policy(self.policy, self.n_s, self.k_a)
        self.annotators()

    def annotators(self) -> Annotators:
        """The crowd of these options."""
        return Annotators(self.answer_error, self.unsure, self.near, self.users, k_iou=self.k_iou, eye_cut=self.eye_cut)


@dataclass
class SimulationResult:
    """What came out. `as_dict` is the JSON of `campaign simulate`."""

    options: SimulationOptions
    summary: dict[str, Any]
    classes: list[dict[str, Any]]
    course: Course
    baselines: dict[str, dict[str, Any]] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    thresholds: dict[int, Thresholds] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def as_dict(self, courses: bool = True) -> dict[str, Any]:
        """For JSON: summary on top, then options, classes, baselines, wall-clock seconds, and curves if asked for."""
        options = {f.name: getattr(self.options, f.name) for f in fields(self.options)}
        options = {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}
        out = self.summary | {"options": options, "per_class": self.classes, "baselines": self.baselines}
        out["seconds"] = {k: round(v, 2) for k, v in self.seconds.items()}
        if courses:
            every = {self.options.policy: self.course} | self.courses
            out["curves"] = {name: course.thinned().as_dict() for name, course in every.items()}
        return out


def simulate(
    options: SimulationOptions,
    population: Sequence[ClassPopulation] | None = None,
    progress: Progress | None = None,
) -> SimulationResult:
    """Runs a campaign on simulated masks (or on `population`) with the search and policy of production.

    The same options give the same result but for `seconds`. Raises InputError for options that make no sense.
    """
    clock = time.perf_counter()
    seconds = {}
    if population is None:
        population = sample_population(
            class_sizes(options.masks, options.classes, options.skew),
            options.seed,
            mixtures=load_mixtures(options.mixtures),
            heldout_share=options.heldout_share,
            keep_features=options.baselines,
            cache=options.cache,
            progress=progress,
        )
    seconds["population"] = time.perf_counter() - clock
    clock = time.perf_counter()
    thresholds = learn(population, options, progress)
    seconds["thresholds"] = time.perf_counter() - clock
    clock = time.perf_counter()
    run = run_policy(population, thresholds, options)
    seconds["search"] = time.perf_counter() - clock
    summary = run.course.summary() | {
        "clusters_asked": run.clusters_asked,
        "clusters_accepted": run.clusters_accepted,
    }
    summary |= outcome(population, run, options)
    head = {"policy": options.policy, "pool": sum(len(c) for c in population), "classes": len(population)}
    head |= {"seed": options.seed, "answer_error": options.answer_error}
    result = SimulationResult(options, head | summary, _per_class(population, run, options), run.course)
    result.thresholds, result.seconds = thresholds, seconds
    if options.baselines:
        clock = time.perf_counter()
        _add_baselines(result, population, thresholds)
        seconds["baselines"] = time.perf_counter() - clock
    return result


def outcome(population: Sequence[ClassPopulation], run: Run, options: SimulationOptions) -> dict[str, Any]:
    """What a lead sees at the end, in the keys that all policies share.

    `questions` are all that people saw, a mask once however often the policy drew it (`drawn`), with the audit that
    stands behind `promised`; None without one. `recall` is the share of the pool's correct masks.
    """
    from campaign.certification.audit import GoldCount, audit_sample, certify

    inside = [run.datasets[c.class_id].inside for c in population]
    correct = np.concatenate([run.datasets[c.class_id].correct[own] for c, own in zip(population, inside, strict=True)])
    objects = sum(int((c.iou >= options.k_iou).sum()) for c in population)
    promised, questions = None, int(run.course.asked[-1])
    if options.audit and len(correct):
        label = np.concatenate([np.full(own.sum(), c.class_id) for c, own in zip(population, inside, strict=True)])
        audit = audit_sample(label, label, options.audit, seed=options.seed)
        verdict = np.concatenate(
            [run.verdicts[c.class_id][own] for c, own in zip(population, inside, strict=True)]
        )  # fmt: skip
        answers = {row: int(verdict[row]) for row in audit.rows}
        promised = certify(audit, answers, GoldCount(), options.confidence).overall.lower_bound
        questions += len(audit.rows)
    hours = questions * options.seconds_per_answer / 3600
    return {
        "questions": questions,
        "hours": round(hours, 4),
        "masks_per_question": round(len(correct) / questions, 4) if questions else 0.0,
        "drawn": int(run.course.questions[-1]),
        "correct": int(correct.sum()),
        "promised": promised,
        "recall": round(int(correct.sum()) / objects, 5) if objects else 1.0,
        "recall_promised": None,
    }


def learn(
    population: Sequence[ClassPopulation], options: SimulationOptions, progress: Progress | None = None
) -> dict[int, Thresholds]:
    """Thresholds of every class, learned from its held-out masks unless the options set them."""
    thresholds = {}
    for done, c in enumerate(population, start=1):
        thresholds[c.class_id] = c.thresholds(options.k_iou, options.k_a, options.k_pr, options.k_pa)
        if progress is not None:
            progress("learn", done, len(population))
    return thresholds


def run_policy(
    population: Sequence[ClassPopulation], thresholds: dict[int, Thresholds], options: SimulationOptions
) -> Run:
    """The run of the options' policy."""
    annotators, asked = options.annotators(), 0
    quality = None
    if options.policy == "adaptive" and options.gold:
        quality, asked = estimate_quality(population, annotators, options)

    def policy_of(c: ClassPopulation) -> Policy:
        if options.policy == "adaptive":
            return make_policy("adaptive", options.n_s, options.k_a, annotators=quality, price=options.price)
        policy = make_policy(options.policy, options.n_s, options.k_a)
        order = ORDERS.get(options.order)
        if options.order == "oracle":
            order = oracle_order(cluster_quality(c.tree, c.iou))
        assert isinstance(policy, Paper)
        return replace(policy, order=order)

    return run_campaign(
        population,
        policy_of,
        thresholds,
        annotators,
        seed=options.seed,
        k_iou=options.k_iou,
        budget=options.budget,
        seconds_per_answer=options.seconds_per_answer,
        asked_before=asked,
    )


def estimate_quality(
    population: Sequence[ClassPopulation], annotators: Annotators, options: SimulationOptions
) -> tuple[AnnotatorQuality, int]:
    """Sensitivity and specificity on gold, held-out masks of all classes, and how many were asked about."""
    iou = np.concatenate([c.heldout_iou for c in population])
    verdict = annotators.verdicts(iou, options.seed * 1009 + 500_009)
    rng = np.random.default_rng((options.seed, 21))
    wanted_gold = options.gold if options.budget is None else min(options.gold, int(options.budget * GOLD_SHARE))
    rates, asked = [], 0
    for wanted, group in ((Verdict.YES, iou >= options.k_iou), (Verdict.NO, iou < options.k_iou)):
        gold = rng.permutation(np.flatnonzero(group))[: wanted_gold // 2]
        answers = verdict[gold][verdict[gold] != Verdict.UNSURE]
        rate = (np.sum(answers == wanted) + 0.5) / (len(answers) + 1) if len(answers) else 1.0
        rates.append(float(np.clip(rate, 0.51, 1.0)))
        asked += len(gold)
    return AnnotatorQuality(*rates), asked


def load_mixtures(path: Path | None) -> dict[int, Mixture] | None:
    """The mixtures of a JSON file, or of all in a folder, in the order of their names."""
    if path is None:
        return None
    files = sorted(Path(path).glob("*.json")) if Path(path).is_dir() else [Path(path)]
    if not files:
        raise InputError(path, "mixtures in JSON files", "none")
    return {i: Mixture.load(p) for i, p in enumerate(files)}


def _per_class(population: Sequence[ClassPopulation], run: Run, options: SimulationOptions) -> list[dict[str, Any]]:
    """Per class: questions, masks, precision, and how many times faster than drawing and than verifying every mask.

    Verifying is in the order of scores, and compared at the same number of masks, None where it never gets there.
    """
    rows = []
    for c in population:
        search, dataset = run.searches[c.class_id], run.datasets[c.class_id]
        masks, questions = int(dataset.inside.sum()), questions_of(search)
        yes = run.verdicts[c.class_id][np.argsort(-c.score, kind="stable")] == Verdict.YES
        verified = np.flatnonzero(np.cumsum(yes) >= masks)
        row: dict[str, Any] = {"class": c.class_id, "pool": len(c), "questions": questions, "masks": masks}
        row["precision"] = round(float(dataset.correct[dataset.inside].mean()), 5) if masks else None
        drawing, asking = masks * options.seconds_per_mask, questions * options.seconds_per_answer
        row["faster_than_drawing"] = round(drawing / asking, 2) if questions else None
        fair = questions > 0 and masks > 0 and len(verified) > 0
        row["faster_than_verifying"] = round(float(verified[0] + 1) / questions, 2) if fair else None
        rows.append(row)
    return rows


def _add_baselines(
    result: SimulationResult, population: Sequence[ClassPopulation], thresholds: dict[int, Thresholds]
) -> None:
    options, annotators = result.options, result.options.annotators()
    common: dict[str, Any] = {
        "seed": options.seed,
        "k_iou": options.k_iou,
        "seconds_per_answer": options.seconds_per_answer,
    }
    cut, height = cut_trees(population, thresholds, annotators, n_s=options.n_s, k_a=options.k_a, **common)
    result.courses = {
        "verify every mask": verify_every_mask(population, annotators, **common),
        "cascade": cascade(population, annotators, **common),
        "universal threshold": cut.course,
    }
    result.baselines = {name: course.summary() for name, course in result.courses.items()}
    result.baselines["universal threshold"]["height"] = round(height, 4)
    masks, hours = result.summary["masks"], result.summary["hours"]
    result.baselines["drawing"] = {
        "hours": round(masks * options.seconds_per_mask / 3600, 2),
        "masks": masks,
        "masks_in_the_same_hours": int(draw_by_hand(np.array(hours * 3600), options.seconds_per_mask)),
    }


def grid(
    options: SimulationOptions,
    population: Sequence[ClassPopulation] | None = None,
    *,
    n_s: Sequence[int] = (5, 10, 15, 20, 30),
    k_a: Sequence[float] = (0.75, 0.8, 0.85, 0.9, 0.95),
    k_iou: Sequence[float] = (0.7, 0.75, 0.8, 0.85),
    least_sq: float = 0.85,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """All combinations of the settings on one population: {"rows": [...], "cheapest": row or None}.

    The cheapest setting is the one with the most masks per question among those with an SQ of at least `least_sq`.
    """
    if population is None:
        sizes = class_sizes(options.masks, options.classes, options.skew)
        mixtures = load_mixtures(options.mixtures)
        population = sample_population(sizes, options.seed, mixtures=mixtures, cache=options.cache, progress=progress)
    rows, combinations = [], list(itertools.product(k_iou, k_a, n_s))
    thresholds: dict[tuple[float, float], dict[int, Thresholds]] = {}
    for done, (iou, quality, sample) in enumerate(combinations, start=1):
        own = replace(options, n_s=sample, k_a=quality, k_iou=iou, baselines=False)
        if (iou, quality) not in thresholds:
            thresholds[iou, quality] = learn(population, own)
        run = run_policy(population, thresholds[iou, quality], own)
        rows.append({"n_s": sample, "k_a": quality, "k_iou": iou} | run.course.summary())
        if progress is not None:
            progress("grid", done, len(combinations))
    good = [row for row in rows if row["sq"] >= least_sq and row["masks"]]
    cheapest = max(good, key=lambda row: row["masks_per_question"]) if good else None
    return {"policy": options.policy, "least_sq": least_sq, "rows": rows, "cheapest": cheapest}
