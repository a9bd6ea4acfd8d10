"""The matrix: a seed chooses a campaign, its machines and what befalls them; then nothing may be lost or doubled."""

from __future__ import annotations

import json
import random
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

from campaign.derived.dataset import final_masks
from campaign.derived.showing import task_name
from campaign.label_studio.client import Client
from campaign.label_studio.verification import SECRET_HEADER
from campaign.pages.consistency import findings
from campaign.quality.answers import standing_answers
from campaign.records.stage import Stage
from campaign.steps.export import export_campaign
from campaign.steps.replay import replay
from campaign.store import Store
from ml_backend.errors import InputError
from tests.campaign import target_builders
from tests.campaign.builders import is_good, verify_store
from tests.security.faults.label_studio import FIRST_TOKEN
from tests.security.faults.machines import MARKS, VICTIMS, Postgres, Scene, Switches, install, scene

SECOND_TOKEN = "fedcba9876543210fedcba9876543210fedcba98"
IMAGES = 3  # of a campaign under the policy of a target
LIMIT = 240.0  # seconds that a run may take, on a machine that has others to serve
STEP = 3600.0  # seconds by which a clock is set back


@dataclass(frozen=True)
class Fault:
    """Something that befalls a run: what, after how many answered pages, and for how many seconds where it passes."""

    name: str
    after: int
    seconds: float = 0.0
    detail: tuple = ()

    def __str__(self) -> str:
        words = [self.name, *map(str, self.detail), f"after {self.after} pages"]
        return " ".join(words + ([f"for {self.seconds:.1f} s"] if self.seconds else []))


@dataclass
class Outcome:
    """What came of a run: what does not hold (`problems`), and which faults a line of the log told of."""

    number: int
    seed: int
    plan: str
    faults: list[str]
    seconds: float = 0.0
    pages: int = 0
    answers: int = 0
    masks: int = 0
    told: int = 0
    problems: list[str] = field(default_factory=list)


# What a fault leads a person to find in the logs, where it was noticed at all.
LINES = {
    "kill": r"was ended by signal 9|was killed, perhaps|that ran this campaign was killed|Work horse killed",
    "redis stopped": r"Redis: expected an answer|Redis .*: expected a Redis that answers",
    "redis emptied": r"Redis: expected an answer|Redis .*: expected a Redis that answers",
    "postgres restarted": r"is the database up",
    "down": r"is Label Studio up",
    "lost": r"is Label Studio up|looking which pages arrived",
    "500": r"is Label Studio up",
    "429": r"is Label Studio up",
    "502": r"is Label Studio up",
    "html": r"is Label Studio up",
    "token": r"campaign token",
    "disk": r"is there room on",
    "clock of Label Studio": r"clock of Label Studio went back",
}
# These go by unnoticed where a retry, or luck, was enough.
MAY_PASS = {"slow", "webhooks", "webhooks forged", "1000 webhooks", "clock", "edited"}


def plan(rng: random.Random, with_postgres: bool) -> tuple[dict[str, Any], list[Fault]]:
    """A campaign and one to three faults, as a seed would have them."""
    chosen = {
        "policy": rng.choices(["paper", "target"], [4, 1])[0],
        "postgres": with_postgres and rng.random() < 0.25,
        "embedded": rng.random() < 0.1,
    }
    pool: list[Callable[[], Fault]] = [
        lambda: Fault("kill", rng.randint(0, 3), 0, (
            rng.choice(VICTIMS), rng.choice(("before", "after")), rng.choice(MARKS), rng.randint(1, 25))),
        lambda: Fault("kill", rng.randint(0, 3), 0, (
            rng.choice(VICTIMS), rng.choice(("before", "after")), rng.choice(MARKS), rng.randint(1, 8))),
        lambda: Fault(rng.choice(("down", "lost", "500", "429", "502", "html")), rng.randint(0, 4), _length(rng)),
        lambda: Fault("slow", rng.randint(0, 4), _length(rng), (rng.choice((0.1, 0.3)),)),
        lambda: Fault("token", rng.randint(0, 3), _length(rng)),
        lambda: Fault("disk", rng.randint(0, 3), _length(rng)),
        lambda: Fault(rng.choice(("clock", "clock of Label Studio")), rng.randint(1, 3)),
        lambda: Fault(rng.choice(("webhooks", "webhooks forged", "1000 webhooks")), rng.randint(0, 3)),
        lambda: Fault("edited", rng.randint(0, 3)),
    ]  # fmt: skip
    if not chosen["embedded"]:
        pool.append(lambda: Fault(rng.choice(("redis stopped", "redis emptied")), rng.randint(0, 4), _length(rng)))
        pool.append(lambda: Fault(rng.choice(("redis stopped", "redis emptied")), rng.randint(0, 4), _length(rng)))
    if chosen["postgres"]:
        pool += [lambda: Fault("postgres restarted", rng.randint(0, 4), _length(rng))] * 3
    return chosen, [rng.choice(pool)() for _ in range(rng.randint(1, 3))]


