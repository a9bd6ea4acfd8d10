"""The results of a campaign as files: COCO, YOLO or Parquet, all masks or some, whole or in parts."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from campaign.certification.promise import digest_of
from campaign.dataset.choice import Choice, Division
from campaign.dataset.export import export_coco
from campaign.dataset.polygons import PolygonLoss
from campaign.derived.certificates import standing_certificate
from campaign.derived.dataset import final_masks
from campaign.derived.delivery import promise_of
from campaign.derived.duplicates import duplicate_counts, duplicates
from campaign.derived.recall import recall_figures
from campaign.derived.spending import questions_asked
from campaign.pages.painting import reference
from campaign.records.dataset_masks import DatasetMasks
from campaign.store import Store
from ml_backend.errors import InputError
from ml_backend.files import write_whole

WHOLE = "all"  # the part of every image where nothing is divided


class Format(str, Enum):
    """What an export is written as."""

    COCO = "coco"
    YOLO = "yolo"
    PARQUET = "parquet"


@dataclass(frozen=True)
class Form:
    """How an export is written.

    polygons: COCO with polygons instead of RLE. division: parts by image, each a file of its own (in YOLO a folder of
    its own). copy_images: the images too, below `images/`.
    """

    format: Format = Format.COCO
    polygons: bool = False
    division: Division | None = None
    copy_images: bool = False


@dataclass(frozen=True)
class Exported:
    """What was written: the files, how many masks in each part, how many were not chosen, what polygons lost.

    `info` and `certificate` are what the file, or the parts together, say; `classes` those that were exported.
    """

    files: list[Path]
    masks: DatasetMasks
    parts: dict[str, int]
    left_out: int
    info: dict[str, Any]
    images: ExportedImages
    loss: PolygonLoss | None = None
    certificate: dict[str, Any] | None = None
    classes: dict[int, str] | None = None


class ExportedImages:
    """The pool's images as an export writes them, read anew from the store each time it is gone through.

    `first` has names by which images go to a part instead of their own, `left_out` images that are not exported.
    """

    def __init__(
        self, store: Store, division: Division | None, first: dict[int, str], left_out: frozenset[int],
        part: str | None = None,
    ):  # fmt: skip
        self._store, self._division, self._first, self._left_out = store, division, first, left_out
        self._part = part

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """COCO's rows, by the campaign's ids; of one part where this is of one."""
        return (row for _, _, row in self.with_parts())

    def __len__(self) -> int:
        """How many there are."""
        return sum(1 for _ in self)

    def with_parts(self) -> Iterator[tuple[Path, str, dict[str, Any]]]:
        """Where each image's file lies, its part, and its row."""
        for r, further in self._store.images.with_fields():
            part = self._division.part_of(self._first.get(r.id, r.file_name)) if self._division else WHOLE
            if r.id not in self._left_out and self._part in (None, part):
                row = further | {"id": r.coco_id, "file_name": r.file_name, "width": r.width, "height": r.height}
                yield Path(r.path), part, row | ({"source_task": r.source_task} if r.source_task else {})

    def of_part(self, part: str) -> ExportedImages:
        """The images of one part."""
        return ExportedImages(self._store, self._division, self._first, self._left_out, part)

    def ids_in_file(self, image_ids: np.ndarray) -> np.ndarray:
        """The ids in the pool's file of images by the campaign's, (n,) int64."""
        own = self._store.images.ids("pool")
        return self._store.images.ids("pool", "coco_id")[np.searchsorted(own, image_ids)]

    def part_of(self, ids_in_file: np.ndarray) -> np.ndarray:
        """The part of each of these images, (n,) of str."""
        wanted = set(np.unique(ids_in_file).tolist())
        parts = {row["id"]: part for _, part, row in self.with_parts() if row["id"] in wanted}
        return np.array([parts[i] for i in ids_in_file.tolist()], object)


def default_path(store: Store, form: Form) -> Path:
    """Where an export goes by default: in the campaign folder."""
    return store.folder / {Format.COCO: "export.json", Format.PARQUET: "export.parquet"}.get(form.format, "export-yolo")


