from __future__ import annotations

import multiprocessing
import os

import pytest

from campaign.label_studio.client import Client, LabelStudioUnavailable, ProjectGone
from campaign.label_studio.verification import (
    SECRET_HEADER,
    TITLE_LENGTH,
    WEBHOOK_ACTIONS,
    Page,
    create_project,
    page_task,
    publish_pages,
    read_keys,
    shorten,
)
from label_config import load
from ml_backend.errors import InputError
from tests.campaign.label_studio.pages import page


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Verify: nuclei [ab12]", "Verify: nuclei [ab12]"),
        ("x" * 50, "x" * 50),
        ("x" * 51, "x" * 49 + "…"),
        ("Verify: " + "n" * 60 + " [ab12]", "Verify: " + "n" * 34 + "… [ab12]"),
    ],
)
def test_shorten(title: str, expected: str) -> None:
    assert shorten(title) == expected
    assert len(shorten(title)) <= TITLE_LENGTH


def test_page_task_holds_what_the_config_shows() -> None:
    task = page_task(page("k", first=7))
    assert set(load("verification").data_keys) <= task["data"].keys()
    assert [c["value"] for c in task["data"]["crops"]] == ["7", "8", "9"]
    assert task["meta"] == {"key": "k", "format": 2} and task["data"].keys() == {
        "key", "class_name", "title", "rules", "crops", "doubts",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ([page("a"), page("a", 5)], "page a: expected a key of its own, got one used twice"),
        ([page("a", masks=16)], "page a: expected 1 to 15 different masks"),
        ([Page("a", "nucleus", "t", [])], "page a: expected 1 to 15 different masks, got []"),
        (
            [Page("a", "nucleus", "t", page("b", masks=1).crops * 2)],
            "page a: expected 1 to 15 different masks, got ['0', '0']",
        ),
    ],
)
def test_bad_pages_are_refused_before_anything_is_sent(pages: list[Page], message: str) -> None:
    with pytest.raises(InputError) as caught:
        publish_pages(Client("http://127.0.0.1:9", "t"), 1, pages)
    assert message in str(caught.value)


@pytest.mark.label_studio
class TestProject:
    def test_made_once_with_its_webhook(self, label_studio_client: Client) -> None:
        make = lambda url, secret: create_project(  # noqa: E731
            label_studio_client, "Verify: once [a]", webhook_url=url, webhook_secret=secret, instructions="<p>Rules</p>"
        )
        first = make("http://127.0.0.1:9/webhook", "one")
        assert make("http://127.0.0.1:9/webhook", "two") == first
        hooks = label_studio_client.request("GET", "api/webhooks/", params={"project": first})
        assert [(h["url"], h["headers"], h["send_payload"]) for h in hooks] == [
            ("http://127.0.0.1:9/webhook", {SECRET_HEADER: "two"}, False)
        ]
        assert set(hooks[0]["actions"]) == set(WEBHOOK_ACTIONS)
        project = label_studio_client.project(first)
        assert project["expert_instruction"] == "<p>Rules</p>"
        assert project["show_instruction"]

    def test_config_that_label_studio_refuses(self, label_studio_client: Client) -> None:
        with pytest.raises(InputError, match=r"expected .*, got 400"):
            create_project(label_studio_client, "Verify: bad [b]", label_config="<View><Text/>")


def _publish_and_die(url: str, token: str, project: int, pages: list[Page], batches: int) -> None:
    """Publishes and is gone after so many batches, as a killed worker: what it learned is lost with it."""
    left = iter(range(batches - 1))

    def published(_: dict[str, int]) -> None:
        if next(left, None) is None:
            os._exit(9)

    publish_pages(Client(url, token), project, pages, batch=10, published=published)


@pytest.mark.label_studio
class TestPublish:
    def test_killed_halfway_and_run_again(
        self, label_studio_client: Client, label_studio, verification_project
    ) -> None:
        project = verification_project()
        pages = [page(f"k{i:03d}", 3 * i) for i in range(45)]
        arguments = (label_studio.url, label_studio.token, project, pages, 2)
        killed = multiprocessing.get_context("spawn").Process(target=_publish_and_die, args=arguments)
        killed.start()
        killed.join()
        assert killed.exitcode == 9
        before = read_keys(label_studio_client, project)
        assert len(before) == 20
        known: dict[str, int] = {}
        counts: list[int] = []
        tasks = publish_pages(label_studio_client, project, pages, counts.append, batch=10, published=known.update)
        assert tasks.keys() == {p.key for p in pages}
        assert before.items() <= tasks.items()
        assert (known, sum(counts)) == (tasks, 45)
        held = [t["meta"]["key"] for t in label_studio_client.tasks(project, "id,meta")]
        assert sorted(held) == [p.key for p in pages]
        assert read_keys(label_studio_client, project) == tasks
        # Later pages are looked for among later tasks only.
        later = publish_pages(label_studio_client, project, [page("later")], after=max(tasks.values()))
        assert publish_pages(label_studio_client, project, [page("later")], after=max(tasks.values())) == later

    def test_answer_lost_on_the_way_back(self, label_studio_client: Client, verification_project) -> None:
        """The import arrives but its answer does not: the pages are seen and not imported again."""

        class Lossy(Client):
            lost = 0

            def request(self, method, path, **options):
                answer = super().request(method, path, **options)
                if method == "POST" and path.endswith("/import") and not self.lost:
                    self.lost += 1
                    raise LabelStudioUnavailable(self.url, "an answer", "ReadTimeout")
                return answer

        project = verification_project()
        lossy = Lossy(label_studio_client.url, label_studio_client._token)
        tasks = publish_pages(lossy, project, [page(f"k{i}", 3 * i) for i in range(12)], batch=5)
        assert lossy.lost == 1
        assert len(list(label_studio_client.tasks(project, "id"))) == len(tasks) == 12
        assert read_keys(label_studio_client, project) == tasks

    def test_tasks_by_id_across_small_pages(self, label_studio_client: Client, verification_project) -> None:
        project = verification_project()
        tasks = publish_pages(label_studio_client, project, [page(f"k{i}", 3 * i) for i in range(7)])
        ids = [t["id"] for t in label_studio_client.tasks(project, "id", page_size=3)]
        assert ids == sorted(tasks.values())

    def test_deleted_project(self, label_studio_client: Client, verification_project) -> None:
        project = verification_project()
        label_studio_client.request("DELETE", f"api/projects/{project}/")
        with pytest.raises(
            ProjectGone, match=f"project {project}: expected a project that this token can see, got 404"
        ):
            publish_pages(label_studio_client, project, [page("k")])
