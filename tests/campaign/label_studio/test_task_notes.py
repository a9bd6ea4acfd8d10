from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from campaign.label_studio.task_notes import Region, TaskNote, TaskNotes, images_noted
from ml_backend.errors import InputError


def note(task: int, name: str, annotated: bool = False, address: str | None = None) -> TaskNote:
    rle = mask_util.encode(np.asfortranarray(np.eye(8, 6, dtype=np.uint8)))
    regions = [Region(("a", "b"), rle, 6, 8)] if annotated else None
    return TaskNote(task, address or f"http://host/{name}", name, regions, Counter({"empty masks": int(annotated)}))


@pytest.fixture
def notes(tmp_path: Path):
    with closing(TaskNotes(tmp_path / "images" / "tasks.sqlite", "one")) as opened:
        opened.keep([note(1, "a.png", annotated=True), note(2, "b.png"), note(3, "b.png"), note(4, "c.png")], since="x")
        opened.keep_images([(task, Path(f"/{task}.png"), 6, 8) for task in (1, 2, 3, 4)])
        yield opened


def test_what_is_kept_is_read_back(notes, monkeypatch):
    monkeypatch.setattr("campaign.label_studio.task_notes.PORTION", 1)
    assert (notes.count(), notes.newest(), notes.annotated(), notes.get("since")) == (4, 4, [1], "x")
    assert notes.labels() == {"a", "b"} and notes.left_out() == {"empty masks": 1}
    assert list(notes.annotations()) == [(1, note(1, "a.png", annotated=True).regions)]
    images = list(images_noted(notes.path, "one"))
    assert [image.file_name for image in images] == ["task-2/b.png", "task-3/b.png", "c.png"]
    assert images == list(notes.images(annotated=False))
    assert [(image.id, image.width, image.height) for image in notes.images(annotated=True)] == [(1, 6, 8)]


def test_an_image_stays_unless_the_task_shows_another(notes):
    notes.keep([note(2, "b.png", annotated=True), note(3, "d.png")])
    (known,) = notes.addresses()
    assert {task: path for task, (_, path) in known.items()} == {
        1: Path("/1.png"), 2: Path("/2.png"), 3: None, 4: Path("/4.png")
    }  # fmt: skip
    assert notes.annotated() == [1, 2]


def test_tasks_that_are_gone_are_dropped(notes):
    notes.remove_others({4, 2, 9})
    assert [image.id for image in notes.images(annotated=False)] == [2, 4] and not notes.annotated()


def test_notes_of_another_project_are_dropped(notes):
    with closing(TaskNotes(notes.path, "another")) as others:
        assert (others.count(), others.get("since")) == (0, None)


def test_a_file_that_is_none_of_these(tmp_path):
    (tmp_path / "tasks.sqlite").write_bytes(b"something else" * 100)
    with pytest.raises(InputError, match=r"tasks.sqlite: expected a file for the notes of a source project \(remove"):
        TaskNotes(tmp_path / "tasks.sqlite", "one")
