"""What follows, on pages, from how far users are trusted: pages asked again of others, and a word to the lead."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection

from campaign.derived.answers import counted_answers
from campaign.derived.live import live
from campaign.label_studio.client import Client, LabelStudioError, LabelStudioUnauthorized, LabelStudioUnavailable
from campaign.quality.answers import standing_answers
from campaign.quality.measures import is_chosen
from campaign.records.page import PageKind, is_audit, is_promise
from campaign.store import Store
from campaign.store.values import Key

logger = logging.getLogger(__name__)


def keep_watch(store: Store, client: Client) -> None:
    """Learns the names of new users, and writes a line into the log where answers are withdrawn or count again."""
    intervals = live(store).trust.intervals
    if store.answers.annotators() - store.values.people().keys():
        store.values.add_people(client.users())
    known = dict(store.values.get(Key.WITHDRAWALS) or {})
    names = store.values.people()
    now = {f"{user} {t.noticed}": [user, *t] for user, times in intervals.items() for t in times}
    for user, (since, at, until, wrong, asked) in [(user, t) for user, times in intervals.items() for t in times]:
        key, name = f"{user} {at}", names.get(user, user)
        if key not in known:
            start = f"since {since}" if since else "from the first on"
            store.log(
                f"answers of {name} {start} are withdrawn: {wrong} of {asked} gold masks wrong; "
                "their questions are asked again of others"
            )
        if until is not None and (key not in known or known[key][3] is None):
            store.log(f"answers of {name} count again since {until}")
    if now != known:
        store.values.set(Key.WITHDRAWALS, now)


def wanted_overlaps(store: Store, round_number: int, keys: Collection[str]) -> dict[str, tuple[int, bool]]:
    """How many users each of these pages needs, where that is more than one: (how many, whether so many answered).

    Pages of the round, of audits and of promises count. A page chosen for overlap is answered by two; every user whose
    answers do not count makes room for another, and so does every annotation that nothing but another user's change is
    known of.
    """
    share, others = store.settings.quality.overlap_share, store.aside.changed(keys)
    if not others and not share and not store.settings.quality.qualification and not live(store).trust.intervals:
        return {}
    asked = {a.page_key for a in store.questions.on_pages(keys) if a.gold is None} | others.keys()
    pages = {
        p.key: p.kind
        for p in store.pages.some(asked).values()
        if p.task_id is not None
        and (is_audit(p.kind) or is_promise(p.kind) or (p.kind == PageKind.VERIFY and p.round == round_number))
    }
    users: dict[str, set[str]] = defaultdict(set)
    counted: dict[str, set[str]] = defaultdict(set)
    for a in standing_answers(store.answers.rows(pages)):
        users[a.page_key].add(a.annotator)
        others.get(a.page_key, set()).discard(a.annotation_id)
    for a in counted_answers(store, pages):
        counted[a.page_key].add(a.annotator)
    wanted = {}
    for key in sorted(pages):
        base = 2 if pages[key] == PageKind.VERIFY and is_chosen(key, share) else 1
        number = base + len(users[key]) - len(counted[key]) + len(others.get(key, ()))
        if number > 1:
            wanted[key] = (number, len(users[key]) >= number)
    return wanted


def ask_again(store: Store, client: Client, round_number: int, published: Collection[str] = ()) -> int:
    """Opens pages to more users in Label Studio where that is wanted; returns how many were opened.

    Label Studio serves a page to each user once, so it is put to others by itself. Looked at are the pages that were
    just published, and those whose answers count otherwise than before.
    """
    keys = live(store).touched | set(published)
    wanted = wanted_overlaps(store, round_number, keys) if keys else {}
    done = dict(store.values.get(Key.OVERLAPS) or {})
    changed = {key: state for key, state in wanted.items() if done.get(key) != state[0]}
    tasks = {p.key: p.task_id for p in store.pages.some(changed).values()}
    opened = 0
    for key, (number, answered) in changed.items():
        body = {"overlap": number} | ({} if answered else {"is_labeled": False})
        try:
            client.request("PATCH", f"api/tasks/{tasks[key]}/", body=body, thing=f"task {tasks[key]}")
            opened += 1
        except (LabelStudioUnavailable, LabelStudioUnauthorized):
            raise
        except LabelStudioError as error:
            logger.warning("page %s cannot be asked again: %s", key, error)
        done[key] = number
    if changed:
        store.values.set(Key.OVERLAPS, done)
    return opened
