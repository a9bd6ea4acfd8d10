"""Is anything missing? Parts of images with the dataset's masks drawn in, put before people who click the rest.

Parts are drawn without replacement in one order, each in proportion to its weight (`campaign.search.parts`), and every
page notes what its draw rests on: its chance, the masks in it, and those in all parts left. So a batch that is asked
later goes on in the same order, with the masks of then. Among them lie held-out images on which what is missing is
known: they show how many of the missing objects people click.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np

from campaign.derived.dataset import final_masks, standing_masks
from campaign.derived.duplicates import duplicates
from campaign.derived.recall import is_gold
from campaign.derived.showing import shown_pages, task_name
from campaign.label_studio.client import Client
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask, read_drawings
from campaign.label_studio.verification import drawn_task
from campaign.pages.editing import add_drawings, drawing_fact, place_facts
from campaign.pages.instructions import class_rules
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import put
from campaign.pages.readback import read_on
from campaign.quality.measures import stable_hash
from campaign.records.dataset_masks import DatasetMasks
from campaign.records.page import NewPage, PageKind, Screen
from campaign.search.parts import cut, draw_order, part_of, weights
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import COMPLETE, MISSING, UNSURE
from campaign.store.values import Key, cursor_name
from label_config import complete_data
from ml_backend.errors import InputError
from ml_backend.server.signing import part_url

logger = logging.getLogger(__name__)

GOLD_SHARE, LEAST_GOLD = 0.2, 8  # held-out pages among those asked, and how many there are at least
SAFETY = 1.25  # times the objects of the fullest held-out part, a part may lack
POOL_SALT, GOLD_SALT = 0xC0, 0xC1
CONTROL, CLASS, VERDICT = "missing", "class", "verdict"
SAID_COMPLETE = "complete"


def add_complete_pages(store: Store, count: int) -> int:
    """Stores pages of the next `count` parts in the order of the draw, and gold among them; returns how many are new.

    Raises InputError where the dataset is empty, or images are about to join the round's trees: what was found on them
    is in no dataset yet.
    """
    known, newest = store.pages.rows(kind=PageKind.COMPLETE), store.rounds.newest()
    if newest is not None and store.trees.joining(newest.number) is not None:
        raise InputError("images", "none that are joining the round's trees, before asking what is missing", "some")
    asked = sorted((p.place or {})["unit"] for p in known if not is_gold(p))
    first = asked[-1] + 1 if asked else 0
    masks = final_masks(store)
    if count < 1:
        return 0
    if not len(masks):
        raise InputError("dataset", "at least one mask, before asking what is missing", "none")
    frame = _frame(store, masks)
    places = _drawn_places(store, masks, frame, first, min(count, len(frame) - first))
    if not places:
        return 0
    note = store.values.get(Key.COMPLETENESS) or {}
    looks = [*note.get("looks", []), first + len(places)]
    wanted = max(round(GOLD_SHARE * (first + len(places))), LEAST_GOLD) - (len(known) - len(asked))
    places += _gold_places(store, masks, wanted, {_spot(p.place or {}) for p in known})
    current = store.rounds.newest()
    number = current.number if current else 0
    pages = [
        NewPage(_key(store, p), number, -1, (), PageKind.COMPLETE, screen=Screen.COMPLETE, place=p) for p in places
    ]
    # By their keys, so that nobody can tell gold by its place.
    new = store.pages.add(sorted(pages, key=lambda page: page.key))
    store.values.set(Key.COMPLETENESS, note | {"looks": looks})
    return new


def ask_what_is_missing(store: Store, round_number: int) -> int:
    """Stores the pages that `rounds.complete_images` wants asked of a round that was verified; returns how many.

    They are published and read beside the ordinary ones, and nothing waits for them. Once for each round.
    """
    note = store.values.get(Key.COMPLETENESS) or {}
    wanted = store.settings.rounds.complete_images
    if not wanted or round_number in note.get("rounds", []):
        return 0
    new = add_complete_pages(store, wanted) if len(standing_masks(store)) else 0
    note = store.values.get(Key.COMPLETENESS) or {}
    store.values.set(Key.COMPLETENESS, note | {"rounds": [*note.get("rounds", []), round_number]})
    return new


def _spot(place: Mapping[str, Any]) -> tuple[int, ...]:
    return place["image_id"], *place["window"]


def _key(store: Store, place: Mapping[str, Any]) -> str:
    """The same page has the same key, which tells nothing of what is on it."""
    parts = repr((store.secret("crop_key"), _spot(place)))
    return f"{store.key}-c{hashlib.blake2b(parts.encode(), digest_size=8).hexdigest()}"


def _frame(store: Store, masks: DatasetMasks) -> np.ndarray:
    """All parts with their weights, as they were when the first were drawn: the order rests on them."""
    path = store.folder / "completeness" / "parts.npy"
    if store.files.has(path):
        return np.load(store.files.local(path))
    copies = duplicates(store).copy_of  # they have no masks of their own
    parts = cut([image for image in store.images.records("pool") if image.id not in copies])
    numbers = part_of(parts, masks.image_id, masks.box)
    parts["weight"] = weights(np.bincount(numbers[numbers >= 0], minlength=len(parts)))
    store.files.write(path, lambda p: _save(p, parts))
    return parts


def _save(path: Any, parts: np.ndarray) -> None:
    with path.open("wb") as file:
        np.save(file, parts)


def _drawn_places(store: Store, masks: DatasetMasks, frame: np.ndarray, first: int, count: int) -> list[dict[str, Any]]:
    """What the pages of the draws from `first` on show and rest on."""
    order = draw_order(frame["weight"], store.settings.seed, POOL_SALT)
    numbers = part_of(frame, masks.image_id, masks.box)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    drawn_at = np.where(numbers >= 0, rank[numbers], len(order))
    most, total = _most(store), float(frame["weight"].sum())
    least = float(frame["weight"].min()) / total
    left = total - float(frame["weight"][order[:first]].sum())
    rest = Counter(masks.class_id[drawn_at >= first].tolist())
    places = []
    for unit in range(first, first + count):
        part = frame[order[unit]]
        here = np.flatnonzero(drawn_at == unit)
        shown, weight = Counter(masks.class_id[here].tolist()), float(part["weight"])
        places.append(
            _place(part)
            | {
                "unit": unit, "chance": min(weight / left, 1.0), "share": min(left / total, 1.0),
                "masks": masks.mask_id[here].tolist(), "drawn": [],
                "shown": _named(shown), "rest": _named(rest),
                "most": most, "least": least,
            }
        )  # fmt: skip
        left -= weight
        rest -= shown
    return places


def _place(part: np.void) -> dict[str, Any]:
    return {"image_id": int(part["image_id"]), "window": [int(part[name]) for name in ("x0", "y0", "x1", "y1")]}


def _named(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(class_id): int(n) for class_id, n in sorted(counts.items())}


def _most(store: Store) -> dict[str, float]:
    """The most objects that a part may lack, by class and for "all": more than any part of a held-out image holds.

    Empty where nothing is held out.
    """
    heldout = store.images.annotated("heldout")
    if not heldout.annotations:
        return {}
    from pycocotools import mask as mask_util

    parts = cut(heldout.images)
    boxes = np.array([mask_util.toBbox(a.rle) for a in heldout.annotations])
    numbers = part_of(parts, np.array([a.image_id for a in heldout.annotations]), boxes)
    classes = np.array([a.class_id for a in heldout.annotations])

    def most(rows: np.ndarray) -> float:
        return SAFETY * float(np.bincount(numbers[rows & (numbers >= 0)], minlength=len(parts)).max())

    every = most(np.ones(len(numbers), bool))
    # Of a class that no held-out image shows nothing is known, so as much may be missing as of all together.
    return {"all": every} | {str(c): most(classes == c) or every for c in store.classes()}


def _gold_places(store: Store, masks: DatasetMasks, count: int, known: set[tuple[int, ...]]) -> list[dict[str, Any]]:
    """Parts of held-out images on which some objects have no mask, none of those known already."""
    if count < 1 or not store.images.count("heldout"):
        return []
    from campaign.derived.likeness import HeldoutParts

    heldout = HeldoutParts(store, masks)
    order = draw_order(np.ones(len(heldout.parts)), store.settings.seed, GOLD_SALT)
    places: list[dict[str, Any]] = []
    for number in order.tolist():
        place = _place(heldout.parts[number])
        if len(places) == count:
            break
        if _spot(place) not in known and (
            shapes := heldout.shapes(number, stable_hash(store.settings.seed, _spot(place)))
        ):
            places.append(place | {"unit": None, "masks": []} | shapes)
    return places


def shown_masks(store: Store, place: Mapping[str, Any]) -> list[tuple[int, dict]]:
    """(class, RLE) of the masks that a page shows."""
    masks = store.masks.read(place["masks"])
    stored = list(zip(masks.class_id.tolist(), masks.rles(), strict=True))
    drawn = [(s["class_id"], {"size": s["size"], "counts": s["counts"].encode("ascii")}) for s in place["drawn"]]
    return [*stored, *drawn]


# Label Studio


def publish_complete(store: Store, client: Client) -> int:
    """Publishes the pages that Label Studio does not hold yet; returns how many there were."""
    rows = [p for p in store.pages.rows(published=False, kind=PageKind.COMPLETE)]
    if rows:
        project, newest = ensure_project(store, client, Screen.COMPLETE), store.pages.newest_task(Screen.COMPLETE)
        put(store, client, project, rows, partial(_tasks, store), newest, cursor_name(Screen.COMPLETE))
    return len(rows)


def _tasks(store: Store, rows: Sequence[m.Page]) -> dict[str, dict]:
    rules = "\n".join(f"<h3>{store.classes()[i]}</h3>{html}" for i, html in class_rules(store).items())
    secret, base, days = store.secret("crop_key"), store.settings.page.public_url, store.settings.page.url_days
    classes = store.classes()
    only = next(iter(classes.values())) if len(classes) == 1 else None
    code = store.settings.page.language
    tasks = {}
    for row in rows:
        url = part_url(base, secret, row.number, (row.created_at + timedelta(days=days)).timestamp())
        name = task_name(row)
        tasks[name] = drawn_task(name, complete_data(name, url, class_name=only, rules=rules, code=code))
    return tasks


def read_complete(store: Store, client: Client) -> int:
    """Reads what was said of what is missing as facts; returns how many were new."""
    project = store.values.project(Screen.COMPLETE)
    if project is None:
        return 0
    return read_on(
        store,
        cursor_name(Screen.COMPLETE),
        partial(read_drawings, client, project, partial(shown_pages, store)),
        lambda tasks: add_drawings(store, tasks, complete_facts(store, tasks)),
    )


def complete_facts(store: Store, tasks: Sequence[DrawnTask]) -> list[dict]:
    """Facts that these pages tell: what each annotation clicked, and which annotations are gone."""
    class_of = {name: i for i, name in store.classes().items()}

    def said(a: DrawnAnnotation, page: m.Page) -> dict:
        state, points = _said(a, (page.place or {})["window"], class_of)
        return drawing_fact(a, state, []) | {"masks": {"masks": [], "points": points}}

    return place_facts(store, tasks, PageKind.COMPLETE, said)


def _said(a: DrawnAnnotation, window: list[int], class_of: Mapping[str, int]) -> tuple[str, list[dict[str, Any]]]:
    """What an annotation says is missing. One that is skipped, unsure or malformed says nothing."""
    choices = [r["value"].get("choices") for r in a.result if r.get("from_name") == VERDICT]
    if a.skipped or choices != [[SAID_COMPLETE]]:
        return UNSURE, []
    try:
        points = clicked_points(a.result, window, class_of)
    except InputError as error:
        logger.warning("annotation %d: %s", a.id, error)
        return UNSURE, []
    return (MISSING if points else COMPLETE), points


def clicked_points(result: list[dict], window: list[int], class_of: Mapping[str, int]) -> list[dict[str, Any]]:
    """The points of an annotation in pixels of the image, each with its class; None where it names no known one.

    With one class every point is of that one. Raises InputError where a point is malformed.
    """
    x0, y0, x1, y1 = window
    named = {}
    for region in result:
        labels = region["value"].get("labels")
        if region.get("from_name") == CLASS and isinstance(labels, list) and labels:
            named[region.get("id")] = labels[0]
    only: Any = next(iter(class_of.values())) if len(class_of) == 1 else None
    points = []
    for region in result:
        if region.get("from_name") != CONTROL:
            continue
        value: dict[str, Any] = region["value"]
        x, y = value.get("x", -1), value.get("y", -1)
        if not all(isinstance(v, int | float) and 0 <= v <= 100 for v in (x, y)):
            raise InputError(f"region {ascii(region.get('id'))[:40]}", "a point, in percent of the picture", "another")
        at = {"x": round(x0 + float(x) / 100 * (x1 - x0), 2), "y": round(y0 + float(y) / 100 * (y1 - y0), 2)}
        points.append({"class_id": class_of.get(str(named.get(region.get("id"))), only), **at})
    return points
