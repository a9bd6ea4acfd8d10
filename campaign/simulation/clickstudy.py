"""`campaign simulate-clicks`: what a segmenter that was trained on one set is worth on another, and the studies."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from campaign.simulation.clicks import (
    Case,
    Course,
    count_progress,
    courses,
    drawn_cases,
    from_box,
    from_mask,
    from_nothing,
    mean_iou,
    with_starts,
)
from campaign.simulation.joined import joined_campaign
from campaign.simulation.predictions import pool_of_round
from campaign.store import Store
from ml_backend.detector import Progress, load_detector_class
from ml_backend.errors import InputError
from ml_backend.interactive.annotators import Annotator, Place
from ml_backend.interactive.corruption import corrupted
from ml_backend.interactive.encodings import ClickEncoding
from ml_backend.interactive.ranking import LEAST_MASKS, Ranker
from ml_backend.interactive.segmenter import Click, Prompt, Segmenter, load_segmenter_class
from ml_backend.masks.coco import Annotation, CocoDataset, read_json, to_rle
from ml_backend.masks.images import read_rgb
from ml_backend.predictions import Predictions

# Clicks of the curve, and the IoUs to which clicks are counted.
CURVE, GOALS = 15, (0.85, 0.9)
# A mask that overlaps an object less is not its.
LEAST_START = 0.5
# Rounds and clicks in each, as they are compared; the one by which masks are ranked.
PLANS = {"1x9": (9,), "3x3": (3, 3, 3), "4x2": (2,) * 4, "5x2": (2,) * 5}
RANKED_PLAN = "3x3"
TOP = tuple(range(10, 101, 10))
NOISES, REGIONS = (0.0, 3.0, 6.0), (0.0, 5.0, 10.0, 20.0)


@dataclass(frozen=True)
class ClickStudy:
    """What is simulated.

    data: folder with images/; train, test: its COCO files. model: the segmenter. seed: of training, of the objects and
    of the annotators. objects: most of the test set's. training: options of the segmenter. out: folder of what is
    trained. checkpoint: of a segmenter that is trained already. detector: checkpoint of a detector whose masks are
    corrected; detections: or COCO results of one. studies: also annotators of other kinds, and other encodings.
    campaign: one whose first round has predictions, for the joined campaign; truth: COCO file of its pool, in `data`.
    """

    data: Path
    train: str
    test: str
    out: Path
    model: str = "click"
    seed: int = 0
    objects: int = 150
    training: dict[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    detector: Path | None = None
    detections: Path | None = None
    studies: bool = False
    campaign: Path | None = None
    truth: str = "pool.json"
    k_iou: float = 0.75


def simulate_clicks(study: ClickStudy, progress: Progress | None = None) -> dict[str, Any]:
    """What clicks bring on the test set, see `campaign/cli/README.md`. Raises InputError for bad files or options."""
    images = study.data / "images"
    test = CocoDataset.load(study.data / study.test, images)
    campaign = None if study.campaign is None else _campaign(study)  # before a training that may take long
    began = time.monotonic()
    segmenter = _segmenter(study, study.training, study.out / study.model, progress)
    trained = time.monotonic()
    cases = drawn_cases(test, study.objects, study.seed)
    if not cases:
        raise InputError(study.data / study.test, "at least one annotated object", "none")
    bench = _Bench(segmenter, study.seed, progress)
    annotator = Annotator()
    free = bench.run("clicks after a box", cases, from_box, annotator, (1,) * CURVE)
    curve = mean_iou(free, CURVE)
    result: dict[str, Any] = {
        "model": study.model,
        "version": segmenter.version,
        "objects": len(cases),
        "miou_by_clicks": curve,
        "gain_at_9": round(curve[9] - curve[0], 4),
    }
    result |= _from_nothing_and_mask(study, test, cases, bench, annotator)
    result |= _ranked(study, cases, bench, annotator)
    result |= _latency(segmenter, [c.image.path for c in cases])
    if study.studies:
        result["studies"] = _studies(study, cases, bench, annotator)
    if campaign is not None:
        result["joined"] = joined_campaign(*campaign, segmenter, seed=study.seed, progress=progress)
    result["seconds"] = {"training": round(trained - began, 1), "simulation": round(time.monotonic() - trained, 1)}
    return result


def _campaign(study: ClickStudy) -> tuple[Store, tuple[Predictions, CocoDataset]]:
    """The campaign of the study, and its pool's predictions with their truth."""
    assert study.campaign is not None
    store = Store.open(study.campaign, read_only=True)
    return store, pool_of_round(store, study.data / study.truth, study.data / "images", 1)


