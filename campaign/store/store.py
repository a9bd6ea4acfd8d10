"""One campaign's state: settings, images, rounds, predictions, trees, decisions, pages and answers."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import func, select

from campaign.settings import SPLITS, CampaignSettings, Split, parse_settings
from campaign.store import models as m
from campaign.store.addresses import ADDRESSES, from_folder, parted, whole_address
from campaign.store.answers import Answers
from campaign.store.aside import Aside
from campaign.store.bundles import Bundles
from campaign.store.clicks import Clicks
from campaign.store.course import Points
from campaign.store.database import open_database
from campaign.store.decisions import Decisions, Overrides
from campaign.store.drawings import Drawings
from campaign.store.images import Batch, Images, rows_of
from campaign.store.locks import campaign_lock, file_lock
from campaign.store.masks import Masks
from campaign.store.pages import Pages, Questions
from campaign.store.rounds import Rounds
from campaign.store.sessions import Sessions
from campaign.store.signatures import SignatureFiles
from campaign.store.trees import Datasets, Trees
from campaign.store.values import Key, Values
from campaign.store.views import Views
from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.coco_stream import ImageStream

FORMAT = 1
SETTINGS_FILE = "campaign.json"
SECRETS_FILE = "secrets.json"
MADE_SECRETS = ("crop_key", "webhook_secret", "backend_password", "lead_password")
SECRET_NAMES = (*MADE_SECRETS, "label_studio_token", *ADDRESSES)


class Store:
    """An open campaign folder.

    `Store.create` makes one, whole or not at all; `Store.open` opens it. Each part holds what it is named after: rows
    go in and out as plain values or as rows of `campaign.store.models`, masks as `Predictions`.
    """

    def __init__(self, folder: Path, settings: CampaignSettings, key: str, read_only: bool = False):
        self.folder, self.settings, self.key = folder, settings, key
        self.engine = open_database(self.address("database_url"), folder, read_only)
        # Whoever only reads works views out for itself and keeps them as long as the store is open.
        self._scratch = TemporaryDirectory(prefix="campaign-views-") if read_only else None
        self.session = Sessions(self.engine, f"database of {folder}")
        self.values = Values(self.session)
        self.images = Images(self.session, folder)
        self.rounds = Rounds(self.session, folder)
        self.drawings = Drawings(self.session)
        self.signatures = SignatureFiles(folder)
        self.clicks = Clicks(self.session)
        self.masks = Masks(self.session, self.rounds, self.drawings)
        self.bundles = Bundles(self.session, self.rounds, self.masks)
        self.trees = Trees(self.session, self.rounds)
        self.datasets = Datasets(self.rounds)
        self.pages = Pages(self.session)
        self.questions = Questions(self.session)
        self.answers = Answers(self.session)
        self.aside = Aside(self.session)
        self.decisions = Decisions(self.session)
        self.overrides = Overrides(self.session)
        self.course = Points(self.session)
        self.views = Views(self.session, Path(self._scratch.name) if self._scratch else folder)
        # What the layers above keep with an open campaign, by its type; it goes when the campaign does.
        self.companions: dict[type, Any] = {}
        known = self.values.get(Key.CAMPAIGN)
        if known is not None and known.get("key") != key:
            raise InputError(f"database of {folder}", "a database of its own", f"one of campaign {known.get('name')!r}")

    def set_label_studio(self, url: str) -> None:
        """From now on Label Studio has this address, also for processes that open the campaign afterwards."""
        content = json.loads((self.folder / SETTINGS_FILE).read_text())
        content["settings"].setdefault("label_studio", {})["url"] = url
        _save_settings(self.folder, content)
        self.settings.label_studio.url = url

    # Opening and creating

    @classmethod
    def open(cls, folder: str | Path, read_only: bool = False) -> Store:
        """The campaign in `folder`. Raises InputError where there is none, or its settings are bad.

        With `read_only` neither its folder nor its database is written to: what would write raises InputError.
        """
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
        settings = parse_settings(_with_policy(content.get("settings", {})), path)
        settings.jobs, secret = parted(settings.jobs)
        if secret and not read_only:  # of a campaign made before passwords had a place of their own
            _move_passwords(folder, content, secret)
        return cls(folder, settings, str(content.get("key")), read_only)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        settings: CampaignSettings,
        splits: Mapping[Split, CocoDataset | ImageStream],
        are_tasks: bool = False,
        secret_values: dict[str, str] | None = None,
    ) -> Store:
        """A new campaign in `folder`, over the images of `splits`; annotations of the pool are left out.

        A pool may be a stream of images: it is read once, and stored in portions. With `are_tasks` the images' ids are
        those of the source project's tasks.

        Raises InputError where the folder holds a campaign already or files of something else, the splits' classes
        differ, or an image file is in two splits. Where it raises, the folder is as it was.
        """
        folder = Path(folder).resolve()
        classes = _common_classes(splits)
        fresh = not folder.exists()
        if (folder / SETTINGS_FILE).exists():
            raise InputError(folder, "a folder without a campaign", "one that holds a campaign already")
        if not fresh and any(p.name != ".init.lock" for p in folder.iterdir()):
            raise InputError(folder, "an empty or new folder", "a folder that holds other files")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with file_lock(folder / ".init.lock", wait=False, thing=str(folder)):
                return cls._fill(folder, settings, splits, classes, are_tasks, secret_values or {})
        except BaseException as error:
            _clear(folder, remove=fresh)
            if isinstance(error, OSError):
                raise InputError(folder, "a folder that can be written", error.strerror or str(error)) from None
            raise

    @classmethod
    def _fill(
        cls, folder: Path, settings: CampaignSettings, splits: Mapping[Split, CocoDataset | ImageStream],
        classes: dict[int, str], are_tasks: bool, secret_values: dict[str, str],
    ) -> Store:  # fmt: skip
        key = secrets.token_hex(6)
        jobs, addresses = parted(settings.jobs)
        settings = settings.model_copy(update={"jobs": jobs})
        made = {name: secrets.token_urlsafe(24) for name in MADE_SECRETS}
        save_secrets(folder, made | addresses | secret_values)
        store = cls(folder, settings, key)
        if store.values.get(Key.CAMPAIGN) is not None:
            raise InputError(f"database of {folder}", "an empty database", "one that a campaign uses")
        with store.session() as session:
            session.add_all(m.ClassName(id=i, name=n) for i, n in classes.items())
            number, elsewhere = 0, dict[str, Split]()
            for split in SPLITS:
                if (data := splits.get(split)) is None:
                    continue
                first = number + 1
                number += store.images.add(session, split, rows_of(data), first, elsewhere, are_tasks)
                if isinstance(data, CocoDataset) and split != "pool":
                    ids = {image.id: n for n, image in enumerate(data.images, first)}
                    _renumber(data, ids, classes).save(folder / f"{split}.json")
                    elsewhere |= {str(Path(image.path).resolve()): split for image in data.images}
                elif number < first:
                    raise InputError("pool", "at least one image", "none")
                else:
                    store.images.save_batches(session, [Batch(first, number + 1 - first)])
            store.images.save_fields(splits["pool"].fields)
            session.add(m.Meta(name="campaign", value={"key": key, "name": settings.name}))
        _save_settings(folder, {"format": FORMAT, "key": key, "settings": settings.model_dump(mode="json")})
        return store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the campaign's lock: one process at a time reads answers and decides."""
        with campaign_lock(self.engine, self.folder):
            yield

    @contextmanager
    def step_locked(self, job_id: str) -> Iterator[None]:
        """Holds the lock of one step, by the id of its job."""
        folder = self.folder / "locks"
        folder.mkdir(exist_ok=True)
        with file_lock(folder / f"{job_id}.lock"):
            yield

    # Secrets and the log

    def secret(self, name: str) -> str:
        """A secret of this campaign; one in the folder $CAMPAIGN_SECRETS first, and $LABEL_STUDIO_API_KEY before it.

        Raises InputError where it is not known.
        """
        if name == "label_studio_token" and os.environ.get("LABEL_STUDIO_API_KEY"):
            return os.environ["LABEL_STUDIO_API_KEY"]
        path = self.folder / SECRETS_FILE
        value = from_folder(name) or _secrets(self.folder).get(name)
        if not value:
            hint = "$LABEL_STUDIO_API_KEY or `campaign init`" if name == "label_studio_token" else str(path)
            raise InputError(f"secret {name}", f"a value from {hint}", "none")
        return value

    def save_secrets(self, values: dict[str, str]) -> None:
        """Adds to the secrets, in a file only its owner can read."""
        save_secrets(self.folder, values)

    def address(self, name: str) -> str | None:
        """The address `jobs.database_url` or `jobs.redis_url` with its password, None where none is set.

        It is for whoever connects; what is shown, logged or passed on is the setting.
        """
        return whole_address(name, self.settings.jobs, _secrets(self.folder))

    def log(self, text: str) -> None:
        """Adds a line to the campaign's log."""
        with self.session() as session:
            session.add(m.Event(text=text))

    def events(self, newest: int | None = None) -> list[m.Event]:
        """The campaign's log, oldest first; so many of its newest lines, or all."""
        with self.session() as session:
            return list(session.scalars(select(m.Event).order_by(m.Event.id.desc()).limit(newest)))[::-1]

    def state_mark(self) -> tuple:
        """Something that differs whenever facts, decisions, rounds or notes were added or changed, cheaply.

        Decisions follow from facts, or are saved with the views that they are of, whose files have names of their own.
        """
        with self.session() as session:
            newest = [
                session.scalar(select(func.max(column)))
                for column in (
                    m.Answer.id, m.Drawing.id, m.Override.id, m.SetAside.id, m.Event.id, m.Page.number, m.Page.task_id,
                    m.Point.id,
                )
            ]  # fmt: skip
            counts = [session.scalar(select(func.count(column))) for column in (m.Page.task_id, m.Shard.number)]
            rounds = [(r.number, r.stage, r.ended_at) for r in session.scalars(select(m.Round))]
            notes = [repr(value) for value in session.scalars(select(m.Meta.value))]
            views = [repr(tuple(row)) for row in session.execute(select(m.View.name, m.View.version, m.View.file))]
        return (*newest, *counts, *rounds, *notes, *sorted(views))

    def classes(self) -> dict[int, str]:
        """{category id: name}, by id."""
        return self.images.classes()


