"""Verify: publish the questions of a round, read the answers back, decide; one turn at a time.

A turn is one fold: facts in, decisions and new pages out. It may be killed anywhere and run again, because pages
have keys that follow from their masks, and Label Studio is asked which of them it holds before anything is imported.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial

import numpy as np

from campaign.derived.reliability import annotator_quality
from campaign.derived.spending import questions_allowed
from campaign.derived.trust import GoldPlan, ask_again, counted_answers, keep_watch
from campaign.label_studio.client import Client, ProjectGone
from campaign.label_studio.readback import TaskSnapshot, read_changes
from campaign.label_studio.verification import Page, PageMask, create_project, publish_pages
from campaign.pages.cursors import read_on
from campaign.pages.instructions import class_rules, keep_instructions, project_instructions
from campaign.quality.answers import WITHDRAWN, standing_answers, verdicts
from campaign.quality.measures import page_order
from campaign.records.decision import Decision
from campaign.search.budget import Searches
from campaign.search.policies import make_policy
from campaign.search.policies.overridden import LEAD_RULE, overridden
from campaign.search.policies.prior import Prior
from campaign.search.thresholds import Thresholds
from campaign.search.tree_search import Search
from campaign.store import Store
from campaign.store import models as m
from campaign.store.trust import QUALIFY
from label_config import load
from ml_backend.errors import InputError
from ml_backend.server.signing import crop_url

PROJECT = "verification_project"
CURSOR = "read_back_cursor"
VERIFICATION, SINGLE = "verification", "single"
SINGLE_PROJECT, SINGLE_CURSOR = "single_project", "single_cursor"
# Under a budget so many questions are open at a time: pages, or a share of what is left where that is more.
OPEN_PAGES = 4
OPEN_SHARE = 8


@dataclass(frozen=True)
class Turn:
    """What one turn did: facts read, pages published, questions still open, and whether the round's search is done."""

    read: int
    published: int
    open_questions: int
    done: bool


@dataclass
class ClassSearch:
    """The search of one class in the running round, with the mask id of each leaf."""

    class_id: int
    search: Search
    mask_ids: np.ndarray
    leaf_of: dict[int, int]
    asked: dict[int, str]  # mask id -> key of its page

    def open_masks(self) -> set[int]:
        """Masks on a page whose verdict the search still waits for."""
        return {int(self.mask_ids[leaf]) for ask in self.search.open for leaf in ask.leaves} & self.asked.keys()


def connect(store: Store) -> Client:
    """A client for the campaign's Label Studio. Raises InputError where none is set."""
    url = store.settings.label_studio.url
    if url is None:
        raise InputError("label_studio.url", "the address of a running Label Studio", "none")
    return Client(url, store.secret("label_studio_token"))


def ensure_project(store: Store, client: Client, screen: str = VERIFICATION) -> int:
    """The id of the verification project, made at the first call; or of the project of single masks."""
    name, word = (SINGLE_PROJECT, "Single masks") if screen == SINGLE else (PROJECT, "Verify")
    known = store.values.get(name)
    if known is not None:
        return int(known["id"])
    base = store.settings.page.public_url.rstrip("/")
    project = create_project(
        client,
        title=f"{word}: {store.settings.name} [{store.key}]",
        webhook_url=f"{base}/webhook",
        webhook_secret=store.secret("webhook_secret"),
        label_config=load(screen).xml,
        instructions=project_instructions(store, screen),
    )
    store.values.set(name, {"id": project})
    return project


def abandon_project(store: Store, client: Client) -> None:
    """Forgets a verification project that was deleted, so that the next one gets the pages without an answer.

    Answers that were read stay. Raises InputError where the project is still there.
    """
    gone = []
    for screen, name, cursor in ((VERIFICATION, PROJECT, CURSOR), (SINGLE, SINGLE_PROJECT, SINGLE_CURSOR)):
        known = store.values.get(name)
        if known is None:
            continue
        try:
            client.project(int(known["id"]))
        except ProjectGone:
            gone.append(known["id"])
            answered = {a.page_key for a in standing_answers(store.answers.rows())}
            open_pages = [p for p in store.pages.rows(published=True) if p.screen == screen and p.key not in answered]
            store.pages.unpublish(page.key for page in open_pages if page.kind != QUALIFY)
            store.values.drop(name)
            store.values.drop(cursor)
            store.log(f"project {known['id']} was deleted; its open pages go to a new one")
    known = store.values.get(PROJECT)
    if known is not None and not gone:
        raise InputError(f"project {known['id']}", "a deleted project, to make a new one", "one that is still there")


