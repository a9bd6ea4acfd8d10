"""A campaign in one file, restored elsewhere, on the same database or another one, to the same end."""

import json
import shutil
import tarfile

import pytest

from campaign.derived.consistency import local_findings
from campaign.derived.dataset import obtained
from campaign.store import Store
from campaign.store.backup import back_up
from campaign.store.restoration import restore
from ml_backend.errors import InputError
from tests.campaign.builders import answer, finish, turn, verify_store

PASSPHRASE = "correct horse"
pytest.importorskip("cryptography")


@pytest.fixture
def begun(tmp_path, database):
    """A campaign with answers and open questions."""
    store = verify_store(tmp_path / "old")
    if (url := database("old")) is not None:
        moved = tmp_path / "moved.tar"
        back_up(store, moved, PASSPHRASE)
        store = restore(moved, tmp_path / "on-postgresql", PASSPHRASE, {"database_url": url})
    answer(store, turn(store)[0])
    store.log("a line")
    return store


@pytest.mark.parametrize(("to", "objects"), [("same", False), ("other", True)])
def test_a_restored_campaign_goes_on_to_the_same_end(begun, tmp_path, database, to, objects, request):
    if to == "other" and begun.engine.dialect.name == "sqlite":
        url = request.getfixturevalue("postgres_server").database("other")
    else:
        url = None if to == "other" else database("new")
    before = [len(begun.pages.rows()), len(begun.answers.rows()), len(begun.events())]
    made = back_up(begun, tmp_path / "backup.tar", PASSPHRASE, objects)
    assert made["rows"]["answer"] == before[1]
    folder = tmp_path / "new"
    if not objects:
        shutil.copytree(begun.folder / "rounds", folder / "rounds")
    store = restore(tmp_path / "backup.tar", folder, PASSPHRASE, {"database_url": url} if url else {})
    assert [len(store.pages.rows()), len(store.answers.rows()), len(store.events())] == before
    assert store.secret("crop_key") == begun.secret("crop_key") and store.key == begun.key
    for one in (begun, store):
        open_ = {p.key for p in one.pages.rows()} - {f.page_key for f in one.answers.rows()}
        for key in sorted(open_):
            answer(one, key)
        finish(one)
    assert obtained(store, 1).mask_id.tolist() == obtained(begun, 1).mask_id.tolist()
    store.engine.dispose()
    assert local_findings(Store.open(folder, read_only=True)) == []


def test_paths_follow_the_folders_they_lie_in(begun, tmp_path):
    begun.rounds.update(1, checkpoint=str(begun.folder / "models" / "001"))
    back_up(begun, tmp_path / "b.tar", PASSPHRASE)
    images = {r.path.rpartition("/")[0] for r in begun.images.rows()}.pop()
    store = restore(tmp_path / "b.tar", tmp_path / "new", PASSPHRASE, {}, {images: "/elsewhere"})
    assert {r.path for r in store.images.rows()} == {"/elsewhere/pool.png"}
    assert store.rounds.get(1).checkpoint == str(tmp_path / "new" / "models" / "001")


def test_secrets_are_nowhere_readable(tmp_path):
    store = verify_store(tmp_path / "old")
    store.save_secrets({"label_studio_token": "t" * 40})
    back_up(store, tmp_path / "b.tar", PASSPHRASE)
    content = (tmp_path / "b.tar").read_bytes()
    known = json.loads((store.folder / "secrets.json").read_text())
    assert all(value.encode() not in content for value in known.values())
    assert (tmp_path / "b.tar").stat().st_mode & 0o077 == 0


def _cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _climbing(path):
    with tarfile.open(path) as archive:
        archive.extractall(path.parent / "x", filter="data")
    manifest = path.parent / "x" / "backup.json"
    content = json.loads(manifest.read_text())
    content["objects"]["../out"] = {"bytes": 1, "sha256": ""}
    manifest.write_text(json.dumps(content))
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "x", ".")
        for file in sorted((path.parent / "x").rglob("*")):
            archive.add(file, str(file.relative_to(path.parent / "x")), recursive=False)


@pytest.mark.parametrize(
    ("break_it", "passphrase", "message"),
    [
        (lambda _: None, "another one", "passphrase: expected the one that the backup was made with"),
        (_cut, PASSPHRASE, "expected a backup of a campaign"),
        (lambda path: path.write_text("no tar"), PASSPHRASE, "expected a backup of a campaign"),
        (_climbing, PASSPHRASE, "expected files of a campaign's folder, got ../out"),
    ],
)
def test_a_bad_backup_is_refused(tmp_path, break_it, passphrase, message):
    store = verify_store(tmp_path / "old")
    back_up(store, tmp_path / "b.tar", PASSPHRASE)
    break_it(tmp_path / "b.tar")
    with pytest.raises(InputError, match=message.replace("(", r"\(")):
        restore(tmp_path / "b.tar", tmp_path / "new", passphrase)
    assert not (tmp_path / "new").exists() and not (tmp_path / "out").exists()


def test_a_database_with_rows_is_left_alone(tmp_path, postgres_server):
    store = verify_store(tmp_path / "old")
    back_up(store, tmp_path / "b.tar", PASSPHRASE)
    url = postgres_server.database("used")
    addresses = {"database_url": url}
    restore(tmp_path / "b.tar", tmp_path / "one", PASSPHRASE, addresses)
    with pytest.raises(InputError, match="expected an empty database, got one of campaign 't'"):
        restore(tmp_path / "b.tar", tmp_path / "two", PASSPHRASE, addresses)
    assert not (tmp_path / "two").exists()
