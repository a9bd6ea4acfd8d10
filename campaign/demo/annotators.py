"""Simulated annotators: they know Label Studio's HTTP API and a file with the true masks, and nothing else.

They log in as users do, ask for the next task as the labeling screen does, look at the masks on the page and answer.
A file that the demo writes (`campaign.demo.sight`) stands in for their eyes: a task does not say what it shows. It
stands alone on purpose, with `campaign.demo.eyes`: it imports nothing else of ours and reads no campaign's files.

    python -m campaign.demo.annotators --url http://127.0.0.1:8080 --project 1 --truth pool.json --shown shown.jsonl
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from campaign.demo.eyes import PATIENCE_SECONDS, POLL_SECONDS, AnnotatorError, Habits, Shown, Truth, chance

# Seconds that people took per answer in the published study.
PUBLISHED_SECONDS = 1.5
# On SQLite, Label Studio serves two users who ask in the same instant the same task. People hardly do.
_asking = threading.Lock()


@dataclass
class Counts:
    """What was answered so far."""

    pages: int = 0
    skipped: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    mistakes: int = 0
    unknown_images: set[str] = field(default_factory=set)


class Annotator:
    """One user at the labeling screen."""

    def __init__(
        self,
        url: str,
        email: str,
        password: str,
        truth: Truth,
        habits: Habits,
        seconds: float,
        sight: Callable[[str], dict[str, Any] | None],
    ):
        self.url = url.rstrip("/")
        self.sight = sight
        self.email = email
        self.truth, self.habits, self.seconds = truth, habits, seconds
        self.counts = Counts()
        self._password = password
        self._session = requests.Session()
        self._session.trust_env = "127.0.0.1" not in url and "localhost" not in url

    def enter(self, invite: str | None) -> None:
        """Signs up with the invitation where there is one, or logs in."""
        self._ask("GET", "/health")
        if invite and self._form(f"/user/signup/?token={invite}"):
            return
        if not self._form("/user/login/"):
            raise AnnotatorError(
                f"user {self.email}: expected a password or an invitation that Label Studio takes, got a refusal"
            )

    def answer_next(self, project: int) -> bool:
        """Answers the next page; False where there is none. Raises AnnotatorError where the project is gone."""
        with _asking:
            reply = self._ask(
                "POST", "/api/dm/actions", params={"id": "next_task", "project": project}, json={}, ok=(200, 404)
            )
        if reply.status_code == 404:
            if self._ask("GET", f"/api/projects/{project}/", ok=(200, 404)).status_code == 404:
                raise AnnotatorError(f"project {project}: expected a project of {self.url}, got none")
            return False
        task = reply.json()
        start = time.monotonic()
        verdicts, mistakes = self.judge(task["data"])
        skip = (
            chance(self.habits.seed, "skip", "" if self.habits.alike else self.email, *self._contents(task["data"]))
            < self.habits.skip
        )
        time.sleep(self.seconds * len(verdicts))
        # Without a pace of its own a page states the pace that was measured of people.
        lead_time = round(time.monotonic() - start, 3) if self.seconds else PUBLISHED_SECONDS * len(verdicts)
        body: dict[str, Any] = {"result": result(verdicts, task["data"]), "lead_time": lead_time}
        if skip:
            body["was_cancelled"] = True
        if task.get("unique_lock_id"):
            # As the screen does: an answer that arrived although its reply was lost is not stored twice.
            body["unique_id"] = task["unique_lock_id"]
        self._ask(
            "POST", f"/api/tasks/{task['id']}/annotations/", params={"project": project}, json=body, ok=(201, 409)
        )
        self.counts.pages += 1
        self.counts.skipped += skip
        if not skip:
            self.counts.verdicts.update(verdicts.values())
            self.counts.mistakes += mistakes
        return True

    def judge(self, data: dict[str, Any]) -> tuple[dict[str, str], int]:
        """The verdict on each mask of a page, by what the page calls it, and how many are mistakes."""
        verdicts: dict[str, str] = {}
        mistakes = 0
        for mask in self.see(data)["masks"]:
            if self.truth.image(mask["image"]) is None:
                self.counts.unknown_images.add(mask["image"])
            iou = self.truth.best_iou(mask["image"], data["class_name"], mask["rle"])
            content = f"{mask['image']} {mask['rle']['counts']}"
            verdict = self.habits.verdict(iou, self.email, content)
            verdicts[mask["name"]] = verdict
            mistakes += verdict == ("no" if iou >= self.habits.k_iou else "yes")
        return verdicts, mistakes

    def _contents(self, data: dict[str, Any]) -> list[str]:
        """What a page is known by: its name is drawn by chance."""
        return sorted(f"{mask['image']} {mask['rle']['counts']}" for mask in self.see(data)["masks"])

    def see(self, data: dict[str, Any]) -> dict[str, Any]:
        """What a page shows. Raises AnnotatorError where nothing says so."""
        shown = self.sight(data["key"])
        if shown is None:
            raise AnnotatorError(f"page {data['key']}: expected to be told what it shows, got nothing")
        return shown

    def _form(self, path: str) -> bool:
        self._ask("GET", path)
        form = {
            "email": self.email,
            "password": self._password,
            "csrfmiddlewaretoken": self._session.cookies.get("csrftoken", ""),
        }
        headers = {"Referer": self.url + path}
        reply = self._ask("POST", path, data=form, headers=headers, ok=(200, 302, 403), allow_redirects=False)
        return reply.status_code == 302

    def _ask(self, method: str, path: str, ok: tuple[int, ...] = (200,), **options: Any) -> requests.Response:
        """Label Studio's reply; where it fails, it is asked again for a while."""
        until = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                reply = self._session.request(method, self.url + path, timeout=60, **options)
            except requests.ConnectionError as error:
                got = type(error).__name__
            except requests.RequestException as error:
                raise AnnotatorError(f"{self.url}: expected a running Label Studio, got {error}") from None
            else:
                if reply.status_code in ok:
                    return reply
                got = f"{reply.status_code} to {method} {path.partition('?')[0]}"
                if reply.status_code < 500:
                    raise AnnotatorError(f"{self.url}: expected {ok[0]}, got {got}")
            if time.monotonic() > until:
                raise AnnotatorError(f"{self.url}: expected a running Label Studio, got {got}")
            time.sleep(1)


