"""The whole check, line by line: this machine, the services, Label Studio, the ways between it and us, the images."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign.check.lines import Line, ok, unknown, wrong
from campaign.check.machine import machine
from campaign.check.pictures import pictures
from campaign.check.reach import reach
from campaign.check.server import label_studio
from campaign.check.services import services
from campaign.label_studio.client import Client
from campaign.settings import PageSettings
from campaign.store import Store
from campaign.store.places import place_of
from ml_backend.errors import InputError


@dataclass(frozen=True)
class Subject:
    """What is checked: a campaign's folder, or what one is to be started with.

    url, token, project: of Label Studio. public_url: `page.public_url`. hooks: whether a webhook is tried, for which a
    project is made and deleted. Of a campaign what is None is taken from its settings.
    """

    folder: str | Path | None = None
    url: str | None = None
    token: str | None = None
    project: int | None = None
    public_url: str | None = None
    hooks: bool = True


def examine(subject: Subject) -> Iterator[Line]:
    """A line for each thing, as it is found out. Nothing is raised: what cannot be looked at is wrong or unknown."""
    folder = Path.cwd() if subject.folder is None else place_of(subject.folder).folder
    store: Store | None = None
    if subject.folder is not None:
        try:
            store = Store.open(subject.folder, read_only=True)
        except InputError as error:
            yield wrong("campaign", error, "see what it names; campaign status brings an older database up to date")
        else:
            yield ok("campaign", f"{store.settings.name} in {store.place}")
    yield from machine(folder, store.settings.detector if store else None)
    yield from services(folder, store)
    settings = store.settings if store else None
    url = subject.url or (settings.label_studio.url if settings else None)
    token, client, missing = _token(subject, store), None, "give --label-studio and its token"
    if url is None:
        yield unknown("Label Studio", "none named", "give --label-studio, or set label_studio.url")
    else:
        lines = list(label_studio(url, token))
        yield from lines
        if token and lines[-1].thing == "token" and lines[-1].state == "ok":
            client = Client(url, token)
        elif lines[-1].thing == "Label Studio":
            missing = "Label Studio does not answer: see what is said of it"
        else:
            missing = "Label Studio takes no token: see what is said of it"
    public_url = subject.public_url or (settings.page if settings else PageSettings()).public_url
    yield from reach(public_url, url, client, store, subject.hooks, missing)
    project = subject.project or (settings.label_studio.source_project if settings else None)
    if client is not None and project is not None:
        yield from pictures(client, project)
    elif settings is None or settings.label_studio.source_project is not None:
        said = "not looked at" if project else "no source project to look at"
        yield unknown("images", said, missing if project else f"{missing}, and --source-project")


def _token(subject: Subject, store: Store | None) -> str | None:
    if subject.token or store is None:
        return subject.token
    try:
        return store.secret("label_studio_token")
    except InputError:
        return None
