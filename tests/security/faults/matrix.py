"""The matrix: a seed chooses a campaign, its machines and what befalls them; then nothing may be lost or doubled."""

from __future__ import annotations

import json
import random
import re
import signal
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
from tests.security.faults.campaigns import Known, Templates
from tests.security.faults.machines import MARKS, VICTIMS, Postgres, Scene, Switches, install, scene
from tests.security.faults.signs import LINES, STATES, Sign

SECOND_TOKEN = "fedcba9876543210fedcba9876543210fedcba98"
LIMIT = 600.0  # seconds that a run may take, on a machine that has others to serve
STEP = 3600.0  # seconds by which a clock is set back
SLOW = 5.0  # seconds that Label Studio takes for an answer where it is slow
NOTICED = 60.0  # seconds in which a line of the log is to tell of what goes on
LAST_MOMENTS = 3.0  # seconds before its end in which a run may overlook a death


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


def plan(rng: random.Random, with_postgres: bool) -> tuple[dict[str, Any], list[Fault]]:
    """A campaign and one to three faults, as a seed would have them."""
    chosen = {
        "kind": rng.choices(["paper", "target", "loop"], [3, 1, 2])[0],
        "postgres": with_postgres and rng.random() < 0.25,
        "embedded": rng.random() < 0.1,
    }
    # A loop trains, detects and clusters before its first page; Label Studio is not asked until then.
    is_loop = chosen["kind"] == "loop"

    def early(most: int) -> int:
        return 0 if is_loop and rng.random() < 0.6 else rng.randint(0, most)

    def kill(most: int) -> Fault:
        detail = (rng.choice(VICTIMS), rng.choice(("before", "after")), rng.choice(MARKS), rng.randint(1, most))
        return Fault("kill", early(3), 0, detail)

    first = int(is_loop)
    pool: list[Callable[[], Fault]] = [
        lambda: kill(60 if is_loop else 25),
        lambda: kill(8),
        lambda: Fault(rng.choice(("down", "lost", "500", "429", "502", "html")), rng.randint(first, 4), _length(rng)),
        lambda: Fault("slow", rng.randint(first, 4), _length(rng), (SLOW,)),
        lambda: Fault("token", rng.randint(first, 3), _length(rng)),
        lambda: Fault("disk", early(3), _length(rng)),
        lambda: Fault(rng.choice(("clock", "clock of Label Studio")), rng.randint(1, 3)),
        lambda: Fault(rng.choice(("webhooks", "webhooks forged", "1000 webhooks")), rng.randint(0, 3)),
        lambda: Fault("edited", rng.randint(0, 3)),
        lambda: Fault("ended", early(3)),
    ]
    if is_loop:
        pool += [lambda: kill(60), lambda: kill(25)]
    if not chosen["embedded"]:
        pool += [lambda: Fault(rng.choice(("redis stopped", "redis emptied")), early(4), _length(rng))] * 2
    if chosen["postgres"]:
        pool += [lambda: Fault("postgres restarted", early(4), _length(rng))] * 3
    return chosen, [rng.choice(pool)() for _ in range(rng.randint(1, 3))]