def _length(rng: random.Random) -> float:
    return round(rng.uniform(0.3, 1.5), 1)


class Templates:
    """Campaigns at verify, made once and copied for every run; and what undisturbed ones come to."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.truth = {"paper": is_good, "target": target_builders.Truth(IMAGES)}
        for policy, make in (
            ("paper", lambda f: verify_store(f)),
            ("target", lambda f: target_builders.target_store(f, images=IMAGES)),
        ):
            store = make(folder / policy)
            store.save_secrets({"label_studio_token": FIRST_TOKEN})
            store.engine.dispose()
        self._warm_up()

    def _warm_up(self) -> None:
        """Imports all that turns import late, once for all processes that are forked from this one."""
        import campaign.web.serving  # noqa: F401

        copied = self.folder / "warm"
        shutil.copytree(self.folder / "target" / "c", copied)
        store = Store.open(copied)
        keys, _ = target_builders.turn(store)
        for key in keys:
            target_builders.answer(store, key, self.truth["target"])
        target_builders.turn(store)
        export_campaign(store, self.folder / "warm.json")
        store.engine.dispose()
        assert Client("http://127.0.0.1:9", FIRST_TOKEN).sdk

    def copy(self, policy: str, made: Scene) -> Store:
        """A campaign for a run, on its machines."""
        shutil.copytree(self.folder / policy / "c", made.folder)
        path = made.folder / "campaign.json"
        content = json.loads(path.read_text())
        settings = content["settings"]
        settings["label_studio"]["url"] = f"http://127.0.0.1:{made.port}"
        settings["page"]["public_url"] = f"http://127.0.0.1:{made.web_port}"
        settings["rounds"]["rounds"] = 1
        settings["jobs"] |= {"poll_seconds": 0.25, "retry_seconds": 0.1}
        if made.redis is not None:
            settings["jobs"]["redis_url"] = made.redis.url
        if made.postgres is not None:
            from campaign.store.backup import copy_database

            url = made.postgres.database(f"run_{made.port}")
            copy_database(Store.open(made.folder).engine, url)
            settings["jobs"]["database_url"] = url
            (made.folder / "campaign.db").unlink()
        path.write_text(json.dumps(content))
        return Store.open(made.folder)


class People:
    """Two annotators who answer each page rightly, as it comes; one may first be wrong and then change it."""

    def __init__(self, made: Scene, store: Store, truth: Callable[[int], bool]):
        self.made, self.store, self.truth = made, store, truth
        self.answered = 0
        self.edit_next = False
        self.hooks_left = 0  # webhooks that arrive, and those that do not

    def answer(self) -> bool:
        """Answers one open page; returns whether there was one."""
        key_of = {task_name(page): page.key for page in self.store.pages.rows()}
        for task in self.made.control("open"):
            user = 1 + self.answered % 2
            asked = self.store.questions.on_pages([key_of.get(task["key"], "")])
            if not asked:
                continue
            masks, names = [a.mask_id for a in asked], [a.name or str(a.mask_id) for a in asked]
            first = [not self.truth(i) for i in masks] if self.edit_next else [self.truth(i) for i in masks]
            said = self.made.control("annotate", task=task["id"], user=user, result=_result(names, first))
            if not said:
                return False
            if self.edit_next:
                time.sleep(0.3)
                right = _result(names, [self.truth(i) for i in masks])
                while not self.made.control("annotate", task=task["id"], user=user, id=said["id"], result=right):
                    time.sleep(0.05)
                self.edit_next = False
            self.answered += 1
            return True
        return False


def _result(names: list[str], right: list[bool]) -> list[dict[str, Any]]:
    wrong = [name for name, r in zip(names, right, strict=True) if not r]
    said = [("status", ["reviewed"]), *([("wrong", wrong)] if wrong else [])]
    return [{"from_name": n, "to_name": "t", "type": "choices", "value": {"choices": c}} for n, c in said]


class Weather:
    """Has the faults of a run happen, and end."""

    def __init__(self, made: Scene, store: Store, faults: list[Fault], people: People):
        self.made, self.store, self.people = made, store, people
        self.waiting = sorted(faults, key=lambda f: f.after)
        self.passing: list[tuple[float, Callable[[], None]]] = []

    def tick(self) -> None:
        """What begins and ends now."""
        now = time.monotonic()
        for end in [one for one in self.passing if one[0] <= now]:
            self.passing.remove(end)
            end[1]()
        while self.waiting and self.waiting[0].after <= self.people.answered:
            self._begin(self.waiting.pop(0))

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen but to those that a mark still waits for."""
        return not self.waiting and not self.passing

    def _begin(self, fault: Fault) -> None:
        made, later = self.made, time.monotonic() + fault.seconds

        def sky(**now: Any) -> None:
            made.control("weather", **now)

        if fault.name == "kill":
            victim, when, mark, count = fault.detail
            made.switches.arm(mark, when == "after", victim, count)
        elif fault.name.startswith("redis"):
            assert made.redis is not None
            made.redis.stop(empty=fault.name == "redis emptied")
            self.passing.append((later, made.redis.start))
        elif fault.name == "postgres restarted":
            assert made.postgres is not None
            made.postgres.stop()
            self.passing.append((later, made.postgres.start))
        elif fault.name == "token":
            sky(token=SECOND_TOKEN)
            self.passing.append((later, lambda: self.store.save_secrets({"label_studio_token": SECOND_TOKEN})))
        elif fault.name == "disk":
            made.switches.disk(True)
            self.passing.append((later, lambda: made.switches.disk(False)))
        elif fault.name == "clock":
            made.switches.clock(-STEP)
        elif fault.name == "clock of Label Studio":
            sky(clock=-STEP)
        elif fault.name == "edited":
            self.people.edit_next = True
        elif "webhooks" in fault.name:
            self._webhooks(fault.name)
        else:
            sky(mode=fault.name, seconds=fault.detail[0] if fault.detail else 0.0)
            self.passing.append((later, lambda: sky(mode="ok")))

    def _webhooks(self, name: str) -> None:
        """Webhooks that nobody sent, many at once, of events that are long over, with the wrong secret."""
        import http.client

        if self.made.web is None:
            self.made.start_web()
            _until(lambda: _answers(self.made.web_port), 20)
        secret = "forged" if name == "webhooks forged" else self.store.secret("webhook_secret")

        def send(n: int) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.made.web_port, timeout=20)
            with suppress(OSError, HTTPException):
                action = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED", "START_TRAINING")[n % 4]
                headers = {"Content-Type": "application/json", SECRET_HEADER: secret}
                connection.request("POST", "/webhook", json.dumps({"action": action, "project": {"id": 1}}), headers)
                connection.getresponse().read()
            connection.close()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(send, range(1000 if name == "1000 webhooks" else 40)))


