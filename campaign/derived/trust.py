"""Whose answers count: gold hidden on pages, answers withdrawn, questions asked again of others.

What does not count is derived from the facts, every time: the same facts give the same counted answers.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from datetime import datetime, timezone
from functools import lru_cache

import numpy as np

from campaign.label_studio.client import Client, LabelStudioError, LabelStudioUnauthorized, LabelStudioUnavailable
from campaign.quality.answers import standing_answers
from campaign.quality.measures import (
    Distrust,
    GoldAnswer,
    GoldMask,
    draw_gold,
    gold_room,
    is_chosen,
    opening_wanted,
    passed,
    watch,
)
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.trust import QUALIFY
from ml_backend.mask_ids import is_drawn, is_heldout

logger = logging.getLogger(__name__)

CLEAR_YES, CLEAR_NO = 0.05, 0.15  # a mask this far above or below `k_iou` is beyond dispute
CONFIRMED = 2  # users who agree on a mask before it may be gold
ALIKE = 0.8  # two masks that overlap by this IoU show the same thing
WITHDRAWALS, OVERLAPS = "withdrawals", "overlaps"


def counted_answers(store: Store, page_keys: Iterable[str] | None = None) -> list[m.Answer]:
    """The standing answers that decisions may rest on, of some pages or all.

    Left out are answers on gold and on qualification tests, those withdrawn from users who answered gold wrong, and,
    where only qualified users count, everyone else's. They stay stored.
    """
    standing = standing_answers(store.answers.rows(page_keys))
    gold = {(q.page_key, q.mask_id) for q, _ in store.questions.gold()}
    if gold:
        standing = [a for a in standing if (a.page_key, a.mask_id) not in gold]
    if store.settings.quality.qualification:
        known = qualified(store)
        standing = [a for a in standing if a.annotator in known]
    if gold and (found := withdrawals(store)):
        ended = _ended(store)
        standing = [a for a in standing if not _is_withdrawn(a, found.get(a.annotator, []), ended)]
    return standing


def withdrawals(store: Store) -> dict[str, list[Distrust]]:
    """When each user's answers were not to be trusted, by the gold hidden among the questions."""
    quality = store.settings.quality
    found = {
        user: watch(answers, quality.error_accepted, quality.error_limit)
        for user, answers in gold_answers(store, "verify").items()
    }
    return {user: times for user, times in found.items() if times}


def qualified(store: Store) -> set[str]:
    """Users who passed a qualification test: every page of it answered, and enough of them right."""
    tests: dict[str, dict[str, list[GoldAnswer]]] = defaultdict(lambda: defaultdict(list))
    sizes: dict[str, int] = defaultdict(int)
    for question, _ in store.questions.gold(QUALIFY):
        sizes[attempt_of(question.page_key)] += 1
    for user, answers in gold_answers(store, QUALIFY, by_page=True).items():
        for key, answer in answers:
            tests[user][attempt_of(key)].append(answer)
    limit = store.settings.quality.qualification_limit
    return {
        user
        for user, mine in tests.items()
        if any(len(answers) == sizes[test] and passed(answers, limit) for test, answers in mine.items())
    }


def attempt_of(page_key: str) -> str:
    """Which qualification test a page belongs to, from its key."""
    return page_key.rsplit("-", 1)[0]


def gold_answers(store: Store, kind: str | None = None, by_page: bool = False) -> dict[str, list]:
    """Every user's standing answers on gold, of one kind of page or all; with `by_page` as (page key, answer)."""
    truth = {(q.page_key, q.mask_id): Verdict[str(q.gold).upper()] for q, _ in store.questions.gold(kind)}
    found: dict[str, list] = defaultdict(list)
    if not truth:
        return found
    seen = _seen_before(store, truth)
    for a in standing_answers(store.answers.rows({key for key, _ in truth})):
        if (a.annotator, a.mask_id) in seen:
            continue
        if (known := truth.get((a.page_key, a.mask_id))) is not None:
            answer = GoldAnswer(a.annotator, a.mask_id, known, Verdict[a.verdict.upper()], a.answered_at)
            found[a.annotator].append((a.page_key, answer) if by_page else answer)
    return found


def _seen_before(store: Store, truth: Collection[tuple[str, int]]) -> set[tuple[str, int]]:
    """(user, mask) of those whose own answers made a mask gold, or who met it as a question: they may remember it."""
    found = set()
    for mask in {mask for _, mask in truth if not is_heldout(mask)}:
        found |= {(a.annotator, mask) for a in store.answers.on_masks([mask]) if (a.page_key, mask) not in truth}
    return found


def _is_withdrawn(answer: m.Answer, times: list[Distrust], ended: dict[str, str]) -> bool:
    """Answers of rounds that were over when the user was found out stay: their dataset was trained on."""
    return any(t.holds(answer.answered_at) and not ended.get(answer.page_key, t.found + "~") <= t.found for t in times)


