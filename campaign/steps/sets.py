"""Sets of masks by name: a COCO file, a campaign's dataset, that of one round, or what a round's detector found."""

from __future__ import annotations

import re
from pathlib import Path

from campaign.dataset.mask_file import MaskFile, read_masks
from campaign.derived.dataset import final_masks
from campaign.records.dataset_masks import DatasetMasks
from campaign.store import Store
from ml_backend.buckets import is_url
from ml_backend.errors import InputError
from ml_backend.masks.coco import Annotation, CocoDataset
from ml_backend.predictions import Predictions

ROUND = re.compile(r"(.+)@(\d+)(/predictions)?")


def mask_set(name: str, of: MaskFile | None = None) -> MaskFile:
    """The masks that a name means.

    `FILE.json` is a COCO file, or a COCO results file on the images of `of`; `FOLDER` the dataset of a campaign as it
    stands, `FOLDER@2` the masks of it that round 2 brought, `FOLDER@2/predictions` all that its detector predicted on
    the pool. Raises InputError where there is none.
    """
    found = None if Path(name).exists() else ROUND.fullmatch(name)
    if found is None:
        path = Path(name)
        return _of_dataset(name, Store.open(name), None) if is_url(name) or path.is_dir() else read_masks(path, of)
    store, number = Store.open(found[1]), int(found[2])
    numbers = [row.number for row in store.rounds.all()]
    if number not in numbers:
        raise InputError(name, f"a round among {', '.join(map(str, numbers)) or 'none'}", number)
    if found[3]:
        return _file(name, store, store.masks.predictions(number, "pool", features=False))
    return _of_dataset(name, store, number)


def image_folder(name: str) -> Path | None:
    """A folder in which the images of a campaign lie; None for a file."""
    found = None if Path(name).exists() else ROUND.fullmatch(name)
    folder = Path(found[1] if found else name)
    if not folder.is_dir():
        return None
    first = next(iter(Store.open(folder).images.records("pool")), None)
    if first is None:
        return None
    whole, below = Path(first.path), Path(first.file_name)
    return whole.parents[len(below.parts) - 1] if whole.parts[-len(below.parts) :] == below.parts else whole.parent


def _of_dataset(name: str, store: Store, number: int | None) -> MaskFile:
    masks = final_masks(store)
    return _file(name, store, masks if number is None else masks.select(masks.round == number))


def _file(name: str, store: Store, masks: DatasetMasks | Predictions) -> MaskFile:
    ids, images, classes = masks.mask_id.tolist(), masks.image_id.tolist(), masks.class_id.tolist()
    rows = zip(ids, images, classes, masks.rles(), strict=True)
    annotations = [Annotation(mask, image, class_id, rle) for mask, image, class_id, rle in rows]
    scores = dict(zip(ids, map(float, masks.score), strict=True))
    return MaskFile(Path(name), CocoDataset(store.images.records("pool"), store.classes(), annotations), scores)
