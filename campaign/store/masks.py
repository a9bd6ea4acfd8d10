"""What the store holds of masks: shards of predictions, trees, the dataset."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from campaign.dataset.propagation import DatasetMasks
from campaign.settings import Split
from campaign.store import models as m
from campaign.store.shards import read_columns, read_shard, read_shards, write_columns, write_shard, write_whole
from ml_backend.predictions import Predictions, mask_id, split_mask_id

if TYPE_CHECKING:
    from campaign.clustering import Tree


DRAWN = 8191  # the round in a drawn mask's id: the last that an id has room for, which no campaign reaches


def drawn_id(drawing: int) -> int:
    """The id of the mask that a drawing made of another."""
    return mask_id(DRAWN, drawing >> 20, drawing & 0xFFFFF)


def is_drawn(mask: int) -> bool:
    """Whether a mask id names a drawn mask."""
    return mask >> 40 == DRAWN


def is_heldout(mask: int) -> bool:
    """Whether a mask id names a prediction on a held-out image: their shards are numbered from the far end."""
    return not is_drawn(mask) and mask >> 20 & 0xFFFFF >= 1 << 19


class MaskRecords:
    """Part of `Store`: predictions of every round, the trees over them, and the masks that were obtained."""

    def session(self) -> AbstractContextManager[Session]:
        """See `Store.session`."""
        raise NotImplementedError

    def rounds(self) -> list[m.Round]:
        """See `Store.rounds`."""
        raise NotImplementedError

    def round_folder(self, number: int) -> Path:
        """See `Store.round_folder`."""
        raise NotImplementedError

    def drawn_masks(self, mask_ids: Sequence[int] | np.ndarray) -> Predictions:
        """See `DrawingRecords.drawn_masks`."""
        raise NotImplementedError

    # Predictions

    def shard_path(self, round_number: int, split: Split, number: int) -> Path:
        """Where a shard of predictions lies."""
        return self.round_folder(round_number) / "predictions" / f"{split}-{number:05d}.parquet"

    def save_shard(
        self, round_number: int, split: Split, number: int, predictions: Predictions, images: int, seconds: float
    ) -> Predictions:
        """Stores a shard, gives it with its mask ids. Saving again replaces it.

        Held-out masks are numbered from the far end of the shards, so that their ids are their own too.
        """
        place = number if split == "pool" else 0xFFFFF - number
        stored = predictions.with_ids(round_number, place)
        write_shard(self.shard_path(round_number, split, number), stored)
        with self.session() as session:
            session.merge(
                m.Shard(
                    round=round_number, split=split, number=number,
                    images=images, masks=len(stored), seconds=seconds,
                )
            )  # fmt: skip
        return stored

    def shards(self, round_number: int, split: Split | None = None) -> list[m.Shard]:
        """Finished shards of a round, by number."""
        with self.session() as session:
            query = select(m.Shard).where(m.Shard.round == round_number).order_by(m.Shard.split, m.Shard.number)
            return list(session.scalars(query if split is None else query.where(m.Shard.split == split)))

    def predictions(
        self, round_number: int, split: Split = "pool", class_id: int | None = None, features: bool = True
    ) -> Predictions:
        """A round's predictions on a split, all classes or one, by mask id."""
        paths = [self.shard_path(round_number, split, s.number) for s in self.shards(round_number, split)]
        return read_shards(paths, features, class_id)

    def masks(self, mask_ids: Sequence[int] | np.ndarray) -> Predictions:
        """The masks of these ids in their order, without features; only the shards that hold them are read.

        Drawn masks are among them. Raises KeyError for an id that no shard holds.
        """
        ids = np.asarray(mask_ids, np.int64)
        parts: list[Predictions] = []
        places: list[np.ndarray] = []
        for place in np.unique(ids >> 20):
            here = np.flatnonzero(ids >> 20 == place)
            if is_drawn(int(ids[here[0]])):
                parts.append(self.drawn_masks(ids[here]))
                places.append(here)
                continue
            path, _ = self.place(int(place) << 20)
            shard = read_shard(path, features=False) if path.exists() else Predictions.empty()
            rows = ids[here] & 0xFFFFF
            if len(rows) and rows.max() >= len(shard):
                raise KeyError(int(ids[here][rows.argmax()]))
            parts.append(shard.select(rows))
            places.append(here)
        if not parts:
            return Predictions.empty()
        order = np.argsort(np.concatenate(places), kind="stable")
        return Predictions.concatenate(parts).select(order)

    # The dataset

    def dataset_path(self, round_number: int) -> Path:
        """Where the masks that a round obtained lie."""
        return self.round_folder(round_number) / "dataset.parquet"

    def save_dataset(self, round_number: int, masks: DatasetMasks) -> None:
        """Stores the masks that a round obtained. Saving again replaces them."""
        columns = {f.name: getattr(masks, f.name) for f in fields(masks)}
        write_columns(self.dataset_path(round_number), columns)

    def dataset(self, before: int | None = None) -> DatasetMasks:
        """The masks obtained in all rounds, or in those before one, by round."""
        numbers = [r.number for r in self.rounds() if before is None or r.number < before]
        paths = [path for n in numbers if (path := self.dataset_path(n)).exists()]
        return DatasetMasks.concatenate([DatasetMasks(**read_columns(path)) for path in paths])

    def place(self, mask: int) -> tuple[Path, int]:
        """The shard file that a mask id names, and its row there; neither need exist."""
        round_number, number, row = split_mask_id(mask)
        split: Split = "pool" if number < 1 << 19 else "heldout"
        return self.shard_path(round_number, split, number if split == "pool" else 0xFFFFF - number), row

    # Trees and decisions

    def tree_folder(self, round_number: int, class_id: int) -> Path:
        """Where a class's tree lies, with the mask ids of its leaves."""
        return self.round_folder(round_number) / "trees" / str(class_id)

    def tree(self, round_number: int, class_id: int) -> tuple[Tree, np.ndarray]:
        """The tree of a class and the mask id of each of its leaves, memory-mapped."""
        from campaign.clustering import Tree

        folder = self.tree_folder(round_number, class_id)
        return Tree.load(folder), np.load(folder / "mask_ids.npy", mmap_mode="r")

    def save_tree(self, round_number: int, class_id: int, mask_ids: np.ndarray, known: int, thresholds: dict) -> None:
        """Notes that a class's tree is whole in its folder, over the masks `mask_ids` (none: there is no tree).

        `known` masks were left out of it, the dataset having them already.
        """
        folder = self.tree_folder(round_number, class_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "mask_ids.npy", lambda p: np.save(p, np.asarray(mask_ids, np.int64)))
        with self.session() as session:
            session.merge(
                m.ClassTree(
                    round=round_number, class_id=class_id, masks=len(mask_ids), known=known,
                    thresholds=thresholds, searched=not len(mask_ids),
                )
            )  # fmt: skip

    def trees(self, round_number: int) -> list[m.ClassTree]:
        """Rows of the trees that a round has, by class."""
        with self.session() as session:
            query = select(m.ClassTree).where(m.ClassTree.round == round_number).order_by(m.ClassTree.class_id)
            return list(session.scalars(query))

    def mark_searched(self, round_number: int, class_id: int, searched: bool = True) -> None:
        """Notes whether every cluster of a class's tree is decided."""
        with self.session() as session:
            session.get_one(m.ClassTree, (round_number, class_id)).searched = searched
