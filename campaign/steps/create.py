"""Starting a campaign, from COCO files or beside a running Label Studio. Bad input leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from campaign.settings import DetectorSettings, Split, parse_settings
from campaign.store import Store
from campaign.store.places import SETTINGS_FILE, place_of, taken
from campaign.store.store import check_shared
from ml_backend.detector import check_options, detector_names
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, ImageRecord, SourceFields
from ml_backend.masks.coco_stream import CocoImages, ImageStream
from ml_backend.masks.images import image_size, read_rgb

DECODED = 20_000  # images of a pool that are decoded when it is checked
PORTION = 1000  # images that are checked together
CHECKS = 16  # at a time: a file system far away answers several as fast as one


def create_from_files(  # noqa: PLR0913 - what the command line is given
    place: str | Path,
    values: dict[str, Any],
    images: Path,
    labelled: Path,
    pool: Path,
    heldout: Path | None,
    heldout_share: float = 0.2,
    token: str | None = None,
    check: bool = True,
) -> Store:
    """A campaign over COCO files. Without `heldout`, a share of the labelled images is kept as such.

    `images` may be where a URL is on this machine (`ml_backend.masks.fetched.file_of`).

    Raises InputError for anything wrong in the files, the images, the settings or the folder, and LabelStudioError
    where the Label Studio that the settings name does not take the token.
    """
    settings = parse_settings(values, "settings")
    _check_detector(settings.detector)
    known = CocoDataset.load(labelled, images)
    if heldout is not None:
        kept_out = CocoDataset.load(heldout, images)
    else:
        known, kept_out = keep_out(known, heldout_share, settings.seed)
    if not known.annotations:
        raise InputError(labelled, "at least one annotation to train on", "none")
    if settings.label_studio.url and token:
        from campaign.label_studio.client import Client

        Client(settings.label_studio.url, token).check()
    if check:
        check_images([*known.images, *kept_out.images])
    stream = CocoImages.open(pool, images)
    pool_images: ImageStream = Checked(stream) if check else stream
    splits: dict[Split, CocoDataset | ImageStream] = {"labelled": known, "heldout": kept_out, "pool": pool_images}
    return Store.create(place, settings, splits, secret_values=_secrets(token))


@dataclass(frozen=True)
class Checked:
    """A stream of images in which each is looked at before it is passed on.

    The first `DECODED` are decoded; of those that follow the header is read, which thousands a second can be.
    """

    stream: ImageStream

    @property
    def classes(self) -> dict[int, str]:
        """Those of the stream."""
        return self.stream.classes

    @property
    def fields(self) -> SourceFields:
        """Those of the stream."""
        return self.stream.fields

    def rows(self) -> Iterator[tuple[ImageRecord, dict[str, Any]]]:
        """As in the stream. Raises InputError, too, where an image cannot be read or is of another size."""
        rows, number = self.stream.rows(), 0
        with ThreadPoolExecutor(CHECKS) as pool:
            while portion := list(islice(rows, PORTION)):
                checks = [check_image if number + n < DECODED else check_header for n in range(len(portion))]
                for _ in pool.map(lambda check, row: check(row[0]), checks, portion):
                    pass
                yield from portion
                number += len(portion)


def create_from_label_studio(
    place: str | Path, values: dict[str, Any], token: str, heldout_share: float = 0.2
) -> Store:
    """A campaign beside a running Label Studio: annotated tasks are labelled, the others the pool.

    Images are kept beside the campaign folder, in `<folder>.images`, and for one at a URL also below that, with notes
    of what was read: a start that was interrupted goes on from there, and only what changed since is read again.
    Raises InputError like `create_from_files`, and LabelStudioError where Label Studio does not do its part.
    """
    from campaign.label_studio.client import Client
    from campaign.label_studio.source import read_source

    settings = parse_settings(values, "settings")
    url, project = settings.label_studio.url, settings.label_studio.source_project
    if url is None or project is None:
        raise InputError("label_studio", "a url and a source_project", settings.label_studio)
    _check_detector(settings.detector)
    where = place_of(place)
    check_shared(where, settings.jobs)
    if (found := where.read(SETTINGS_FILE)) is not None:
        raise InputError(where.name, "a place without a campaign", taken(found))
    client = Client(url, token)
    client.check()
    images = where.folder.with_name(where.folder.name + ".images")
    source = read_source(client, project, images, heldout_share=heldout_share, seed=settings.seed)
    if not source.labelled.annotations:
        raise InputError(f"project {project}", "tasks with masks, polygons or rectangles to train on", "none")
    check_images([*source.labelled.images, *source.heldout.images])
    splits: dict[Split, CocoDataset | ImageStream] = {
        "labelled": source.labelled, "heldout": source.heldout, "pool": Checked(source.pool)
    }  # fmt: skip
    return Store.create(place, settings, splits, are_tasks=True, secret_values=_secrets(token))


def keep_out(data: CocoDataset, share: float, seed: int) -> tuple[CocoDataset, CocoDataset]:
    """(labelled, heldout): a share of the annotated images, drawn by the seed, is kept out of training."""
    images = sorted(data.images, key=lambda i: i.id)
    count = min(round(len(images) * share), max(0, len(images) - 1))
    drawn = np.random.default_rng(seed).permutation(len(images))[:count]
    out = {images[i].id for i in drawn}

    def part(keep: bool) -> CocoDataset:
        return replace(
            data,
            images=[i for i in images if (i.id in out) == keep],
            annotations=[a for a in data.annotations if (a.image_id in out) == keep],
        )

    return part(False), part(True)


def check_images(images: Iterable[ImageRecord]) -> None:
    """Decodes every image. Raises InputError for one that is missing, unreadable, truncated or of another size."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for _ in pool.map(check_image, images):
            pass


def check_image(image: ImageRecord) -> None:
    """Decodes an image. Raises InputError where it is missing, unreadable, truncated or of another size."""
    height, width = read_rgb(image.path).shape[:2]
    _check_size(image, width, height)


def check_header(image: ImageRecord) -> None:
    """Reads an image's header. Raises InputError where it is missing, unreadable or of another size."""
    _check_size(image, *image_size(image.path))


def _check_size(image: ImageRecord, width: int, height: int) -> None:
    if (width, height) != (image.width, image.height):
        raise InputError(image.path, f"an image of {image.width}x{image.height}", f"{width}x{height}")


def _check_detector(detector: DetectorSettings) -> None:
    """By name alone where there are no options: loading it would load torch."""
    if detector.name not in detector_names():
        raise InputError("detector", f"one of {', '.join(detector_names())}", detector.name)
    if detector.options:
        check_options(detector.name, detector.options)


def _secrets(token: str | None) -> dict[str, str]:
    return {"label_studio_token": token} if token else {}
