"""Many annotators at once in one verification project, for `tests.benchmarks.studio`.

A campaign runs as `campaign run` runs it, with its worker, its own Redis and its web server; its pages were published
before. Everybody asks for the next page, looks at it for about ten seconds, submits, and asks again.

    pages, pages_a_second      answered
    served_twice               pages that two people were given
    answered_twice, lost       pages with answers of two people; annotations that the campaign never read
    next_ms, submit_ms         what people wait for: the next page, and Label Studio's answer to a submitted one
    webhook_ms                 our server's answers to webhooks, beside those that Label Studio sends
    decided_seconds            from an answer to the end of the turn that decided by it
    cpu_*                      processor seconds a second of Label Studio with its database, of the campaign and of this

Of each: the median, the 95th percentile and the most.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests

from campaign.derived.live import STATE
from campaign.label_studio.client import Client
from campaign.label_studio.server import free_port, log_in
from campaign.label_studio.verification import SECRET_HEADER
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import publish_missing
from campaign.store import Store
from tests.benchmarks.studio_pages import ANSWER, add_pages, campaign_beside
from tests.benchmarks.studio_server import Studio, taken

PACE = 10.0  # seconds that a page is looked at, on average; between half and one and a half times that
PASSWORD = "benchmark-of-people"
PROBES = 0.5  # seconds between two webhooks of our own
SETTLE = 60.0  # seconds that the last answers have to be decided upon


@dataclass
class Seen:
    """What one person met with."""

    served: list[int] = field(default_factory=list)
    submitted: dict[int, float] = field(default_factory=dict)  # annotation: when
    tasks: list[int] = field(default_factory=list)
    next_ms: list[float] = field(default_factory=list)
    submit_ms: list[float] = field(default_factory=list)
    empty: int = 0


def measure(studio: Studio, folder: Path, people: int, seconds: float, say: Callable[[str], None]) -> dict[str, Any]:
    """What so many people met with in so many seconds."""
    pages = int(1.5 * people * seconds / PACE) + people
    store = with_address(campaign_beside(studio, folder / "people", pages))
    client = Client(studio.url, studio.token, timeout=600)
    project = ensure_project(store, client)
    add_pages(store, 0, pages)
    publish_missing(store, client)
    users = [f"person-{number}@example.com" for number in range(people)]
    for user in users:
        studio.server.add_user(user, PASSWORD)
    sessions = [log_in(studio.url, user, PASSWORD) for user in users]
    say(f"{pages} pages are published, {people} people are there")
    command = [
        str(Path(sys.executable).with_name("campaign")),
        "run",
        str(store.folder),
        "--gpu-workers",
        "0",
        "--go-on",
    ]
    with (folder / "run.log").open("wb") as log:
        run = subprocess.Popen([*command, "--json"], stdout=log, stderr=log)
        try:
            wait_for(store, run, folder / "run.log")
            return at_work(studio, store, project, sessions, seconds, psutil.Process(run.pid))
        finally:
            run.terminate()
            run.wait(60)


def with_address(store: Store) -> Store:
    """The campaign with a web server of its own on this machine."""
    path = store.folder / "campaign.json"
    content = json.loads(path.read_text())
    content["settings"].setdefault("page", {})["public_url"] = f"http://127.0.0.1:{free_port()}"
    path.write_text(json.dumps(content))
    return Store.open(store.folder)


def wait_for(store: Store, run: subprocess.Popen, log: Path) -> None:
    """Until the campaign's server answers."""
    until = time.monotonic() + 300
    while time.monotonic() < until and run.poll() is None:
        try:
            if requests.get(f"{store.settings.page.public_url}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.5)
    raise SystemExit(f"campaign run: expected its server to answer, got {log.read_text()[-1000:] or 'nothing'}")


def at_work(
    studio: Studio, store: Store, project: int, sessions: list[requests.Session], seconds: float, run: psutil.Process
) -> dict[str, Any]:
    """Everybody works; what came of it."""
    seen, over, probes = [Seen() for _ in sessions], threading.Event(), list[float]()
    decided: list[tuple[float, int]] = []
    began, ends = time.time(), time.time() + seconds
    before = studio.processor_seconds(), taken(run), time.process_time()
    threads = [
        threading.Thread(target=work, args=(studio.url, project, session, own, ends, number))
        for number, (session, own) in enumerate(zip(sessions, seen, strict=True))
    ]
    watchers = [
        threading.Thread(target=probe, args=(store, probes, over)),
        threading.Thread(target=watch, args=(store, decided, over)),
    ]
    for thread in [*threads, *watchers]:
        thread.start()
    load = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(5)
        load.append(os.getloadavg()[0])
    took = time.time() - began
    after = studio.processor_seconds(), taken(run), time.process_time()
    submitted = {annotation: at for own in seen for annotation, at in own.submitted.items()}
    until = time.monotonic() + SETTLE
    while time.monotonic() < until and (
        not decided or decided[-1][1] < store.answers.newest() or _unread(store, submitted)
    ):
        time.sleep(1)
    over.set()
    for thread in watchers:
        thread.join()
    served = Counter(task for own in seen for task in own.served)
    by_task = Counter(task for own in seen for task in own.tasks)
    return {
        "people": len(sessions), "seconds": round(took, 1), "pages": len(submitted),
        "pages_a_second": round(len(submitted) / took, 2),
        "served_twice": sum(count > 1 for count in served.values()),
        "answered_twice": sum(count > 1 for count in by_task.values()),
        "nothing_to_do": sum(own.empty for own in seen),
        "lost": len(_unread(store, submitted)),
        "next_ms": _spread([ms for own in seen for ms in own.next_ms]),
        "submit_ms": _spread([ms for own in seen for ms in own.submit_ms]),
        "webhook_ms": _spread(probes),
        "decided_seconds": _spread(_delays(store, submitted, decided)),
        "turns": len({answer for _, answer in decided}),
        **{
            f"cpu_{name}": round((b - a) / took, 3)
            for name, a, b in zip(("label_studio", "campaign", "here"), before, after, strict=True)
        },
        "load": round(float(np.mean(load)), 1),
    }  # fmt: skip


def work(url: str, project: int, session: requests.Session, own: Seen, ends: float, seed: int) -> None:
    """One person, who does nothing but ask, look and submit."""
    rng = random.Random(seed)
    time.sleep(rng.uniform(0, PACE))  # people do not begin in the same instant
    while time.time() < ends:
        began = time.perf_counter()
        reply = session.post(
            f"{url}/api/dm/actions", params={"id": "next_task", "project": project}, json={}, timeout=120
        )  # fmt: skip
        own.next_ms.append(1000 * (time.perf_counter() - began))
        if reply.status_code == 404:
            own.empty += 1
            time.sleep(1)
            continue
        reply.raise_for_status()
        task = reply.json()["id"]
        own.served.append(task)
        time.sleep(rng.uniform(0.5 * PACE, 1.5 * PACE))
        began = time.perf_counter()
        made = session.post(
            f"{url}/api/tasks/{task}/annotations/", params={"project": project},
            json={"result": ANSWER, "lead_time": PACE}, timeout=120,
        )  # fmt: skip
        made.raise_for_status()
        own.submit_ms.append(1000 * (time.perf_counter() - began))
        own.submitted[made.json()["id"]] = time.time()
        own.tasks.append(task)


def probe(store: Store, found: list[float], over: threading.Event) -> None:
    """Sends webhooks as Label Studio does, and times the answers."""
    session = requests.Session()
    headers, body = {SECRET_HEADER: store.secret("webhook_secret")}, {"action": "ANNOTATION_CREATED"}
    while not over.wait(PROBES):
        began = time.perf_counter()
        reply = session.post(f"{store.settings.page.public_url}/webhook", json=body, headers=headers, timeout=60)
        assert reply.ok, reply.status_code
        found.append(1000 * (time.perf_counter() - began))


def watch(store: Store, decided: list[tuple[float, int]], over: threading.Event) -> None:
    """Notes when turns were over, and up to which answer they had decided."""
    while not over.wait(0.2):
        row = store.views.row(STATE)
        newest = int(row.cursor.get("answer", 0)) if row is not None else 0
        if newest and (not decided or decided[-1][1] < newest):
            decided.append((time.time(), newest))


def _delays(store: Store, submitted: dict[int, float], decided: list[tuple[float, int]]) -> list[float]:
    """Seconds from each answer to the end of the turn that decided by it."""
    newest: dict[int, int] = {}
    for fact in store.answers.rows():
        newest[fact.annotation_id] = fact.id
    cursors = np.array([answer for _, answer in decided], np.int64)
    delays = []
    for annotation, at in submitted.items():
        if annotation in newest and (place := int(np.searchsorted(cursors, newest[annotation]))) < len(cursors):
            delays.append(max(0.0, decided[place][0] - at))
    return delays


def _unread(store: Store, submitted: dict[int, float]) -> set[int]:
    return submitted.keys() - {fact.annotation_id for fact in store.answers.rows()}


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    p50, p95 = np.quantile(values, [0.5, 0.95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2), "most": round(max(values), 2)}
