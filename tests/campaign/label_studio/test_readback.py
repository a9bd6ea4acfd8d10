from __future__ import annotations

import json
from typing import Any

import pytest

from campaign.label_studio.annotations import Unknown, sound_regions
from campaign.label_studio.client import Client, ProjectGone
from campaign.label_studio.readback import OVERLAP, Changes, TaskSnapshot, parse_verdicts, read_changes
from campaign.label_studio.verification import publish_pages
from campaign.records.verdict import Verdict
from ml_backend.errors import InputError
from tests.campaign.label_studio.pages import answer, page, published

NO, YES, UNSURE = Verdict.NO, Verdict.YES, Verdict.UNSURE


@pytest.mark.parametrize(
    ("result", "expected", "unknown"),
    [
        (answer(), {1: YES, 2: YES, 3: YES}, {}),
        (answer(wrong=[2]), {1: YES, 2: NO, 3: YES}, {}),
        (answer(wrong=[1, 2, 3]), {1: NO, 2: NO, 3: NO}, {}),
        (answer("unsure", wrong=[2]), {1: UNSURE, 2: NO, 3: UNSURE}, {}),
        (answer(doubt=[3]), {1: YES, 2: YES, 3: UNSURE}, {}),
        (answer(wrong=[3], doubt=[3]), {1: YES, 2: YES, 3: UNSURE}, {}),
        (answer(None, wrong=[2]), {2: NO}, {}),
        (answer(wrong=[9, 2]), {1: YES, 2: NO, 3: YES}, {"wrong '9', which is not on the page": 1}),
        (answer("fine", wrong=[2]), {2: NO}, {"status 'fine'": 1}),
        ([], {}, {}),
        (None, {}, {}),
        ([{"from_name": "view", "value": {"choices": ["rules"]}}], {}, {}),
        (["text", {"from_name": "wrong"}], {}, {"a region that is no object": 1, "a malformed region": 1}),
        ([{"from_name": ["wrong"], "value": [1]}, *answer()], {1: YES, 2: YES, 3: YES}, {"a malformed region": 1}),
        (
            [{"from_name": "wrong", "value": {"choices": [[1], "2"]}}],
            {2: NO},
            {"a choice of 'wrong' that is no text": 1},
        ),
        ("text", {}, {"a result that is no list": 1}),
    ],
)
def test_parse_verdicts(result: Any, expected: dict[int, Verdict], unknown: dict[str, int]) -> None:
    counted = Unknown()
    assert parse_verdicts(sound_regions(result, counted), {"1": 1, "2": 2, "3": 3}, counted) == expected
    assert counted == unknown


@pytest.mark.parametrize("cursor", ["x", "{}", '{"since": "yesterday", "seen": {}}', "[]"])
def test_bad_cursor(cursor: str) -> None:
    with pytest.raises(InputError, match="read-back cursor"):
        read_changes(Client("http://127.0.0.1:9", "t"), 1, lambda _: {}, cursor)


def verdicts_by_page(changes: list[TaskSnapshot]) -> dict[str, list[dict[int, Verdict]]]:
    return {c.page_key: [a.verdicts for a in c.annotations] for c in changes}


@pytest.mark.label_studio
class TestReadChanges:
    def test_create_edit_skip_delete(self, label_studio_client: Client, verification_project) -> None:
        client, project = label_studio_client, verification_project()
        assert read_changes(client, project, lambda _: {}) == Changes([], [], None)
        pages = [page(f"k{i}", 10 * i) for i in range(4)]
        tasks = publish_pages(client, project, pages)
        own = published(tasks, pages)
        read = read_changes(client, project, own)
        changes, cursor = read.tasks, read.cursor
        assert verdicts_by_page(changes) == {f"k{i}": [] for i in range(4)}
        idle = read_changes(client, project, own, cursor)  # its cursor may hold a later time of the clock
        assert (idle.tasks, idle.foreign) == ([], [])

        def annotate(key: str, **body: Any) -> int:
            return client.request("POST", f"api/tasks/{tasks[key]}/annotations/", body={"lead_time": 3.5, **body})["id"]

        first = annotate("k0", result=answer(wrong=[1]))
        annotate("k1", result=answer(), was_cancelled=True)
        read = read_changes(client, project, own, cursor)
        changes, cursor = read.tasks, read.cursor
        assert verdicts_by_page(changes) == {
            "k0": [{0: YES, 1: NO, 2: YES}],
            "k1": [{10: UNSURE, 11: UNSURE, 12: UNSURE}],
        }
        assert [(a.user, a.lead_time, a.skipped) for c in changes for a in c.annotations] == [
            (1, 3.5, False),
            (1, 3.5, True),
        ]
        assert changes[0].task_id == tasks["k0"]

        client.request("PATCH", f"api/annotations/{first}/", body={"result": answer("unsure")})
        read = read_changes(client, project, own, cursor)
        changes, cursor = read.tasks, read.cursor
        assert verdicts_by_page(changes) == {"k0": [{0: UNSURE, 1: UNSURE, 2: UNSURE}]}

        second = annotate("k0", result=answer())
        client.request("DELETE", f"api/annotations/{first}/")
        read = read_changes(client, project, own, cursor)
        changes, cursor = read.tasks, read.cursor
        assert [a.id for a in changes[0].annotations] == [second]

        client.request("DELETE", f"api/annotations/{second}/")
        read = read_changes(client, project, own, cursor)
        changes, cursor = read.tasks, read.cursor
        assert verdicts_by_page(changes) == {"k0": []}
        idle = read_changes(client, project, own, cursor)  # its cursor may hold a later time of the clock
        assert (idle.tasks, idle.foreign) == ([], [])
        # From the start, everything is returned as it is now.
        read = read_changes(client, project, own)
        everything = read.tasks
        assert verdicts_by_page(everything) == {
            "k0": [],
            "k1": [{10: UNSURE, 11: UNSURE, 12: UNSURE}],
            "k2": [],
            "k3": [],
        }

        client.request("DELETE", f"api/projects/{project}/")
        with pytest.raises(ProjectGone):
            read_changes(client, project, own, cursor)

    def test_change_committed_late_is_found(self, label_studio_client: Client, verification_project) -> None:
        """A change whose time lies before the cursor, because its transaction took long, is returned all the same."""
        client, project = label_studio_client, verification_project()
        pages = [page("early"), page("late", 10)]
        tasks = publish_pages(client, project, pages)
        own = published(tasks, pages)
        client.request("POST", f"api/tasks/{tasks['late']}/annotations/", body={"result": answer()})
        read = read_changes(client, project, own)
        _, cursor = read.tasks, read.cursor
        value = json.loads(str(cursor))
        # As if the annotation had not been visible yet when the cursor was taken.
        del value["seen"][str(tasks["late"])]
        read = read_changes(client, project, own, json.dumps(value))
        changes = read.tasks
        assert verdicts_by_page(changes) == {"late": [{10: YES, 11: YES, 12: YES}]}
        assert OVERLAP.total_seconds() >= 1

    def test_pages_of_several_requests(self, label_studio_client: Client, verification_project, monkeypatch) -> None:
        client, project = label_studio_client, verification_project()
        pages = [page(f"k{i}", 10 * i) for i in range(7)]
        own = published(publish_pages(client, project, pages), pages)
        whole = client.tasks
        monkeypatch.setattr(client, "tasks", lambda *a, **k: whole(*a, **k, page_size=3))
        read = read_changes(client, project, own)
        changes = read.tasks
        assert [c.page_key for c in changes] == [f"k{i}" for i in range(7)]
