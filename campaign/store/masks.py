"""What the store holds of predicted masks: shards of every round, and any mask by its id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from sqlalchemy import func, select

from campaign.settings import Split
from campaign.store import models as m
from campaign.store.drawings import Drawings
from campaign.store.objects import Files
from campaign.store.rounds import Rounds
from campaign.store.sessions import Sessions
from campaign.store.shards import arrays_of, feature_path, read_shard, read_table, write_shard
from ml_backend.mask_ids import first_of_place, is_drawn, is_heldout, place_of, row_of, shard_number, split_mask_id
from ml_backend.predictions import Predictions


class Masks:
    """Part of `Store`: predictions of every round."""

    def __init__(self, sessions: Sessions, files: Files, rounds: Rounds, drawings: Drawings):
        self._sessions, self._files, self._rounds, self._drawings = sessions, files, rounds, drawings

    def shard_path(self, round_number: int, split: Split, number: int) -> Path:
        """Where a shard of predictions lies on this machine, once it has been read here."""
        return self._rounds.folder(round_number) / "predictions" / f"{split}-{number:05d}.parquet"

    def save_shard(
        self, round_number: int, split: Split, number: int, predictions: Predictions, images: int, seconds: float
    ) -> Predictions:
        """Stores a shard, returns it with its mask ids. Saving again replaces it."""
        stored = predictions.with_ids(round_number, shard_number(split == "pool", number))
        path = self.shard_path(round_number, split, number)
        write_shard(path, stored)
        with self._files.published(path, feature_path(path)) as session:
            session.merge(
                m.Shard(
                    round=round_number, split=split, number=number,
                    images=images, masks=len(stored), seconds=seconds,
                )
            )  # fmt: skip
        return stored

    def shards(self, round_number: int, split: Split | None = None) -> list[m.Shard]:
        """Finished shards of a round, by number."""
        with self._sessions() as session:
            query = select(m.Shard).where(m.Shard.round == round_number).order_by(m.Shard.split, m.Shard.number)
            return list(session.scalars(query if split is None else query.where(m.Shard.split == split)))

    def count(self, round_number: int, split: Split) -> int:
        """How many masks the finished shards of a round hold."""
        query = select(func.sum(m.Shard.masks)).where(m.Shard.round == round_number, m.Shard.split == split)
        with self._sessions() as session:
            return int(session.scalar(query) or 0)

    def is_stored(self, round_number: int, split: Split, number: int) -> bool:
        """Whether a shard is finished."""
        with self._sessions() as session:
            return session.get(m.Shard, (round_number, split, number)) is not None

    def finished(self, round_number: int) -> list[tuple[str, int, int]]:
        """(split, number, masks) of the finished shards of a round, by split and number: `shards` in short."""
        columns = m.Shard.split, m.Shard.number, m.Shard.masks
        with self._sessions() as session:
            query = select(*columns).where(m.Shard.round == round_number).order_by(m.Shard.split, m.Shard.number)
            return [(split, number, masks) for split, number, masks in session.execute(query)]

    def predictions(
        self, round_number: int, split: Split = "pool", class_id: int | None = None, features: bool = True
    ) -> Predictions:
        """A round's predictions on a split, all classes or one, by mask id."""
        paths = [self.shard_path(round_number, split, s.number) for s in self.shards(round_number, split)]
        there = self._files.each(paths, feature_path if features else None)
        return Predictions.concatenate([read_shard(path, features, class_id) for path in there])

    def shard(self, path: Path, features: bool = True, class_id: int | None = None) -> Predictions:
        """A shard by its path; features (memory-mapped until selected) or none; one class or all.

        Raises InputError where it is not there or not whole.
        """
        (path,) = self._files.each([path], feature_path if features else None)
        return read_shard(path, features, class_id)

    def features(self, path: Path) -> np.ndarray:
        """The features of the shard of this path, (n, d), memory-mapped."""
        features: np.ndarray = np.load(self._files.local(feature_path(path)), mmap_mode="r")
        return features

    def scores(self, round_number: int, split: Split = "pool") -> dict[int, np.ndarray]:
        """{class: the scores of a round's predictions of it on a split, by mask id}, (n,) float32, in one pass.

        A class without any is not there.
        """
        names = "class_id", "confidence", "predicted_iou"
        finished = [number for own, number, _ in self.finished(round_number) if own == split]
        paths = [self.shard_path(round_number, split, number) for number in finished]
        parts = [arrays_of(read_table([path], names)) for path in self._files.each(paths)]
        if not parts:
            return {}
        class_id, confidence, predicted_iou = (np.concatenate([part[name] for part in parts]) for name in names)
        score = confidence * predicted_iou
        return {int(c): score[class_id == c] for c in np.unique(class_id)}

    def read(self, mask_ids: Sequence[int] | np.ndarray) -> Predictions:
        """The masks of these ids in their order, without features; only the shards that hold them are read.

        Drawn masks are among them, with the scores of the predictions they were. Raises KeyError for an id that no
        shard holds.
        """
        ids = np.asarray(mask_ids, np.int64)
        parts: list[Predictions] = []
        positions: list[np.ndarray] = []
        drawn = np.flatnonzero(is_drawn(ids)) if len(ids) else np.zeros(0, np.int64)
        if len(drawn):
            origins = self._drawings.origins(ids[drawn])
            parts.append(self._drawings.replace(self.read(origins), ids[drawn]))
            positions.append(drawn)
        stored = np.flatnonzero(~is_drawn(ids)) if len(ids) else np.zeros(0, np.int64)
        groups = [stored[rows] for rows in by_place(ids[stored])]
        for here, path in zip(groups, self._holders([ids[here[0]] for here in groups]), strict=True):
            shard = Predictions.empty() if path is None else read_shard(path, features=False)
            rows = row_of(ids[here])
            if rows.max() >= len(shard):
                raise KeyError(int(ids[here][rows.argmax()]))
            parts.append(shard.select(rows))
            positions.append(here)
        if not parts:
            return Predictions.empty()
        order = np.argsort(np.concatenate(positions), kind="stable")
        return Predictions.concatenate(parts).select(order)

    def outline(self, mask_ids: np.ndarray) -> dict[str, np.ndarray]:
        """`image_id`, `class_id` and `score` of the masks of these ids in their order, (n,) each; no shape is read.

        Raises KeyError for an id that no shard holds.
        """
        ids, drawn = mask_ids.astype(np.int64), is_drawn(mask_ids)
        ids[drawn] = self._drawings.origins(mask_ids[drawn]) if drawn.any() else 0
        found: dict[str, np.ndarray] = {
            "image_id": np.zeros(len(ids), np.int64), "class_id": np.zeros(len(ids), np.int32),
            "score": np.zeros(len(ids), np.float32),
        }  # fmt: skip
        groups = by_place(ids)
        for here, path in zip(groups, self._holders([ids[here[0]] for here in groups]), strict=True):
            rows = row_of(ids[here])
            if path is None:
                raise KeyError(int(ids[here][0]))
            columns = arrays_of(read_table([path], ("image_id", "class_id", "confidence", "predicted_iou")))
            if rows.max() >= len(columns["image_id"]):
                raise KeyError(int(ids[here][rows.argmax()]))
            columns["score"] = columns["confidence"] * columns["predicted_iou"]
            for name, column in found.items():
                column[here] = columns[name][rows]
        return found

    def _holders(self, masks: Sequence[int]) -> Iterator[Path | None]:
        """The shard files of masks that are each in another, one after the other; None where there is none."""
        paths = [self.place(first_of_place(place_of(int(mask))))[0] for mask in masks]
        there = self._files.there(paths)
        files = self._files.each(path for path in paths if path in there)
        return (next(files) if path in there else None for path in paths)

    def place(self, mask: int) -> tuple[Path, int]:
        """The shard file that a mask id names, and its row there; neither need exist."""
        round_number, shard, row = split_mask_id(mask)
        split: Split = "heldout" if is_heldout(mask) else "pool"
        return self.shard_path(round_number, split, shard_number(split == "pool", shard)), row


def by_place(mask_ids: np.ndarray) -> list[np.ndarray]:
    """The rows of the masks of each shard, shard after shard."""
    places = place_of(mask_ids)
    order = np.argsort(places, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(places[order])) + 1) if len(order) else []
