"""One campaign's state: settings, images, rounds, predictions, trees, decisions, pages and answers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from campaign.settings import SPLITS, CampaignSettings, JobSettings, Split, parse_settings
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
from campaign.store.locks import campaign_lock, database_lock, file_lock
from campaign.store.masks import Masks
from campaign.store.objects import Files, Objects
from campaign.store.pages import Pages, Questions
from campaign.store.places import (
    SECRETS_FILE,
    SETTINGS_FILE,
    Place,
    Prefix,
    cache_limit,
    is_being_made,
    place_of,
    taken,
)
from campaign.store.rounds import Rounds
from campaign.store.sessions import Sessions
from campaign.store.signatures import SignatureFiles
from campaign.store.trees import Datasets, Trees
from campaign.store.values import Key, Values
from campaign.store.views import OwnViews, Views
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset
from ml_backend.masks.coco_stream import ImageStream
from ml_backend.masks.fetched import place_of as image_place

FORMAT = 1
MADE_SECRETS = ("crop_key", "webhook_secret", "backend_password", "lead_password")
SECRET_NAMES = (*MADE_SECRETS, "label_studio_token", *ADDRESSES)


class Store:
    """An open campaign.

    `Store.create` makes one, whole or not at all; `Store.open` opens it. Each part holds what it is named after: rows
    go in and out as plain values or as rows of `campaign.store.models`, masks as `Predictions`.

    Attributes:
        place: the folder or the URL at which the campaign lives, as commands, jobs and messages name it.
        folder: where its files are on this machine; of a campaign at a URL those that `files` has fetched.
    """

    def __init__(self, place: Place, settings: CampaignSettings, key: str, read_only: bool = False):
        self._place, self.settings, self.key = place, settings, key
        self.place, folder = place.name, place.folder
        self.folder = folder
        place.prepare()
        self.engine = open_database(self.address("database_url"), folder, read_only)
        self.session = Sessions(self.engine, f"database of {self.place}")
        self.files: Files = Files(self.session)
        if isinstance(place, Prefix):
            self.files = Objects(self.session, folder, place.bucket, cache_limit())
        self.values = Values(self.session)
        self.images = Images(self.session, self.files, folder)
        self.rounds = Rounds(self.session, folder)
        self.drawings = Drawings(self.session)
        self.signatures = SignatureFiles(self.files, folder)
        self.clicks = Clicks(self.session)
        self.masks = Masks(self.session, self.files, self.rounds, self.drawings)
        self.bundles = Bundles(self.session, self.files, self.rounds, self.masks)
        self.trees = Trees(self.session, self.files, self.rounds)
        self.datasets = Datasets(self.files, self.rounds)
        self.pages = Pages(self.session)
        self.questions = Questions(self.session)
        self.answers = Answers(self.session)
        self.aside = Aside(self.session)
        self.decisions = Decisions(self.session)
        self.overrides = Overrides(self.session)
        self.course = Points(self.session)
        self.views = OwnViews(self.session) if read_only else Views(self.session, self.files, folder)
        # What the layers above keep with an open campaign, by its type; it goes when the campaign does.
        self.companions: dict[type, Any] = {}
        known = self.values.get(Key.CAMPAIGN)
        if known is not None and known.get("key") != key:
            thing = f"database of {self.place}"
            raise InputError(thing, "a database of its own", f"one of campaign {known.get('name')!r}")

    def set_label_studio(self, url: str) -> None:
        """From now on Label Studio has this address, also for processes that open the campaign afterwards."""
        content = self._place.read(SETTINGS_FILE) or {}
        content["settings"].setdefault("label_studio", {})["url"] = url
        self._place.write(SETTINGS_FILE, content)
        self.settings.label_studio.url = url

    # Opening and creating

    @classmethod
    def open(cls, place: str | Path, read_only: bool = False) -> Store:
        """The campaign in a folder or at a URL. Raises InputError where there is none, or its settings are bad.

        With `read_only` neither its folder nor its database is written to: what would write raises InputError.
        """
        where = place_of(place)
        thing = f"{where.name}/{SETTINGS_FILE}"
        content = where.read(SETTINGS_FILE)
        if content is None:
            expected = "the URL of a campaign" if isinstance(where, Prefix) else "a campaign folder"
            raise InputError(where.name, f"{expected} (see `campaign init`)", f"no {SETTINGS_FILE} in it")
        if is_being_made(content):
            raise InputError(where.name, "a campaign", taken(content))
        if content.get("format") != FORMAT:
            raise InputError(thing, f"format {FORMAT}", content.get("format"))
        settings = parse_settings(_with_policy(content.get("settings", {})), thing)
        settings.jobs, secret = parted(settings.jobs)
        if secret and not read_only:  # of a campaign made before passwords had a place of their own
            _move_passwords(where, content, secret)
        check_shared(where, settings.jobs)
        store = cls(where, settings, str(content.get("key")), read_only)
        if isinstance(where, Prefix) and store.values.get(Key.CAMPAIGN) is None:
            raise InputError(f"database of {where.name}", "the database of this campaign", "one of no campaign")
        return store

    @classmethod
    def create(
        cls,
        place: str | Path,
        settings: CampaignSettings,
        splits: Mapping[Split, CocoDataset | ImageStream],
        are_tasks: bool = False,
        secret_values: dict[str, str] | None = None,
    ) -> Store:
        """A new campaign in a folder or at a URL, over the images of `splits`; annotations of the pool are left out.

        A pool may be a stream of images: it is read once, and stored in portions. With `are_tasks` the images' ids are
        those of the source project's tasks. At a URL, where all machines are to reach them, images of this machine are
        copied below it; those in an object store stay where they are.

        Raises InputError where the place holds a campaign already or files of something else, the splits' classes
        differ, or an image file is in two splits. Where it raises, the place is as it was.
        """
        where, key = place_of(place), secrets.token_hex(6)
        classes = _common_classes(splits)
        check_shared(where, settings.jobs)
        with where.claimed(key):
            return cls._fill(where, key, settings, splits, classes, are_tasks, secret_values or {})

    @classmethod
    def _fill(
        cls, place: Place, key: str, settings: CampaignSettings, splits: Mapping[Split, CocoDataset | ImageStream],
        classes: dict[int, str], are_tasks: bool, secret_values: dict[str, str],
    ) -> Store:  # fmt: skip
        jobs, addresses = parted(settings.jobs)
        settings = settings.model_copy(update={"jobs": jobs})
        made = {name: secrets.token_urlsafe(24) for name in MADE_SECRETS}
        place.write(SECRETS_FILE, made | addresses | secret_values)
        store = cls(place, settings, key)
        if store.values.get(Key.CAMPAIGN) is not None:
            raise InputError(f"database of {place.name}", "an empty database", "one that a campaign uses")
        written: list[Path] = []
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
                    written.append(store.folder / f"{split}.json")
                    _renumber(data, ids, classes).save(written[-1])
                    elsewhere |= {image_place(image.path): split for image in data.images}
                elif number < first:
                    raise InputError("pool", "at least one image", "none")
                else:
                    store.images.save_batches(session, [Batch(first, number + 1 - first)])
            written += store.images.save_fields(splits["pool"].fields)
            with store.files.published(*written, within=session):
                session.add(m.Meta(name="campaign", value={"key": key, "name": settings.name}))
        place.write(SETTINGS_FILE, {"format": FORMAT, "key": key, "settings": settings.model_dump(mode="json")})
        return store

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the campaign's lock: one process at a time reads answers and decides."""
        with campaign_lock(self.engine, self.folder):
            yield

    @contextmanager
    def step_locked(self, job_id: str) -> Iterator[None]:
        """Holds the lock of one step, by the id of its job; on PostgreSQL it spans machines."""
        folder = self.folder / "locks"
        folder.mkdir(exist_ok=True)
        with file_lock(folder / f"{job_id}.lock"), database_lock(self.engine, job_id):
            yield

    @contextmanager
    def run_locked(self, waits: Callable[[str], None], killed: Callable[[str], None]) -> Iterator[None]:
        """Holds the lock of the process that runs the campaign; at a URL it spans machines. See `file_lock`."""
        with ExitStack() as held:
            held.enter_context(file_lock(self.folder / "run.lock", waits=waits, killed=killed))
            if isinstance(self._place, Prefix):
                held.enter_context(database_lock(self.engine, "run", waits))
            yield

    # Secrets and the log

    def secret(self, name: str) -> str:
        """A secret of this campaign; one in the folder $CAMPAIGN_SECRETS first, and $LABEL_STUDIO_API_KEY before it.

        Raises InputError where it is not known.
        """
        if name == "label_studio_token" and os.environ.get("LABEL_STUDIO_API_KEY"):
            return os.environ["LABEL_STUDIO_API_KEY"]
        value = from_folder(name) or self._place.secrets().get(name)
        if not value:
            place = f"{self.place}/{SECRETS_FILE}"
            hint = "$LABEL_STUDIO_API_KEY or `campaign init`" if name == "label_studio_token" else place
            raise InputError(f"secret {name}", f"a value from {hint}", "none")
        return value

    def save_secrets(self, values: dict[str, str]) -> None:
        """Adds to the secrets. Only its owner can read them in a folder, and at a URL whoever reads its objects."""
        self._place.write(SECRETS_FILE, (self._place.read(SECRETS_FILE) or {}) | values)

    def address(self, name: str) -> str | None:
        """The address `jobs.database_url` or `jobs.redis_url` with its password, None where none is set.

        It is for whoever connects; what is shown, logged or passed on is the setting.
        """
        return whole_address(name, self.settings.jobs, self._place.secrets())

    # Checkpoints and what is made for people

    def keep_checkpoint(self, output: Path, checkpoint: Path) -> str:
        """Publishes what a training left in its folder; returns what the row of its round is to say of its checkpoint.

        At a URL that is its path below the campaign's folder, which each machine has elsewhere.
        """
        if not isinstance(self._place, Prefix) or not checkpoint.is_relative_to(self.folder):
            return str(checkpoint)
        self.files.publish(*(path for path in output.rglob("*") if path.is_file() and not path.name.startswith(".")))
        return checkpoint.relative_to(self.folder).as_posix()

    def checkpoint(self, row: m.Round) -> Path:
        """Where the checkpoint of a round is, with what lies beside it."""
        path = self.folder / str(row.checkpoint)
        if path.is_relative_to(self.folder):
            self.files.folder(path.parent)
        return path

    @property
    def desk(self) -> Path:
        """Where people find what is made for them: the campaign's folder, and of one at a URL the current folder."""
        return Path.cwd() if isinstance(self._place, Prefix) else self.folder

    def documents(self) -> tuple[dict[str, Any], dict[str, str]]:
        """(the settings as they are kept, the secrets), for a backup."""
        return self._place.read(SETTINGS_FILE) or {}, self._place.read(SECRETS_FILE) or {}

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


def check_shared(place: Place, jobs: JobSettings) -> None:
    """Raises InputError where a campaign at a URL has no database or no queues that all machines reach."""
    if not isinstance(place, Prefix):
        return
    for name, kind in (("database_url", "PostgreSQL"), ("redis_url", "Redis")):
        address = getattr(jobs, name)
        if address is None or address.startswith("sqlite"):
            got = "none" if address is None else address
            raise InputError(f"jobs.{name}", f"the address of a {kind} that all machines of {place.name} reach", got)


def _move_passwords(place: Place, content: dict[str, Any], addresses: dict[str, str]) -> None:
    """Takes the passwords of addresses out of the settings' file, once they are kept where only the owner reads."""
    with file_lock(place.folder / ".secrets.lock"):
        place.write(SECRETS_FILE, (place.read(SECRETS_FILE) or {}) | addresses)
        jobs, _ = parted(CampaignSettings.model_validate(content["settings"]).jobs)
        public = {name: getattr(jobs, name) for name in addresses}
        content["settings"]["jobs"] |= public
        place.write(SETTINGS_FILE, content)


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