def turn(store: Store, client: Client | None = None) -> Turn:
    """Publishes, reads and decides once. Raises LabelStudioError where Label Studio does not do its part."""
    client = client or connect(store)
    with store.locked():
        project = ensure_project(store, client)
        published = publish_missing(store, client, project)
        read = read_back(store, client, project)
        read_drawn(store, client)
        if store.settings.quality.qualification:
            from campaign.pages.qualification import read_tests

            read_tests(store, client)
        keep_watch(store, client)
        current = store.rounds.newest()
        if current is None or current.stage != "verify":
            ask_again(store, client, current.number if current else 0)  # of an audit
            return Turn(read, published, 0, current is None)
        searches = open_searches(store, current.number)
        asked = {s.class_id: s.asked for s in searches}
        for page in list(plan_pages(store, current.number, searches)):
            store.pages.add(*page)
            key, _, class_id, questions, *_ = page
            asked[class_id] |= {mask: key for mask, cluster in questions if cluster is not None}
        for s in searches:
            save_decisions(store, current.number, s)
        published += publish_missing(store, client, project)
        keep_instructions(store, client)
        ask_again(store, client, current.number)
        done = all(s.search.done for s in searches)
        if done:
            store.rounds.update(current.number, stage="propagate")
        return Turn(read, published, sum(len(s.open_masks()) for s in searches), done)


def open_searches(
    store: Store,
    round_number: int,
    overrides: Mapping[int, Mapping[int, str]] | None = None,
    class_id: int | None = None,
) -> list[ClassSearch]:
    """The searches of a round, told every fact: the same facts give the same searches, whenever they are read.

    `overrides` {class: {cluster: kind}} stand in for the stored ones, to see what others would lead to. With `class_id`
    only that class's search.
    """
    settings = store.settings.search
    asked: dict[int, dict[int, str]] = defaultdict(dict)
    for question, page in store.questions.rows(round_number, "verify"):
        asked[page.class_id][question.mask_id] = page.key
    keys = {key for masks in asked.values() for key in masks.values()}
    known = verdicts(counted_answers(store, keys))
    quality = annotator_quality(store, round_number)
    searches = []
    for entry in store.trees.rows(round_number):
        if not entry.masks or class_id not in (None, entry.class_id):
            continue
        tree, mask_ids = store.trees.read(round_number, entry.class_id)
        kept = entry.thresholds
        prior = Prior(**kept["prior"]) if kept.get("prior") else None
        thresholds = Thresholds(kept["k_pr"], kept["k_pa"], prior=prior)
        policy = make_policy(settings.policy, settings.n_s, settings.k_a, annotators=quality)
        kinds = store.overrides.standing(round_number, entry.class_id) if overrides is None else overrides[entry.class_id]
        policy = overridden(policy, kinds)
        search = Search(tree, policy, thresholds, store.settings.seed)
        mine = asked[entry.class_id]
        leaf_of = {int(mask): leaf for leaf, mask in enumerate(mask_ids)}
        search.asked(leaf_of[mask] for mask in mine)
        for mask in mine:
            if mask in known:
                search.answer(leaf_of[mask], known[mask])
        searches.append(ClassSearch(entry.class_id, search, mask_ids, leaf_of, mine))
    return searches


NewPage = tuple[str, int, int, list[tuple[int, int | None]], str, dict[int, str], str]


def screen_of(store: Store, class_id: int, audit: bool = False) -> str:
    """The screen on which masks of a class are asked about: 15 at a time, or each alone where the lead wants that."""
    page = store.settings.page
    difficult = store.classes()[class_id] in page.single_classes
    return SINGLE if difficult or (audit and page.single_audits) else VERIFICATION


