"""Where a campaign stands in four parts: how far it is, whether its promise will be met, who waits, what to do now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.derived.team import Team
from campaign.jobs.watching import OTHERWISE, Look, span
from campaign.records.names import Name


class Mood(Name):
    """How a part is, told by a word and a sign beside its colour."""

    GOOD = "good"
    OPEN = "open"
    BAD = "bad"


@dataclass(frozen=True)
class Part:
    """One part: what it answers, the answer in a few words, what there is to say beside it, and how that is."""

    name: str
    answer: str
    notes: tuple[str, ...]
    mood: Mood = Mood.OPEN


@dataclass(frozen=True)
class Action:
    """Something for the lead to do: in words, with the command that does it or the place on the page, if any."""

    text: str
    command: str | None = None
    place: str | None = None


@dataclass(frozen=True)
class Standing:
    """The four parts; `done` of `total` are for the meter of the first, `actions` the last."""

    where: Part
    promise: Part
    waits: Part
    actions: tuple[Action, ...]
    done: int
    total: int

    @property
    def sentence(self) -> str:
        """All of it for a screen reader, when it has changed."""
        return f"{self.where.answer}. {self.promise.answer}. {self.waits.answer}."


def standing(state: Mapping[str, Any], team: Team, look: Look) -> Standing:
    """Where a campaign stands by its status, its annotators, and a look at how it goes."""
    return Standing(
        _where(state, look), _promise(state), _waits(state, look), tuple(_actions(state, team, look)), look.done,
        look.total,
    )  # fmt: skip


def _where(state: Mapping[str, Any], look: Look) -> Part:
    if state["finished"]:
        answer = f"Finished after {state['round']} round{'s' if state['round'] > 1 else ''}"
        return Part("Where it stands", answer, (f"{state['answered']:,} answers",), Mood.GOOD)
    if not state["round"]:
        return Part("Where it stands", "Not started", ())
    progress = f", {look.done:,} of {look.total:,}" if look.total else ""
    notes = [f"Round {state['round']} of at most {state['rounds']}"]
    if look.answers_per_hour:
        notes.append(f"{look.answers_per_hour:,.0f} answers an hour")
    if look.hours_left is not None:
        notes.append(f"to the end {span(look.hours_left)}")
    stage = look.stage.partition(", ")[2] or look.stage
    return Part("Where it stands", f"{stage[0].upper()}{stage[1:]}{progress}", tuple(notes))


def _promise(state: Mapping[str, Any]) -> Part:
    promise, course = state["promise"], state["course"]
    name = "Will the promise be met?"
    if promise is None:
        return Part("What is promised", "Nothing yet", ("`campaign certify` audits the dataset",))
    target = f"target {100 * promise['target']:.3g} % correct, with {promise['confidence']:.0%} confidence"
    expected = next((p["precision"] for p in reversed(course) if p["precision"] is not None), None)
    notes = [target]
    if expected is not None:
        notes.append(f"expected {expected['value']:.1%} ({expected['low']:.1%} to {expected['high']:.1%})")
    if promise["met"]:
        return Part(name, f"Yes: {100 * promise['precision_at_least']:.3g} % or more", tuple(notes), Mood.GOOD)
    if promise["missing"]:
        notes.append(promise["missing"])
    if state["finished"]:
        return Part(name, "No: not reached", tuple(notes), Mood.BAD)
    if expected is None:
        return Part(name, "Not known yet", tuple(notes))
    if expected["low"] >= promise["target"]:
        return Part(name, "Very likely", tuple(notes), Mood.GOOD)
    return Part(name, "Likely" if expected["value"] >= promise["target"] else "In doubt", tuple(notes))


def _waits(state: Mapping[str, Any], look: Look) -> Part:
    if state["finished"]:
        return Part("Who waits for whom", "Nobody", ("no answer and no worker is needed any more",), Mood.GOOD)
    if not look.waits:
        return Part("Who waits for whom", "All wait for workers that are at it", (look.workers,))
    waits = "queue {} waits for a worker"
    first, *others = [waits.format(q) for q in look.unmanned] + [w for w in look.waits if not w.startswith("steps of")]
    mood = Mood.BAD if look.unmanned else Mood.OPEN
    return Part("Who waits for whom", first[0].upper() + first[1:], (*others, look.workers), mood)


def _actions(state: Mapping[str, Any], team: Team, look: Look) -> Iterator[Action]:
    """What the lead can do, the most pressing first."""
    if look.trouble:
        yield Action(f"Mend what went wrong: {look.advice or OTHERWISE}")
    if not state["round"]:
        yield Action("Start the campaign", "campaign run FOLDER")
        return
    for queue in look.unmanned:
        yield Action(f"Start a worker for the queue {queue}", f"campaign worker FOLDER --queue {queue}")
    if state["forecast"] and state["forecast"]["waiting"]:
        yield Action("Say whether classes with a hopeless forecast are asked about all the same", place="forecast")
    if look.open_questions and not look.answers_last_hour:
        yield Action("Nobody answered in the last hour: invite annotators", "campaign invite FOLDER")
    yield from _about(team.users)
    if state["finished"]:
        promise = state["promise"]
        if promise and not promise["met"]:
            yield Action("Have more masks drawn for the promise", "campaign certify FOLDER --wait")
        yield Action("Take the masks out", "campaign export FOLDER")
        yield Action("Read the report", "campaign report FOLDER")


def _about(users: Sequence[Any]) -> Iterator[Action]:
    withdrawn = [u.name for u in users if not u.trusted]
    flagged = [u.name for u in users if u.trusted and u.flags]
    for names, what in ((withdrawn, "answers are withdrawn"), (flagged, "something looks careless")):
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            yield Action(f"Talk to {shown}: {what}", place="annotators")
