"""How fast a campaign goes, when it will end, who waits for whom, and what to do about trouble."""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.store import Store

HOUR = 3600.0
KEPT_LOOKS = 120  # from which a step's rate is told
# What trouble says, and what a person does about it.
ADVICE = (
    (r"token that", "put a valid access token into $LABEL_STUDIO_API_KEY or secrets.json, and restart"),
    (r"project \d+.*(deleted|never was)", "campaign publish FOLDER --new-project makes a new one; answers are kept"),
    (r"429|500|502|503|504|HTML page", "Label Studio is overloaded or broken: see its log; the next poll tries again"),
    (r"running Label Studio|an answer", "start Label Studio again; nothing is lost, the next poll reads all answers"),
    (r"Redis", "start Redis again, or campaign run; jobs are planned again by themselves"),
    (r"database", "start the database again; a step that was cut off is run again"),
    (r"can be written|No space|disk", "free disk space, then campaign run"),
    (r"memory", "fewer images in a shard (jobs.shard_images), or a machine with more memory"),
    (r"image", "mend or remove the image that is named, then campaign run"),
)  # fmt: skip
OTHERWISE = "look into logs/ of the campaign folder; campaign run tries again"


@dataclass(frozen=True)
class Look:
    """One look at a running campaign. Rates are by the hour, `hours_left` and rates None where they are not known.

    `unmanned` are queues that have work and nobody alive for it.
    """

    stage: str
    done: int
    total: int
    answers_last_hour: int
    answers_per_hour: float | None
    open_questions: int
    questions_left: int | None
    hours_left: float | None
    waits: tuple[str, ...]
    workers: str
    trouble: str | None
    advice: str | None
    unmanned: tuple[str, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """What it says, for a table."""
        progress = f", {self.done:,} of {self.total:,}" if self.total else ""
        rate = "none in the last hour" if not self.answers_per_hour else f"{self.answers_per_hour:,.0f} answers an hour"
        left = "" if self.questions_left is None else f"; about {self.questions_left:,} questions to come"
        rows = [
            ("stage", self.stage + progress),
            ("rate", f"{rate}, {self.answers_last_hour:,} in the last{left}"),
            ("to the end", span(self.hours_left)),
            ("workers", self.workers),
            *(("waits", line) for line in self.waits),
        ]
        if self.trouble:
            rows += [("last trouble", self.trouble), ("what to do", self.advice or OTHERWISE)]
        return rows


def advice(trouble: str) -> str:
    """What to do about trouble.

    >>> advice("Redis h:6379: expected a Redis that answers, got Connection refused")
    'start Redis again, or campaign run; jobs are planned again by themselves'
    """
    return next((what for pattern, what in ADVICE if re.search(pattern, trouble)), OTHERWISE)


def span(hours: float | None) -> str:
    """A time in hours as people say it.

    >>> span(0.5), span(30), span(None)
    ('about 30 minutes', 'about 30 hours', 'not known yet')
    """
    if hours is None:
        return "not known yet"
    if hours < 1.5:
        return f"about {max(1, round(hours * 60))} minutes"
    return f"about {hours:.0f} hours" if hours < 48 else f"about {hours / 24:.0f} days"


class Watch:
    """Looks at a campaign again and again; what it saw before says how fast a stage goes."""

    def __init__(self, store: Store):
        self.store = store
        self._seen: deque[tuple[float, str, int]] = deque(maxlen=KEPT_LOOKS)

    def look(self) -> Look:
        """The campaign as it is now. Nothing is changed by it."""
        from campaign.steps.rounds import progress_of, stage_progress

        progress = progress_of(self.store)
        stage, done, total = ("not started", 0, 0) if progress is None else stage_progress(self.store, progress)
        title = stage if progress is None else f"round {progress.round_number}, {stage}"
        now, (last_hour, rate) = time.time(), answer_rate(self.store)
        self._seen.append((now, title, done))
        verifying = progress is not None and progress.stage == "verify"
        open_questions = max(0, total - done) if verifying else 0
        to_come = questions_left(self.store, open_questions) if verifying else None
        hours = (to_come / rate if rate and to_come is not None else None) if verifying else self._hours(title, total)
        trouble = _trouble(self.store)
        workers, missing = workers_of(self.store, progress)
        return Look(
            stage=title,
            done=done,
            total=total,
            answers_last_hour=last_hour,
            answers_per_hour=rate,
            open_questions=open_questions,
            questions_left=to_come,
            hours_left=hours,
            waits=tuple(_waits(self.store, open_questions, verifying, missing)),
            workers=workers,
            trouble=trouble,
            advice=advice(trouble) if trouble else None,
            unmanned=tuple(missing),
        )

    def _hours(self, title: str, total: int) -> float | None:
        """Hours to the end of a stage, by how far it came since it was first looked at."""
        same = [(at, done) for at, name, done in self._seen if name == title]
        (begun, first), (now, last) = same[0], same[-1]
        if last <= first or now <= begun or not total:
            return None
        return (total - last) * (now - begun) / (last - first) / HOUR


def answer_rate(store: Store, now: float | None = None) -> tuple[int, float | None]:
    """(answers in the last hour, answers an hour): by the last hour, else by the last day; None without any."""
    from campaign.derived.pace import work

    rows = work(store).work
    times, questions = rows["time"], rows["questions"]
    now = time.time() if now is None else now
    hour, day = (int(questions[times > now - seconds].sum()) for seconds in (HOUR, 24 * HOUR))
    return hour, float(hour) if hour else day / 24 if day else None


def questions_left(store: Store, open_questions: int) -> int:
    """About how many questions are still to be answered: by the forecast, within the budget, at least those open."""
    from campaign.derived.outlook import forecast_of
    from campaign.derived.spending import questions_allowed, questions_answered

    answered, allowed, forecast = questions_answered(store), questions_allowed(store), forecast_of(store)
    expected = open_questions if forecast is None else round(forecast["all"]["questions"]["value"]) - answered
    return max(open_questions, expected if allowed is None else min(expected, allowed - answered))


def _trouble(store: Store) -> str | None:
    from campaign.store.values import Key

    return (store.values.get(Key.TROUBLE) or {}).get("text")


def workers_of(store: Store, progress: Any) -> tuple[str, list[str]]:
    """(a line on workers and jobs, queues that have work and nobody alive for it)."""
    from campaign.jobs.measures import QUEUES, alive_workers, waiting_by_queue
    from campaign.steps.rounds import due

    try:
        alive, waiting = alive_workers(store), waiting_by_queue(store)
    except InputError as error:
        wanted = {step.queue for step in due(progress)} if progress else set()
        return f"none can be seen: {error}", sorted(wanted)
    line = ", ".join(f"{queue}: {alive[queue]} alive, {waiting[queue]} jobs wait" for queue in QUEUES)
    wanted = {step.queue for step in due(progress)} if progress else set()
    return line, [queue for queue in QUEUES if not alive[queue] and (queue in wanted or waiting[queue])]


def _waits(store: Store, open_questions: int, verifying: bool, missing: list[str]) -> Iterator[str]:
    """Who waits for whom."""
    from campaign.derived.outlook import waiting_line

    for queue in missing:
        yield f"steps of queue {queue} wait for a worker: campaign run, or campaign worker FOLDER --queue {queue}"
    if not verifying:
        return
    if line := waiting_line(store):
        yield f"the lead: {line}"
    if open_questions:
        yield f"{open_questions:,} questions wait for annotators"
    else:
        yield "annotators wait for the next questions"
