"""The results of a campaign as files: COCO, YOLO or Parquet, all masks or some, whole or in parts."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.promise import digest_of
from campaign.dataset.choice import Choice
from campaign.dataset.listed import ListedMasks
from campaign.dataset.polygons import PolygonLoss
from campaign.dataset.statistics import Tally
from campaign.derived.certificates import standing_certificate
from campaign.derived.dataset import standing_masks
from campaign.derived.delivery import promise_of
from campaign.derived.duplicates import duplicate_counts, duplicates
from campaign.derived.recall import recall_figures
from campaign.derived.spending import questions_asked
from campaign.pages.painting import reference
from campaign.steps.export_files import Form, Format, Said, Written, write
from campaign.steps.export_images import ExportedImages
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.files import feed, write_whole
from ml_backend.masks.fetched import present


@dataclass(frozen=True)
class Exported:
    """What was written: the files, the masks, how many in each part, how many were not chosen, what polygons lost.

    `masks` are on images by their ids in the files. `info` and `certificate` are what the file, or the parts together,
    say; `classes` those that were exported, `tally` what the masks rest on and look like. `checksums` are of the files,
    where whoever wrote them worked them out: `name`, `bytes` and `sha256` of each. Files in an object store are URLs.
    """

    files: Sequence[Path | str]
    masks: ListedMasks
    parts: dict[str, int]
    left_out: int
    info: dict[str, Any]
    images: ExportedImages
    tally: Tally
    loss: PolygonLoss | None = None
    certificate: dict[str, Any] | None = None
    classes: dict[int, str] | None = None
    checksums: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Content:
    """What an export holds: masks on images by the campaign's ids, `left_out` others not chosen, and what files say."""

    masks: ListedMasks
    left_out: int
    images: ExportedImages
    said: Said
    tally: Tally

    def exported(self, written: Written, checksums: list[dict[str, Any]] | None = None) -> Exported:
        """What was written, once it is."""
        in_file = self.masks.on_images(self.images.ids_in_file(self.masks.image_id))
        return Exported(
            written.files, in_file, written.parts, self.left_out, self.said.info, self.images, self.tally,
            written.loss, self.said.certificate, self.said.classes, checksums,
        )  # fmt: skip


def default_path(store: Store, form: Form) -> Path:
    """Where an export goes by default: in the campaign folder."""
    return store.desk / {Format.COCO: "export.json", Format.PARQUET: "export.parquet"}.get(form.format, "export-yolo")


def export_campaign(
    store: Store, path: Path, choice: Choice | None = None, form: Form | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Exported:  # fmt: skip
    """Writes the dataset, or the masks of it that are chosen, with image ids and names as in the pool's file.

    Of masks in COCO and Parquet, numbers alone are in memory, and what a portion of them looks like. A promise, a
    certificate and a bound on recall speak of one exact set of masks, so a file that holds others says instead that it
    has none. `report` is called with the masks written and all of them. Raises InputError where a file cannot be
    written; what was there before then stays.
    """
    form = form or Form()
    form.check()
    content = content_of(store, choice or Choice(), form)
    written = write(path, form, content.masks, content.images, content.said, content.tally, report)
    if form.copy_images:
        _copy_images(path, form, content.images)
    return content.exported(written)


def content_of(store: Store, choice: Choice, form: Form) -> Content:
    """What an export of the dataset as it stands holds, of which nothing is written yet."""
    whole = standing_masks(store)
    choice.check_rounds(row.number for row in store.rounds.all())
    masks = whole.select(choice.select(whole, store.classes()))
    info = _info(store, whole, masks, choice)
    copies = duplicates(store).copy_of
    known = np.array(list(copies), np.int64)
    on_copies = known[np.isin(known, whole.image_id)].tolist()  # of rounds before copies were looked for
    left_out = frozenset(copies.keys() - on_copies)
    length = form.parts.images if form.parts is not None else None
    images = ExportedImages(store, form.division, length, _first_of_its_kind(store), left_out)
    certificate = standing_certificate(store, whole) if len(masks) == len(whole) else None
    kept = choice.kept(store.classes())
    fields = store.images.fields()
    categories = [fields.categories.get(c, {}) | {"id": c, "name": name} for c, name in kept.items()]
    said = Said(info, certificate, fields.licenses, categories, kept)
    return Content(masks, len(whole) - len(masks), images, said, Tally.of(masks))


def checksum(path: Path) -> dict[str, Any]:
    """Name, bytes and SHA-256 of a file."""
    digest = hashlib.sha256()
    feed(digest, path)
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": digest.hexdigest()}


def _first_of_its_kind(store: Store) -> dict[int, str]:
    """{image: the name of the first image that shows the same}: images that do are kept in one part together."""
    groups = duplicates(store).groups()
    names = {i.id: i.file_name for i in store.images.some(sorted(set(groups.values()))).values()}
    return {image: names[first] for image, first in groups.items()}


def _info(store: Store, whole: ListedMasks, masks: ListedMasks, choice: Choice) -> dict[str, Any]:
    search = store.settings.search
    info: dict[str, Any] = {
        "campaign": store.settings.name,
        "date_created": date.today().isoformat(),
        "questions": questions_asked(store),
        "rounds": len(store.rounds.all()),
        "k_iou": search.k_iou,
        "policy": search.policy,
        "masks_digest": digest_of(masks.mask_id),
    }
    if counts := duplicate_counts(store):
        images = store.images.some([i for pair in duplicates(store).copy_of.items() for i in pair])
        copies = {images[a].file_name: images[b].file_name for a, b in duplicates(store).copy_of.items()}
        info["duplicates"] = counts | {"copy_of": copies}
    if source := store.images.fields().info:
        info["source"] = source
    painted = reference(store)
    if painted.sq is not None:
        info["painted_reference"] = painted.as_dict()
    if len(masks) != len(whole):
        info["chosen"] = choice.as_dict() | {
            "masks": len(masks),
            "of": len(whole),
            "note": "a part of the data set: what is promised or certified of the whole does not speak of it",
        }
        return info
    if (recall := recall_figures(store, whole)) is not None:
        info["recall"] = recall
    if search.policy == "target":
        info["promise"] = promise_of(store, whole.mask_id)
    return info


def _copy_images(path: Path, form: Form, images: ExportedImages) -> None:
    """Copies the images to where the export names them; those that are there already, of the same size, are kept."""
    for source, target in _copies(path, form, images):
        try:
            size = present(source).stat().st_size
        except OSError as error:
            raise InputError(f"image {source}", "an image file", error.strerror or str(error)) from None
        if not (target.is_file() and target.stat().st_size == size):
            write_whole(target, partial(shutil.copyfile, source), durable=False)


def _copies(path: Path, form: Form, images: ExportedImages) -> Iterator[tuple[Path, Path]]:
    from campaign.dataset.yolo import image_file

    for image in images.each():
        name = image.row["file_name"]
        if form.format == Format.YOLO:
            yield image.path, path / image_file(form.yolo_part(image.part), name)
        else:
            yield image.path, path.parent / "images" / name
