"""Pages as they are made: questions of one class with gold among them, on the screen that the lead wants for it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from campaign.quality.measures import shuffled
from campaign.records.page import NewPage, PageKind, Screen
from campaign.store import Store


def screen_of(store: Store, class_id: int, audit: bool = False) -> Screen:
    """The screen on which masks of a class are asked about: 15 at a time, or each alone where the lead wants that."""
    page = store.settings.page
    difficult = store.classes()[class_id] in page.single_classes
    return Screen.SINGLE if difficult or (audit and page.single_audits) else Screen.VERIFICATION


def sheet(
    store: Store,
    place: tuple[int, int],
    questions: Sequence[tuple[int, int | None]],
    hidden: dict[int, str],
    kind: str = PageKind.VERIFY,
) -> Iterator[NewPage]:
    """A page of questions, (mask, cluster) each, with gold among them; one for each mask where the screen is so.

    `place` is (round, class).
    """
    screen = screen_of(store, place[1])
    if screen == Screen.VERIFICATION:
        yield _page(store, place, questions, hidden, screen, kind)
        return
    # A screen of one mask: a page for each, gold anywhere among them.
    cluster_of = dict(questions)
    key = page_key(store.key, *place, [mask for mask, _ in questions])
    for mask in shuffled(key, dict.fromkeys((*cluster_of, *hidden))):
        if mask in hidden and mask not in cluster_of:
            yield _page(store, place, [], {mask: hidden[mask]}, screen, kind)
        else:
            yield _page(store, place, [(mask, cluster_of[mask])], {}, screen, kind)


def _page(
    store: Store, place: tuple[int, int], questions: Sequence[tuple[int, int | None]], hidden: dict[int, str],
    screen: Screen, kind: str,
) -> NewPage:  # fmt: skip
    asked = [mask for mask, _ in questions]
    # The same mask may have been asked about before it became gold.
    named = asked or [*hidden, 0]
    key = page_key(store.key, *place, named) + ("" if kind == PageKind.VERIFY else f"-{kind}")
    shown = (*questions, *((mask, None) for mask in hidden))
    return NewPage(key, *place, shown, kind, hidden, screen)


def page_key(campaign_key: str, round_number: int, class_id: int, mask_ids: Iterable[int]) -> str:
    """The key of a page, from what is on it."""
    digest = hashlib.blake2b(repr(list(mask_ids)).encode(), digest_size=8).hexdigest()
    return f"{campaign_key}-r{round_number}-c{class_id}-{digest}"
