"""What people said of what is missing: recall and its bound, images that lack nothing, and the objects they clicked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from campaign.certification.promise import digest_of
from campaign.dataset.listed import ListedMasks
from campaign.dataset.recall import ANY, CONFIDENCE, Draw, GoldPage, Recall, recall_bound
from campaign.derived.certificates import standing_certificate
from campaign.derived.dataset import standing_masks
from campaign.derived.delivery import promised
from campaign.derived.expectation import expectation
from campaign.derived.live import live
from campaign.derived.outline import outline
from campaign.records.dataset_masks import DatasetMasks
from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import COMPLETE, MISSING
from campaign.store.values import Key
from ml_backend.masks.rle import decode_window

NEAR = 5  # pixels from an object's mask within which a click means it
PRECISION_ERROR = 0.025  # half of the usual error probability is the precision's


def looked(store: Store) -> dict[str, m.Drawing]:
    """{page: what was said of it} of pages that ask what is missing: the newest answer of a user who counts."""
    pages = {p.key for p in store.pages.rows(kind=PageKind.COMPLETE)}
    standing = [d for d in store.drawings.standing() if d.page_key in pages] if pages else []
    if not standing:
        return {}
    trust = live(store).trust
    if store.settings.quality.qualification:
        standing = [d for d in standing if d.annotator in trust.qualified]
    standing = [d for d in standing if not trust.holds(d.annotator, d.answered_at)]
    return {d.page_key: d for d in sorted(standing, key=lambda d: (d.answered_at, d.id))}


def points(store: Store) -> list[dict[str, Any]]:
    """The objects that people clicked as missing, gold aside: {"image_id", "class_id", "x", "y"}, in pixels.

    What a later step needs to draw them. The class is None where a click named none.
    """
    said = looked(store)
    return [
        {"image_id": said[page.key].image_id, **point}
        for page in _pages(store)
        if page.key in said and not is_gold(page)
        for point in said[page.key].masks.get("points", [])
    ]


def is_gold(page: m.Page) -> bool:
    """Whether what is missing on a page is known."""
    return "missing" in (page.place or {})


def complete_images(store: Store, masks: DatasetMasks | ListedMasks) -> set[int]:
    """Images of the pool in all of which people found nothing missing, and whose masks of then are all among `masks`.

    Where a mask was taken out since, its object may have none.
    """
    said, pages = looked(store), [p for p in _pages(store) if not is_gold(p)]
    shown = np.array([i for p in pages for i in (p.place or {})["masks"]], np.int64)
    here, areas, bad = set(shown[np.isin(shown, masks.mask_id)].tolist()), Counter[int](), set[int]()
    for page in pages:
        place, drawing = page.place or {}, said.get(page.key)
        x0, y0, x1, y1 = place["window"]
        areas[place["image_id"]] += (x1 - x0) * (y1 - y0)
        if drawing is None or drawing.state != COMPLETE or not here.issuperset(place["masks"]):
            bad.add(place["image_id"])
    images = store.images.some(sorted(areas.keys() - bad))
    return {i for i, image in images.items() if areas[i] == image.width * image.height}


def recall_of(
    store: Store,
    precision_bound: float,
    *,
    masks: DatasetMasks | ListedMasks | None = None,
    precision_error: float = PRECISION_ERROR,
    confidence: float = CONFIDENCE,
    estimated_precision: float | None = None,
) -> Recall | None:
    """The bound on recall of `masks`, by default the dataset as it stands; see `campaign.dataset.recall`.

    `precision_bound` holds with an error probability of `precision_error`, and the bound with `confidence` for both
    together. None where no batch of images was answered as a whole, or there is no mask.
    """
    draws, looks = sample(store)
    if not draws:
        return None
    counts = _counts(store, masks)
    if not any(counts.values()):
        return None
    return recall_bound(
        draws, counts, precision_bound, gold_pages(store), looks=looks, confidence=confidence,
        precision_error=precision_error, estimated_precision=estimated_precision,
    )  # fmt: skip


def recall_figures(store: Store, masks: DatasetMasks | ListedMasks | None = None) -> dict[str, Any] | None:
    """What status, report and export show of recall; None where nobody was asked what is missing.

    Precision is that of the newest audit, where it speaks of these masks, and recall is then stated with what is left
    of the confidence. Without an audit there is no bound, and the estimate takes every mask for correct.
    """
    pages = _pages(store)
    if not pages:
        return None
    said = looked(store)
    asked = [p for p in pages if not is_gold(p)]
    answered = [said[p.key] for p in asked if p.key in said]
    figures: dict[str, Any] = {
        "estimate": None, "bound": None, "confidence": None, "per_class": {}, "notes": [],
        "pages": len(pages), "pages_answered": sum(p.key in said for p in pages), "images": len(asked),
        "images_answered": len(answered), "complete": sum(d.state == COMPLETE for d in answered),
        "unsure": sum(d.state not in (COMPLETE, MISSING) for d in answered),
        "clicked": sum(len(d.masks.get("points", [])) for d in answered),
    }  # fmt: skip
    draws, _ = sample(store)
    if not draws:
        return figures
    certificate = certified(store, masks)
    if certificate is None:
        recall = recall_of(store, 1.0, masks=masks, precision_error=0.0)
        return figures if recall is None else figures | shown(recall, store.classes(), certified=False)
    error = 1 - certificate["confidence"]
    recall = recall_of(
        store, certificate["overall"]["lower_bound"], masks=masks, precision_error=error,
        confidence=1 - error - (1 - CONFIDENCE), estimated_precision=certificate["overall"]["precision"],
    )  # fmt: skip
    return figures if recall is None else figures | shown(recall, store.classes())


def recall_line(figures: Mapping[str, Any]) -> str:
    """The figures in a line, for status, report and the lead's page."""
    looked_at = f"{figures['images_answered']} of {figures['images']} images looked through"
    if figures["estimate"] is None:
        return looked_at
    least = "" if figures["bound"] is None else f", at least {figures['bound']:.3f} at {100 * figures['confidence']:g}%"
    return f"about {figures['estimate']:.3f}{least}; {looked_at}"