def _segmenter(study: ClickStudy, options: dict[str, Any], output: Path, progress: Progress | None) -> Segmenter:
    """The segmenter of the study, trained where it is not yet."""
    kind = load_segmenter_class(study.model)
    checkpoint = study.checkpoint
    if checkpoint is None:
        train = CocoDataset.load(study.data / study.train, study.data / "images")
        checkpoint = kind.train(train, None, output, options={"seed": study.seed, **options}, progress=progress)
    return kind.load(checkpoint)


@dataclass
class _Bench:
    """Runs courses of one segmenter."""

    segmenter: Segmenter
    seed: int
    progress: Progress | None

    def run(
        self,
        name: str,
        cases: Sequence[Case],
        begin: Any,
        annotator: Annotator,
        plan: Sequence[int],
        enough: float = 2.0,
    ) -> list[Course]:
        """A course of each case."""
        one = count_progress(self.progress, name, len(cases))
        return list(courses(self.segmenter, cases, begin, annotator, plan, self.seed, enough, one))


def _from_nothing_and_mask(
    study: ClickStudy, test: CocoDataset, cases: list[Case], bench: _Bench, annotator: Annotator
) -> dict[str, Any]:
    """Clicks to each goal from nothing and from a mask, on the objects that have a mask, if not yet a good one.

    `_all` are those that are good already as well, with 0 clicks from the mask.
    """
    started, made_by = _started(study, test, cases, bench.progress)
    result: dict[str, Any] = {"masks_from": made_by, "masks_found": len(started)}
    if not started:
        return result | {f"noc{round(100 * goal)}_from_{how}": None for goal in GOALS for how in ("nothing", "mask")}
    plan = (1,) * 20
    nothing = bench.run("clicks from nothing", started, from_nothing(annotator), annotator, plan[1:], GOALS[-1])
    mask = bench.run("clicks after a mask", started, from_mask, annotator, plan, GOALS[-1])
    start = np.array([c.start_iou for c in started])
    result["start_iou"] = round(float(start.mean()), 4)
    for goal in GOALS:
        poor = start < goal
        for how, of_cases in (("nothing", nothing), ("mask", mask)):
            counts = np.array([c.clicks_to(goal) for c in of_cases], float)
            key = f"noc{round(100 * goal)}_from_{how}"
            result[key] = round(float(counts[poor].mean()), 3) if poor.any() else None
            result[f"{key}_all"] = round(float(counts.mean()), 3)
            reached = np.array([max(c.iou) >= goal for c in of_cases])
            result[f"{key}_reached"] = round(float(reached[poor].mean()), 3) if poor.any() else None
        result[f"masks_below_{round(100 * goal)}"] = int(poor.sum())
    return result


def _started(
    study: ClickStudy, test: CocoDataset, cases: list[Case], progress: Progress | None
) -> tuple[list[Case], str]:
    """The cases with masks to begin from, and where these are from."""
    known = {c.image.id for c in cases}
    if study.detections is not None:
        return with_starts(
            cases, _results(study.detections, test), LEAST_START
        ), f"detections in {study.detections.name}"
    if study.detector is not None:
        detector = load_detector_class("torchvision").load(study.detector)
        images = [i for i in test.images if i.id in known]
        annotations: list[Annotation] = []
        one = count_progress(progress, "detecting", len(images))
        for predictions in detector.predict(images):
            rows = zip(predictions.image_id.tolist(), predictions.class_id.tolist(), predictions.rles(), strict=True)
            annotations += [Annotation(0, image, class_id, rle) for image, class_id, rle in rows]
            one()
        return with_starts(cases, annotations, LEAST_START), f"detector {detector.version}"
    return [_spoilt(case, study.seed) for case in cases], "true masks, spoilt"


