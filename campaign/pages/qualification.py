"""Qualify: a test of gold masks alone, in a project of its own, that shows who understood the task."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from campaign.derived.trust import GoldPlan, attempt_of, gold_answers
from campaign.label_studio.client import Client
from campaign.label_studio.verification import create_project, publish_pages
from campaign.pages.instructions import project_instructions
from campaign.quality.measures import GoldAnswer, Reliability, passed, reliability
from campaign.steps.verify import build_pages, read_answers
from campaign.store import Store
from campaign.store.trust import QUALIFY
from ml_backend.errors import InputError

TESTS = "qualification_tests"
EVERYONE = 1000  # users who may answer a page of a test


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
    return list((store.values.get(TESTS) or {}).get("tests", []))


def begin_test(store: Store, client: Client, pages: int | None = None) -> int:
    """Makes a test of masks that no question or test has shown, publishes it, and gives its project's id.

    `pages` by default as set in `quality.qualification_pages`. Killed halfway and run again, it goes on with the same
    test. Raises InputError where there is no gold.
    """
    made = tests(store)
    number = len(made) + 1
    test = f"{store.key}-q{number}"
    with store.locked():
        rows = [p for p in store.pages.rows() if p.kind == QUALIFY and attempt_of(p.key) == test]
        if not rows:
            _draw(store, test, pages or store.settings.quality.qualification_pages)
            rows = [p for p in store.pages.rows() if p.kind == QUALIFY and attempt_of(p.key) == test]
        title, told = f"Test {number}: {store.settings.name} [{store.key}]", project_instructions(store)
        project = create_project(client, title, instructions=told, overlap=EVERYONE)
        publish_pages(client, project, build_pages(store, rows), published=store.pages.mark_published)
        store.values.set(TESTS, {"tests": [*made, {"number": number, "project": project}]})
        store.log(f"qualification test {number} published, {len(rows)} pages")
    return project


def _draw(store: Store, test: str, pages: int) -> None:
    """Stores the pages of a test, the classes in turn as far as their gold goes."""
    size = store.settings.page.page_size
    plan, current = GoldPlan(store, wanted=True), store.rounds.newest()
    classes = list(store.classes())
    made = 0
    while made < pages and classes:
        for class_id in list(classes):
            gold = plan.take(class_id, size)
            if not gold:
                classes.remove(class_id)
                continue
            key = f"{test}-{made + 1:03d}"
            store.pages.add(key, current.number if current else 0, class_id, [(i, None) for i in gold], QUALIFY, gold)
            made += 1
            if made == pages:
                return
    if not made:
        raise InputError("qualification test", "held-out images with predictions as gold", "none left")


def read_tests(store: Store, client: Client) -> int:
    """Reads the answers of all tests back; gives how many facts were new."""
    return sum(
        read_answers(store, client, test["project"], f"{TESTS}_cursor_{test['number']}") for test in tests(store)
    )


def results(store: Store) -> list[Attempt]:
    """Every user's tests as far as they were answered, by test and user."""
    sizes: dict[str, int] = defaultdict(int)
    for question, _ in store.questions.gold(QUALIFY):
        sizes[attempt_of(question.page_key)] += 1
    limit = store.settings.quality.qualification_limit
    found = []
    for user, told in gold_answers(store, QUALIFY, by_page=True).items():
        of_test: dict[str, list[GoldAnswer]] = defaultdict(list)
        for key, answer in told:
            of_test[attempt_of(key)].append(answer)
        for test, answers in of_test.items():
            whole = len(answers) == sizes[test]
            right = sum(a.verdict == a.truth for a in answers)
            number = int(test.rsplit("-q", 1)[1])
            found.append(
                Attempt(
                    user, number, len(answers), sizes[test], right, whole and passed(answers, limit),
                    reliability(answers),
                )
            )  # fmt: skip
    return sorted(found, key=lambda r: (r.test, r.user))
