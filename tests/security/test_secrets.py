"""Passwords of databases and queues: in no file that others read, in no argument, in nothing that is printed."""

import json
import stat

import pytest

from campaign.cli.arguments import settings_from
from campaign.jobs.broker import connect
from campaign.settings import CampaignSettings, parse_settings
from campaign.store import Store
from campaign.store.addresses import without_password
from ml_backend.errors import InputError
from tests.campaign.builders import verify_store

REDIS = "redis://worker:s3cr3t@127.0.0.1:1/0"


def settings_text(store) -> str:
    return (store.folder / "campaign.json").read_text()


def with_redis(folder, url=REDIS):
    """A campaign as the version before wrote it: the whole address among the settings."""
    store = verify_store(folder)
    content = json.loads(settings_text(store))
    content["settings"]["jobs"]["redis_url"] = url
    (store.folder / "campaign.json").write_text(json.dumps(content))
    return store.folder


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("redis://:pw@h:6379/0", "redis://h:6379/0"),
        ("redis://u:p/w@h/0", "redis://u@h/0"),
        ("redis://h/0?password=pw&db=1", "redis://h/0?db=1"),
        ("unix:///r.sock?password=pw", "unix:///r.sock"),
        ("postgresql+psycopg://c:p:w@h/d?sslmode=require", "postgresql+psycopg://c@h/d?sslmode=require"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("unix:///r.sock?db=1", "unix:///r.sock?db=1"),
    ],
)
def test_what_of_an_address_all_may_read(url, public):
    assert without_password(url) == public == without_password(public)


def test_passwords_of_an_older_campaign_move_out_of_its_settings(tmp_path):
    folder = with_redis(tmp_path / "a")
    store = Store.open(folder)
    assert "s3cr3t" not in settings_text(store) + repr(store.settings)
    assert store.address("redis_url") == REDIS
    assert stat.S_IMODE((folder / "secrets.json").stat().st_mode) == 0o600
    assert Store.open(folder).address("redis_url") == REDIS


def test_a_new_campaign_keeps_them_apart(tmp_path):
    donor = verify_store(tmp_path / "a")
    database = f"sqlite:///{tmp_path}/own.db?password=s3cr3t"
    values = {"name": "x", "jobs": {"redis_url": REDIS, "database_url": f"sqlite:///{tmp_path}/own.db"}}
    assert without_password(database) == values["jobs"]["database_url"]
    from ml_backend.masks.coco import CocoDataset, ImageRecord

    image = donor.images.records("pool")[0]
    data = {"pool": CocoDataset([ImageRecord(1, "a.png", 400, 400, image.path)], {1: "a"})}
    store = Store.create(tmp_path / "new", CampaignSettings(**values), data)
    assert "s3cr3t" not in settings_text(store) and "redis://worker@127.0.0.1:1/0" in settings_text(store)
    assert store.address("redis_url") == REDIS
    mode = stat.S_IMODE((store.folder / "secrets.json").stat().st_mode)
    assert mode == 0o600


def test_the_environment_and_mounted_files_go_first(tmp_path, monkeypatch):
    store = Store.open(with_redis(tmp_path / "a"))
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "redis_url").write_text("redis://:file@h/0\n")
    (tmp_path / "secrets" / "webhook_secret").write_text("of-a-file\n")
    monkeypatch.setenv("CAMPAIGN_SECRETS", str(tmp_path / "secrets"))
    assert store.address("redis_url") == "redis://:file@h/0" and store.secret("webhook_secret") == "of-a-file"
    monkeypatch.setenv("CAMPAIGN_REDIS_URL", "redis://:env@h/0")
    assert store.address("redis_url") == "redis://:env@h/0"
    # Of a campaign with a Redis of its own, a shell's variable says nothing.
    assert verify_store(tmp_path / "b").address("redis_url") is None


def test_no_error_names_a_password(tmp_path):
    store = Store.open(with_redis(tmp_path / "a"))
    with pytest.raises(InputError) as failed:
        connect(store)
    assert "s3cr3t" not in str(failed.value) and "127.0.0.1:1" in str(failed.value)
    with pytest.raises(InputError) as failed:
        parse_settings({"name": "a", "jobs": {"redis_urI": REDIS}}, "--set")
    assert "s3cr3t" not in str(failed.value)


def test_a_password_is_no_argument():
    with pytest.raises(InputError, match=r"CAMPAIGN_REDIS_URL") as failed:
        settings_from([f"jobs.redis_url={REDIS}"])
    assert "s3cr3t" not in str(failed.value)
    assert settings_from(["jobs.redis_url=redis://h/0"]) == {"jobs": {"redis_url": "redis://h/0"}}
