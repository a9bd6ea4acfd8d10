"""A round's predictions by class: bundles, which are made of shards once, so that a class is read without the others.

A bundle holds the masks of some shards that follow each other, ordered by class: a Parquet file with a row group for
each class, and beside it one array of features, in which those of a class are a range. What a class reads is its row
group and its range of every bundle. Bundles are made anew from shards at any time, and are gone once trees are built.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sqlalchemy import delete, select

from campaign.store import models as m
from campaign.store.masks import Masks
from campaign.store.objects import Files
from campaign.store.rounds import Rounds
from campaign.store.scratch import scratch_array
from campaign.store.sessions import Sessions
from campaign.store.shards import feature_path, read_features, read_group, read_table, write_groups
from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.predictions import Predictions

MASKS = 1 << 17  # in a bundle, if not one shard alone has more: what is held in memory while it is made

Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Plan:
    """The shards of a bundle, [first, end), and how many masks they hold."""

    first: int
    end: int
    masks: int


class Bundles:
    """Part of `Store`: a round's predictions on the pool, by class."""

    def __init__(self, sessions: Sessions, files: Files, rounds: Rounds, masks: Masks):
        self._sessions, self._files, self._rounds, self._masks = sessions, files, rounds, masks

    def planned(self, round_number: int) -> list[Plan]:
        """The bundles that a round's finished shards make, by number; the same ones for the same shards."""
        plans: list[Plan] = []
        for split, number, masks in self._masks.finished(round_number):
            if split != "pool":
                continue
            if plans and plans[-1].masks + masks <= MASKS:
                plans[-1] = Plan(plans[-1].first, number + 1, plans[-1].masks + masks)
            else:
                plans.append(Plan(number, number + 1, masks))
        return plans

    def finished(self, round_number: int, plans: Sequence[Plan]) -> frozenset[int]:
        """The numbers of the bundles that are there, of the shards that they would be made of by the plans of now."""
        rows = self.rows(round_number)
        return frozenset(row.number for row in rows if row.number < len(plans) and _made_by(row) == plans[row.number])

    def rows(self, round_number: int) -> list[m.Bundle]:
        """Rows of the bundles that are there, by number."""
        with self._sessions() as session:
            query = select(m.Bundle).where(m.Bundle.round == round_number).order_by(m.Bundle.number)
            return list(session.scalars(query))

    def path(self, round_number: int, number: int) -> Path:
        """Where the masks of a bundle lie."""
        return self._folder(round_number) / f"{number:05d}.parquet"

    def gather(self, round_number: int, number: int, report: Report | None = None) -> None:
        """Makes a bundle of its shards. One that is there is left as it is, and one that is not planned is none."""
        plans = self.planned(round_number)
        if number in self.finished(round_number, plans) or number >= len(plans):
            return
        plan = plans[number]
        path, numbers = self.path(round_number, number), range(plan.first, plan.end)
        shards = [self._masks.shard_path(round_number, "pool", n) for n in numbers]
        table = read_table(self._files.each(shards))
        class_ids = table["class_id"].to_numpy()
        order = np.argsort(class_ids, kind="stable")
        write_whole(feature_path(path), lambda p: self._write_features(p, shards, order, report))
        classes, counts = np.unique(class_ids, return_counts=True)
        write_groups(path, table, order, counts.tolist(), checksums=self._files.apart)
        held = {"ids": classes.tolist(), "masks": counts.tolist()}
        if self._files.apart:
            features = np.load(feature_path(path), mmap_mode="r")
            held["digests"] = [_digest(own) for own in np.split(features, np.cumsum(counts)[:-1])]
        with self._files.published(path, feature_path(path)) as session:
            session.merge(
                m.Bundle(
                    round=round_number, number=number, first=plan.first, end=plan.end, masks=plan.masks,
                    classes=held,
                )
            )  # fmt: skip

    def read(self, round_number: int, class_id: int, masks: bool = True) -> Predictions:
        """A round's predictions of a class on the pool, by mask id, from its bundles; its features on disk.

        Without `masks` only what is needed to cluster them is read: no run lengths. From all shards where the bundles
        are not all there and whole.
        """
        rows = self.rows(round_number)
        if self.planned(round_number) == [_made_by(row) for row in rows]:
            try:
                return self._read(rows, class_id, masks)
            except (InputError, OSError, ValueError):
                pass  # the shards hold all that bundles do
        return self._masks.predictions(round_number, "pool", class_id)

    def _read(self, rows: list[m.Bundle], class_id: int, masks: bool) -> Predictions:
        def part(row: m.Bundle) -> tuple[Predictions, np.ndarray]:
            return self._part(row, row.classes["ids"].index(class_id), masks)

        holders = [row for row in rows if class_id in row.classes["ids"]]
        parts = self._files.parallel(part, holders)
        whole = Predictions.concatenate([own for own, _ in parts])
        sources = [features for _, features in parts]
        return whole.with_features(_joined(sources, self._folder(rows[0].round)) if sources else whole.features)

    def _part(self, row: m.Bundle, place: int, masks: bool) -> tuple[Predictions, np.ndarray]:
        """The predictions of a class that has this place in a bundle, and their features on disk; the others stay."""
        path, first = self.path(row.round, row.number), sum(row.classes["masks"][:place])
        with self._files.opened(path) as source:
            part = read_group(source, place, row.masks, masks)
        with self._files.opened(feature_path(path)) as source:
            features = read_features(source, first, len(part), row.masks)
            if not isinstance(source, Path):
                if _digest(features) != row.classes["digests"][place]:
                    thing = f"features of bundle {row.round}/{row.number}"
                    raise InputError(thing, "those that were put there", "others")
                path.parent.mkdir(parents=True, exist_ok=True)
                features = _on_disk([features], path.parent)
        return part, features

    def drop(self, round_number: int) -> None:
        """Removes the bundles of a round."""
        with self._sessions() as session:
            session.execute(delete(m.Bundle).where(m.Bundle.round == round_number))
        self._files.drop(self._folder(round_number))

    def _write_features(self, path: Path, shards: list[Path], order: np.ndarray, report: Report | None) -> None:
        """The features of shards in another order, written through a memory map."""
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        out: np.memmap | None = None
        start = 0
        for done, shard in enumerate(self._files.each(map(feature_path, shards)), 1):
            features = np.load(shard, mmap_mode="r")
            if len(features):
                if out is None:
                    shape = len(order), features.shape[1]
                    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
                out[place[start : start + len(features)]] = features
                start += len(features)
            if report:
                report("gather", done, len(shards))
        if out is None:
            np.save(path, np.zeros((0, 0), np.float16))
        else:
            out.flush()

    def _folder(self, round_number: int) -> Path:
        return self._rounds.folder(round_number) / "bundles"


def _made_by(row: m.Bundle) -> Plan:
    """The plan that a bundle was made by."""
    return Plan(row.first, row.end, row.masks)


def _digest(features: np.ndarray) -> str:
    return hashlib.blake2b(features.tobytes(), digest_size=16).hexdigest()


def _joined(parts: list[np.ndarray], folder: Path) -> np.ndarray:
    """Arrays one after the other: the only one as it is, several on disk."""
    return parts[0] if len(parts) == 1 else _on_disk(parts, folder)


def _on_disk(parts: list[np.ndarray], folder: Path) -> np.ndarray:
    """Arrays one after the other, in a file that is gone when it is no longer used."""
    whole = scratch_array(folder, (sum(len(part) for part in parts), parts[0].shape[1]), np.float16)
    start = 0
    for part in parts:
        whole[start : start + len(part)] = part
        start += len(part)
    return whole