def _ended(store: Store) -> dict[str, str]:
    """When the round of each page ended, in Label Studio's format; pages of rounds that go on are left out."""
    over = {r.number: _stamp(r.ended_at) for r in store.rounds.all() if r.ended_at is not None and r.stage == "done"}
    return {p.key: over[p.round] for p in store.pages.rows() if p.round in over} if over else {}


def _stamp(time: datetime) -> str:
    utc = time.replace(tzinfo=timezone.utc) if time.tzinfo is None else time.astimezone(timezone.utc)
    return utc.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


# Gold


def gold_supply(store: Store) -> list[GoldMask]:
    """Held-out predictions whose verdict is beyond dispute: by their IoU with the true masks, of every round."""
    rounds = tuple(r.number for r in store.rounds.all() if store.masks.shards(r.number, "heldout"))
    return [mask for number in rounds for mask in _supply(store, number)]


def confirmed(store: Store) -> list[GoldMask]:
    """Questions on which at least `CONFIRMED` users whose answers count agree, all yes or all no."""
    given: dict[int, dict[str, str]] = defaultdict(dict)
    for a in counted_answers(store):
        given[a.mask_id][a.annotator] = a.verdict
    agreed = {
        mask: next(iter(told.values()))
        for mask, told in given.items()
        if len(told) >= CONFIRMED and set(told.values()) in ({"yes"}, {"no"}) and not is_drawn(mask)
    }
    masks = store.masks.read(sorted(agreed))
    return [
        GoldMask(i, c, Verdict[agreed[i].upper()])
        for i, c in zip(masks.mask_id.tolist(), masks.class_id.tolist(), strict=True)
    ]


def _supply(store: Store, round_number: int) -> tuple[GoldMask, ...]:
    shards = tuple((s.number, s.masks) for s in store.masks.shards(round_number, "heldout"))
    return _judged(str(store.folder), round_number, shards)


@lru_cache(maxsize=16)
def _judged(folder: str, round_number: int, _shards: tuple) -> tuple[GoldMask, ...]:
    from ml_backend.learning.evaluation import true_iou

    store = Store.open(folder)
    found = store.masks.predictions(round_number, "heldout", features=False)
    iou = true_iou(found, store.images.annotated("heldout"), one_to_one=False)
    k_iou = store.settings.search.k_iou
    yes, no = iou >= min(k_iou + CLEAR_YES, 1.0), iou <= k_iou - CLEAR_NO
    return tuple(
        GoldMask(int(found.mask_id[i]), int(found.class_id[i]), Verdict.YES if yes[i] else Verdict.NO, float(iou[i]))
        for i in np.flatnonzero(yes | no)
    )


class GoldPlan:
    """Gold for the pages that one turn makes. No mask is ever drawn twice in a campaign, nor one that looks like it.

    `wanted` by default where the setting `quality.gold_share` says so.
    """

    def __init__(self, store: Store, wanted: bool | None = None):
        self.store = store
        self.quality = store.settings.quality
        self.wanted = self.quality.gold_share > 0 if wanted is None else wanted
        if not self.wanted:
            return
        asked = store.questions.gold()
        self.used: dict[int, dict[int, Verdict]] = defaultdict(dict)
        for question, page in asked:
            self.used[page.class_id][question.mask_id] = Verdict[str(question.gold).upper()]
        for class_id, found in store.values.examples().items():
            self.used[class_id] |= dict.fromkeys(found["good"], Verdict.YES) | dict.fromkeys(found["bad"], Verdict.NO)
        answers = gold_answers(store, by_page=True)
        self.answered = {user: len(answers.get(user, ())) for user in store.answers.annotators()}
        touched = {key for told in answers.values() for key, _ in told}
        self.waiting = sum(page.kind == "verify" and page.key not in touched for _, page in asked)
        self.pages = sum(page.kind == "verify" for page in store.pages.rows())
        self.supply = gold_supply(store)
        # Held-out masks come first: nobody has seen them, while a confirmed one may come to who confirmed it.
        self.reserve = confirmed(store)

    def room(self, size: int, class_id: int) -> int:
        """How many masks of the next page should be gold, as far as there is any."""
        if not self.wanted:
            return 0
        # The first user is waited for; others are known to be new after their first page, and cost no gold before.
        newcomers = 0 if self.quality.qualification or self.answered else 1
        opening = opening_wanted(self.answered, self.waiting, self.quality.gold_opening, newcomers)
        room = gold_room(size, self.pages, self.quality.gold_share, opening)
        left = sum(g.class_id == class_id and g.mask_id not in self.used[class_id] for g in self.supply)
        if left < room:
            left += sum(g.class_id == class_id and g.mask_id not in self.used[class_id] for g in self.reserve)
        return min(room, left)

    def take(self, class_id: int, count: int) -> dict[int, str]:
        """Gold for the page that is made now, {mask id: known verdict}; fewer where the supply runs out."""
        if not self.wanted:
            return {}
        drawn: list[GoldMask] = []
        while len(drawn) < count:
            missing, seed = count - len(drawn), self.store.settings.seed
            more = draw_gold(self.supply, self.used[class_id], class_id, missing, seed)
            if not more and self.reserve:
                self.supply, self.reserve = self.supply + self.reserve, []
                continue
            if not more:
                break
            taken = {mask.mask_id for mask in more}
            self.supply = [mask for mask in self.supply if mask.mask_id not in taken]
            for mask in more:
                if not self._is_seen(mask):
                    self.used[class_id][mask.mask_id] = mask.truth
                    drawn.append(mask)
        self.pages += 1
        self.waiting += len(drawn)
        return {mask.mask_id: mask.truth.name.lower() for mask in drawn}

    def _is_seen(self, mask: GoldMask) -> bool:
        """Whether gold used before shows the same thing: rounds predict the same objects again."""
        from pycocotools import mask as mask_util

        used = self.store.masks.read([mask.mask_id, *self.used[mask.class_id]])
        same = np.flatnonzero(used.image_id[1:] == used.image_id[0]) + 1
        rles = used.rles()
        return len(same) > 0 and bool(
            (mask_util.iou([rles[0]], [rles[i] for i in same], [0] * len(same)) >= ALIKE).any()
        )


