"""Verify: publish the questions of a round, read the answers back, decide; one turn at a time.

A turn is one fold: facts in, decisions and new pages out. It may be killed anywhere and run again, because pages
have keys that follow from their masks, Label Studio is asked which of them it holds before anything is imported, and
the views go on from the cursor that was saved last.
"""

from __future__ import annotations

from dataclasses import dataclass

from campaign.derived.answered import answered
from campaign.derived.course import note_course
from campaign.derived.dataset import obtained
from campaign.derived.delivery import save_delivery
from campaign.derived.live import live
from campaign.derived.outlook import all_wait
from campaign.derived.pace import work
from campaign.derived.promises import newest_attempt, standing
from campaign.derived.spending import follows
from campaign.label_studio.client import Client
from campaign.pages.completeness import ask_what_is_missing, publish_complete, read_complete
from campaign.pages.correcting import ask_for_corrections, publish_if_possible, read_corrections
from campaign.pages.editing import read_edits
from campaign.pages.instructions import keep_instructions
from campaign.pages.painting import read_paintings
from campaign.pages.planning import is_done, plan_pages
from campaign.pages.projects import connect, ensure_project
from campaign.pages.promises import begin_promise
from campaign.pages.publishing import publish_missing
from campaign.pages.qualification import read_tests
from campaign.pages.readback import read_back
from campaign.pages.selecting import is_fit_awaited, nothing_more, open_pages
from campaign.pages.watching import ask_again, keep_watch
from campaign.records.stage import Stage
from campaign.store import Store


@dataclass(frozen=True)
class Turn:
    """What one turn did: facts read, pages published, questions still open, and whether the round's search is done."""

    read: int
    published: int
    open_questions: int
    done: bool


def turn(store: Store, client: Client | None = None) -> Turn:
    """Publishes, reads and decides once. Raises LabelStudioError where Label Studio does not do its part."""
    client = client or connect(store)
    with store.locked():
        ensure_project(store, client)
        published = publish_missing(store, client)
        read = read_back(store, client)
        read_edits(store, client)
        read_paintings(store, client)
        read_corrections(store, client)
        publish_if_possible(store, client)
        publish_complete(store, client)
        read_complete(store, client)
        if store.settings.quality.qualification:
            read_tests(store, client)
        keep_watch(store, client)
        current = store.rounds.newest()
        if current is None or current.stage != Stage.VERIFY:
            ask_again(store, client, current.number if current else 0, published)  # of an audit
            live(store).touched.clear()
            save_views(store)
            return Turn(read, len(published), 0, current is None)
        decided = decide(store, current.number)
        published += publish_missing(store, client)
        keep_instructions(store, client)
        ask_again(store, client, current.number, published)
        live(store).touched.clear()
        save_views(store)
        if decided.done:
            # Beside the ordinary pages: the next round does not wait for them.
            ask_for_corrections(store, current.number)
            publish_if_possible(store, client)
            ask_what_is_missing(store, current.number)
            publish_complete(store, client)
            _say_what_is_promised(store)
            store.trees.mark_searched(current.number)
            store.rounds.update(current.number, stage=Stage.PROPAGATE)
        return Turn(read, len(published), decided.open_questions, decided.done)


def save_views(store: Store) -> None:
    """Saves all views of a campaign, so that the next process goes on from them. Under the campaign's lock.

    What is known now of precision and recall becomes a point of the course.
    """
    live(store).save()
    work(store).save()
    if store.settings.search.policy == "target":
        answered(store).save()
        save_delivery(store)
        note_course(store)


@dataclass(frozen=True)
class Decided:
    """What follows from the facts of a round: pages to publish, questions that are open, and whether it is done."""

    pages: int
    open_questions: int
    done: bool


def decide(store: Store, round_number: int) -> Decided:
    """The part of a turn that needs no Label Studio: decisions by the answers that are stored, and the next pages.

    To be called under the campaign's lock; what was decided is stored by saving the views. While images are to join
    the round's trees it is not done.
    """
    if all_wait(store, round_number):
        return Decided(0, 0, False)
    joining = store.trees.joining(round_number) is not None
    pages = store.pages.add(list(plan_pages(store, round_number)))
    if not pages and not joining and store.settings.search.policy == "target" and is_promise_due(store, round_number):
        begin_promise(store, round_number)
        pages = store.pages.add(list(plan_pages(store, round_number)))
    figures = live(store).summaries(round_number).values()
    done = pages == 0 and not joining and is_done(store, round_number)
    return Decided(pages, sum(f["open"] for f in figures), done)


def _say_what_is_promised(store: Store) -> None:
    """Writes into the log what came of a promise, and why no more is asked for it."""
    now = standing(store)
    if now is not None:
        outcome = "the target is reached" if now.promise.met else "the target is not reached"
        store.log(f"promise {now.attempt.number}: {outcome}: {now.sentence()}; {now.stop}")


def is_promise_due(store: Store, round_number: int) -> bool:
    """Whether the last round has nothing more to ask, so that its masks are frozen for a promise of their precision.

    What is still open need not be waited for where the number of rounds says that it is the last, and where it would
    not have the verifier fitted anew: that may well want more.
    """
    if newest_attempt(store) is not None or not nothing_more(store, round_number):
        return False
    if open_pages(store):
        return round_number >= store.settings.rounds.rounds and not is_fit_awaited(store, round_number)
    if round_number >= store.settings.rounds.rounds:
        return True
    return not follows(store, round_number, len(obtained(store, round_number)))
