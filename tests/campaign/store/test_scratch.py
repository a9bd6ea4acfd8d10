"""Folders for as long as somebody uses them."""

import gc
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from campaign.store import Store
from campaign.store.scratch import ScratchFolder
from tests.campaign.builders import turn, verify_store

HOLD = """
from campaign.store.scratch import ScratchFolder
held = ScratchFolder("campaign-views-")
print(held.path, flush=True)
input()
"""


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_a_folder_goes_with_who_uses_it_and_what_was_left_goes_with_the_next(temporary):
    held = ScratchFolder("campaign-views-")
    (held.path / "a").write_bytes(b"a")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD], **pipes) as process:
        other = process.stdout.readline().strip()
        mine = ScratchFolder("campaign-views-")
        assert len(list(temporary.iterdir())) == 3, "all are used"
        process.send_signal(signal.SIGTERM)
    assert Path(other).exists()
    foreign = temporary / "campaign-views-note"
    foreign.write_text("no folder")
    ScratchFolder("campaign-views-")
    gc.collect()
    assert sorted(temporary.iterdir()) == sorted([held.path, mine.path, foreign])
    assert (held.path / "a").read_bytes() == b"a"


def test_who_only_reads_has_a_folder_once_it_keeps_a_view_and_no_longer_than_that(temporary, tmp_path):
    store = verify_store(tmp_path / "a")
    turn(store)
    reader = Store.open(store.folder, read_only=True)
    assert reader.views.row("trust") is None and list(temporary.iterdir()) == []
    reader.views.keep("own", "1", {})
    assert reader.views.kept("own", "1") == {} and len(list(temporary.iterdir())) == 1
    reader.engine.dispose()
    del reader
    gc.collect()
    assert list(temporary.iterdir()) == [] and store.views.row("own") is None
