"""Simulated annotators who correct masks by clicks, on objects whose truth is known.

What is counted: the mean IoU after each click, and how many clicks an object takes to an IoU (NoC), from nothing and
from a mask that a detector has made. Every object has random numbers of its own, so that two annotators or models are
compared on the same ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ml_backend.detector import Progress
from ml_backend.interactive.annotators import Annotator, error_regions, noisy_box
from ml_backend.interactive.ranking import features
from ml_backend.interactive.segmenter import Click, Prompt, Proposal, Segmenter
from ml_backend.interactive.windows import extent_of
from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord, decode
from ml_backend.masks.images import read_rgb

# Clicks after which an object counts as never reached, as is the custom.
MOST_CLICKS = 20


@dataclass(frozen=True)
class Case:
    """An object to be segmented; `start` is the mask to begin from, COCO run lengths, None where there is none."""

    number: int
    image: ImageRecord
    truth: dict
    start: dict | None = None
    start_iou: float = float("nan")


@dataclass
class Course:
    """How an object's mask came along: its IoU before the first round of clicks and after each.

    clicks: so many in each round. table: what `M_r` goes by after each round, and before the first.
    """

    iou: list[float] = field(default_factory=list)
    clicks: list[int] = field(default_factory=list)
    table: list[np.ndarray] = field(default_factory=list)

    def clicks_to(self, iou: float) -> int:
        """Clicks until the mask has that IoU; `MOST_CLICKS` where it never has."""
        total = np.r_[0, np.cumsum(self.clicks)]
        reached = [int(n) for n, value in zip(total, self.iou, strict=True) if value >= iou]
        return min(reached[0], MOST_CLICKS) if reached else MOST_CLICKS


def drawn_cases(data: CocoDataset, count: int, seed: int) -> list[Case]:
    """At most so many objects, drawn by chance, image by image."""
    images = {i.id: i for i in data.images}
    objects = [a for a in data.annotations if not a.iscrowd]
    rng = np.random.default_rng([seed, 1])
    chosen = sorted(rng.permutation(len(objects))[:count].tolist(), key=lambda i: (objects[i].image_id, objects[i].id))
    return [Case(i, images[objects[i].image_id], objects[i].rle) for i in chosen]


def mask_iou(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two masks of one shape; 0 where both are empty."""
    either = int((a | b).sum())
    return int((a & b).sum()) / either if either else 0.0


def followed(
    segmenter: Segmenter,
    encoding: object,
    truth: np.ndarray,
    begun: tuple[Prompt, Proposal | None],
    annotator: Annotator,
    plan: Sequence[int],
    rng: np.random.Generator,
    enough: float = 2.0,
) -> Course:
    """The course of one object whose annotator clicks as often in each round as the `plan` says.

    An annotator who finds no error worth a click is done, and so is a mask with an IoU of `enough`.

    Args:
        segmenter: asked after each round.
        encoding: of the picture.
        truth: (height, width) bool.
        begun: the prompt before the first round, and what answered it; None where it has a mask and nobody was asked.
        annotator: who clicks.
        plan: clicks in each round.
        rng: of the annotator.
        enough: IoU.
    """
    prompt, proposal = begun
    if proposal is None:
        assert prompt.previous is not None
        proposal = Proposal(prompt.previous, 0.5, 1.0)
    course = Course([mask_iou(proposal.mask, truth)], [], [features(None, proposal, (), 0)])
    for number, count in enumerate(plan, 1):
        if course.iou[-1] >= enough:
            break
        clicks = round_of_clicks(annotator, proposal.mask, truth, count, rng)
        if not clicks:
            break
        before = proposal.mask
        prompt = replace(prompt, clicks=(*prompt.clicks, *clicks), previous=before)
        proposal = segmenter.segment(encoding, prompt)
        course.iou.append(mask_iou(proposal.mask, truth))
        course.clicks.append(count if annotator.boundary else len(clicks))
        course.table.append(features(before, proposal, clicks, number))
    return course


def round_of_clicks(
    annotator: Annotator, mask: np.ndarray, truth: np.ndarray, count: int, rng: np.random.Generator
) -> tuple[Click, ...]:
    """So many clicks on one mask, on different errors as long as there are others."""
    clicks: list[Click] = []
    left = mask
    for _ in range(count):
        made = annotator.click(left, truth, rng) or annotator.click(mask, truth, rng)
        if not made:
            break
        clicks += made
        left = _without_error(left, truth, made[0])
    return tuple(clicks)


def _without_error(mask: np.ndarray, truth: np.ndarray, click: Click) -> np.ndarray:
    """The mask as if the error next to a click were mended."""
    regions = [r for r in error_regions(mask, truth) if r.positive == click.positive]
    if not regions:
        return mask
    nearest = min(regions, key=lambda r: _distance(r.left, r.top, r.window, click))
    mended = mask.copy()
    h, w = nearest.window.shape
    mended[nearest.top : nearest.top + h, nearest.left : nearest.left + w][nearest.window] = nearest.positive
    return mended