def result(verdicts: dict[str, str], data: dict[str, Any]) -> list[dict[str, Any]]:
    """The annotation that a person makes with these verdicts: exceptions chosen, the rest left as it is."""
    chosen = {
        "status": ["reviewed"],
        "wrong": [m for m, v in verdicts.items() if v == "no"],
        "doubt": [m for m, v in verdicts.items() if v == "unsure"],
    }
    if chosen["doubt"] and "doubts" not in data:
        # A page without a choice per mask: who is unsure of one mask says so of the page.
        chosen["status"], chosen["doubt"] = ["unsure"], []
    return [
        {
            "id": hashlib.blake2b(f"{data['key']} {name}".encode(), digest_size=5).hexdigest(),
            "from_name": name,
            "to_name": "title",
            "type": "choices",
            "origin": "manual",
            "value": {"choices": choices},
        }
        for name, choices in chosen.items()
        if choices
    ]


class Team:
    """Annotators at work side by side until they are stopped or have had nothing to do for a while."""

    def __init__(
        self, annotators: list[Annotator], projects: list[int], idle_seconds: float | None, stop_file: Path | None
    ):
        self.annotators, self.projects = annotators, projects
        self.idle_seconds, self.stop_file = idle_seconds, stop_file
        self.stop = threading.Event()
        self.problem: str | None = None
        self._last_page = time.monotonic()

    def run(self) -> None:
        """Works; ends in order: a page that was opened is answered first, so that none stays locked."""
        self._last_page = time.monotonic()
        threads = [threading.Thread(target=self._work, args=(a,), daemon=True) for a in self.annotators]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self, annotator: Annotator) -> None:
        try:
            while not self._over():
                if any([annotator.answer_next(project) for project in self.projects]):
                    self._last_page = time.monotonic()
                else:
                    self.stop.wait(POLL_SECONDS)
        except AnnotatorError as error:
            self.problem = str(error)
            self.stop.set()

    def _over(self) -> bool:
        if self.stop_file and self.stop_file.exists():
            self.stop.set()
        if self.idle_seconds is not None and time.monotonic() - self._last_page > self.idle_seconds:
            self.stop.set()
        return self.stop.is_set()

    def summary(self, seconds: float) -> dict[str, Any]:
        """What they did, for a JSON line."""
        total: Counter[str] = Counter()
        for a in self.annotators:
            total.update(a.counts.verdicts)
        unknown = set().union(*(a.counts.unknown_images for a in self.annotators))
        return {
            "pages": sum(a.counts.pages for a in self.annotators),
            "skipped": sum(a.counts.skipped for a in self.annotators),
            "answers": total.total(),
            "yes": total["yes"],
            "no": total["no"],
            "unsure": total["unsure"],
            "mistakes": sum(a.counts.mistakes for a in self.annotators),
            "unknown_images": sorted(unknown)[:10],
            "seconds": round(seconds, 2),
            "users": {
                a.email: {"pages": a.counts.pages, "answers": a.counts.verdicts.total()} for a in self.annotators
            },
        }


