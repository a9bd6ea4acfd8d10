"""What the store holds of trees and of the masks that rounds obtained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from campaign.dataset.listed import PIECE, ListedMasks
from campaign.records.dataset_masks import DatasetMasks
from campaign.store import models as m
from campaign.store.objects import Files
from campaign.store.rounds import Rounds
from campaign.store.sessions import Sessions
from campaign.store.shards import RowFile, write_pieces
from campaign.store.values import Key
from ml_backend.files import write_whole

if TYPE_CHECKING:
    from campaign.clustering import Tree

GROUP = 1024  # masks in a row group of a dataset, if not one class alone has more or a portion ends


class Trees:
    """Part of `Store`: the tree of each class in each round."""

    def __init__(self, sessions: Sessions, files: Files, rounds: Rounds):
        self._sessions, self._files, self._rounds = sessions, files, rounds

    def folder(self, round_number: int, class_id: int, generation: int = 0) -> Path:
        """Where a class's tree lies on this machine, once read, with the mask ids of its leaves.

        One that others follow stays where it is: whoever has it open reads on.
        """
        name = f"{class_id}.{generation}" if generation else str(class_id)
        return self._rounds.folder(round_number) / "trees" / name

    def read(self, round_number: int, class_id: int, generation: int | None = None) -> tuple[Tree, np.ndarray]:
        """The tree of a class and the mask id of each of its leaves; of a generation, or the one that counts now."""
        from campaign.clustering import Tree

        folder = self._files.folder(self._folder(round_number, class_id, generation))
        return Tree.load(folder), np.load(folder / "mask_ids.npy")

    def mask_ids(self, round_number: int, class_id: int, generation: int | None = None) -> np.ndarray:
        """The mask id of each leaf of a class's tree, (n,) int64."""
        return np.load(self._files.local(self._folder(round_number, class_id, generation) / "mask_ids.npy"))

    def _folder(self, round_number: int, class_id: int, generation: int | None) -> Path:
        if generation is None:
            with self._sessions() as session:
                row = session.get(m.ClassTree, (round_number, class_id))
                generation = 0 if row is None else row.generation
        return self.folder(round_number, class_id, generation)

    def save(self, round_number: int, class_id: int, mask_ids: np.ndarray, known: int, thresholds: dict) -> None:
        """Notes that a class's tree is whole in its folder, over the masks `mask_ids` (none: there is no tree).

        `known` masks were left out of it, the dataset having them already.
        """
        with self._written(round_number, class_id, 0, mask_ids) as session:
            session.merge(
                m.ClassTree(
                    round=round_number, class_id=class_id, masks=len(mask_ids), known=known,
                    thresholds=thresholds, searched=not len(mask_ids), generation=0,
                )
            )  # fmt: skip

    @contextmanager
    def _written(self, round_number: int, class_id: int, generation: int, mask_ids: np.ndarray) -> Iterator[Session]:
        """A transaction in which the files of a tree become those that everybody sees."""
        folder = self.folder(round_number, class_id, generation)
        write_whole(folder / "mask_ids.npy", lambda p: np.save(p, np.asarray(mask_ids, np.int64)))
        with self._files.published(*(path for path in folder.iterdir() if path.is_file())) as session:
            yield session

    def rows(self, round_number: int) -> list[m.ClassTree]:
        """Rows of the trees that a round has, by class."""
        with self._sessions() as session:
            query = select(m.ClassTree).where(m.ClassTree.round == round_number).order_by(m.ClassTree.class_id)
            return list(session.scalars(query))

    def generation(self) -> int:
        """A number that rises whenever a tree takes the place of another."""
        with self._sessions() as session:
            return int(session.scalar(select(func.sum(m.ClassTree.generation))) or 0)

    # trees that others are to follow

    def joining(self, round_number: int) -> int | None:
        """The first shard of images whose masks are to join a round's trees; None where none are."""
        with self._sessions() as session:
            row = session.get(m.Meta, Key.JOINING.value)
            return int(row.value["shard"]) if row is not None and row.value["round"] == round_number else None

    def let_join(self, session: Session, round_number: int, first_shard: int) -> None:
        """Notes that the masks of images from a shard on are to join a round's trees, as a part of a transaction."""
        session.merge(m.Meta(name=Key.JOINING.value, value={"round": round_number, "shard": first_shard}))

    def prepare(self, entry: m.ClassTree, mask_ids: np.ndarray | None, left_out: int) -> None:
        """Notes that the tree that is to follow one is whole in its folder, over the masks `mask_ids`.

        None where the class has no new masks. `left_out` new masks are in no tree.
        """
        followed = entry.generation if mask_ids is None else entry.generation + 1
        row = m.JoinedTree(
            round=entry.round, class_id=entry.class_id, generation=followed,
            masks=entry.masks if mask_ids is None else len(mask_ids), known=entry.known + left_out,
        )  # fmt: skip
        if mask_ids is None:
            with self._sessions() as session:
                session.merge(row)
            return
        with self._written(entry.round, entry.class_id, followed, mask_ids) as session:
            session.merge(row)

    def prepared(self, round_number: int) -> list[m.JoinedTree]:
        """The trees that are to follow those of a round, by class, as far as they are there."""
        with self._sessions() as session:
            query = select(m.JoinedTree).where(m.JoinedTree.round == round_number)
            return list(session.scalars(query.order_by(m.JoinedTree.class_id)))

    def follow(self, session: Session, round_number: int) -> None:
        """Makes the trees that were prepared those of a round, as a part of a transaction; nothing joins any more."""
        for row in session.scalars(select(m.JoinedTree).where(m.JoinedTree.round == round_number)):
            entry = session.get_one(m.ClassTree, (round_number, row.class_id))
            entry.generation, entry.masks, entry.known = row.generation, row.masks, row.known
            session.delete(row)
        session.execute(delete(m.Meta).where(m.Meta.name == Key.JOINING.value))

    def mark_searched(self, round_number: int) -> None:
        """Notes that a round's search has come to its end in every class, by the policy or for want of budget."""
        with self._sessions() as session:
            session.execute(update(m.ClassTree).where(m.ClassTree.round == round_number).values(searched=True))