def _answers(port: int) -> bool:
    import socket

    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
        return True
    return False


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def run_one(number: int, seed: int, templates: Templates, postgres: Postgres | None, folder: Path) -> Outcome:
    """One seeded run, from the first question to the export, and what must hold of it."""
    rng = random.Random(seed * 100_003 + number)
    chosen, faults = plan(rng, postgres is not None)
    words = f"{chosen['policy']} on {'PostgreSQL' if chosen['postgres'] else 'SQLite'}"
    outcome = Outcome(number, seed, words + (", embedded Redis" if chosen["embedded"] else ""), list(map(str, faults)))
    switches = Switches()
    began = time.monotonic()
    folder.mkdir(parents=True)
    here = postgres if chosen["postgres"] else None
    with scene(folder, switches, chosen["embedded"], here) as made:
        store = templates.copy(chosen["policy"], made)
        people = People(made, store, templates.truth[chosen["policy"]])
        try:
            install(switches)
            _go(made, store, people, faults, outcome)
        finally:
            switches.clock(0.0)
        if not outcome.problems:
            made.control("weather", mode="ok")
            for problem in check(made, Store.open(made.folder), people, outcome):
                outcome.problems.append(problem)
        _told(made, faults, outcome)
    outcome.seconds = round(time.monotonic() - began, 2)
    return outcome


