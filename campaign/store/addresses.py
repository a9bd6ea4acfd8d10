"""Addresses of the database and the queues: what of them may be read by all, and where their passwords are."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from campaign.settings import JobSettings
from ml_backend.errors import InputError

DATABASE = "CAMPAIGN_DATABASE_URL"
REDIS = "CAMPAIGN_REDIS_URL"
# Settings whose addresses may hold a password, and the environment variables that go before them.
ADDRESSES = {"database_url": DATABASE, "redis_url": REDIS}
# A folder of files, each named after the secret that it holds, as container engines mount them.
SECRETS_FOLDER = "CAMPAIGN_SECRETS"
_IN_QUERY = ("password", "sslpassword")
# As SQLAlchemy reads it, which takes a password that holds slashes.
_PASSWORD = re.compile(r"^([\w+.-]+://)([^:/@\s]*):[^@]*@")


def without_password(url: str) -> str:
    """The address without what nobody else may read.

    >>> without_password("postgresql://me:secret@host/db?sslmode=require&password=secret")
    'postgresql://me@host/db?sslmode=require'
    """
    public = _PASSWORD.sub(r"\1\2@", url).replace("://@", "://")
    base, mark, query = public.partition("?")
    pairs = [pair for pair in query.split("&") if pair.partition("=")[0].lower() not in _IN_QUERY]
    return base + (mark + "&".join(pairs) if pairs != [""] and pairs else "")


def has_password(url: str) -> bool:
    """Whether an address holds a password."""
    return without_password(url) != url


def given_address(name: str) -> str | None:
    """The address by the environment or $CAMPAIGN_SECRETS, None where they name none."""
    given = {"database_url": os.environ.get(DATABASE), "redis_url": os.environ.get(REDIS)}
    return given[name] or from_folder(name)


def from_folder(name: str) -> str | None:
    """The secret of this name in the folder $CAMPAIGN_SECRETS, None where it holds none."""
    folder = os.environ.get(SECRETS_FOLDER)
    path = Path(folder, name) if folder else None
    if path is None or not path.is_file():
        return None
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "a file with a secret", type(error).__name__) from None


def whole_address(name: str, jobs: JobSettings, secrets: Mapping[str, str]) -> str | None:
    """The address with its password: of the environment, of $CAMPAIGN_SECRETS, of `secrets`, or as set.

    None where none is set: a shell that has another campaign's address changes nothing for this one.
    """
    public: str | None = getattr(jobs, name)
    if public is None:
        return None
    return given_address(name) or secrets.get(name) or public


def parted(jobs: JobSettings) -> tuple[JobSettings, dict[str, str]]:
    """(settings that all may read, {name: whole address}) of settings that may hold passwords."""
    public = {name: without_password(url) for name in ADDRESSES if (url := getattr(jobs, name))}
    secret = {name: getattr(jobs, name) for name, url in public.items() if url != getattr(jobs, name)}
    return jobs.model_copy(update={name: public[name] for name in secret}), secret