def _distance(left: int, top: int, window: np.ndarray, click: Click) -> float:
    ys, xs = np.nonzero(window)
    return float(np.hypot(xs + left + 0.5 - click.x, ys + top + 0.5 - click.y).min())


Begin = Callable[[Segmenter, object, Case, np.ndarray, np.random.Generator], tuple[Prompt, Proposal | None, int]]


def from_box(
    segmenter: Segmenter, encoding: object, case: Case, truth: np.ndarray, rng: np.random.Generator
) -> tuple[Prompt, Proposal | None, int]:
    """An object begun by a box with noisy corners; no click so far."""
    extent = extent_of(truth)
    assert extent is not None
    height, width = truth.shape
    x0, y0, x1, y1 = noisy_box(extent, rng)
    prompt = Prompt(box=(max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))))
    return prompt, segmenter.segment(encoding, prompt), 0


def from_nothing(annotator: Annotator) -> Begin:
    """An object begun by one click of the annotator."""

    def begin(
        segmenter: Segmenter, encoding: object, case: Case, truth: np.ndarray, rng: np.random.Generator
    ) -> tuple[Prompt, Proposal | None, int]:
        prompt = Prompt(clicks=annotator.first(truth, rng))
        return prompt, segmenter.segment(encoding, prompt), 1

    return begin


def from_mask(
    segmenter: Segmenter, encoding: object, case: Case, truth: np.ndarray, rng: np.random.Generator
) -> tuple[Prompt, Proposal | None, int]:
    """An object begun by the mask of its case; no click so far."""
    assert case.start is not None
    return Prompt(previous=decode(case.start).astype(bool)), None, 0


def courses(
    segmenter: Segmenter,
    cases: Iterable[Case],
    begin: Begin,
    annotator: Annotator,
    plan: Sequence[int],
    seed: int,
    enough: float = 2.0,
    progress: Callable[[], None] = lambda: None,
) -> Iterator[Course]:
    """The course of each case, in order; each picture is encoded once as long as its cases follow each other."""
    pictures = Pictures(segmenter)
    for case in cases:
        encoding = pictures.encoding(case.image)
        rng = np.random.default_rng([seed, 2, case.number])
        truth = decode(case.truth).astype(bool)
        prompt, proposal, clicked = begin(segmenter, encoding, case, truth, rng)
        course = followed(segmenter, encoding, truth, (prompt, proposal), annotator, plan, rng, enough)
        if clicked:
            # What was there before the first click is nothing.
            course.iou.insert(0, 0.0)
            course.clicks.insert(0, clicked)
            course.table.insert(0, course.table[0])
        yield course
        progress()


class Pictures:
    """Encodings of one segmenter, of the last few pictures."""

    def __init__(self, segmenter: Segmenter, most: int = 4):
        self._segmenter, self._most = segmenter, most
        self._encodings: dict[int, object] = {}

    def encoding(self, image: ImageRecord) -> object:
        """The encoding of an image. Raises InputError where it cannot be read."""
        if image.id not in self._encodings:
            while len(self._encodings) >= self._most:
                self._encodings.pop(next(iter(self._encodings)))
            self._encodings[image.id] = self._segmenter.encode(read_rgb(image.path))
        return self._encodings[image.id]


def mean_iou(courses_: Sequence[Course], clicks: int) -> list[float]:
    """Mean IoU after 0, 1, … `clicks` clicks, of courses of one click a round; who is done stays where they are."""
    table = np.array([[c.iou[min(n, len(c.iou) - 1)] for n in range(clicks + 1)] for c in courses_])
    return [round(float(v), 4) for v in table.mean(0)]


def with_starts(cases: Sequence[Case], annotations: Sequence[Annotation], least: float) -> list[Case]:
    """The cases of which there is a mask to begin from, each with the one that overlaps it most.

    Args:
        cases: objects.
        annotations: masks on the same images.
        least: IoU below which a mask is not that of an object.
    """
    from pycocotools import mask as mask_util

    by_image: dict[int, list[dict]] = {}
    for annotation in annotations:
        by_image.setdefault(annotation.image_id, []).append(annotation.rle)
    started = []
    for case in cases:
        masks = by_image.get(case.image.id, [])
        if not masks:
            continue
        iou = np.asarray(mask_util.iou(masks, [case.truth], [0]))[:, 0]
        best = int(iou.argmax())
        if iou[best] >= least:
            started.append(replace(case, start=masks[best], start_iou=float(iou[best])))
    return started


def count_progress(progress: Progress | None, name: str, total: int) -> Callable[[], None]:
    """A function that is called once for each of `total` things."""
    done = 0

    def one() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(name, done, total)

    return one
