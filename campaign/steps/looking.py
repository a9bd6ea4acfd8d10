"""Looking at images for the first time: their signatures, by which copies and near duplicates are found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from campaign.dataset.duplicates import Signatures
from campaign.dataset.pictures import SIDE, small_picture
from campaign.derived.duplicates import duplicate_counts as counts_of
from campaign.derived.duplicates import duplicates, duplicates_line
from campaign.settings import Split
from campaign.store import Store
from ml_backend.files import feed
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.fetched import fetch, present
from ml_backend.masks.images import read_rgb


def sign(store: Store, split: Split, number: int, images: Sequence[ImageRecord]) -> None:
    """Writes the signatures of a shard of images, once. Raises InputError for an image that cannot be read."""
    if store.signatures.has(split, number):
        return
    fetch(image.path for image in images)
    small = [small_picture(read_rgb(image.path)) for image in images]
    store.signatures.write(
        split, number,
        Signatures(
            np.array([image.id for image in images], np.int64),
            np.array([_digest(image) for image in images], np.uint8).reshape(-1, 16),
            np.array(small, np.uint8).reshape(-1, SIDE, SIDE),
        ),
    )  # fmt: skip


def is_signed(store: Store) -> bool:
    """Whether the campaign's first images were signed; those that an earlier release detected were not."""
    return store.signatures.has("pool", 0)


def look_for_duplicates(store: Store) -> None:
    """Signs the labelled images, whose files no detection reads, and says in the log what is there more than once."""
    if store.signatures.version() is None:  # detected by an earlier release
        return
    sign(store, "labelled", 0, store.images.records("labelled"))
    duplicates(store)
    counts = counts_of(store)
    if counts and (counts["copies"] or counts["alike"]):
        store.log(f"{duplicates_line(counts)}; masks on copies are left out")


def _digest(image: ImageRecord) -> list[int]:
    digest = hashlib.blake2b(digest_size=16)
    feed(digest, present(image.path))
    return list(digest.digest())