def save_secrets(folder: Path, values: dict[str, str]) -> None:
    """Adds to the secrets of the campaign in a folder, in a file only its owner can read."""
    known = _secrets(folder)

    def write(partial: Path) -> None:
        partial.touch(mode=0o600)
        partial.write_text(json.dumps(known | values, indent=2) + "\n")

    write_whole(folder / SECRETS_FILE, write)


def _secrets(folder: Path) -> dict[str, str]:
    path = folder / SECRETS_FILE
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(path, "the secrets of a campaign", type(error).__name__) from None
    if not isinstance(content, dict):
        raise InputError(path, "the secrets of a campaign", type(content).__name__)
    return content


def _move_passwords(folder: Path, content: dict[str, Any], addresses: dict[str, str]) -> None:
    """Takes the passwords of addresses out of the settings' file, once they are kept where only the owner reads."""
    with file_lock(folder / ".secrets.lock"):
        save_secrets(folder, addresses)
        jobs, _ = parted(CampaignSettings.model_validate(content["settings"]).jobs)
        public = {name: getattr(jobs, name) for name in addresses}
        content["settings"]["jobs"] |= public
        _save_settings(folder, content)


def _save_settings(folder: Path, content: dict[str, Any]) -> None:
    write_whole(folder / SETTINGS_FILE, lambda p: p.write_text(json.dumps(content, indent=2) + "\n"))


def _with_policy(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a campaign that goes on: one that names no policy was begun when that meant `adaptive`."""
    search = settings.get("search", {})
    return settings | {"search": {"policy": "adaptive"} | search} if isinstance(search, dict) else settings


def _common_classes(splits: Mapping[Split, CocoDataset | ImageStream]) -> dict[int, str]:
    pool = splits.get("pool")
    if pool is None or (isinstance(pool, CocoDataset) and not pool.images):
        raise InputError("pool", "at least one image", "none")
    classes = next(iter(splits.values())).classes
    for split, data in splits.items():
        if data.classes != classes:
            raise InputError(f"{split} classes", str(classes), data.classes)
    return dict(sorted(classes.items()))


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
