"""Pages that are called back: a change counts for as long as the lead allows, later what was said before it."""

import pytest

from campaign.label_studio.readback import AnnotationSnapshot, TaskSnapshot
from campaign.pages.readback import facts, late_changes, put_aside, stamps_of
from campaign.quality.answers import standing_annotations, standing_answers
from campaign.records.verdict import Verdict
from campaign.store.aside import Reason
from tests.campaign.builders import turn, verify_store

FIRST = "2026-01-01T10:00:00.000000Z"


@pytest.fixture
def store(tmp_path):
    return verify_store(tmp_path / "a")


def read(store, key: str, at: str, verdict: Verdict, annotation: int = 5) -> None:
    """Reads that the annotation says this of every mask since then, as a turn does."""
    masks = {a.mask_id: verdict for a in store.questions.on_pages([key])}
    snapshots = [TaskSnapshot(1, key, [AnnotationSnapshot(annotation, 7, at, 20.0, False, masks, 7)])]
    rows = store.answers.rows({key})
    stamps = stamps_of(store, {key}, standing_annotations(rows))
    put_aside(store, snapshots, stamps, late_changes(store, snapshots, rows))
    store.answers.add(facts(store, snapshots))


def said(store, key: str) -> set[str]:
    return {a.verdict for a in standing_answers(store.answers.rows({key}))}


@pytest.mark.parametrize(
    ("hours", "at", "counts"),
    [
        (24, "2026-01-02T10:00:00.000000Z", True),
        (24, "2026-01-02T10:00:00.000001Z", False),
        (0.5, "2026-01-01T10:20:00.000000Z", True),
        (0.5, "2026-01-01T10:40:00.000000Z", False),
        (0, "2026-01-01T10:00:01.000000Z", False),
    ],
)
def test_a_change_counts_within_the_time_for_it(store, hours, at, counts):
    store.settings.page.change_hours = hours
    key = turn(store)[0]
    read(store, key, FIRST, Verdict.YES)
    read(store, key, at, Verdict.NO)
    assert said(store, key) == {"no" if counts else "yes"}
    assert [row.reason for row in store.aside.newest(9)] == ([] if counts else [Reason.LATE.value])


def test_the_time_counts_from_the_first_submit_and_what_was_said_in_time_stands(store):
    key = turn(store)[0]
    read(store, key, FIRST, Verdict.YES)
    read(store, key, "2026-01-02T09:00:00.000000Z", Verdict.NO)
    for at in ("2026-01-02T11:00:00.000000Z", "2026-01-09T11:00:00.000000Z"):
        read(store, key, at, Verdict.UNSURE)
        read(store, key, at, Verdict.UNSURE)
        assert said(store, key) == {"no"}
    assert len(store.aside.newest(9)) == 2


def test_a_late_first_answer_is_no_change(store):
    key = turn(store)[0]
    read(store, key, FIRST, Verdict.YES, annotation=5)
    read(store, key, "2026-03-01T10:00:00.000000Z", Verdict.NO, annotation=6)
    assert said(store, key) == {"no"} and store.aside.newest(9) == []