def _spoilt(case: Case, seed: int) -> Case:
    """The case with a mask made of the true one, wrong as detectors' are."""
    from pycocotools import mask as mask_util

    rng = np.random.default_rng([seed, 3, case.number])
    truth = mask_util.decode(case.truth).astype(bool)
    start = mask_util.encode(np.asfortranarray(corrupted(truth, np.zeros_like(truth), rng).astype(np.uint8)))
    return replace(case, start=start, start_iou=float(mask_util.iou([start], [case.truth], [0])[0, 0]))


def _results(path: Path, test: CocoDataset) -> list[Annotation]:
    """The masks of a COCO results file on the images of the test set. Raises InputError where it is none."""
    rows, sizes = read_json(path, results=True), {i.id: (i.height, i.width) for i in test.images}
    if not isinstance(rows, list):
        raise InputError(path, "a list of COCO results", type(rows).__name__)
    annotations = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or row.get("image_id") not in sizes:
            continue
        try:
            rle = to_rle(row.get("segmentation"), *sizes[row["image_id"]])
        except ValueError as error:
            raise InputError(f"{path} result number {number}", str(error), "another mask") from None
        annotations.append(Annotation(number, row["image_id"], int(row.get("category_id", 0)), rle))
    return annotations


def _ranked(study: ClickStudy, cases: list[Case], bench: _Bench, annotator: Annotator) -> dict[str, Any]:
    """Mean IoU of the masks that `M_r` holds for the best, after three rounds of three clicks.

    Each half of the images is ranked by what was learnt on the other: on masks of which it knows nothing.
    """
    done = bench.run("rounds of clicks", cases, from_box, annotator, PLANS[RANKED_PLAN])
    iou = np.array([c.iou[-1] for c in done])
    image = np.array([c.image.id for c in cases])
    second = np.isin(image, np.random.default_rng([study.seed, 4]).permutation(np.unique(image))[::2])
    result: dict[str, Any] = {"miou_3x3": round(float(iou.mean()), 4), "ranked_top70_gain": None}
    if min(second.sum(), (~second).sum()) < LEAST_MASKS:
        return result
    rankers = []
    for half in (second, ~second):
        # Masks as they were before and in between teach as well, but other rounds of the ranked ones are not shown.
        rows = np.concatenate([np.array(c.table) for c, own in zip(done, half, strict=True) if not own])
        truth = np.concatenate([np.array(c.iou) for c, own in zip(done, half, strict=True) if not own])
        rankers.append((half, Ranker(rows, truth, study.k_iou, study.seed)))
    by_round = [_ranked_after(n, done, rankers) for n in range(len(PLANS[RANKED_PLAN]) + 1)]
    last = by_round[-1]
    return result | {
        "ranked_miou": {str(share): round(_best(*last[:2], share), 4) for share in TOP},
        "ranked_top70_gain": round(_best(*last[:2], 70) - float(iou.mean()), 4),
        "ranked_top70_gain_by_round": [round(_best(now, said, 70) - float(now.mean()), 4) for now, said, _ in by_round],
        "ranked_top70_gain_at_most": [round(_best(now, now, 70) - float(now.mean()), 4) for now, _, _ in by_round],
        "correct_expected": round(float(last[2].mean()), 4),
        "correct_true": round(float((iou >= study.k_iou).mean()), 4),
    }


