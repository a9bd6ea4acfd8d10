"""A pool that grows: more images for a campaign that runs, from a COCO file or the source project's new tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from campaign.records.names import Name
from campaign.records.stage import Stage
from campaign.settings import SPLITS
from campaign.steps.create import Checked, check_header
from campaign.store import Store
from campaign.store.images import Batch, Row
from campaign.store.values import Key
from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.coco_stream import CocoImages
from ml_backend.masks.fetched import place_of


@dataclass(frozen=True)
class Extended:
    """How many images came in, the round whose detection takes them first, and whether they join its trees."""

    images: int
    round: int
    joins: bool = False


class Taking(Name):
    """When new images are to be taken: by the running round if it still detects, by its trees at verify, or later."""

    DETECTION = "detection"
    JOIN = "join"
    NEXT = "next"


def extend_from_file(
    store: Store, images: Path, pool: Path, check: bool = True, taking: Taking = Taking.DETECTION
) -> Extended:
    """Adds the images of a COCO file to the pool; its annotations are not looked at.

    A round that still trains or detects takes them, but with `Taking.NEXT`; otherwise they wait for the next, but with
    `Taking.JOIN`: then a round at verify takes them into its trees. Raises InputError where the file is malformed, its
    classes are not the campaign's, an image is there already, no round is to come that would detect them, or the
    running one cannot take them as is wanted; the pool is then as it was.
    """
    stream = CocoImages.open(pool, images)
    if stream.classes != store.classes():
        raise InputError(f"{pool} categories", str(store.classes()), stream.classes)
    return _extend(store, (Checked(stream) if check else stream).rows(), taking)


def extend_from_source(store: Store, taking: Taking = Taking.DETECTION) -> Extended:
    """Adds the source project's tasks that came after the campaign was made and that nobody has annotated.

    Their images are kept beside the campaign folder like the others. Raises like `extend_from_file`, and
    LabelStudioError where Label Studio does not do its part.
    """
    from campaign.label_studio.source import read_source
    from campaign.pages.projects import connect

    project = store.settings.label_studio.source_project
    if project is None:
        raise InputError("label_studio.source_project", "a campaign started from a Label Studio project", "none")
    folder = store.folder.with_name(store.folder.name + ".images")
    source = read_source(connect(store), project, folder)
    known = np.sort(np.concatenate([store.images.ids(split, "source_task") for split in SPLITS]))
    new = (image for image in source.pool.images if not _holds(known, image.id))
    return _extend(store, ((image, {}) for image in _with_sound_headers(new)), taking, are_tasks=True)


def _with_sound_headers(images: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
    for image in images:
        check_header(image)
        yield image


def _extend(store: Store, rows: Iterable[Row], taking: Taking, are_tasks: bool = False) -> Extended:
    with store.locked():
        number, joins = _round_that_takes(store, taking)
        first_shard = store.images.count_shards("pool", store.settings.jobs.shard_images, number)
        elsewhere: dict[str, str] = {
            row.path: split for split in SPLITS if split != "pool" for row in store.images.in_pages(split)
        }
        first, batches = store.images.newest() + 1, store.images.batches()
        with store.session() as session:
            count = store.images.add(session, "pool", _new(store, rows), first, elsewhere, are_tasks)
            if not count:
                raise InputError("images", "at least one that the campaign does not have", "none")
            store.images.save_batches(session, [*batches, Batch(first, count, number)])
            if joins:
                store.trees.let_join(session, number, first_shard)
    store.log(f"the pool has {count} images more, which {'join' if joins else 'are first taken by'} round {number}")
    return Extended(count, number, joins)


def _round_that_takes(store: Store, taking: Taking) -> tuple[int, bool]:
    """The round whose detection takes new images first, and whether they join its trees.

    Raises InputError where none would, or what was drawn from the pool as it was would speak of it no more.
    """
    for key, what in (
        (Key.PROMISE, "whose masks carry a promise"),
        (Key.COMPLETENESS, "that was searched for what is missing"),
    ):
        if store.values.get(key) is not None:
            raise InputError("pool", "one that may still grow (start another campaign for new images)", f"one {what}")
    current = store.rounds.newest()
    if current is None or (taking != Taking.NEXT and current.stage in (Stage.TRAIN, Stage.DETECT)):
        return 1 if current is None else current.number, False
    if taking == Taking.JOIN:
        if current.stage != Stage.VERIFY:
            raise InputError("round to join", "one at stage verify, or before its detection is over", current.stage)
        if store.trees.joining(current.number) is not None:
            raise InputError("round to join", "one that no images are joining", "images that join it now")
        return current.number, True
    if current.stage == Stage.DONE or current.number >= store.settings.rounds.rounds:
        got = f"round {current.number} of {store.settings.rounds.rounds} at stage {current.stage}"
        raise InputError("pool", "a round to come that would detect more images", got)
    return current.number + 1, False


def _new(store: Store, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows as they are. Raises InputError for an image whose id or file the pool has, or that comes twice."""
    ids = np.sort(store.images.ids("pool", "coco_id"))
    files = np.sort(np.fromiter((_digest(row.path) for row in store.images.in_pages("pool")), np.uint64))
    seen: set[int] = set()
    for image, further in rows:
        file = _digest(place_of(image.path))
        if _holds(ids, image.id):
            raise InputError(f"image {image.file_name}", "an id that no image of the pool has", image.id)
        if _holds(files, file) or file in seen:
            raise InputError(f"image {image.file_name}", "a file that is not in the pool", image.path)
        seen.add(file)
        yield image, further


def _digest(path: str) -> int:
    """A number for a path: of millions of paths the numbers fit memory."""
    return int.from_bytes(hashlib.blake2b(path.encode(), digest_size=8).digest(), "big")


def _holds(values: np.ndarray, value: int) -> bool:
    place = int(np.searchsorted(values, values.dtype.type(value)))
    return place < len(values) and int(values[place]) == value