def shown(recall: Recall, classes: Mapping[int, str], certified: bool = True) -> dict[str, Any]:
    """A bound as programs and pages show it, classes by name; without a certified precision estimates alone."""

    def figures(bound: Any) -> dict[str, Any]:
        return {
            "estimate": round(bound.estimate, 4), "bound": _down(bound.bound) if certified else None,
            "masks": bound.masks, "clicked": bound.clicked,
        }  # fmt: skip

    notes = list(recall.notes)
    if not certified:
        notes.append("precision is not certified: the estimate takes every mask for correct, and no bound is promised")
    return {
        **figures(recall.overall),
        "confidence": round(recall.confidence, 6) if certified else None,
        "per_class": {classes[c]: figures(b) for c, b in recall.classes.items()},
        "sensitivity": round(recall.finder.sensitivity, 4) if recall.finder.known else None,
        "gold_objects": recall.finder.known,
        "sentence": recall.sentence() if certified else None,
        "notes": notes,
    }


def certified(store: Store, masks: DatasetMasks | ListedMasks | None = None) -> dict[str, Any] | None:
    """What is certain of the precision of these masks, or of the dataset as it stands.

    It has `confidence`, and `overall` with the bound and the estimate.

    That is the promise, where it speaks of exactly them, and what is expected of them; under other policies the newest
    certificate, where its audit was drawn from a set that holds them all.
    """
    if store.settings.search.policy == "target":
        promise = promised(store) or {}
        least = promise.get("precision_at_least")
        if least is None or (masks is not None and promise["digest"] != digest_of(masks.mask_id)):
            return None
        expected = expectation(store).precision
        likely = least if expected is None else max(expected.value, least)
        return {"confidence": promise["confidence"], "overall": {"lower_bound": least, "precision": likely}}
    if store.values.get(Key.CERTIFICATE) is None:
        return None
    return standing_certificate(store, standing_masks(store) if masks is None else masks)


def sample(store: Store) -> tuple[list[Draw], list[int]]:
    """The draws of the batches that were answered as a whole, in their order, and the ends of these batches."""
    said = looked(store)
    pages = sorted((p for p in _pages(store) if not is_gold(p)), key=lambda p: (p.place or {})["unit"])
    open_ = next((n for n, page in enumerate(pages) if page.key not in said), len(pages))
    looks = [end for end in (store.values.get(Key.COMPLETENESS) or {}).get("looks", []) if 0 < end <= open_]
    return [_draw(page, said[page.key]) for page in pages[: looks[-1] if looks else 0]], looks


def gold_pages(store: Store) -> list[GoldPage]:
    """What people made of pages on which what is missing is known."""
    said = looked(store)
    return [
        judged(page.place or {}, said[page.key].masks.get("points", []))
        for page in _pages(store)
        if is_gold(page) and page.key in said and said[page.key].state in (COMPLETE, MISSING)
    ]


def judged(place: Mapping[str, Any], clicks: Iterable[Mapping[str, Any]]) -> GoldPage:
    """The clicks on a page with known missing objects: a click means an object of its class that it is near to."""
    found, false = set[int](), 0
    for click in clicks:
        hit = [n for n, shape in enumerate(place["missing"]) if _means(click, shape)]
        found.update(hit)
        false += not hit and not any(_means(click, shape) for shape in place["doubtful"])
    return GoldPage(len(place["missing"]), len(found), false)


def _means(click: Mapping[str, Any], shape: Mapping[str, Any]) -> bool:
    if click["class_id"] not in (None, shape["class_id"]):
        return False
    x, y = int(click["x"]), int(click["y"])
    around = decode_window(dict(shape), x - NEAR, y - NEAR, x + NEAR + 1, y + NEAR + 1)
    reach = np.hypot(*np.mgrid[-NEAR : NEAR + 1, -NEAR : NEAR + 1]) <= NEAR
    return bool((around & reach).any())


def _draw(page: m.Page, drawing: m.Drawing) -> Draw:
    place = page.place or {}
    clicked: Counter[int] | None = None
    if drawing.state in (COMPLETE, MISSING):
        ids = (point["class_id"] for point in drawing.masks.get("points", []))
        clicked = Counter(ANY if i is None else int(i) for i in ids)
    most: dict[int | None, float] = {int(c): float(n) for c, n in place["most"].items() if c != "all"}
    return Draw(
        place["chance"], place["share"], clicked, _by_class(place["shown"]), _by_class(place["rest"]),
        most | {None: float(place["most"].get("all", 0.0))}, place["least"],
    )  # fmt: skip


def _by_class(counts: Mapping[str, int]) -> dict[int, int]:
    return {int(class_id): int(n) for class_id, n in counts.items()}


def _pages(store: Store) -> list[m.Page]:
    return store.pages.rows(kind=PageKind.COMPLETE)


def _counts(store: Store, masks: DatasetMasks | ListedMasks | None) -> dict[int, int]:
    """{class: masks} of these masks, or of the dataset as it stands."""
    if masks is None:
        known = outline(store).by_class()
        return {c: known.get(c, 0) for c in store.classes()}
    return {c: int((masks.class_id == c).sum()) for c in store.classes()}


def _down(value: float) -> float:
    """Never rounded up."""
    return float(np.floor(value * 10000) / 10000)
