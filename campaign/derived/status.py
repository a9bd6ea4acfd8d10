"""Where a campaign stands, as plain values: for `campaign status`, the running display, and the report."""

from __future__ import annotations

from collections import Counter
from typing import Any

from campaign.derived.spending import questions_allowed
from campaign.derived.trust import counted_answers
from campaign.jobs.plan import Progress
from campaign.quality.answers import standing_answers
from campaign.store import Store


def status(store: Store) -> dict[str, Any]:
    """Round, stage, what is finished of it, questions, answers, decisions, masks and the last trouble."""
    rounds = store.rounds.all()
    current = rounds[-1] if rounds else None
    answers = standing_answers(store.answers.rows())
    answered = {a.mask_id for a in counted_answers(store)}
    asked = store.questions.count("verify")
    decisions = store.decisions.rows()
    classes = store.classes()
    trouble = store.values.get("trouble") or {}
    return {
        "name": store.settings.name,
        "folder": str(store.folder),
        "round": current.number if current else 0,
        "rounds": store.settings.rounds.rounds,
        "stage": current.stage if current else "new",
        "finished": bool(current and current.stage == "done"),
        "model_version": current.model_version if current else None,
        "questions": asked,
        "gold": len(store.questions.gold("verify")),
        "budget_questions": questions_allowed(store),
        "answered": len(answered),
        "annotators": len({a.annotator for a in answers}),
        "verification_project": (store.values.get("verification_project") or {}).get("id"),
        "masks": sum(r.metrics.get("masks", 0) for r in rounds),
        "trouble": trouble.get("text"),
        "per_round": [
            {
                "round": r.number,
                "ap": ((r.metrics.get("ap") or {}).get("mask") or {}).get("ap"),
                "predictions": sum(s.masks for s in store.masks.shards(r.number, "pool")),
                "masks": r.metrics.get("masks"),
                "decisions": dict(Counter(d.kind for d in decisions if d.round == r.number)),
            }
            for r in rounds
        ],
        "classes": [
            {
                "class": name,
                "accepted": sum(d.kind == "accept" for d in decisions if d.class_id == i),
                "rejected": sum(d.kind == "reject" for d in decisions if d.class_id == i),
                "split": sum(d.kind == "split" for d in decisions if d.class_id == i),
            }
            for i, name in classes.items()
        ],
    }


def stage_progress(progress: Progress, store: Store) -> tuple[str, int, int]:
    """(what is under way, done, total) of the running round, as far as the store tells."""
    total = sum(progress.shards.values())
    if progress.stage == "detect":
        return "detecting masks, shards of images", len(progress.finished_shards), total
    if progress.stage == "cluster":
        return "clustering, classes", len(progress.finished_trees), len(progress.classes)
    if progress.stage == "verify":
        rows = store.questions.rows(progress.round_number, "verify")
        answered = {a.mask_id for a in counted_answers(store, {p.key for _, p in rows})}
        return "verifying, answers", len(answered), len(rows)
    names = {"train": "training the detector", "propagate": "propagating", "done": "finished"}
    return names.get(progress.stage, progress.stage), 0, 0