def _go(made: Scene, store: Store, people: People, faults: list[Fault], outcome: Outcome) -> None:
    """Runs the campaign to its end, with people and weather; a run that is killed is started again, as on a server."""
    weather = Weather(made, store, faults, people)
    end = time.monotonic() + LIMIT
    _until(lambda: _answers(made.port), 10)
    made.start_run()
    starts = 1
    while True:
        weather.tick()
        with suppress(InputError, OSError, HTTPException):  # the driver's own look, while things are away
            people.answer()
        assert made.run is not None
        code = made.run.poll()
        if code == 0:
            break
        if code is not None:
            starts += 1
            # What cannot start because something is away is started again by whoever keeps services running.
            is_away = code == 1 and re.match(r"\w*Unavailable: ", _last(made.log)) is not None
            if not (code == -9 or is_away) or starts > 30:
                outcome.problems.append(f"the run ended with exit status {code}: {_last(made.log)}")
                break
            time.sleep(0.2 if is_away else 0.0)
            made.start_run()
        if time.monotonic() > end:
            outcome.problems.append(f"not over after {LIMIT:.0f} s: {_last(made.log)}")
            break
        time.sleep(0.04)
    while weather.passing:
        weather.tick()
        time.sleep(0.02)
    made.switches.disk(False)
    outcome.pages = people.answered


def check(made: Scene, store: Store, people: People, outcome: Outcome) -> Iterator[str]:
    """What does not hold: an answer lost or counted twice, a page doubled, another export than the facts give."""
    current = store.rounds.newest()
    if current is None or current.stage != Stage.DONE:
        yield "the campaign has not ended"
        return
    books = made.control("books")["tasks"]
    keys = Counter((task.get("meta") or {}).get("key") for task in books)
    if doubled := [key for key, n in keys.items() if n > 1]:
        yield f"pages doubled in Label Studio: {doubled}"
    asked: dict[str, set[int]] = {}
    for question, page in store.questions.rows(gold=True):
        asked.setdefault(task_name(page), set()).add(question.mask_id)
    want = {
        (a["id"], mask): "yes" if people.truth(mask) else "no"
        for task in books
        for a in task["annotations"]
        for mask in asked.get((task.get("meta") or {}).get("key"), ())
    }
    facts = standing_answers(store.answers.rows())
    have = {(f.annotation_id, f.mask_id): f.verdict for f in facts}
    outcome.answers = len(have)
    if lost := want.keys() - have.keys():
        yield f"{len(lost)} answers lost"
    if beside := have.keys() - want.keys():
        yield f"{len(beside)} answers that nobody gave"
    if len(facts) != len(have):
        yield "an answer counts twice"
    if any(have[k] != want[k] for k in want.keys() & have.keys()):
        yield "an answer is another than was given"
    token = store.secret("label_studio_token")
    client = Client(f"http://127.0.0.1:{made.port}", token)
    store.engine.dispose()
    for finding in findings(Store.open(made.folder, read_only=True), client, pause=0.2):
        yield f"verify: {finding.thing} {finding.problem}"
    before = _export(store, made.folder.parent / "before.json")
    again = replay(store)
    if again["changed"]:
        yield f"replay changes {again['changed']} decisions and masks"
    if _export(Store.open(made.folder), made.folder.parent / "after.json") != before:
        yield "the export is another after a replay"
    outcome.masks = len(final_masks(store))
    if store.settings.search.policy == "paper":
        ids = final_masks(store).mask_id.tolist()
        if len(ids) != 80 or not all(map(people.truth, ids)):
            yield f"other masks than undisturbed: {len(ids)}"


def _export(store: Store, path: Path) -> dict[str, Any]:
    """The export without what a replay may say otherwise: the day."""
    export_campaign(store, path)
    content = json.loads(path.read_text())
    content["info"].pop("date_created")
    return content


def _told(made: Scene, faults: list[Fault], outcome: Outcome) -> None:
    """Counts the faults that a line of a log tells of; one that everything rests on must not pass in silence."""
    text = made.lines()
    for fault in faults:
        pattern = LINES.get(fault.name)
        if pattern is not None and re.search(pattern, text):
            outcome.told += 1
    if re.search(r"^Traceback", text, re.MULTILINE):
        last = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
        outcome.problems.append(f"a traceback in the log: {last[-1] if last else ''}")


def _last(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1][:300] if lines else "nothing said"