class Datasets:
    """Part of `Store`: the masks that each round obtained."""

    def __init__(self, files: Files, rounds: Rounds):
        self._files, self._rounds = files, rounds

    def path(self, round_number: int) -> Path:
        """Where the masks that a round obtained lie on this machine, once read."""
        return self._rounds.folder(round_number) / "dataset.parquet"

    def file(self, round_number: int) -> Path | None:
        """The file of the masks that a round obtained, None where there is none."""
        path = self.path(round_number)
        return self._files.local(path) if self._files.has(path) else None

    def remove(self, round_number: int) -> None:
        """Removes the masks of a round that goes on."""
        self._files.remove([self.path(round_number)])

    def save(self, round_number: int, masks: DatasetMasks | ListedMasks) -> None:
        """Stores the masks that a round obtained, which rise by mask id. Saving again replaces them.

        Of each portion the masks lie by class, in row groups of one class or a few, so that a class is read alone.
        """
        self.write(self.path(round_number), masks)

    def write(self, path: Path, masks: DatasetMasks | ListedMasks) -> None:
        """Stores masks in a file of this form."""
        write_pieces(path, _by_class(masks))
        self._files.publish(path)

    def read(self, before: int | None = None, class_id: int | None = None) -> DatasetMasks:
        """The masks obtained in all rounds, or in those before one, by round and mask id; of all classes or one."""
        parts = []
        for path in self._paths(before):
            file = RowFile(path)
            masks = DatasetMasks(
                **(file.columns() if class_id is None else file.rows(file.where("class_id", class_id)))
            )
            parts.append(masks.select(np.argsort(masks.mask_id, kind="stable")))
        return DatasetMasks.concatenate(parts)

    def count(self, before: int | None = None) -> int:
        """How many masks were obtained in all rounds, or in those before one."""
        return sum(len(RowFile(path)) for path in self._paths(before))

    def columns(self, names: Sequence[str], before: int | None = None) -> list[dict[str, np.ndarray]]:
        """Some columns of the masks obtained in each round, or in those before one, in no order."""
        return [RowFile(path).columns(names) for path in self._paths(before)]

    def listed(self, before: int | None = None) -> list[ListedMasks]:
        """The masks obtained in each round, in outline. They stay readable where a round is stored anew."""
        return [_listed(RowFile(path)) for path in self._paths(before)]

    def files(self) -> dict[int, Path]:
        """{round: the file of the masks that it obtained}, on this machine."""
        return {n: path for n in (r.number for r in self._rounds.all()) if (path := self.file(n)) is not None}

    def _paths(self, before: int | None) -> list[Path]:
        numbers = [r.number for r in self._rounds.all() if before is None or r.number < before]
        return [path for n in numbers if (path := self.file(n)) is not None]


def _by_class(masks: DatasetMasks | ListedMasks) -> Iterator[dict[str, np.ndarray]]:
    """The columns of masks in row groups: of each portion a class, or as many classes as make a group of some size."""
    for piece in masks.chunks(PIECE) if len(masks) else [DatasetMasks.empty()]:
        order = np.argsort(piece.class_id, kind="stable")
        starts = np.flatnonzero(np.diff(piece.class_id[order])) + 1
        cuts = [0]
        for start in starts.tolist():
            if start - cuts[-1] >= GROUP:
                cuts.append(start)
        for start, end in zip(cuts, [*cuts[1:], len(piece)], strict=True):
            group = piece.select(order[start:end])
            yield {f.name: getattr(group, f.name) for f in fields(group)}


def _listed(file: RowFile) -> ListedMasks:
    names = "mask_id", "image_id", "class_id", "round", "confidence", "predicted_iou", "voted"
    columns = file.columns(names)
    score = columns.pop("confidence") * columns.pop("predicted_iou")
    return ListedMasks(**columns, score=score, fetch=lambda rows: DatasetMasks(**file.rows(rows)))