def _ranked_after(
    number: int, done: list[Course], rankers: list[tuple[np.ndarray, Ranker]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of the masks after so many rounds: IoU, the IoU that is expected, and how likely they are correct."""
    iou = np.array([c.iou[min(number, len(c.iou) - 1)] for c in done])
    table = np.array([c.table[min(number, len(c.table) - 1)] for c in done])
    expected, correct = np.zeros(len(iou)), np.zeros(len(iou))
    for half, ranker in rankers:
        judged = ranker.judge(table[half])
        expected[half], correct[half] = judged.expected_iou, judged.correct
    return iou, expected, correct


def _best(iou: np.ndarray, said: np.ndarray, share: int) -> float:
    """Mean IoU of the best `share` percent by what is said of them."""
    return float(iou[np.argsort(-said, kind="stable")[: max(len(iou) * share // 100, 1)]].mean())


def _latency(segmenter: Segmenter, paths: Sequence[Path], side: int = 1024, annotators: int = 4) -> dict[str, Any]:
    """Seconds per click of several annotators at once, each on a picture of `side` pixels that is encoded already."""
    picture = _tiled(read_rgb(paths[0]), side)
    clock = time.perf_counter()
    encoding = segmenter.encode(picture)
    encoded = time.perf_counter() - clock
    seconds: list[float] = []

    def annotate(number: int) -> None:
        rng = np.random.default_rng(number)
        x, y = rng.uniform(100, side - 100, 2)
        prompt = Prompt(box=(x - 20, y - 20, x + 20, y + 20))
        previous = segmenter.segment(encoding, prompt).mask
        for _ in range(10):
            place = rng.uniform(-20, 20, 2)
            click = Click(float(x + place[0]), float(y + place[1]), bool(rng.random() < 0.5))
            prompt = replace(prompt, clicks=(*prompt.clicks, click), previous=previous)
            began = time.perf_counter()
            previous = segmenter.segment(encoding, prompt).mask
            seconds.append(time.perf_counter() - began)

    threads = [threading.Thread(target=annotate, args=(n,)) for n in range(annotators)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "seconds_per_click_p95": round(float(np.percentile(seconds, 95)), 4),
        "seconds_per_click_median": round(float(np.median(seconds)), 4),
        "seconds_to_encode": round(encoded, 3),
        "encoding_megabytes": round(encoding.nbytes / 1e6, 1),
    }


def _tiled(picture: np.ndarray, side: int) -> np.ndarray:
    """The picture repeated and cut to `side` by `side` pixels."""
    rows, columns = -(-side // picture.shape[0]), -(-side // picture.shape[1])
    return np.ascontiguousarray(np.tile(picture, (rows, columns, 1))[:side, :side])


def _studies(study: ClickStudy, cases: list[Case], bench: _Bench, annotator: Annotator) -> dict[str, Any]:
    """Mean IoU after 3 x 3 clicks, where one thing is otherwise than in the main figures."""
    plan = PLANS[RANKED_PLAN]

    def after(name: str, who: Annotator, rounds: Sequence[int] = plan, other: _Bench = bench) -> float:
        done = other.run(name, cases, from_box, who, rounds)
        return round(float(np.mean([c.iou[-1] for c in done])), 4)

    result: dict[str, Any] = {
        "rounds": {name: after(f"rounds {name}", annotator, rounds) for name, rounds in PLANS.items()},
        "noise": {f"{n:g}": after(f"noise {n:g}", replace(annotator, noise=n)) for n in NOISES},
        "least_region": {f"{r:g}": after(f"regions of {r:g}²", replace(annotator, least_region=r)) for r in REGIONS},
        "place": {place.value: after(place.value, replace(annotator, place=place)) for place in Place},
        "choice": {"largest": after("largest", replace(annotator, largest=True)), "by area": None},
    }
    result["choice"]["by area"] = result["noise"]["3"]
    if study.checkpoint is None:
        encodings = {}
        for encoding in ClickEncoding:
            other = _segmenter(
                study, {**study.training, "encoding": encoding.value}, study.out / encoding.value, bench.progress
            )
            encodings[encoding.value] = after(
                encoding.value, annotator, plan, _Bench(other, bench.seed, bench.progress)
            )
        result["encoding"] = encodings
        edge = _segmenter(study, {**study.training, "boundary": True}, study.out / "boundary", bench.progress)
        on_edge = replace(annotator, boundary=True)
        result["clicks"] = {
            "region": result["noise"]["3"],
            "boundary": after("boundary clicks", on_edge, plan, _Bench(edge, bench.seed, bench.progress)),
        }
    return result