def export_campaign(
    store: Store, path: Path, choice: Choice | None = None, form: Form | None = None
) -> Exported:  # fmt: skip
    """Writes the dataset, or the masks of it that are chosen, with image ids and names as in the pool's file.

    A promise, a certificate and a bound on recall speak of one exact set of masks, so a file that holds others says
    instead that it has none. Raises InputError where a file cannot be written; what was there before then stays.
    """
    choice, form = choice or Choice(), form or Form()
    if form.polygons and form.format != Format.COCO:
        raise InputError("polygons", "the format coco", form.format.value)
    whole = final_masks(store)
    choice.check_rounds(row.number for row in store.rounds.all())
    masks = whole.select(choice.select(whole, store.classes()))
    info = _info(store, whole, masks, choice)
    copies = duplicates(store).copy_of
    on_copies = set(whole.image_id.tolist()) & copies.keys()  # of rounds before copies were looked for
    fields = store.images.fields()
    images = ExportedImages(store, form.division, _first_of_its_kind(store), frozenset(copies.keys() - on_copies))
    certificate = standing_certificate(store, whole) if len(masks) == len(whole) else None
    masks = replace(masks, image_id=images.ids_in_file(masks.image_id))
    division = form.division
    kept = choice.kept(store.classes())
    writer = _Writer(form, images, kept, info, certificate)
    writer.licenses = fields.licenses
    writer.categories = [fields.categories.get(c, {}) | {"id": c, "name": name} for c, name in kept.items()]
    files = writer.write(path, masks)
    if form.copy_images:
        _copy_images(path, form, images)
    counts = {WHOLE: len(masks)} if len(masks) else {}
    if division:
        of = images.part_of(masks.image_id)
        counts = {part: int((of == part).sum()) for part in division.names}
    return Exported(files, masks, counts, len(whole) - len(masks), info, images, writer.loss, certificate, kept)


def _first_of_its_kind(store: Store) -> dict[int, str]:
    """{image: the name of the first image that shows the same}: images that do are kept in one part together."""
    groups = duplicates(store).groups()
    names = {i.id: i.file_name for i in store.images.some(sorted(set(groups.values()))).values()}
    return {image: names[first] for image, first in groups.items()}


@dataclass
class _Writer:
    """Writes the files of one export."""

    form: Form
    images: ExportedImages
    classes: dict[int, str]
    info: dict[str, Any]
    certificate: dict[str, Any] | None
    licenses: list[dict[str, Any]] = field(default_factory=list)
    categories: list[dict[str, Any]] = field(default_factory=list)
    loss: PolygonLoss | None = None

    def write(self, path: Path, masks: DatasetMasks) -> list[Path]:
        """The files that were written."""
        if self.form.format == Format.YOLO:
            from campaign.dataset.yolo import export_yolo

            info = self.info | ({"certificate": self.certificate} if self.certificate else {})
            rows = list(self.images.with_parts())
            images = [row for _, _, row in rows]
            # YOLO knows no data set without a part to train on.
            parts = {row["id"]: "train" if part == WHOLE else part for _, part, row in rows}
            self.loss = export_yolo(path, masks, images, self.classes, parts, info)
            return [path]
        if self.form.division is None:
            self._write_file(path, masks, self.images, self.info, self.certificate)
            return [path]
        files, of = [], self.images.part_of(masks.image_id)
        for part in self.form.division.names:
            chosen = masks.select(of == part)
            file = path.with_name(f"{path.stem}-{part}{path.suffix}")
            self._write_file(file, chosen, self.images.of_part(part), self._part_info(part, chosen), None)
            files.append(file)
        return files

    def _part_info(self, part: str, masks: DatasetMasks) -> dict[str, Any]:
        division = self.form.division
        assert division is not None
        spoken: dict[str, Any] = {k: self.info[k] for k in ("promise", "recall") if k in self.info}
        spoken |= {"certificate": self.certificate} if self.certificate else {}
        own = {k: v for k, v in self.info.items() if k not in spoken}
        split = {"part": part, "shares": dict(zip(division.names, division.shares, strict=True))}
        if spoken:
            split["of_all_parts_together"] = spoken
        return own | {"masks_digest": digest_of(masks.mask_id), "split": split}

    def _write_file(
        self, path: Path, masks: DatasetMasks, images: ExportedImages, info: dict[str, Any],
        certificate: dict[str, Any] | None,
    ) -> None:  # fmt: skip
        if self.form.format == Format.PARQUET:
            from campaign.dataset.tables import export_parquet

            info = info | ({"certificate": certificate} if certificate else {})
            export_parquet(path, masks, images, self.classes, info | {"licenses": self.licenses})
            return
        loss = PolygonLoss() if self.form.polygons else None
        export_coco(
            path, masks, images, self.categories, info=info, licenses=self.licenses, certificate=certificate,
            polygons=loss,
        )  # fmt: skip
        if loss is not None:
            self.loss = loss if self.loss is None else self.loss.with_(loss)


def _info(store: Store, whole: DatasetMasks, masks: DatasetMasks, choice: Choice) -> dict[str, Any]:
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
            size = source.stat().st_size
        except OSError as error:
            raise InputError(f"image {source}", "an image file", error.strerror or str(error)) from None
        if not (target.is_file() and target.stat().st_size == size):
            write_whole(target, partial(shutil.copyfile, source), durable=False)


def _copies(path: Path, form: Form, images: ExportedImages) -> Iterator[tuple[Path, Path]]:
    from campaign.dataset.yolo import image_file

    for source, part, image in images.with_parts():
        place = Path("images", image["file_name"])
        if form.format == Format.YOLO:
            place = path / image_file("train" if part == WHOLE else part, image["file_name"])
        else:
            place = path.parent / place
        yield source, place
