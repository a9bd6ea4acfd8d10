"""An export in parts that many workers share: what is to be made, the making of some parts, and what came of it.

A plan lies in the campaign, below `exports/`, with a listing for each job: the masks and images of its parts, by their
numbers. A job's outcome is written once its files are where they belong; so a job that was done is not done again, one
whose worker was killed is, and two workers at one job leave the same files. Who planned it puts all outcomes together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial, reduce
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from campaign.dataset.choice import Choice, Parts
from campaign.dataset.polygons import PolygonLoss
from campaign.dataset.statistics import Tally
from campaign.derived.listings import listed_again, listing
from campaign.steps.export import Exported, checksum, content_of
from campaign.steps.export_files import Form, Format, Layout, PartWriter, PlacedMasks, Said, Written
from campaign.steps.export_images import SomeImages
from campaign.steps.export_target import FOLDER, Target
from campaign.store import Store
from ml_backend.errors import InputError

JOBS = 64  # of one export, at most about so many
PLAN, DRAWN, REST = "plan.json", "drawn.npy", "rest.parquet"


@dataclass(frozen=True)
class Plan:
    """An export that is to be made: its id, where it goes, its form, and the jobs [first, end) of parts with masks."""

    id: str
    target: Target
    form: Form
    layout: Layout
    said: Said
    jobs: list[tuple[int, int, int]]

    @property
    def masks(self) -> int:
        """How many masks all jobs have."""
        return sum(masks for _, _, masks in self.jobs)

    def names(self, job: int) -> list[str]:
        """The names of the files of a job."""
        first, end, _ = self.jobs[job]
        return [self.layout.file(Path(self.target.name), number).name for number in range(first, end)]

    def as_dict(self) -> dict[str, Any]:
        """For the file that other machines read."""
        assert self.form.parts is not None
        form = {"format": self.form.format, "polygons": self.form.polygons, "images": self.form.parts.images}
        # As pairs: classes keep their order and their numbers.
        said = asdict(self.said) | {"classes": list(self.said.classes.items())}
        return {"target": self.target.place, "form": form, "names": self.layout.names, "jobs": self.jobs, "said": said}

    @classmethod
    def parse(cls, export_id: str, content: dict[str, Any]) -> Plan:
        """The plan of such a file."""
        told, form = content["said"], content["form"]
        said = Said(**told | {"classes": {int(number): name for number, name in told["classes"]}})
        own = Form(Format(form["format"]), form["polygons"], parts=Parts(form["images"]))
        layout = Layout.over(own, content["names"])
        return cls(export_id, Target(content["target"]), own, layout, said, [tuple(job) for job in content["jobs"]])


class PlannedExport:
    """A plan with what it was made of, for who waits for it: what is missing, and what came of all jobs."""

    def __init__(self, store: Store, asked: str | Path | None, choice: Choice, form: Form):
        """Plans an export of the dataset as it stands, or takes up the same one where it was left.

        Raises InputError where it cannot be in jobs, or parts of another export lie beside it.
        """
        form.check()
        if form.parts is None or form.copy_images:
            got = "images to copy" if form.copy_images else "one file"
            raise InputError("jobs", "parts, without images", got)
        self.store, self.content = store, content_of(store, choice, form)
        target = Target.of(store, asked, "export.parquet" if form.format == Format.PARQUET else "export.json")
        images = self.content.images.ids()
        layout = Layout.of(form, self.content.said.classes, len(images))
        target.refuse_others(layout.files(Path(target.name)))
        own = PlacedMasks.of(form, self.content.masks, self.content.images, self.content.said.classes)
        self.counts = np.bincount(own.part, minlength=len(layout.names)).tolist()
        jobs = jobs_of(self.counts)
        plan = Plan("", target, form, layout, self.content.said, jobs)
        self.plan = replace(plan, id=_id_of(plan, own, images))
        self.folder = folder_of(store, self.plan.id)
        if store.files.has(self.folder / PLAN):
            self.plan = read_plan(store, self.plan.id)  # it may be of yesterday, and some files say so
        else:
            self._save(own, images)
        self._check()

    def _save(self, own: PlacedMasks, images: np.ndarray) -> None:
        """Writes the listings of all jobs, and the plan last."""
        files, plan = self.store.files, self.plan
        for before in plans(self.store):
            if before.target.place == plan.target.place:
                files.drop(folder_of(self.store, before.id))
        columns = listing(self.store, self.content.masks, self.folder / REST)
        columns |= {"image_in_file": own.masks.image_id, "part": own.part}
        order, ends = np.argsort(own.part, kind="stable"), np.cumsum(self.counts)
        length = plan.form.parts.images if plan.form.parts is not None else None
        files.write(self.folder / DRAWN, partial(_save_array, self.content.tally.drawn))
        for number, (first, end, masks) in enumerate(plan.jobs):
            rows = np.sort(order[ends[end - 1] - masks : ends[end - 1]])
            if length is None:
                shown, part = np.unique(own.campaign_image[rows]), np.zeros(0, np.int64)
            else:
                shown = images[first * length : end * length]
                part = np.arange(first * length, first * length + len(shown)) // length
            arrays = {name: column[rows] for name, column in columns.items()}
            arrays |= {"images": shown, "image_part": part if length is not None else np.zeros(len(shown), np.int64)}
            files.write(self.folder / f"{number:05d}.npz", partial(_save_arrays, arrays))
        files.write(self.folder / PLAN, partial(_save_json, plan.as_dict()))

    def _check(self) -> None:
        """Forgets the outcomes of jobs whose files are no longer as they were written."""
        for job in range(len(self.plan.jobs)):
            path = outcome_path(self.folder, job)
            if self.store.files.has(path):
                said = _about(self.store.files.local(path))
                if any(self.plan.target.size(one["name"]) != one["bytes"] for one in said["files"]):
                    self.store.files.remove([path])

    def missing(self) -> list[int]:
        """The jobs that are not done. Raises InputError where another export to this place took this one's."""
        paths = [outcome_path(self.folder, job) for job in range(len(self.plan.jobs))]
        there = self.store.files.there([*paths, self.folder / PLAN])
        if self.folder / PLAN not in there:
            raise InputError(f"export to {self.plan.target.place}", "to be the only one to it", "another one since")
        return [job for job, path in enumerate(paths) if path not in there]

    def outcome(self) -> Exported:
        """What all jobs wrote together."""
        plan, losses = self.plan, list[PolygonLoss]()
        checksums = list[dict[str, Any]]()
        for job in range(len(plan.jobs)):
            path = self.store.files.local(outcome_path(self.folder, job))
            said = _about(path)
            checksums += said["files"]
            losses += [_loss(one) for one in said["losses"]]
            with np.load(path) as arrays:
                self.content.tally.take(arrays)
        files = [plan.target.file(one["name"]) for one in checksums]
        parts = dict(zip(plan.layout.names, self.counts, strict=True))
        written = Written(files, parts, reduce(PolygonLoss.with_, losses) if losses else None)
        return replace(self.content, said=plan.said).exported(written, checksums)

    def forget(self) -> None:
        """Removes the plan, whose files stay."""
        self.store.files.drop(self.folder)


