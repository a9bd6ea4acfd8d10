"""Where a campaign stands, as plain values: for `campaign status`, the running display, and the report."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from campaign.derived.course import course
from campaign.derived.delivery import delivered, promised
from campaign.derived.duplicates import duplicate_counts
from campaign.derived.live import live
from campaign.derived.outlook import forecast_of
from campaign.derived.recall import recall_figures
from campaign.derived.spending import (
    drawn_answered,
    promise_kinds,
    questions_allowed,
    questions_answered,
    questions_asked,
)
from campaign.records.page import PageKind, Screen
from campaign.records.stage import Stage
from campaign.store import Store
from campaign.store import models as m
from campaign.store.values import Key


def status(store: Store) -> dict[str, Any]:
    """Round, stage, what is finished of it, questions, answers, decisions, masks and the last trouble.

    All of it is counted by the database or stands in the views, so that it costs little however large the campaign is.
    """
    rounds = store.rounds.all()
    current = rounds[-1] if rounds else None
    by_round: dict[int, Counter[str]] = defaultdict(Counter)
    by_class: dict[int, Counter[str]] = defaultdict(Counter)
    for number, class_id, kind, count, _ in store.decisions.counts():
        by_round[number][kind] += count
        by_class[class_id][kind] += count
    trouble = store.values.get(Key.TROUBLE) or {}
    return {
        "name": store.settings.name,
        "folder": store.place,
        "round": current.number if current else 0,
        "rounds": store.settings.rounds.rounds,
        "stage": current.stage if current else "new",
        "finished": bool(current and current.stage == Stage.DONE),
        "model_version": current.model_version if current else None,
        "questions": questions_asked(store),
        "gold": sum(map(store.questions.count_gold, (PageKind.VERIFY, *(kind for _, kind in promise_kinds(store))))),
        "budget_questions": questions_allowed(store),
        "answered": questions_answered(store),
        "annotators": len(store.answers.annotators()),
        "set_aside": store.aside.counts(),
        "verification_project": store.values.project(Screen.VERIFICATION),
        "recall": recall_figures(store),
        "masks": _masks(store, rounds),
        "promise": promised(store),
        "forecast": forecast_of(store),
        "course": course(store),
        "duplicates": duplicate_counts(store),
        "joining": _joining(store, current),
        "trouble": trouble.get("text"),
        "per_round": [
            {
                "round": r.number,
                "ap": ((r.metrics.get("ap") or {}).get("mask") or {}).get("ap"),
                "predictions": store.masks.count(r.number, "pool"),
                "masks": r.metrics.get("masks"),
                "decisions": dict(by_round[r.number]),
            }
            for r in rounds
        ],
        "classes": [
            {
                "class": name,
                "accepted": by_class[class_id]["accept"],
                "rejected": by_class[class_id]["reject"],
                "split": by_class[class_id]["split"],
            }
            for class_id, name in store.classes().items()
        ],
    }


def _joining(store: Store, current: m.Round | None) -> dict[str, int] | None:
    """How many images are to join the trees of the running round, and how many of them were detected; None without."""
    first = store.trees.joining(current.number) if current is not None else None
    if current is None or first is None:
        return None
    detected = [s.images for s in store.masks.shards(current.number, "pool") if s.number >= first]
    return {"images": store.images.batches("pool", current.number)[-1].count, "detected": sum(detected)}


def verification_progress(store: Store, round_number: int) -> tuple[int, int]:
    """(questions with a verdict that counts, questions asked) of a round."""
    figures = live(store).summaries(round_number).values()
    drawn = drawn_answered(store) if any(n == round_number for n, _ in promise_kinds(store)) else 0
    return sum(f["answered"] for f in figures) + drawn, questions_asked(store, round_number)


def _masks(store: Store, rounds: Sequence[m.Round]) -> int:
    """The masks of the rounds that ended; under the policy of a target those of the running one are among them."""
    known = delivered(store) if store.settings.search.policy == "target" else None
    return known["masks"] if known is not None else sum(r.metrics.get("masks", 0) for r in rounds)