def _length(rng: random.Random) -> float:
    return round(rng.uniform(0.3, 1.5), 1)


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
    """Has the faults of a run happen, and end: what passes lasts until a line of the log tells of it, if it is felt."""

    def __init__(self, made: Scene, store: Store, faults: list[Fault], people: People):
        self.made, self.store, self.people = made, store, people
        self.waiting = sorted(faults, key=lambda f: f.after)
        self.passing: list[tuple[float, Callable[[], None], Sign | None]] = []
        self.signs: list[Sign] = []
        self.ends_by: float | None = None  # when a run that was asked to end has to have ended

    def tick(self) -> None:
        """What begins and ends now."""
        now = time.monotonic()
        for one in [one for one in self.passing if one[0] <= now]:
            until, end, sign = one
            if sign is not None and now < until + NOTICED and not sign.is_read() and self._runs():
                continue
            if sign is not None:
                sign.felt = self._is_felt(sign)
            self.passing.remove(one)
            end()
        while self.waiting and self.waiting[0].after <= self.people.answered:
            self._begin(self.waiting.pop(0))

    def _runs(self) -> bool:
        return self.made.run is not None and self.made.run.poll() is None

    def _is_felt(self, sign: Sign) -> bool:
        """Whether somebody ran into it who would say so."""
        if sign.name in STATES or sign.name == "token":
            return self.made.control("felt")["requests"] > 0 and self._runs()
        if sign.name == "disk":  # what the people answered was to be stored
            return self.people.answered > sign.answered and self._runs()
        return self._runs()

    def _begin(self, fault: Fault) -> None:
        made, later = self.made, time.monotonic() + fault.seconds
        sign = Sign(fault.name, made.lines, self.people.answered) if fault.name in LINES else None
        if sign is not None:
            self.signs.append(sign)

        def sky(**now: Any) -> None:
            made.control("weather", **now)

        def ends(end: Callable[[], None]) -> None:
            self.passing.append((later, end, sign))

        if fault.name == "kill":
            victim, when, mark, count = fault.detail
            made.switches.arm(mark, when == "after", victim, count)
        elif fault.name.startswith("redis"):
            assert made.redis is not None
            made.redis.stop(empty=fault.name == "redis emptied")
            ends(made.redis.start)
        elif fault.name == "postgres restarted":
            assert made.postgres is not None
            made.postgres.stop()
            ends(made.postgres.start)
        elif fault.name == "token":
            sky(token=SECOND_TOKEN)
            ends(lambda: self.store.save_secrets({"label_studio_token": SECOND_TOKEN}))
        elif fault.name == "disk":
            made.switches.disk(True)
            ends(lambda: made.switches.disk(False))
        elif fault.name == "clock":
            made.switches.clock(-STEP)
        elif fault.name == "clock of Label Studio":
            sky(clock=-STEP)
            assert sign is not None
            sign.felt = bool(self.store.answers.rows())  # before its first answer is read no time of it is known
        elif fault.name == "edited":
            self.people.edit_next = True
        elif fault.name == "ended":
            assert made.run is not None
            made.run.send_signal(signal.SIGTERM)
            self.ends_by = time.monotonic() + 30
        elif "webhooks" in fault.name:
            self._webhooks(fault.name)
        else:
            sky(mode=fault.name, seconds=fault.detail[0] if fault.detail else 0.0)
            ends(lambda: sky(mode="ok"))

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
    words = f"{chosen['kind']} on {'PostgreSQL' if chosen['postgres'] else 'SQLite'}"
    outcome = Outcome(number, seed, words + (", embedded Redis" if chosen["embedded"] else ""), list(map(str, faults)))
    switches = Switches()
    began = time.monotonic()
    folder.mkdir(parents=True)
    here = postgres if chosen["postgres"] else None
    with scene(folder, switches, chosen["embedded"], here) as made:
        store = templates.copy(chosen["kind"], made)
        known = templates.known[chosen["kind"]]
        people = People(made, store, known.truth)
        try:
            install(switches)
            weather = Weather(made, store, faults, people)
            _go(made, weather, people, outcome)
        finally:
            switches.clock(0.0)
        if not outcome.problems:
            made.control("weather", mode="ok")
            outcome.problems += check(made, Store.open(made.folder), people, known, outcome)
        _told(made, weather, outcome)
    outcome.seconds = round(time.monotonic() - began, 2)
    return outcome


def _go(made: Scene, weather: Weather, people: People, outcome: Outcome) -> None:
    """Runs the campaign to its end, with people and weather; a run that is killed is started again, as on a server."""
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
            made.ended_at = time.monotonic()
            break
        if code is not None:
            starts += 1
            # What cannot start because something is away is started again by whoever keeps services running.
            is_away = code == 1 and re.match(r"\w*Unavailable: ", _last(made.log)) is not None
            was_asked = code in (130, -15) and weather.ends_by is not None
            if not (code == -9 or is_away or was_asked) or starts > 30:
                outcome.problems.append(f"the run ended with exit status {code}: {_last(made.log)}")
                break
            weather.ends_by = None
            time.sleep(0.2 if is_away else 0.0)
            made.start_run()
        if weather.ends_by is not None and time.monotonic() > weather.ends_by:
            outcome.problems.append("the run did not end within 30 s of SIGTERM")
            break
        if time.monotonic() > end:
            outcome.problems.append(f"not over after {LIMIT:.0f} s: {_last(made.log)}")
            break
        time.sleep(0.04)
    while weather.passing:
        weather.tick()
        time.sleep(0.02)
    made.switches.disk(False)
    outcome.pages = people.answered


def check(made: Scene, store: Store, people: People, known: Known, outcome: Outcome) -> Iterator[str]:
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
    ids = sorted(final_masks(store).mask_id.tolist())
    if known.masks is not None and ids != sorted(known.masks):
        yield f"other masks than undisturbed: {len(set(ids) ^ set(known.masks))} of {len(known.masks)}"


def _export(store: Store, path: Path) -> dict[str, Any]:
    """The export without what a replay may say otherwise: the day."""
    export_campaign(store, path)
    content = json.loads(path.read_text())
    content["info"].pop("date_created")
    return content


def _told(made: Scene, weather: Weather, outcome: Outcome) -> None:
    """That a line of the log tells of each fault that was felt, and none is a traceback."""
    for sign in weather.signs:
        if sign.is_read():
            outcome.told += 1
        elif sign.felt and _should_be_read(sign, made, weather):
            outcome.problems.append(f"no line of the log tells of: {sign.name}")
    text = made.lines()
    if re.search(r"^Traceback", text, re.MULTILINE):
        last = [line for line in text.splitlines() if re.match(r"[\w.]+(Error|Exception)\b", line)]
        outcome.problems.append(f"a traceback in the log: {last[-1] if last else ''}")


def _should_be_read(sign: Sign, made: Scene, weather: Weather) -> bool:
    """What was killed in the last moments, or is none of the run's, is not buried by it; a run that starts anew knows
    no other clock."""
    if sign.name == "kill":
        is_web = made.web is not None and made.web.poll() is not None
        return 0 < made.switches.killed_at < made.ended_at - LAST_MOMENTS and not is_web
    return sign.name != "clock" or made.starts == 1


def _last(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1][:300] if lines else "nothing said"
