"""The annotators' work as a view: whatever happens between its looks, it equals one made from scratch."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete as sql_delete

from campaign.derived.pace import NAME, WorkView, campaign_pace, work
from campaign.quality.work import Pace
from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store.models import Answer
from tests.campaign.builders import add_page, gold_store

PAGES = {f"page {n}": [100 * n + place for place in range(1 + n % 4)] for n in range(6)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A campaign whose pages hold gold, one of them of a qualification test."""
    store = gold_store(tmp_path_factory.mktemp("pace") / "a")
    for n, (key, masks) in enumerate(PAGES.items()):
        gold = {masks[0]: "no"} if len(masks) > 1 else {}
        add_page(store, key, masks, PageKind.QUALIFY if n == 5 else PageKind.VERIFY, gold)
    return store.folder


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "answer", "edit", "delete", "look", "save", "reopen"]),
        st.sampled_from(sorted(PAGES)),
        st.integers(1, 3),  # who
        st.lists(st.sampled_from(["yes", "no", "unsure"]), min_size=4, max_size=4),
        st.integers(0, 90),  # seconds that it took
    ),
    max_size=14,
)


def clear(store: Store) -> None:
    """The campaign before its first answer."""
    with store.session() as session:
        session.execute(sql_delete(Answer))
    store.views.drop()


def say(store: Store, page: str, user: int, verdicts: list[str], seconds: int, moment: int, annotation: int) -> None:
    stamp = f"2026-01-01T00:{moment // 60:02d}:{moment % 60:02d}.000000Z"
    store.answers.add(
        {
            "page_key": page, "annotation_id": annotation, "mask_id": mask, "annotator": str(user), "verdict": verdict,
            "answered_at": stamp, "lead_time": seconds or None,
        }
        for mask, verdict in zip(PAGES[page], verdicts, strict=False)
    )  # fmt: skip


def delete(store: Store, annotation: int) -> None:
    store.answers.add(
        {
            "page_key": f.page_key, "annotation_id": annotation, "mask_id": f.mask_id, "annotator": f.annotator,
            "verdict": "withdrawn", "answered_at": f.answered_at, "lead_time": None,
        }
        for f in store.answers.rows()
        if f.annotation_id == annotation
    )  # fmt: skip


def figures(view: WorkView) -> tuple:
    """All that the view holds, users by name, whatever the order in which it was read."""
    names = [n for n in view.work.dtype.names if n != "user"]
    rows = [(*(repr(row[n]) for n in names), view.users[row["user"]]) for row in view.work]  # of NaN, too
    votes = [(*row.tolist()[:3], view.users[row["user"]], row["class_id"], row["verdict"]) for row in view.votes]
    return sorted(rows), sorted(votes), view.pace()


@given(events=EVENTS)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_happens_between_its_looks_it_equals_one_from_scratch(folder, events):
    store = Store.open(folder)
    clear(store)
    view = WorkView(store)
    page_of: dict[int, tuple[str, int]] = {}
    for moment, (what, page, user, verdicts, seconds) in enumerate(events):
        if what == "answer":
            page_of[moment] = page, user
            say(store, page, user, verdicts, seconds, moment * 20, moment)
        elif what in ("edit", "delete") and page_of:
            annotation = sorted(page_of)[seconds % len(page_of)]
            known, owner = page_of[annotation]
            if what == "edit":
                say(store, known, owner, verdicts, seconds, moment * 20, annotation)
            else:
                delete(store, annotation)
                del page_of[annotation]
        elif what == "save":
            view.refresh().save()
        elif what == "reopen":
            view = WorkView(store)
        else:
            view.refresh()
    assert figures(view.refresh()) == figures(WorkView(store).refresh())
    store.views.drop()
    assert figures(view) == figures(WorkView(store).refresh())
    store.engine.dispose()


def test_a_page_is_one_row_in_the_order_in_which_it_was_shown(folder):
    store = Store.open(folder)
    clear(store)
    say(store, "page 3", 1, ["no", "yes", "unsure", "yes"], 20, 0, 1)
    say(store, "page 5", 1, ["no", "yes"], 20, 0, 2)  # of a test
    view = work(store)
    (row,) = view.work
    assert (row["shown"], row["wrong_gold"], row["questions"], row["unsure"]) == (4, 1, 3, 1)
    assert bin(row["marked"]).count("1") == 2 and row["seconds"] == 20 and row["time"] == 1767225600
    assert sorted(view.votes["mask"].tolist()) == [301, 302, 303] and view.users == ["1"]
    assert campaign_pace(store) == Pace(4, 20.0, 0.0)


def test_only_new_pages_are_read_again_and_a_snapshot_is_written_once_enough_is_new(folder, monkeypatch):
    store = Store.open(folder)
    clear(store)
    say(store, "page 1", 1, ["no", "yes"], 20, 0, 1)
    view = work(store)
    view.save()
    first = store.views.row(NAME)
    say(store, "page 2", 1, ["no", "yes", "yes"], 20, 30, 2)
    read = []
    rows = store.answers.rows
    monkeypatch.setattr(store.answers, "rows", lambda keys: read.append(set(keys)) or rows(keys))
    work(store).save()
    assert read == [{"page 2"}] and store.views.row(NAME).file == first.file
    monkeypatch.setattr("campaign.derived.pace.NEW_LEAST", 0)
    view.save()
    after = store.views.row(NAME)
    assert after.cursor == {"answer": store.answers.newest()} and store.views.read(first.file) is None
    monkeypatch.setattr(store.answers, "rows", None)
    assert np.array_equal(WorkView(store).refresh().votes, view.votes)