def jobs_of(counts: list[int]) -> list[tuple[int, int, int]]:
    """(first part, end, masks) of each job: parts that follow each other, about as many masks in each.

    >>> jobs_of([100, 1, 0, 1, 90])
    [(0, 1, 100), (1, 4, 2), (4, 5, 90)]
    """
    most, jobs, first = -(-sum(counts) // JOBS), list[tuple[int, int, int]](), 0
    while first < len(counts):
        end, masks = first + 1, counts[first]
        while end < len(counts) and masks + counts[end] <= most:
            masks += counts[end]
            end += 1
        jobs.append((first, end, masks))
        first = end
    return jobs


def make_parts(store: Store, export_id: str, job: int, report: Callable[[int, int], None] | None = None) -> None:
    """Makes the files of one job of an export, and then its outcome. A job that is done, or of no plan, does nothing.

    One whose plan goes meanwhile ends without files: another export to the same place may have put its own there.

    Raises InputError where the files cannot be written, or masks are no longer what they were.
    """
    folder = folder_of(store, export_id)
    if store.files.has(outcome_path(folder, job)) or not store.files.has(folder / PLAN):
        return
    with suppress(_OverError):
        _make_parts(store, export_id, job, report)


class _OverError(Exception):
    """The plan of a job has gone."""


def _make_parts(store: Store, export_id: str, job: int, report: Callable[[int, int], None] | None) -> None:
    folder, plan = folder_of(store, export_id), read_plan(store, export_id)

    def go_on(done: int, total: int) -> None:
        """Called last before a file takes its name."""
        if not store.files.has(folder / PLAN):
            raise _OverError
        if report:
            report(done, total)

    if not 0 <= job < len(plan.jobs):
        raise InputError(f"export {export_id}", f"one of its {len(plan.jobs)} jobs", job)
    first, end, masks = plan.jobs[job]
    with np.load(store.files.local(folder / f"{job:05d}.npz")) as stored:
        columns = dict(stored)
    listed = listed_again(store, columns, folder / REST).on_images(columns["image_in_file"])
    own = PlacedMasks(listed, columns["image_id"], columns["part"])
    images = SomeImages(store, columns["images"], columns["image_part"])
    tally = Tally(np.load(store.files.local(folder / DRAWN)))
    with plan.target.writing() as path:
        writer = PartWriter(path, plan.form, plan.layout, plan.said, tally, go_on, masks)
        if plan.form.by_images:
            for number, of_part in groupby(images.each(), key=lambda image: image.part):
                writer.write([number], of_part, own.select(np.flatnonzero(own.part == number)))
        else:
            writer.write(range(first, end), images.each(), own)
        checksums = [checksum(plan.layout.file(path, number)) for number in range(first, end)]
        if not store.files.has(folder / PLAN):  # last before they are uploaded
            raise _OverError
    about = {"files": checksums, "losses": [asdict(loss) for loss in writer.losses.values()]}
    arrays = tally.as_arrays() | {"about": np.array(json.dumps(about))}
    store.files.write(outcome_path(folder, job), partial(_save_arrays, arrays))


def plans(store: Store) -> list[Plan]:
    """The exports that were begun and are not over."""
    paths = [path for path in store.files.below(store.folder / FOLDER) if path.name == PLAN]
    return [read_plan(store, path.parent.name) for path in paths]


def folder_of(store: Store, export_id: str) -> Path:
    """The folder of a plan, of whose id only hexadecimal digits are taken."""
    return store.folder / FOLDER / f"{int(export_id, 16):016x}"


def outcome_path(folder: Path, job: int) -> Path:
    """Where a job's outcome is."""
    return folder / f"{job:05d}.done.npz"


def read_plan(store: Store, export_id: str) -> Plan:
    """The plan of this id. Raises InputError where there is none, or one of another version of this program."""
    path = folder_of(store, export_id) / PLAN
    file = store.files.local(path)
    try:
        return Plan.parse(export_id, json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(path, "the plan of an export", "none") from None
    except (KeyError, TypeError, ValueError):
        raise InputError(
            path, "a plan of this version; remove its folder to begin that export anew", "another"
        ) from None


def _id_of(plan: Plan, own: PlacedMasks, images: np.ndarray) -> str:
    """The same for the same files, on whichever day they are made."""
    content = plan.as_dict()
    content["said"]["info"] = {k: v for k, v in plan.said.info.items() if k != "date_created"}
    digest = hashlib.blake2b(json.dumps(content, default=str).encode(), digest_size=8)
    for column in (own.masks.mask_id, own.masks.voted, own.part, images):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()


def _about(path: Path) -> dict[str, Any]:
    with np.load(path) as arrays:
        return dict(json.loads(str(arrays["about"])))


def _loss(said: dict[str, Any]) -> PolygonLoss:
    return PolygonLoss(**said | {"refused": {int(mask): iou for mask, iou in said["refused"].items()}})


def _save_array(array: np.ndarray, path: Path) -> None:
    np.save(path, array)


def _save_arrays(arrays: dict[str, np.ndarray], path: Path) -> None:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # newer versions of NumPy know a name more


def _save_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, default=_plain), encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"expected a JSON value, got {type(value).__name__}")
