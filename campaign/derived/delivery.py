"""What would be delivered as it stands, in figures, and what is promised of it: kept by every turn, for whoever looks.

To work it out takes all masks of a round; `campaign status` and the lead's page read what the last turn found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from campaign.store import Store
from campaign.store.views import save_view

if TYPE_CHECKING:
    import numpy as np

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
    """What the last turn found; None before the first.

    `classes` is {class: masks}, beside `masks`, `promise`, and `groups` of `campaign.derived.groups`; those are not
    there where an earlier release took the last turn.
    """
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
    from campaign.derived.groups import Outline, as_lists, chosen_groups, ended
    from campaign.derived.promises import standing
    from campaign.derived.selection import round_selection
    from campaign.records.stage import Stage
    from campaign.records.verdict import Verdict

    now, current = standing(store), store.rounds.newest()
    if now is not None:
        rounds, classes = _rounds_of(store, now.mask_id), classes_of(store, now.mask_id)
        groups = chosen_groups(rounds, classes, now.voted, now.chance)
    else:
        groups = ended(store)
        if current is not None and current.stage in (Stage.VERIFY, Stage.PROPAGATE):
            chosen = round_selection(store, current.number)
            rows = chosen.delivered
            voted = chosen.verdict[rows] == Verdict.YES
            chance = chosen.chance[rows]
            chance[chosen.accepted[rows] & ~voted] = np.nan
            of_round = np.broadcast_to(np.int64(current.number), len(rows))
            own = chosen_groups(of_round, chosen.columns.class_id[rows], voted, chance)
            groups = np.concatenate([groups, own])
    outline = Outline(groups, False)
    promise = _not_promised(store, outline.masks) if now is None else _with_questions(store, now.as_dict())
    counts = {str(class_id): n for class_id, n in outline.by_class().items()}
    return {"masks": outline.masks, "classes": counts, "groups": as_lists(together(groups)), "promise": promise}


def together(groups: np.ndarray) -> np.ndarray:
    """The groups of whole classes: what every turn keeps must not grow with the answers."""
    import numpy as np

    from campaign.derived.groups import GROUP, NO_CLUSTER, NO_MASK

    groups = groups.copy()
    groups["mask"], groups["cluster"] = NO_MASK, NO_CLUSTER
    likely = ~np.isnan(groups["chance"])
    keys = np.stack([groups[k].astype(np.int64) for k in ("round", "class_id", "voted")] + [likely.astype(np.int64)])
    _, first, of = np.unique(keys, axis=1, return_index=True, return_inverse=True)
    rows, of = groups[first].astype(GROUP), of.reshape(-1)
    for name in ("masks", "chance", "spread"):
        rows[name] = np.bincount(of, groups[name], minlength=len(rows))
    return rows


def _rounds_of(store: Store, mask_ids: np.ndarray) -> np.ndarray:
    """The round of each of these masks; of one that was drawn by hand, that of the prediction it was."""
    from ml_backend.mask_ids import is_drawn, round_of

    origins, drawn = mask_ids.copy(), is_drawn(mask_ids)
    if drawn.any():
        origins[drawn] = store.drawings.origins(mask_ids[drawn])
    return round_of(origins)


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
