"""What a campaign was expected to bring before its first question, and which classes wait for the lead because of it.

The forecast is worked out once, when a round opens and nothing was obtained before, and stands in the round's metrics.
Whether a class waits follows from it, from the settings, and from the lead's order to go on, which is a fact.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from campaign.certification.outlook import hopeless
from campaign.records.stage import Stage
from campaign.store import Store
from campaign.store import models as m
from campaign.store.values import Key

FORECAST = "forecast"  # among a round's metrics
RISING = 0.02  # of AP, that it gains over the last quarter of a training which is worth going on with


def work_out(store: Store, round_number: int) -> dict[str, Any] | None:
    """The forecast for the round's metrics: `all`, and `classes` by id; None where too little is held out.

    Each has `masks`, `correct`, `questions`, `objects`, `recall`, `hours` and `cost` as {value, low, high}.
    """
    import numpy as np

    from campaign.certification.course import Masks, Terms
    from campaign.certification.outlook import Known, outlook
    from campaign.certification.promise import share_of
    from campaign.derived.columns import round_columns

    settings = store.settings
    inputs, columns = round_columns(store).inputs(round_number), round_columns(store).of_round(round_number)
    annotated = store.images.annotated("heldout")
    objects = [(a.image_id, a.class_id) for a in annotated.annotations if not a.iscrowd]
    known = Known(
        Masks(inputs.pool, columns.pairs, inputs.heldout, inputs.heldout_iou.astype(np.float64)),
        len(annotated.images), store.images.count("pool"), np.array(objects, np.int64).reshape(-1, 2),
    )  # fmt: skip
    search = settings.search
    terms = Terms(
        search.precision, share_of(1, 1 - search.confidence), search.price, search.k_iou, settings.seed,
        search.budget_questions, search.precision_per_class,
    )  # fmt: skip
    found = outlook(known, terms)
    if found is None:
        return None
    costs = search.seconds_per_answer, settings.quality.wage_per_hour
    every, classes = found
    return {
        "target": search.precision,
        "all": every.as_dict(*costs),
        "classes": {str(class_id): one.as_dict(*costs) for class_id, one in classes.items()},
    }


def is_due(store: Store, round_number: int) -> bool:
    """Whether a round that opens is to be forecast: under the policy of a target, before anything was obtained."""
    return store.settings.search.policy == "target" and not store.datasets.count(before=round_number)


def go_on(store: Store) -> None:
    """Stores the lead's order not to wait, whatever the forecast says. It stands for the whole campaign."""
    with store.locked():
        if store.values.get(Key.GO_ON) is None:
            store.values.set(Key.GO_ON, {"at": datetime.now(timezone.utc).isoformat()})
            store.log("the lead says to go on, whatever the forecast")


def waiting(store: Store, round_number: int) -> dict[int, str]:
    """{class: why} of the classes that are left out of asking in a round until the lead says to go on."""
    return _waiting(store, store.rounds.get(round_number))


def all_wait(store: Store, round_number: int) -> bool:
    """Whether the whole campaign waits: every class of the round that has masks does, or none has any."""
    row = store.rounds.get(round_number)
    return row.stage == Stage.VERIFY and _all_wait(store, row, _waiting(store, row))


def forecast_of(store: Store) -> dict[str, Any] | None:
    """The newest forecast for `campaign status`, classes by name; None where there is none.

    Beside the figures: `round`, `waiting` {class: why}, whether `all_wait`, `help` in words where something waits, and
    when the lead said to go on, `went_on`.
    """
    row = next((r for r in reversed(store.rounds.all()) if r.metrics.get(FORECAST)), None)
    if row is None:
        return None
    names, forecast, waits = store.classes(), row.metrics[FORECAST], _waiting(store, row)
    return {
        "round": row.number,
        "target": forecast["target"],
        "all": forecast["all"],
        "classes": {names[int(c)]: figures for c, figures in forecast["classes"].items() if int(c) in names},
        "waiting": {names[c]: why for c, why in waits.items()},
        "all_wait": row.stage == Stage.VERIFY and _all_wait(store, row, waits),
        "help": what_would_help(store, row) if waits else [],
        "went_on": (store.values.get(Key.GO_ON) or {}).get("at"),
    }


def waiting_line(store: Store) -> str | None:
    """In a line, what waits for the lead in the running round; None where nothing does."""
    forecast = forecast_of(store)
    if forecast is None or not forecast["waiting"]:
        return None
    which = "; ".join(f"{name}: {why}" for name, why in forecast["waiting"].items())
    return f"{'waits' if forecast['all_wait'] else 'left out'} for the lead: {which}"


def what_would_help(store: Store, row: m.Round) -> list[str]:
    """What would make more of such classes, by expected effect."""
    if store.settings.detector.name == "coco-results":
        return ["predictions of another model: this one's are read from files"]
    training, ap = row.metrics.get("training") or {}, (row.metrics.get("ap") or {}).get("mask") or {}
    gained = training.get("gained_last_quarter")
    now = ap.get("ap")
    shown = "" if now is None else f", now {now:.3f}"
    longer = "longer training: how AP rose is not known"
    if gained is not None:
        rising = gained > max(RISING * (now or 0.0), 0.0)
        verdict = f"AP{shown} still rose by {gained:.3f}" if rising else f"AP{shown} had stopped rising ({gained:+.3f})"
        longer = f"longer training: {verdict} over the last quarter"
    preset = store.settings.detector.options.get("preset")
    others = [
        "another preset, with more weights or pretrained ones" + (f" (now {preset})" if preset else ""),
        "predictions of another model, read from COCO results (detector.name coco-results)",
        _more_images(store, row),
    ]
    return [*others, longer] if gained is not None and "still" not in longer else [longer, *others]


def _more_images(store: Store, row: m.Round) -> str:
    count = store.images.count("labelled")
    return f"more labelled images: now {count}; what half of them bring would tell how much, and was not measured"


def _waiting(store: Store, row: m.Round) -> dict[int, str]:
    settings = store.settings
    forecast: Mapping[str, Any] | None = row.metrics.get(FORECAST)
    if forecast is None or not settings.forecast.wait or store.values.get(Key.GO_ON) is not None:
        return {}
    least, drawn = settings.forecast.least_recall, settings.forecast.seconds_per_drawn_mask
    names = store.classes()
    reasons = {
        int(c): hopeless(figures, least, drawn, settings.search.seconds_per_answer)
        for c, figures in forecast["classes"].items()
    }
    return {c: why for c, why in reasons.items() if why is not None and c in names}


def _all_wait(store: Store, row: m.Round, waits: Mapping[int, str]) -> bool:
    having = {t.class_id for t in store.trees.rows(row.number) if t.masks}
    return bool(waits) and having <= waits.keys()