# Withdrawn answers


def keep_watch(store: Store, client: Client) -> None:
    """Learns the names of new users, and writes a line into the log where answers are withdrawn or count again."""
    if store.answers.annotators() - store.values.people().keys():
        store.values.add_people(client.users())
    known = dict(store.values.get(WITHDRAWALS) or {})
    names, found = store.values.people(), withdrawals(store)
    now = {f"{user} {t.found}": [user, *t] for user, times in found.items() for t in times}
    for user, (since, at, until, wrong, asked) in [(user, t) for user, times in found.items() for t in times]:
        key, name = f"{user} {at}", names.get(user, user)
        if key not in known:
            told = f"since {since}" if since else "from the first on"
            store.log(
                f"answers of {name} {told} are withdrawn: {wrong} of {asked} gold masks wrong; "
                "their questions are asked again of others"
            )
        if until is not None and (key not in known or known[key][3] is None):
            store.log(f"answers of {name} count again since {until}")
    if now != known:
        store.values.set(WITHDRAWALS, now)


def wanted_overlaps(store: Store, round_number: int) -> dict[str, tuple[int, bool]]:
    """Pages of a round and of audits that need more users than one, {page key: (how many, whether so many answered)}.

    A page chosen for overlap is answered by two; every user whose answers do not count makes room for another.
    """
    share = store.settings.quality.overlap_share
    if not share and not store.settings.quality.qualification and not withdrawals(store):
        return {}
    asked = {p.key for _, p in store.questions.rows()}
    pages = {
        p.key: p.kind
        for p in store.pages.rows(published=True)
        if p.key in asked and (p.kind.startswith("audit") or (p.kind == "verify" and p.round == round_number))
    }
    users: dict[str, set[str]] = defaultdict(set)
    counted: dict[str, set[str]] = defaultdict(set)
    for a in standing_answers(store.answers.rows(pages.keys())):
        users[a.page_key].add(a.annotator)
    for a in counted_answers(store, pages.keys()):
        counted[a.page_key].add(a.annotator)
    wanted = {}
    for key in sorted(pages):
        base = 2 if pages[key] == "verify" and is_chosen(key, share) else 1
        number = base + len(users[key]) - len(counted[key])
        if number > 1:
            wanted[key] = (number, len(users[key]) >= number)
    return wanted


def ask_again(store: Store, client: Client, round_number: int) -> int:
    """Opens published pages to more users in Label Studio where that is wanted; gives how many were opened.

    Label Studio serves a page to each user once, so it is put to others by itself.
    """
    done = dict(store.values.get(OVERLAPS) or {})
    wanted = wanted_overlaps(store, round_number)
    task_of = {p.key: p.task_id for p in store.pages.rows(published=True)}
    changed = {key: state for key, state in wanted.items() if done.get(key) != state[0]}
    opened = 0
    for key, (number, answered) in changed.items():
        body = {"overlap": number} | ({} if answered else {"is_labeled": False})
        try:
            client.request("PATCH", f"api/tasks/{task_of[key]}/", body=body, thing=f"task {task_of[key]}")
            opened += 1
        except (LabelStudioUnavailable, LabelStudioUnauthorized):
            raise
        except LabelStudioError as error:
            logger.warning("page %s cannot be asked again: %s", key, error)
        done[key] = number
    if changed:
        store.values.set(OVERLAPS, done)
    return opened
