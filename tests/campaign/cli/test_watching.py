"""`campaign status --watch`: rates, time left, who waits for whom, and what to do about trouble."""

import time

import pytest

from campaign.cli.watching import watch
from campaign.jobs import watching
from campaign.jobs.watching import Watch, advice, answer_rate, questions_left, span
from campaign.label_studio.client import LabelStudioUnauthorized, LabelStudioUnavailable
from campaign.store.values import Key
from tests.campaign.builders import answer, turn, verify_store


@pytest.fixture
def store(tmp_path):
    return verify_store(tmp_path / "a")


def test_a_look_says_who_waits_for_whom(store):
    keys = turn(store)
    asked = len(store.questions.on_pages(keys))
    look = Watch(store).look()
    assert look.stage == "round 1, verifying, answers" and look.open_questions == asked
    assert f"{asked} questions wait for annotators" in look.waits
    assert any("queue default wait for a worker" in line for line in look.waits)
    assert look.hours_left is None and look.trouble is None
    for key in keys:
        answer(store, key)
    assert "annotators wait for the next questions" in Watch(store).look().waits


def test_the_rate_is_that_of_the_last_hour(store):
    assert answer_rate(store) == (0, None)
    keys = turn(store)
    for key in keys:
        answer(store, key)
    answered = len(store.questions.on_pages(keys))
    # The builders' clock begins on the first of January 2026.
    begin = time.mktime((2026, 1, 1, 0, 0, 0, 0, 1, 0)) - time.timezone
    hour, rate = answer_rate(store, begin + 1800)
    assert hour == rate == answered
    assert answer_rate(store, begin + 20 * 3600) == (0, answered / 24)
    assert questions_left(store, 5) >= 5


def test_a_stage_without_answers_is_timed_by_what_was_seen(store, monkeypatch):
    store.rounds.update(1, stage="cluster")
    seen = iter([(0, 10), (2, 10)])
    monkeypatch.setattr("campaign.steps.rounds.stage_progress", lambda *_: ("clustering, classes", *next(seen)))
    clock = iter([1000.0, 1000.0 + 1800])
    monkeypatch.setattr(watching.time, "time", lambda: next(clock))
    monkeypatch.setattr(watching, "answer_rate", lambda _: (0, None))
    looking = Watch(store)
    assert looking.look().hours_left is None
    assert looking.look().hours_left == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (LabelStudioUnavailable("http://h", "a running Label Studio", "refused"), "start Label Studio again"),
        (LabelStudioUnauthorized("http://h", "a token that Label Studio accepts", "401"), "access token"),
        (LabelStudioUnavailable("http://h", "an answer", "503 busy"), "overloaded"),
        ("database postgresql://c@h: expected a database that can be opened, got refused", "database again"),
        ("/data/x: expected a file that can be written, got No space left on device", "free disk space"),
        ("something new", "look into logs/"),
    ],
)
def test_trouble_comes_with_what_to_do(store, error, what):
    store.values.set(Key.TROUBLE, {"text": str(error)})
    look = Watch(store).look()
    assert look.trouble == str(error) and what in (look.advice or "") and what in advice(str(error))
    assert ("last trouble", str(error)) in look.rows()


def test_it_is_shown_until_the_campaign_has_ended(store, capsys):
    store.rounds.update(1, stage="done")
    watch(store, 0.5, as_json=False)
    assert "finished" in capsys.readouterr().out
    watch(store, 0.5, as_json=True)
    assert '"stage": "round 1, finished"' in capsys.readouterr().out


def test_times_as_people_say_them():
    assert [span(h) for h in (None, 0.001, 1.2, 5, 72)] == [
        "not known yet", "about 1 minutes", "about 72 minutes", "about 5 hours", "about 3 days",
    ]  # fmt: skip
