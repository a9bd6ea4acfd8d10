"""A campaign that was begun with an earlier release goes on where it stood."""

import json
import tarfile
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import text

from campaign.derived.dataset import obtained
from campaign.derived.live import live
from campaign.derived.status import status
from campaign.store import Store
from campaign.store.database import HEAD, MIGRATIONS
from tests.campaign.builders import answer, finish, turn

# Made by release 0.1.0: at verify in round 1, with gold, two users, an open page, an override and a line of the log.
# expected.json says what that release came to when the open pages were answered rightly.
ARCHIVE = Path(__file__).parents[2] / "data" / "campaign-0003.tar.xz"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The campaign's folder as that release left it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path / "old", filter="data")
    return tmp_path / "old"


def test_an_old_campaign_goes_on_to_the_same_end(folder):
    expected = json.loads((folder / "expected.json").read_text())
    store = Store.open(folder)
    assert len(store.answers.rows()) == expected["answers_before"]
    pages = store.pages.rows()
    assert len(pages) == expected["pages_before"] and [p.number for p in pages] == list(range(1, len(pages) + 1))
    turn(store)
    answered = {f.page_key for f in store.answers.rows()}
    for page in store.pages.rows():
        if page.key not in answered:
            answer(store, page.key, 7)
    finish(store, 7)
    decisions = sorted([d.class_id, d.cluster, d.kind, d.asked, d.yes] for d in store.decisions.rows())
    assert decisions == expected["decisions"]
    assert obtained(store, 1).mask_id.tolist() == expected["masks"]
    assert status(store)["questions"] == expected["questions"]


def test_a_campaign_that_names_no_policy_keeps_the_one_it_was_begun_with(folder):
    path = folder / "campaign.json"
    content = json.loads(path.read_text())
    del content["settings"]["search"]["policy"]
    path.write_text(json.dumps(content))
    assert Store.open(folder).settings.search.policy == "adaptive"
    del content["settings"]["search"]
    path.write_text(json.dumps(content))
    assert Store.open(folder).settings.search.policy == "adaptive"


def test_migrations_go_forward_and_back_on_a_filled_database(folder):
    store = Store.open(folder)
    turn(store)
    with store.engine.connect() as connection:
        count = {t: connection.scalar(text(f"SELECT count(*) FROM {t}")) for t in ("page", "question", "answer")}
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    for revision in ("0003", "head"):
        with store.engine.begin() as connection:
            config.attributes["connection"] = connection
            (command.downgrade if revision == "0003" else command.upgrade)(config, revision)
    with store.engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == HEAD
        for table, rows in count.items():
            assert connection.scalar(text(f"SELECT count(*) FROM {table}")) == rows
    again = Store.open(folder)
    assert sum(f["answered"] for f in live(again).summaries(1).values()) > 0
