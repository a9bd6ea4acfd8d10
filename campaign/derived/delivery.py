"""What would be delivered as it stands, in figures, and what is promised of it: kept by every turn, for whoever looks.

To work it out takes all masks of a round; `campaign status` and the lead's page read what the last turn found.
"""

from __future__ import annotations

from typing import Any

from campaign.store import Store
from campaign.store.views import save_view

NAME, FORM = "delivery", "1"
NOT_YET = "precision not promised yet"


def save_delivery(store: Store) -> None:
    """Works the figures out and keeps them, where they are new. To be called under the campaign's lock."""
    summary = work_out(store)
    row = store.views.row(NAME)
    if row is None or row.version != FORM or row.summary != summary:
        with store.session() as session:
            save_view(session, NAME, FORM, {}, summary, None)


def delivered(store: Store) -> dict[str, Any] | None:
    """What the last turn found: `classes`, {class: masks}, `masks` and `promise`; None before the first."""
    row = store.views.row(NAME)
    if row is None or row.version != FORM:
        return None
    return row.summary | {"classes": {int(c): n for c, n in row.summary["classes"].items()}}


def promised(store: Store) -> dict[str, Any] | None:
    """What is promised of the dataset by the last turn; None under policies that decide cluster by cluster."""
    if store.settings.search.policy != "target":
        return None
    known = delivered(store)
    return known["promise"] if known is not None else _not_promised(store, 0)


def promise_of(store: Store, mask_ids: Any = None) -> dict[str, Any]:
    """What is promised of the dataset as it stands, or of exactly these masks."""
    from campaign.certification.promise import digest_of

    promise: dict[str, Any] = work_out(store)["promise"]
    if mask_ids is not None and promise["digest"] not in (None, digest_of(mask_ids)):
        undone = {"met": False, "precision_at_least": None, "missing": "it speaks of other masks than these"}
        return promise | undone | {"classes": {name: one | undone for name, one in promise["classes"].items()}}
    return promise


def work_out(store: Store) -> dict[str, Any]:
    """The figures as they stand."""
    import numpy as np

    from campaign.derived.classes import classes_of
    from campaign.derived.columns import round_columns
    from campaign.derived.promises import standing
    from campaign.derived.selection import round_selection
    from campaign.records.stage import Stage

    now, current = standing(store), store.rounds.newest()
    if now is not None:
        parts = [classes_of(store, now.mask_id)]
    else:
        parts = [store.datasets.read().class_id]
        if current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE):
            columns = round_columns(store).of_round(current.number)
            parts.append(columns.class_id[round_selection(store, current.number).delivered])
    classes, numbers = np.unique(np.concatenate(parts), return_counts=True)
    counts = dict(zip(map(str, classes.tolist()), numbers.tolist(), strict=True))
    masks = sum(counts.values())
    promise = _not_promised(store, masks) if now is None else _with_questions(store, now.as_dict())
    return {"masks": masks, "classes": counts, "promise": promise}


def _with_questions(store: Store, promise: dict[str, Any]) -> dict[str, Any]:
    from campaign.derived.spending import questions_asked

    return promise | {"questions": questions_asked(store)}


def _not_promised(store: Store, masks: int) -> dict[str, Any]:
    search = store.settings.search
    nothing = dict.fromkeys(("precision_at_least", "attempt", "digest"))
    promise = {
        "target": search.precision, "confidence": search.confidence, "met": False, "masks": masks, "draws": 0,
        "sentence": NOT_YET, "missing": "the last round is to be verified first",
        "classes": {},
    }  # fmt: skip
    return _with_questions(store, promise | nothing)