def per_user(values: list[float], users: int, name: str) -> list[float]:
    """One value for each user: one for all, or as many as there are users."""
    if len(values) not in (1, users):
        raise AnnotatorError(f"--{name}: expected one value or one for each of {users} users, got {len(values)}")
    return values * users if len(values) == 1 else values


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(prog="annotators", description="Simulated annotators for a verification project.")
    p.add_argument("--url", required=True, help="address of Label Studio")
    p.add_argument("--project", type=int, action="append", required=True, help="verification project; may be repeated")
    p.add_argument("--truth", required=True, action="append", help="COCO file with the true masks; may be repeated")
    p.add_argument("--shown", required=True, help="file that says what pages show, a line of JSON each; it may grow")
    p.add_argument("--users", type=int, default=1, help="number of users, annotator-1@example.com and so on")
    p.add_argument(
        "--user", action="append", default=[], metavar="EMAIL", help="a user by name instead; may be repeated"
    )
    p.add_argument("--invite", help="token with which users sign up who are not there yet")
    p.add_argument("--k-iou", type=float, default=0.75, help="a mask is correct at this IoU with a true mask")
    p.add_argument("--eye-cut", type=float, help="IoU from which they take a mask for correct; unset: --k-iou")
    p.add_argument("--error", type=float, action="append", help="chance of a wrong answer; repeated: one per user")
    p.add_argument("--unsure", type=float, default=0.0, help="chance of being unsure of a mask")
    p.add_argument("--skip", type=float, default=0.0, help="chance of skipping a page")
    p.add_argument(
        "--near-width", type=float, default=0.0, help="masks this near to where eyes cut are mistaken by all alike"
    )
    p.add_argument("--near-error", type=float, default=0.5, help="chance of a mistake on such a mask")
    p.add_argument(
        "--own-mistakes", action="store_true", help="each user errs on other masks instead of all on the same"
    )
    p.add_argument(
        "--seconds", type=float, action="append", help="seconds per answer, 0 as fast as possible; or one per user"
    )
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--idle-seconds", type=float, help="end after so long without a page; else on SIGTERM")
    p.add_argument("--stop-file", type=Path, help="end when this file appears")
    return p


def run_team(
    options: argparse.Namespace,
    members: Callable[[argparse.Namespace, list[str], list[float]], Sequence[Annotator]],
    signals: Sequence[signal.Signals] = (),
) -> int:
    """Makes the users of a team, has them answer until they are done, and prints what they did as a JSON line.

    `members` returns them by options, emails and seconds per answer; each of `signals` ends them. Returns the exit
    status: 1 where something went wrong, which is said on stderr.
    """
    start = time.monotonic()
    try:
        emails = options.user or [f"annotator-{i + 1}@example.com" for i in range(options.users)]
        annotators = members(options, emails, per_user(options.seconds or [0.0], len(emails), "seconds"))
        for annotator in annotators:
            annotator.enter(options.invite)
        team = Team(list(annotators), options.project, options.idle_seconds, options.stop_file)
        for number in signals:
            signal.signal(number, lambda *_: team.stop.set())
        team.run()
    except AnnotatorError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(team.summary(time.monotonic() - start)))
    if team.problem:
        print(team.problem, file=sys.stderr)
    return 1 if team.problem else 0


def _annotators(options: argparse.Namespace, emails: list[str], paces: list[float]) -> list[Annotator]:
    """The users who judge masks. Raises AnnotatorError without their password."""
    password = os.environ.get("ANNOTATORS_PASSWORD", "")
    if not password:
        raise AnnotatorError("ANNOTATORS_PASSWORD: expected the users' password in the environment, got none")
    errors, truth = per_user(options.error or [0.0], len(emails), "error"), Truth(*options.truth)
    shown = Shown(options.shown)
    return [
        Annotator(
            options.url,
            email,
            password,
            truth,
            Habits(
                k_iou=options.k_iou,
                error=error,
                unsure=options.unsure,
                skip=options.skip,
                near_width=options.near_width,
                near_error=options.near_error,
                seed=options.seed,
                alike=not options.own_mistakes,
                eye_cut=options.eye_cut,
            ),
            pace,
            shown,
        )
        for email, error, pace in zip(emails, errors, paces, strict=True)
    ]


def main(arguments: list[str] | None = None) -> int:
    """Runs the team; the users' password comes from $ANNOTATORS_PASSWORD. Returns the exit status."""
    return run_team(parser().parse_args(arguments), _annotators, (signal.SIGTERM, signal.SIGINT))


if __name__ == "__main__":
    sys.exit(main())
