"""Qualify: a test of gold masks alone, in a project of its own, that shows who understood the task."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from campaign.derived.trust import attempt_of, test_answers
from campaign.label_studio.client import Client
from campaign.label_studio.verification import create_project
from campaign.pages.gold import clear_pages
from campaign.pages.instructions import project_instructions
from campaign.pages.publishing import put, question_tasks
from campaign.pages.readback import read_answers
from campaign.quality.measures import Reliability, passed, reliability
from campaign.records.page import EVERYONE, NewPage, PageKind
from campaign.store import Store
from campaign.store.values import Key
from label_config import language, load
from ml_backend.errors import InputError


@dataclass(frozen=True)
class Attempt:
    """One user's test: `right` of `masks` answered as they are known to be; passed only once all are answered."""

    user: str
    test: int
    answered: int
    masks: int
    right: int
    passed: bool
    reliability: Reliability


def tests(store: Store) -> list[dict[str, Any]]:
    """The tests made so far, {"number", "project"}."""
    return list((store.values.get(Key.QUALIFICATION_TESTS) or {}).get("tests", []))


def begin_test(store: Store, client: Client, pages: int | None = None) -> int:
    """Makes a test of masks that no question or test has shown, publishes it, and returns its project's id.

    `pages` by default as set in `quality.qualification_pages`. Killed halfway and run again, it goes on with the same
    test. Raises InputError where there is no gold.
    """
    made = tests(store)
    number = len(made) + 1
    test = f"{store.key}-q{number}"
    with store.locked():
        rows = [p for p in store.pages.rows(kind=PageKind.QUALIFY) if attempt_of(p.key) == test]
        if not rows:
            _draw(store, test, pages or store.settings.quality.qualification_pages)
            rows = [p for p in store.pages.rows(kind=PageKind.QUALIFY) if attempt_of(p.key) == test]
        words = language(store.settings.page.language)
        named = words.gettext("Test {number}", number=number)
        title = f"{named}: {store.settings.name} [{store.key}]"
        instructions, config = project_instructions(store), load("verification", code=words.code).xml
        project = create_project(client, title, label_config=config, instructions=instructions, overlap=EVERYONE)
        put(store, client, project, rows, partial(question_tasks, store), cursor=_cursor(number))
        store.values.set(Key.QUALIFICATION_TESTS, {"tests": [*made, {"number": number, "project": project}]})
        store.log(f"qualification test {number} published, {len(rows)} pages")
    return project


def _draw(store: Store, test: str, pages: int) -> None:
    """Stores the pages of a test."""
    current, drawn = store.rounds.newest(), clear_pages(store, pages)
    if not drawn:
        raise InputError("qualification test", "held-out images with predictions as gold", "none left")
    for place, (class_id, gold) in enumerate(drawn, 1):
        questions = tuple((i, None) for i in gold)
        number = current.number if current else 0
        store.pages.add([NewPage(f"{test}-{place:03d}", number, class_id, questions, PageKind.QUALIFY, gold)])


def read_tests(store: Store, client: Client) -> int:
    """Reads the answers of all tests back; returns how many facts were new."""
    return sum(read_answers(store, client, t["project"], _cursor(t["number"])) for t in tests(store))


def _cursor(number: int) -> str:
    """The name of the value that says how far the answers of a test were read."""
    return f"{Key.QUALIFICATION_TESTS}_cursor_{number}"


def results(store: Store) -> list[Attempt]:
    """Every user's tests as far as they were answered, by test and user."""
    limit = store.settings.quality.qualification_limit
    attempts = []
    for (user, test), (answers, size) in test_answers(store).items():
        right = sum(a.verdict == a.truth for a in answers)
        is_passed = len(answers) == size and passed(answers, limit)
        number = int(test.rsplit("-q", 1)[1])
        attempts.append(Attempt(user, number, len(answers), size, right, is_passed, reliability(answers)))
    return sorted(attempts, key=lambda r: (r.test, r.user))
