"""The dataset into the source project, and out of it again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain

from campaign.dataset.choice import Choice
from campaign.derived.dataset import standing_masks
from campaign.label_studio.writeback import Removed, Written, WrittenMask, remove, write_back
from campaign.pages.projects import connect
from campaign.records.dataset_masks import DatasetMasks
from campaign.store import Store
from ml_backend.errors import InputError


def write_to_source(
    store: Store, choice: Choice, annotations: bool = False, progress: Callable[[int, int], None] | None = None
) -> Written:
    """Writes the masks that are chosen to the tasks that their images came from, see `write_back`.

    Raises InputError where the campaign was not started from a Label Studio project, LabelStudioError as a client does.
    """
    project = source_project(store)
    masks = standing_masks(store)
    choice.check_rounds(row.number for row in store.rounds.all())
    masks = masks.select(choice.select(masks, store.classes()))
    tasks = dict(zip(*(store.images.ids("pool", name).tolist() for name in ("id", "source_task")), strict=True))
    classes = store.classes()

    def rows() -> Iterator[WrittenMask]:
        for image, class_id, rle, score in chain.from_iterable(map(_columns, masks.chunks())):
            task = tasks[image]
            if not task:
                raise InputError(f"image {image}", "an image of the source project", "one of a COCO file")
            yield WrittenMask(task, classes[class_id], rle, round(score, 6))

    written = write_back(connect(store), project, rows(), version(store), annotations=annotations, progress=progress)
    store.log(f"wrote {written.masks} masks to project {project}")
    return written


def _columns(masks: DatasetMasks) -> Iterator[tuple[int, int, dict, float]]:
    columns = masks.image_id.tolist(), masks.class_id.tolist(), masks.rles(), masks.score.tolist()
    return zip(*columns, strict=True)


def remove_from_source(store: Store, progress: Callable[[int, int], None] | None = None) -> Removed:
    """Takes out what was written to the source project, see `remove`. Raises like `write_to_source`."""
    project = source_project(store)
    removed = remove(connect(store), project, version(store), progress)
    store.log(f"took {removed.predictions} predictions and {removed.annotations} annotations out of project {project}")
    return removed


def version(store: Store) -> str:
    """By what the masks of this campaign are known in Label Studio."""
    return f"{store.settings.name} [{store.key}]"


def source_project(store: Store) -> int:
    """The project that the campaign was started from. Raises InputError where there is none."""
    project = store.settings.label_studio.source_project
    if project is None:
        raise InputError("label_studio.source_project", "a campaign started from a Label Studio project", "none")
    return project