def plan_pages(store: Store, round_number: int, searches: list[ClassSearch]) -> Iterable[NewPage]:
    """New pages as (key, round, class, [(mask id, cluster), ...], kind, gold, screen), best clusters first.

    A page holds questions of one class, of one or several clusters, and gold among them: {mask id: known verdict}. A
    page that is not full is only made where the class has no other open question, so that policies that stop early
    never show half-empty pages for nothing. Its key follows from its questions, whatever gold is among them.
    """
    left = round_budget(store, round_number)
    by_class = {s.class_id: s for s in searches}
    spent = sum(s.search.questions for s in searches)
    together = Searches({s.class_id: s.search for s in searches}, None if left is None else spent + left)
    waiting: dict[int, list[tuple[int, int | None]]] = defaultdict(list)
    # Under a budget not all clusters are begun at once: it would be spent before any of them is decided.
    size = store.settings.page.page_size
    limit = None if left is None else max(OPEN_PAGES * size, left // OPEN_SHARE)
    for class_id, ask in together.step(limit):
        drawn = [(int(by_class[class_id].mask_ids[leaf]), ask.cluster) for leaf in ask.leaves]
        waiting[class_id] += [q for q in drawn if q[0] not in by_class[class_id].asked]
    gold = GoldPlan(store)
    for s in searches:
        todo = waiting[s.class_id]
        screen = screen_of(store, s.class_id)
        while todo:
            room = gold.room(size, s.class_id)
            if screen == VERIFICATION and len(todo) < size - room and s.open_masks():
                break
            hidden = gold.take(s.class_id, min(room, len(todo)))
            questions, todo = todo[: size - len(hidden)], todo[size - len(hidden) :]
            shown = [*questions, *((mask, None) for mask in hidden)]
            key = page_key(store.key, round_number, s.class_id, [mask for mask, _ in questions])
            if screen == VERIFICATION:
                yield key, round_number, s.class_id, shown, "verify", hidden, screen
                continue
            cluster_of = dict(shown)
            for mask in page_order(key, [(mask, mask in hidden) for mask, _ in shown]):
                # The same mask may have been asked about before it became gold.
                alone = page_key(store.key, round_number, s.class_id, [mask, 0] if mask in hidden else [mask])
                known = {mask: hidden[mask]} if mask in hidden else {}
                yield alone, round_number, s.class_id, [(mask, cluster_of[mask])], "verify", known, screen


def round_budget(store: Store, round_number: int) -> int | None:
    """Questions that this round may still ask, None for no limit.

    What the campaign has left is shared evenly among the rounds to come.
    """
    budget = questions_allowed(store)
    if budget is None:
        return None
    mine = len(store.questions.rows(round_number, "verify"))
    before = store.questions.count("verify") - mine
    rounds_left = max(1, store.settings.rounds.rounds - round_number + 1)
    return max(0, (budget - before) // rounds_left - mine)


def page_key(campaign_key: str, round_number: int, class_id: int, mask_ids: list[int]) -> str:
    """The key of a page, from what is on it."""
    digest = hashlib.blake2b(repr(mask_ids).encode(), digest_size=8).hexdigest()
    return f"{campaign_key}-r{round_number}-c{class_id}-{digest}"


def save_decisions(store: Store, round_number: int, s: ClassSearch) -> None:
    """Stores what the search decided, and whether it came to its end.

    Of the decisions that the mean score alone makes, only rejected clusters are stored, not the thousands of splits
    and single masks: they follow from the tree and the thresholds, which are stored too.
    """
    kept = (
        d
        for d in s.search.decisions
        if d.asked or d.rule.startswith(LEAD_RULE) or (d.kind == "reject" and s.search.tree.size[d.cluster] > 1)
    )
    store.decisions.replace(round_number, s.class_id, (_row(d, s) for d in kept))
    store.trees.mark_searched(round_number, s.class_id, s.search.done)


def _row(decision: Decision, s: ClassSearch) -> dict:
    return asdict(decision) | {"size": int(s.search.tree.size[decision.cluster])}


def publish_missing(store: Store, client: Client, project: int) -> int:
    """Publishes the stored pages of questions that Label Studio does not hold yet; gives how many there were."""
    rows = [p for p in store.pages.rows(published=False) if p.kind != QUALIFY and p.screen in (VERIFICATION, SINGLE)]
    for screen in sorted({page.screen for page in rows}):
        # Pages newer than the last one noted may be there already, if a turn was killed before it could note them.
        publish_pages(
            client,
            project if screen == VERIFICATION else ensure_project(store, client, screen),
            build_pages(store, [page for page in rows if page.screen == screen]),
            after=store.pages.newest_task(screen),
            published=store.pages.mark_published,
        )
    return len(rows)


def build_pages(store: Store, rows: list[m.Page]) -> list[Page]:
    """Pages with their masks and the signed addresses of the crops."""
    classes = store.classes()
    images = {i.id: i for i in store.images.records()}
    secret, base = store.secret("crop_key"), store.settings.page.public_url
    rules = class_rules(store)
    by_page: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for question, page in store.questions.rows(gold=True):
        by_page[page.key].append((question.mask_id, question.gold is not None))
    pages = []
    for row in rows:
        found = store.masks.read(page_order(row.key, by_page[row.key]))
        expires = (row.created_at + timedelta(days=store.settings.page.url_days)).timestamp()
        masks = [
            PageMask(
                mask_id=int(found.mask_id[i]),
                image=images[int(found.image_id[i])].file_name,
                image_id=int(found.image_id[i]),
                box=[float(v) for v in found.box[i]],
                rle={"size": rle["size"], "counts": rle["counts"].decode("ascii")},
                url=crop_url(base, secret, int(found.mask_id[i]), expires),
            )
            for i, rle in enumerate(found.rles())
        ]
        name = classes[row.class_id]
        title = f"Which outlines are not a correct {name}?"
        pages.append(Page(row.key, name, title, masks, rules.get(row.class_id, ""), row.screen))
    return pages


def read_back(store: Store, client: Client, project: int) -> int:
    """Reads what changed since the cursor and stores it as facts; gives how many were new."""
    places = [(project, CURSOR)]
    if (single := store.values.get(SINGLE_PROJECT)) is not None:
        places.append((int(single["id"]), SINGLE_CURSOR))
    return sum(read_answers(store, client, number, name) for number, name in places)


def read_answers(store: Store, client: Client, project: int, cursor: str) -> int:
    """Reads the answers of one project that are new since a cursor; gives how many facts were new."""
    return read_on(
        store,
        cursor,
        partial(read_changes, client, project),
        lambda snapshots: store.answers.add(facts(store, snapshots)),
    )


def read_drawn(store: Store, client: Client) -> None:
    """Reads corrections and paintings back, where there are such pages."""
    from campaign.pages import editing, painting

    editing.read_edits(store, client)
    painting.read_paintings(store, client)


def facts(store: Store, snapshots: list[TaskSnapshot]) -> list[dict]:
    """Facts that the snapshots of tasks tell: what each annotation says now, and which annotations are gone."""
    asked: dict[str, set[int]] = defaultdict(set)
    for question, page in store.questions.rows(gold=True):
        asked[page.key].add(question.mask_id)
    told = {s.page_key for s in snapshots}
    standing = [f for f in standing_answers(store.answers.rows(told))]
    rows: list[dict] = []
    for snapshot in snapshots:
        present = {a.id for a in snapshot.annotations}
        for a in snapshot.annotations:
            for mask, verdict in sorted(a.verdicts.items()):
                if mask in asked[snapshot.page_key]:
                    rows.append(
                        {
                            "page_key": snapshot.page_key, "annotation_id": a.id, "mask_id": mask,
                            "annotator": str(a.user), "verdict": verdict.name.lower(),
                            "answered_at": str(a.updated_at), "lead_time": a.lead_time,
                        }
                    )  # fmt: skip
        for fact in standing:
            if fact.page_key == snapshot.page_key and fact.annotation_id not in present:
                rows.append(
                    {
                        "page_key": fact.page_key, "annotation_id": fact.annotation_id, "mask_id": fact.mask_id,
                        "annotator": fact.annotator, "verdict": WITHDRAWN,
                        "answered_at": fact.answered_at, "lead_time": None,
                    }
                )  # fmt: skip
    return rows
