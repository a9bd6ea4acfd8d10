"""What is expected of the masks that would be delivered as it stands, by held-out masks, draws and eyes.

See `campaign.certification.expectation`. What does not change by answers is kept: of a round, what tells of the objects
in its pool; of a frozen order, how far its chances can be trusted.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from campaign.certification.expectation import Chosen, Expected, Known, Tally, World, expected
from campaign.certification.passing import EYES_KNOWN, Passing, no_passing
from campaign.derived.answered import answered
from campaign.derived.columns import round_columns
from campaign.derived.eyes import campaign_eyes
from campaign.derived.promises import Standing, standing
from campaign.derived.selection import Heldout, RoundSelection, round_selection, shared_passing
from campaign.records.dataset_masks import chance_of
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.search.selection import NONE
from campaign.store import Store

FORM = 1  # of snapshots; another form is worked out anew


@dataclass(frozen=True)
class _Ground:
    """What expectations of a round rest on: `heldout` masks by all answers of then, and the world by none."""

    heldout: Known
    world: World


def expectation(store: Store) -> Expected:
    """Precision and recall of what would be delivered as it stands; None each where nothing can be said."""
    now, current = standing(store), store.rounds.newest()
    if now is not None:
        return _of_promise(store, now)
    if current is None or current.stage not in (Stage.VERIFY, Stage.PROPAGATE):
        return Expected(None, None)
    chosen = round_selection(store, current.number)
    if not len(chosen.heldout_iou):
        return Expected(None, None)
    passed, rows = _passing(store, chosen), chosen.delivered
    unasked = rows[chosen.verdict[rows] == NONE]
    voted = rows[chosen.verdict[rows] != NONE]
    before, said = _before(store, current.number)
    masks = Chosen(
        Tally.of(np.concatenate([chosen.chance[unasked], before])), len(voted) + said,
        passed.overlooked(np.concatenate([chosen.unseen[unasked], before]), chosen.unseen[voted]),
    )  # fmt: skip
    ground = _ground(store, current.number, chosen)
    return expected(masks, ground.heldout, ground.world, store.settings.seed)


def _of_promise(store: Store, now: Standing) -> Expected:
    """Of the set that a promise speaks of, by the answers on its draws too."""
    attempt = now.attempt
    if not len(attempt.heldout_iou):
        return Expected(None, None)
    frozen, passed, ground = attempt.frozen, _passing(store, attempt), _frozen_ground(store, now)
    # Frozen chances are of being correct, and votes say yes.
    yes = np.clip(frozen.chance + passed.of_all[passed.bins(frozen.unseen)], 0.0, 1.0)
    verdict = answered(store).of(attempt.mask_id, "verdict")
    drawn = frozen.order[: now.promise.draws]
    known = ground.heldout.beside(yes[drawn], verdict[drawn] == Verdict.YES, _images(store, now)[drawn])
    unasked = np.isin(attempt.mask_id, now.mask_id[~now.voted & ~np.isnan(now.chance)])
    people_said = len(now.mask_id) - int(unasked.sum())
    inside, others = (np.isin(ids, now.mask_id) for ids in (attempt.mask_id, attempt.other_id))
    seen = np.concatenate([frozen.unseen[inside & ~unasked], attempt.other_unseen[others]])
    masks = Chosen(Tally.of(yes[unasked]), people_said, passed.overlooked(frozen.unseen[unasked], seen))
    return expected(masks, known, ground.world, store.settings.seed)


def _passing(store: Store, known: Heldout) -> Passing:
    """What annotators pass, as far as it is planned with."""
    eyes = campaign_eyes(store)
    return shared_passing(store, known, eyes) if eyes.answers >= EYES_KNOWN else no_passing()


def _before(store: Store, round_number: int) -> tuple[np.ndarray, int]:
    """Of the masks that earlier rounds brought: (the chances of those chosen by them, how many others)."""
    rules, masks = Counter[str](), 0
    for columns in store.datasets.columns(["rule", "voted"], before=round_number):
        rules.update(columns["rule"][~columns["voted"]].tolist())
        masks += len(columns["voted"])
    by_chance = {rule: chance for rule in rules if (chance := chance_of(rule)) is not None}
    chances = np.repeat(list(by_chance.values()), [rules[rule] for rule in by_chance]).astype(np.float64)
    return chances, masks - len(chances)


def _ground(store: Store, round_number: int, chosen: RoundSelection) -> _Ground:
    """What the expectations of a round rest on before anything is frozen."""
    images, objects = _heldout_objects(store)
    place, correct = np.searchsorted(images, chosen.heldout_image), chosen.heldout_iou >= store.settings.search.k_iou
    world = World(
        objects, store.images.count("pool"), Tally.of(chosen.unseen),
        Known(chosen.heldout_chance, correct, place, len(images)),
        comparable=not any(r.metrics.get("masks") for r in store.rounds.all() if r.number < round_number),
    )  # fmt: skip
    return _Ground(Known(chosen.heldout_now, correct, place, len(images)), world)


def _frozen_ground(store: Store, now: Standing) -> _Ground:
    """The same once an order is frozen: as it is then, and kept, so that a turn need not look at all masks again."""
    number, name = now.attempt.round_number, f"ground/{now.attempt.number}"
    version = f"{FORM}-{now.attempt.number}-{round_columns(store).version(number)[:24]}"
    arrays = store.views.kept(name, version)
    if arrays is None:
        ground = _ground(store, number, round_selection(store, number))
        world = ground.world
        arrays = {
            "now": ground.heldout.chance, "correct": ground.heldout.correct, "image": ground.heldout.image,
            "unseen": world.known.chance, "objects": world.objects, "count": world.predictions.count,
            "total": world.predictions.total, "rest": np.array([world.predictions.spread]),
            "pool": np.array([world.images, world.comparable]),
        }  # fmt: skip
        store.views.keep(name, version, arrays)
    a, images = arrays, len(arrays["objects"])
    known = (Known(a[name], a["correct"], a["image"], images) for name in ("now", "unseen"))
    heldout, unseen = known
    predictions = Tally(a["count"], a["total"], float(a["rest"][0]))
    return _Ground(heldout, World(a["objects"], int(a["pool"][0]), predictions, unseen, bool(a["pool"][1])))


def _images(store: Store, now: Standing) -> np.ndarray:
    """The image of every frozen mask, (n,); those of earlier rounds are taken to be images of their own."""
    columns = round_columns(store).of_round(now.attempt.round_number)
    ids = now.attempt.mask_id
    if not len(columns):
        return -1 - np.arange(len(ids))
    place = np.minimum(np.searchsorted(columns.mask_id, ids), len(columns) - 1)
    return np.where(columns.mask_id[place] == ids, columns.image[place], -1 - np.arange(len(ids)))


def _heldout_objects(store: Store) -> tuple[np.ndarray, np.ndarray]:
    """(ids of the held-out images, rising, true objects in each); they never change."""
    name, version = "objects", str(FORM)
    arrays = store.views.kept(name, version)
    if arrays is None:
        data = store.images.annotated("heldout")
        ids = np.array(sorted(image.id for image in data.images), np.int64)
        objects = np.array([a.image_id for a in data.annotations if not a.iscrowd], np.int64)
        arrays = {"image": ids, "objects": np.bincount(np.searchsorted(ids, objects), minlength=len(ids))}
        store.views.keep(name, version, arrays)
    return arrays["image"], arrays["objects"]
