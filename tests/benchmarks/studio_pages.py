"""Publishing and reading back as a verification project grows, for `tests.benchmarks.studio`.

At each size all pages but the newest are answered. Measured are, at each:

    publishing      pages a second of `publish_missing`, building them included, and of bare import calls with as many
                    like them in the same batches into the same project, in turns; `ratio` is that of the two
    turn            one turn's read-back with NEW new answers: seconds, calls, and processor seconds here and there
    nothing_new     one with none
    all_at_once     reading what was answered since the last size, or at the first size all of it
    next_page       milliseconds in which an annotator is given a page: median, and the most of LOOKS
    answers         answers a second that Label Studio takes one by one
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from campaign.label_studio.client import Client
from campaign.label_studio.verification import BATCH
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import publish_missing, question_tasks
from campaign.pages.readback import read_back
from campaign.records.page import NewPage
from campaign.store import Store
from tests.benchmarks.studio_server import Studio
from tests.benchmarks.turns import make_campaign

CLASSES, SIZE = 20, 15
PUBLISHED, PORTION = 800, 400  # pages published at each size, and before the bare calls have their turn
NEW, TURNS = 100, 3
LOOKS = 20
ANSWER = [{"from_name": "status", "to_name": "title", "type": "choices", "value": {"choices": ["reviewed"]}}]


class Counted(Client):
    """A client that counts its requests and the seconds that they took."""

    calls, seconds = 0, 0.0

    def request(self, *args: Any, **options: Any) -> Any:
        """As a client's."""
        began = time.perf_counter()
        try:
            return super().request(*args, **options)
        finally:
            self.calls += 1
            self.seconds += time.perf_counter() - began


def campaign_beside(studio: Studio, folder: Path, pages: int) -> Store:
    """A campaign at verify with masks for so many pages, beside a Label Studio."""
    store, _ = make_campaign(folder, max(pages, 2 * CLASSES) * SIZE, CLASSES, "adaptive")
    store.set_label_studio(studio.url)
    store.save_secrets({"label_studio_token": studio.token})
    return store


def add_pages(store: Store, first: int, count: int) -> None:
    """Stores pages from number `first` on, each of masks of one class that no other page has."""
    ids = {c: store.trees.mask_ids(1, c) for c in range(1, CLASSES + 1)}
    pages = []
    for number in range(first, first + count):
        class_id, start = 1 + number % CLASSES, number // CLASSES * SIZE
        masks = tuple((int(mask), None) for mask in ids[class_id][start : start + SIZE])
        pages.append(NewPage(f"{store.key}-p{number}", 1, class_id, masks))
    store.pages.add(pages)


def measure(studio: Studio, folder: Path, sizes: list[int], say: Callable[[str], None]) -> list[dict[str, Any]]:
    """A row for each size."""
    store = campaign_beside(studio, folder / "pages", sizes[-1])
    client = Counted(studio.url, studio.token, timeout=600)
    project = ensure_project(store, client)
    rows, held = [], 0
    for size in sizes:
        gc.freeze()  # as in a job's process, which does not look for garbage in what its worker has loaded
        answered = add_answered(store, client, project, held, size - 2 * PUBLISHED - held, say)
        held = size
        row: dict[str, Any] = {"pages": size, "all_at_once": {"pages": answered} | turn(studio, store, client)[1]}
        row["publishing"] = publishing(store, client, project, size - 2 * PUBLISHED)
        say(f"{size} pages: {row}")
        row["next_page"] = next_page(client, project)
        turn(studio, store, client)  # what was published is read once too, and is not what the next ones read
        open_tasks = [page.task_id for page in store.pages.rows(published=True)[-PUBLISHED:]]
        turns = []
        for number in range(TURNS):
            began = time.perf_counter()
            for task in open_tasks[number * NEW : (number + 1) * NEW]:
                client.request("POST", f"api/tasks/{task}/annotations/", body={"result": ANSWER, "lead_time": 20.0})
            row["answers"] = round(NEW / (time.perf_counter() - began), 1)
            read, figures = turn(studio, store, client)
            assert read == NEW * SIZE, (read, size)
            turns.append(figures)
        row["turn"] = {name: round(median(f[name] for f in turns), 3) for name in turns[0]}
        row["nothing_new"] = turn(studio, store, client)[1]
        row["bytes_of_a_row"] = studio.database_bytes(project)
        rows.append(row)
        say(f"{size} pages: {row}")
    return rows


