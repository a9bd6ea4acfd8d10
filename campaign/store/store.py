"""One campaign's state: settings, images, rounds, predictions, trees, decisions, pages and answers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session, sessionmaker

from campaign.propagation import DatasetMasks
from campaign.settings import CampaignSettings, Split, parse_settings
from campaign.store import models as m
from campaign.store.database import open_database
from campaign.store.locks import campaign_lock, file_lock
from campaign.store.shards import read_columns, read_shard, read_shards, write_columns, write_shard, write_whole
from campaign.store.trust import QUALIFY, TrustRecords
from ml_backend.coco import CocoDataset, ImageRecord, write_json
from ml_backend.errors import InputError
from ml_backend.predictions import Predictions, split_mask_id

if TYPE_CHECKING:
    from campaign.clustering import Tree

FORMAT = 1
SETTINGS_FILE = "campaign.json"
SECRETS_FILE = "secrets.json"
SECRET_NAMES = ("crop_key", "webhook_secret", "backend_password", "lead_password", "label_studio_token")


class Store(TrustRecords):
    """An open campaign folder.

    `Store.create` makes one, whole or not at all; `Store.open` opens it. Rows go in and out as plain values or as
    rows of `campaign.store.models`; masks as `Predictions`.
    """

    def __init__(self, folder: Path, settings: CampaignSettings, key: str):
        self.folder, self.settings, self.key = folder, settings, key
        self.engine = open_database(settings.jobs.database_url, folder)
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        known = self.get_meta("campaign")
        if known is not None and known.get("key") != key:
            raise InputError(f"database of {folder}", "a database of its own", f"one of campaign {known.get('name')!r}")

    # Opening and creating

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """The campaign in `folder`. Raises InputError where there is none, or its settings are bad."""
        folder = Path(folder).resolve()
        path = folder / SETTINGS_FILE
        try:
            content = json.loads(path.read_text())
        except FileNotFoundError:
            raise InputError(folder, "a campaign folder (see `campaign init`)", f"no {SETTINGS_FILE} in it") from None
        except (OSError, ValueError) as error:
            raise InputError(path, "the settings of a campaign", error) from None
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            got = content.get("format") if isinstance(content, dict) else type(content).__name__
            raise InputError(path, f"format {FORMAT}", got)
        return cls(folder, parse_settings(content.get("settings", {}), path), str(content.get("key")))

    @classmethod
    def create(
        cls,
        folder: str | Path,
        settings: CampaignSettings,
        splits: dict[Split, CocoDataset],
        source_tasks: dict[tuple[Split, int], int] | None = None,
        secret_values: dict[str, str] | None = None,
    ) -> Store:
        """A new campaign in `folder`, over the images of `splits`; annotations of the pool are left out.

        Raises InputError where the folder holds a campaign already or files of something else, the splits' classes
        differ, or an image file is in two splits. Where it raises, the folder is as it was.
        """
        folder = Path(folder).resolve()
        classes = _common_classes(splits)
        _check_disjoint(splits)
        fresh = not folder.exists()
        if (folder / SETTINGS_FILE).exists():
            raise InputError(folder, "a folder without a campaign", "one that holds a campaign already")
        if not fresh and any(p.name != ".init.lock" for p in folder.iterdir()):
            raise InputError(folder, "an empty or new folder", "a folder that holds other files")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(folder / ".init.lock", wait=False, thing=str(folder)):
                return cls._fill(folder, settings, splits, classes, source_tasks or {}, secret_values or {})
        except BaseException as error:
            _clear(folder, remove=fresh)
            if isinstance(error, OSError):
                raise InputError(folder, "a folder that can be written", error.strerror or str(error)) from None
            raise

    @classmethod
    def _fill(cls, folder, settings, splits, classes, source_tasks, secret_values) -> Store:
        key = secrets.token_hex(6)
        store = cls(folder, settings, key)
        if store.get_meta("campaign") is not None:
            raise InputError(f"database of {folder}", "an empty database", "one that a campaign uses")
        with store.session() as session:
            session.add_all(m.ClassName(id=i, name=n) for i, n in classes.items())
            number = 0
            for split in ("labelled", "heldout", "pool"):
                if (data := splits.get(split)) is None:
                    continue
                ids: dict[int, int] = {}
                for image in data.images:
                    number += 1
                    ids[image.id] = number
                    session.add(
                        m.Image(
                            id=number, split=split, coco_id=image.id, file_name=image.file_name,
                            path=str(Path(image.path).resolve()), width=image.width, height=image.height,
                            source_task=source_tasks.get((split, image.id)),
                        )
                    )  # fmt: skip
                if split != "pool":
                    _renumber(data, ids, classes).save(folder / f"{split}.json")
            session.add(m.Meta(name="campaign", value={"key": key, "name": settings.name}))
        made = {name: secrets.token_urlsafe(24) for name in SECRET_NAMES if name != "label_studio_token"}
        store.save_secrets(made | secret_values)
        content = {"format": FORMAT, "key": key, "settings": settings.model_dump(mode="json")}
        write_whole(folder / SETTINGS_FILE, lambda p: p.write_text(json.dumps(content, indent=2) + "\n"))
        return store

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A database transaction, committed where the block ends well. A full disk raises InputError."""
        try:
            with self._sessions.begin() as session:
                yield session
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise InputError(f"database of {self.folder}", "to be readable and writable", reason) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the campaign's lock: one process at a time reads answers and decides."""
        with campaign_lock(self.engine, self.folder):
            yield

    # Single values

    def get_meta(self, name: str) -> dict[str, Any] | None:
        """A single value, or None."""
        with self.session() as session:
            row = session.get(m.Meta, name)
            return None if row is None else row.value

    def set_meta(self, name: str, value: dict[str, Any]) -> None:
        """Sets a single value."""
        with self.session() as session:
            session.merge(m.Meta(name=name, value=value))

    def drop_meta(self, name: str) -> None:
        """Forgets a single value."""
        with self.session() as session:
            session.execute(delete(m.Meta).where(m.Meta.name == name))

    def secret(self, name: str) -> str:
        """A secret of this campaign; the Label Studio token from $LABEL_STUDIO_API_KEY first.

        Raises InputError where it is not known.
        """
        if name == "label_studio_token" and os.environ.get("LABEL_STUDIO_API_KEY"):
            return os.environ["LABEL_STUDIO_API_KEY"]
        path = self.folder / SECRETS_FILE
        value = json.loads(path.read_text()).get(name) if path.exists() else None
        if not value:
            hint = "$LABEL_STUDIO_API_KEY or `campaign init`" if name == "label_studio_token" else str(path)
            raise InputError(f"secret {name}", f"a value from {hint}", "none")
        return value

    def save_secrets(self, values: dict[str, str]) -> None:
        """Adds to the secrets, in a file only its owner can read."""
        path = self.folder / SECRETS_FILE
        old = json.loads(path.read_text()) if path.exists() else {}

        def write(partial: Path) -> None:
            partial.touch(mode=0o600)
            partial.write_text(json.dumps(old | values, indent=2) + "\n")

        write_whole(path, write)

    def log(self, text: str) -> None:
        """Adds a line to the campaign's log."""
        with self.session() as session:
            session.add(m.Event(text=text))

    def events(self) -> list[m.Event]:
        """The campaign's log, oldest first."""
        with self.session() as session:
            return list(session.scalars(select(m.Event).order_by(m.Event.id)))

    # Images and classes

    def images(self, split: Split | None = None) -> list[ImageRecord]:
        """Images of a split, or all, by id. Their ids are the campaign's own."""
        with self.session() as session:
            query = select(m.Image).order_by(m.Image.id)
            rows = session.scalars(query if split is None else query.where(m.Image.split == split))
            return [ImageRecord(r.id, r.file_name, r.width, r.height, Path(r.path)) for r in rows]

    def image_rows(self, split: Split | None = None) -> list[m.Image]:
        """Rows of the images, with the ids of the files and of the source project's tasks."""
        with self.session() as session:
            query = select(m.Image).order_by(m.Image.id)
            return list(session.scalars(query if split is None else query.where(m.Image.split == split)))

    def image(self, image_id: int) -> ImageRecord:
        """One image. Raises KeyError for an unknown id."""
        with self.session() as session:
            row = session.get(m.Image, image_id)
            if row is None:
                raise KeyError(image_id)
            return ImageRecord(row.id, row.file_name, row.width, row.height, Path(row.path))

    def classes(self) -> dict[int, str]:
        """{category id: name}, by id."""
        with self.session() as session:
            return {r.id: r.name for r in session.scalars(select(m.ClassName).order_by(m.ClassName.id))}

    def annotated(self, split: Split) -> CocoDataset:
        """The `labelled` or `heldout` data set, with the campaign's image ids; empty where it has no images."""
        images = self.images(split)
        data = CocoDataset(images, self.classes())
        path = self.folder / f"{split}.json"
        if images and path.exists():
            # File names may repeat between folders, so images keep the paths in the database.
            data.annotations = CocoDataset.load_annotations(path, images, data.classes)
        return data

    # Rounds

    def rounds(self) -> list[m.Round]:
        """All rounds, by number."""
        with self.session() as session:
            return list(session.scalars(select(m.Round).order_by(m.Round.number)))

    def round(self) -> m.Round | None:
        """The newest round, or None."""
        rows = self.rounds()
        return rows[-1] if rows else None

    def start_round(self, number: int, stage: str) -> None:
        """Adds a round where it is not there."""
        with self.session() as session:
            if session.get(m.Round, number) is None:
                session.add(m.Round(number=number, stage=stage, metrics={}))

    def update_round(self, number: int, metrics: dict[str, Any] | None = None, **values: Any) -> None:
        """Sets columns of a round; `metrics` are added to those it has."""
        with self.session() as session:
            row = session.get_one(m.Round, number)
            for name, value in values.items():
                setattr(row, name, value)
            if metrics:
                row.metrics = row.metrics | metrics

    def end_round(self, number: int, metrics: dict[str, Any], follow: bool) -> None:
        """Ends a round and, with `follow`, starts the next: both or neither."""
        with self.session() as session:
            row = session.get_one(m.Round, number)
            row.stage, row.ended_at, row.metrics = "done", m.now(), row.metrics | metrics
            if follow and session.get(m.Round, number + 1) is None:
                session.add(m.Round(number=number + 1, stage="train", metrics={}))

    def round_folder(self, number: int) -> Path:
        """Where a round's files lie."""
        return self.folder / "rounds" / f"{number:03d}"

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

        Raises KeyError for an id that no shard holds.
        """
        ids = np.asarray(mask_ids, np.int64)
        parts: list[Predictions] = []
        places: list[np.ndarray] = []
        for place in np.unique(ids >> 20):
            path, _ = self.place(int(place) << 20)
            here = np.flatnonzero(ids >> 20 == place)
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

    def save_tree(
        self, round_number: int, class_id: int, tree: Tree | None, mask_ids: np.ndarray, known: int, thresholds: dict
    ) -> None:
        """Stores a class's tree; `known` masks were left out of it, the dataset having them already."""
        folder = self.tree_folder(round_number, class_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "mask_ids.npy", lambda p: np.save(p, np.asarray(mask_ids, np.int64)))
        if tree is not None:
            tree.save(folder)
        with self.session() as session:
            session.merge(
                m.ClassTree(
                    round=round_number, class_id=class_id, masks=len(mask_ids), known=known,
                    thresholds=thresholds, searched=tree is None,
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

    def replace_decisions(self, round_number: int, class_id: int, rows: Iterable[dict[str, Any]]) -> None:
        """Makes `rows` the decisions of a class. A decision that stays as it was keeps its time."""
        fresh = {r["cluster"]: r for r in rows}
        key = (m.Decision.round == round_number, m.Decision.class_id == class_id)
        with self.session() as session:
            for old in session.scalars(select(m.Decision).where(*key)):
                row = fresh.get(old.cluster)
                if row is None:
                    session.delete(old)
                elif any(getattr(old, name) != value for name, value in row.items()):
                    for name, value in row.items():
                        setattr(old, name, value)
                    old.decided_at = m.now()
                fresh.pop(old.cluster, None)
            session.add_all(m.Decision(round=round_number, class_id=class_id, **row) for row in fresh.values())

    def decisions(self, round_number: int | None = None, class_id: int | None = None) -> list[m.Decision]:
        """Decisions by round, class and time."""
        query = select(m.Decision).order_by(m.Decision.round, m.Decision.class_id, m.Decision.decided_at)
        if round_number is not None:
            query = query.where(m.Decision.round == round_number)
        if class_id is not None:
            query = query.where(m.Decision.class_id == class_id)
        with self.session() as session:
            return list(session.scalars(query))

    # Questions and answers

    def add_page(
        self,
        key: str,
        round_number: int,
        class_id: int,
        questions: Sequence[tuple[int, int | None]],
        kind: str = "verify",
        gold: Mapping[int, str] | None = None,
    ) -> None:
        """Stores a page with its (mask id, cluster) questions, once; `gold` are the known verdicts of some."""
        with self.session() as session:
            if session.get(m.Page, key) is None:
                session.add(m.Page(key=key, round=round_number, class_id=class_id, kind=kind))
                session.flush()
                known = gold or {}
                session.add_all(m.Question(page_key=key, mask_id=i, cluster=c, gold=known.get(i)) for i, c in questions)

    def pages(self, published: bool | None = None, round_number: int | None = None) -> list[m.Page]:
        """Pages by time; published ones, unpublished ones, or both."""
        query = select(m.Page).order_by(m.Page.created_at, m.Page.key)
        if published is not None:
            query = query.where(m.Page.task_id.is_not(None) if published else m.Page.task_id.is_(None))
        if round_number is not None:
            query = query.where(m.Page.round == round_number)
        with self.session() as session:
            return list(session.scalars(query))

    def newest_task(self) -> int:
        """The highest id of a task that a page of the verification project is known to have; 0 before the first."""
        with self.session() as session:
            return session.scalar(select(func.max(m.Page.task_id)).where(m.Page.kind != QUALIFY)) or 0

    def mark_published(self, tasks: dict[str, int]) -> None:
        """Notes which task of Label Studio holds which page."""
        with self.session() as session:
            for key, task in tasks.items():
                session.execute(update(m.Page).where(m.Page.key == key).values(task_id=task))

    def unpublish(self, keys: Iterable[str]) -> None:
        """Forgets which tasks hold these pages, so that they are published again."""
        with self.session() as session:
            for key in keys:
                session.execute(update(m.Page).where(m.Page.key == key).values(task_id=None))

    def questions(
        self, round_number: int | None = None, kind: str | None = None, gold: bool = False
    ) -> list[tuple[m.Question, m.Page]]:
        """Questions with their pages, by page; with `gold` also the gold hidden among them."""
        query = select(m.Question, m.Page).join(m.Page).order_by(m.Page.created_at, m.Page.key, m.Question.mask_id)
        if not gold:
            query = query.where(m.Question.gold.is_(None))
        if round_number is not None:
            query = query.where(m.Page.round == round_number)
        if kind is not None:
            query = query.where(m.Page.kind == kind)
        with self.session() as session:
            return [(q, p) for q, p in session.execute(query)]

    def count_questions(self, kind: str | None = None) -> int:
        """How many questions were asked so far, without gold."""
        query = select(func.count()).select_from(m.Question).join(m.Page).where(m.Question.gold.is_(None))
        with self.session() as session:
            return session.scalar(query if kind is None else query.where(m.Page.kind == kind)) or 0

    def add_answers(self, rows: Iterable[dict[str, Any]]) -> int:
        """Adds facts that are not there yet; gives how many were new."""
        new = 0
        with self.session() as session:
            for row in rows:
                same = select(m.Answer.id).filter_by(
                    annotation_id=row["annotation_id"], mask_id=row["mask_id"],
                    answered_at=row["answered_at"], verdict=row["verdict"],
                )  # fmt: skip
                if session.scalar(same) is None:
                    session.add(m.Answer(**row))
                    new += 1
        return new

    def answers(self, page_keys: Iterable[str] | None = None) -> list[m.Answer]:
        """All facts, in the order they were read, or those of some pages."""
        query = select(m.Answer).order_by(m.Answer.id)
        with self.session() as session:
            if page_keys is None:
                return list(session.scalars(query))
            keys, found = list(page_keys), []
            for start in range(0, len(keys), 500):
                found += session.scalars(query.where(m.Answer.page_key.in_(keys[start : start + 500])))
            return sorted(found, key=lambda a: a.id)

    def forget_decisions(self) -> None:
        """Drops every decision: they are derived, and `campaign replay` makes them again from the answers."""
        with self.session() as session:
            session.execute(delete(m.Decision))

    def save_json(self, name: str, value: Any) -> Path:
        """Writes a JSON file in the folder, whole."""
        write_json(self.folder / name, value)
        return self.folder / name


def _common_classes(splits: dict[Split, CocoDataset]) -> dict[int, str]:
    if "pool" not in splits or not splits["pool"].images:
        raise InputError("pool", "at least one image", "none")
    classes = next(iter(splits.values())).classes
    for split, data in splits.items():
        if data.classes != classes:
            raise InputError(f"{split} classes", str(classes), data.classes)
    return dict(sorted(classes.items()))


def _check_disjoint(splits: dict[Split, CocoDataset]) -> None:
    seen: dict[Path, Split] = {}
    for split, data in splits.items():
        for image in data.images:
            path = Path(image.path).resolve()
            if (other := seen.setdefault(path, split)) != split:
                raise InputError(image.file_name, "an image in one split only", f"it in {other} and {split}")


def _renumber(data: CocoDataset, ids: dict[int, int], classes: dict[int, str]) -> CocoDataset:
    images = [replace(i, id=ids[i.id]) for i in data.images]
    annotations = [replace(a, id=n, image_id=ids[a.image_id]) for n, a in enumerate(data.annotations, 1)]
    return CocoDataset(images, classes, annotations)


def _clear(folder: Path, remove: bool) -> None:
    """Takes back what `create` wrote. It only ever starts in an empty folder, so all in it is its own."""
    if remove:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir() if folder.is_dir() else ():
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