def add_answered(store: Store, client: Client, project: int, first: int, count: int, say: Callable[[str], None]) -> int:
    """Brings answered pages into the project by its own import; returns how many. They count as published."""
    add_pages(store, first, count)
    rows = store.pages.rows(published=False)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        bodies = [
            body | {"annotations": [{"result": ANSWER, "ground_truth": False, "lead_time": 20.0}]}
            for body in question_tasks(store, part).values()
        ]
        done = client.request(
            "POST", f"api/projects/{project}/import", params={"return_task_ids": "true"}, body=bodies
        )  # fmt: skip
        store.pages.mark_published({page.key: task for page, task in zip(part, done["task_ids"], strict=True)})
        if start % 5000 == 0:
            say(f"{first + start} answered pages are imported")
    return count


def next_page(client: Client, project: int) -> dict[str, float]:
    """Milliseconds in which Label Studio has the next page for an annotator."""
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        task = client.request("POST", "api/dm/actions", params={"id": "next_task", "project": project}, body={})
        times.append(1000 * (time.perf_counter() - began))
        # Answered, for else the next one is the same.
        client.request("POST", f"api/tasks/{task['id']}/annotations/", body={"result": ANSWER, "lead_time": 20.0})
    return {"p50": round(median(times), 1), "most": round(max(times), 1)}


def publishing(store: Store, client: Counted, project: int, first: int) -> dict[str, float]:
    """How fast pages from number `first` on come into Label Studio, beside as many by bare calls.

    Those of the bare calls are noted afterwards, in nobody's time: publishing looks at all tasks that are not noted,
    and would read them.
    """
    ours = theirs = 0.0
    for start in range(first, first + 2 * PUBLISHED, 2 * PORTION):
        add_pages(store, start, PORTION)
        rows = store.pages.rows(published=False)
        bodies, noted = list(question_tasks(store, rows).values()), {}
        for at in range(0, PORTION, BATCH):
            began = time.perf_counter()
            done = client.request("POST", f"api/projects/{project}/import", params={"return_task_ids": "true"},
                                  body=bodies[at : at + BATCH])  # fmt: skip
            theirs += time.perf_counter() - began
            noted |= {row.key: task for row, task in zip(rows[at : at + BATCH], done["task_ids"], strict=True)}
        store.pages.mark_published(noted)
        add_pages(store, start + PORTION, PORTION)
        began = time.perf_counter()
        assert len(publish_missing(store, client)) == PORTION
        ours += time.perf_counter() - began
    rates = {"ours": round(PUBLISHED / ours, 1), "bare": round(PUBLISHED / theirs, 1)}
    return rates | {"ratio": round(theirs / ours, 3)}


def turn(studio: Studio, store: Store, client: Counted) -> tuple[int, dict[str, float]]:
    """(facts that were read, what reading them back took)."""
    calls, seconds, there = client.calls, client.seconds, studio.processor_seconds()
    began, here = time.perf_counter(), time.process_time()
    with store.locked():
        read = read_back(store, client)
    return read, {
        "seconds": round(time.perf_counter() - began, 3),
        "calls": client.calls - calls,
        "waited": round(client.seconds - seconds, 3),
        "cpu_here": round(time.process_time() - here, 3),
        "cpu_label_studio": round(studio.processor_seconds() - there, 3),
    }
