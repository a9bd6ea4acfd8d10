"""All views of one campaign, kept up with its facts: what is new is read once, and touches the classes it concerns.

Snapshots are named by the cursor that they hold. A turn folds what is new, plans on it, and saves the views that
changed together with the decisions and the cursor, in one transaction: a process that is killed before leaves the
views as they were, and the next one reads the same facts again. Readers fold without saving.

Where joined trees take the place of a round's, views of it are folded over these and saved in the same transaction,
under names of their own. Whoever had read before that begins again with what was saved then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from campaign.derived.searches import ClassView, Rules
from campaign.derived.trust import TrustView, ended_rounds
from campaign.quality.answers import standing_answers, verdicts
from campaign.records.page import PageKind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.search.tree_search import Search
from campaign.store import Store
from campaign.store import models as m
from campaign.store.answers import Fact
from campaign.store.decisions import add_decisions, replace_decisions
from campaign.store.pages import Asked
from campaign.store.views import save_view

STATE = "state"
FORM = "3"  # of the cursor and the trust view's snapshot

_Made = TypeVar("_Made")


@dataclass
class Cursor:
    """How far the views have read: the newest fact, page and override."""

    answer: int = 0
    page: int = 0
    override: int = 0

    def __str__(self) -> str:
        return f"{self.answer}-{self.page}-{self.override}"


class LiveViews:
    """The views of one campaign in this process. `refresh` before reading, `save` under the campaign's lock.

    `touched` are the pages whose answers count otherwise than before; whoever has seen to them clears it. It is saved
    with the views, so that none is forgotten.
    """

    def __init__(self, store: Store):
        self.store = store
        self._begin()

    def _begin(self) -> None:
        """As it is before anything was read."""
        store = self.store
        self.cursor = Cursor()
        self.trust = TrustView(store)
        self.touched: set[str] = set()
        self._generation = 0  # of the trees that were read
        self._classes: dict[tuple[int, int], ClassView] = {}
        self._entries: dict[int, list[m.ClassTree]] = {}
        self._rules: dict[tuple[int, int], tuple[tuple, Rules]] = {}
        self._overrides: dict[tuple[int, int], dict[int, str | None]] = defaultdict(dict)
        self._trust_changed = False
        self._loaded = False
        self._from_history = False  # the snapshots of classes are of an unknown time

    # reading

    def refresh(self) -> LiveViews:
        """Takes in all facts that are new; returns itself."""
        generation = self.store.trees.generation()
        answer, page = self.store.answers.newest(), self.store.pages.newest()
        has_news = (answer, page) != (self.cursor.answer, self.cursor.page)
        if self._loaded and (generation != self._generation or (has_news and self._is_overtaken())):
            self._begin()
        if not self._loaded:
            self._generation = generation
            self._load()
        if page > self.cursor.page:
            self._take_pages()
        if answer > self.cursor.answer:
            self._take_answers()
        if new := self.store.overrides.rows(self.cursor.override):
            self._take_overrides(new)
            self._follow({(row.round, row.class_id) for row in new})
        return self

    def _is_overtaken(self) -> bool:
        """Whether another process has taken in news and saved what follows: then that is read, and no class opened."""
        own, row = self.cursor, self._saved()
        if row is None:
            return False
        saved = Cursor(**row.cursor)
        return saved != own and saved.answer >= own.answer and saved.page >= own.page and saved.override >= own.override

    def _saved(self) -> m.View | None:
        """What was saved last of all but the classes; None where there is nothing that can be gone on from."""
        row = self.store.views.row(STATE)
        return row if row is not None and row.version == self._version and row.file is not None else None

    def view(self, round_number: int, class_id: int) -> ClassView | None:
        """The view of one class in one round, None where it has no tree."""
        if (known := self._classes.get((round_number, class_id))) is None:
            entry = next((e for e in self._trees(round_number) if e.class_id == class_id), None)
            if entry is None:
                return None
            known = self._classes[round_number, class_id] = self._restored(entry) or self._folded(entry)
        return known

    def views(self, round_number: int) -> list[ClassView]:
        """The views of all classes of a round that have a tree, by class."""
        return [v for e in self._trees(round_number) if (v := self.view(round_number, e.class_id)) is not None]

    def verdicts(self, round_number: int, class_id: int) -> tuple[np.ndarray, np.ndarray]:
        """Leaves of a class's tree that have a verdict by the pages of its search, (k,), and the verdicts, (k,) int8.

        They are read from the snapshot where that holds them as they are: a view is opened for nothing less than new
        facts.
        """
        known, entry = self._classes.get((round_number, class_id)), None
        if known is None:
            entry = next((e for e in self._trees(round_number) if e.class_id == class_id), None)
        if entry is not None and not self._from_history:
            row = self.store.views.row(_name(round_number, class_id, entry.generation))
            over = self.store.rounds.get(round_number).stage == Stage.DONE
            if row is not None and row.file and (over or row.version == self.rules(entry).version):
                stored = self.store.views.read(row.file, only=("facts",))
                if stored is not None:
                    facts = stored[0]["facts"].reshape(-1, 2)
                    return facts[:, 0].astype(np.int64), facts[:, 1].astype(np.int8)
        view = known or self.view(round_number, class_id)
        found = {} if view is None else view.search.verdicts
        return np.fromiter(found, np.int64, len(found)), np.fromiter(map(int, found.values()), np.int8, len(found))

    def summaries(self, round_number: int) -> dict[int, dict[str, Any]]:
        """The figures of every class of a round, by class; only views that changed are opened for it."""
        over = self.store.rounds.get(round_number).stage == Stage.DONE
        figures: dict[int, dict[str, Any]] = {}
        stored: dict[str, m.View] | None = None
        for entry in self._trees(round_number):
            known = self._classes.get((round_number, entry.class_id))
            if known is None and stored is None:
                stored = {row.name: row for row in self.store.views.rows(_name(round_number, ""))}
            row = (stored or {}).get(_name(round_number, entry.class_id, entry.generation))
            is_current = row is not None and (over or row.version == self.rules(entry).version)
            if known is None and row is not None and is_current and not self._from_history:
                figures[entry.class_id] = row.summary
            elif (view := self.view(round_number, entry.class_id)) is not None:
                figures[entry.class_id] = view.summary()
        return figures

    def imagined(self, view: ClassView, overrides: Mapping[int, str]) -> Search:
        """The search of a class as it would be under other overrides, with the same facts."""
        search = self.rules(view.entry, overrides).search(self.store, view.entry)
        search.asked(view.search.asked_leaves())
        for leaf, verdict in view.search.verdicts.items():
            search.answer(leaf, verdict)
        search.catch_up()
        return search

    def rules(self, entry: m.ClassTree, overrides: Mapping[int, str] | None = None) -> Rules:
        """What a class's decisions go by; `overrides` stand in for the stored ones."""
        if overrides is None:
            kinds = self._overrides[entry.round, entry.class_id]
            overrides = {c: k for c, k in kinds.items() if k is not None}
        place, annotators = (entry.round, entry.class_id), self.trust.annotator_quality(entry.round)
        mark = annotators, tuple(sorted(overrides.items()))
        if place not in self._rules or self._rules[place][0] != mark:
            self._rules[place] = mark, Rules.of(self.store, entry, annotators, overrides)
        return self._rules[place][1]

    def _trees(self, round_number: int) -> list[m.ClassTree]:
        """The trees of a round that hold masks, by class; read once they are all there."""
        entries = self._entries.get(round_number)
        if entries is None:
            entries = [e for e in self.store.trees.rows(round_number) if e.masks]
            if self.store.rounds.get(round_number).stage not in (Stage.TRAIN, Stage.DETECT, Stage.CLUSTER):
                self._entries[round_number] = entries
        return entries

    # the fold

    def _take_pages(self) -> None:
        newest = self.store.pages.newest()
        asked = self.store.questions.after(self.cursor.page)
        self.trust.add_questions(asked)
        self._trust_changed |= any(a.gold is not None for a in asked)
        new: dict[tuple[int, int], list[int]] = defaultdict(list)
        for a in asked:
            if a.gold is None and a.kind == PageKind.VERIFY:
                new[a.round, a.class_id].append(a.mask_id)
        for place, masks in new.items():
            if (view := self.view(*place)) is not None:
                view.take(masks, {})
        self.cursor.page = max(newest, self.cursor.page, *(a.number for a in asked))

    def _take_answers(self) -> None:
        facts = self.store.answers.after(self.cursor.answer)
        asked = {(a.page_key, a.mask_id): a for a in self.store.questions.on_pages({f.page_key for f in facts})}
        about = [a for f in facts if (a := asked.get((f.page_key, f.mask_id))) is not None]
        running = [r.number for r in self.store.rounds.all() if r.stage != Stage.DONE]
        quality = {number: self.trust.annotator_quality(number) for number in running}
        changed = self.trust.update(about)
        self._trust_changed |= bool(changed) or any(a.gold is not None for a in about)
        masks = {a.mask_id for a in about if a.gold is None and a.kind == PageKind.VERIFY}
        self.touched |= {f.page_key for f in facts}
        for user in sorted(changed):
            masks |= (of_user := self.store.answers.masks_of(user))
            self.touched |= {a.page_key for a in self.store.questions.on_masks(of_user)}
        self._take_verdicts(masks)
        for number, before in quality.items():
            if self.trust.annotator_quality(number) != before:
                self._follow({(number, e.class_id) for e in self._trees(number)})
        self.cursor.answer = facts[-1].id

    def _take_verdicts(self, masks: Collection[int]) -> None:
        """Works out anew what is known of these masks, in every round that asks about them."""
        asked = [a for a in self.store.questions.on_masks(masks) if a.kind == PageKind.VERIFY and a.gold is None]
        known = self._verdicts(asked, self.store.answers.on_masks({a.mask_id for a in asked}))
        by_class: dict[tuple[int, int], dict[int, Verdict | None]] = defaultdict(dict)
        for a in asked:
            by_class[a.round, a.class_id][a.mask_id] = known.get((a.round, a.mask_id))
        for place, verdict_of in sorted(by_class.items()):
            if (view := self.view(*place)) is not None:
                view.take((), verdict_of)

    def _verdicts(self, asked: Collection[Asked], facts: Collection[Fact]) -> dict[tuple[int, int], Verdict]:
        """{(round, mask id): verdict} by the answers that count on these questions' own pages."""
        question = {(a.page_key, a.mask_id): a for a in asked}
        ended = ended_rounds(self.store)
        by_round: dict[int, list[Fact]] = defaultdict(list)
        for f in standing_answers(facts):
            a = question.get((f.page_key, f.mask_id))
            if a is not None and self.trust.counts(f, a, ended):
                by_round[a.round].append(f)
        return {(n, mask): v for n, counted in by_round.items() for mask, v in verdicts(counted).items()}

    def _take_overrides(self, rows: Collection[m.Override]) -> None:
        for row in rows:
            self._overrides[row.round, row.class_id][row.cluster] = row.kind
            self.cursor.override = max(self.cursor.override, row.id)

    def _follow(self, places: Collection[tuple[int, int]]) -> None:
        """Folds these classes anew where their rules changed."""
        for place in sorted(places):
            if (view := self.view(*place)) is not None:
                view.follow(self.rules(view.entry))

    def refold(self, round_number: int) -> None:
        """Drops what is known of a round: the next look works it out from the facts, and looks at all its pages.

        For a round that is opened again: answers that stood because it was over may count no more.
        """
        self.store.views.drop(_name(round_number, ""))
        self._classes = {place: view for place, view in self._classes.items() if place[0] != round_number}
        self.touched |= {page.key for page in self.store.pages.rows(published=True, round_number=round_number)}

    # snapshots

    @property
    def _version(self) -> str:
        """What snapshots depend on beside the facts: their own form, and the settings by which answers count."""
        q, k_iou = self.store.settings.quality, self.store.settings.search.k_iou
        limits = f"{q.qualification_limit:g} {q.error_accepted:g} {q.error_limit:g}"
        return f"{FORM} {q.qualification} {limits} {k_iou:g}"

    def follow_trees(
        self, round_number: int, entries: Sequence[m.ClassTree], orders: Mapping[int, Mapping[int, str]],
        within: Callable[[Session], None],
    ) -> None:  # fmt: skip
        """Folds classes over trees that take the place of a round's, and saves that together with what `within` stores.

        `orders` {class: {cluster: kind}} are those of the lead under the numbers of these trees. One transaction, under
        the campaign's lock. Afterwards these views are worn out: the next look begins with what was saved.
        """
        self._entries[round_number] = [e for e in entries if e.masks]
        for entry in self._entries[round_number]:
            place = round_number, entry.class_id
            if entry.class_id in orders:
                self._overrides[place] = dict(orders[entry.class_id])
                self._classes[place] = self._folded(entry)
        self.save(within=within)
        self._begin()

    def save(self, also: Collection[int] = (), within: Callable[[Session], None] | None = None) -> None:
        """Saves the views that changed, and what was decided of classes whose round is at verify, or among `also`.

        All of it in one transaction, and what `within` stores in it. To be called under the campaign's lock.
        """
        changed = [self._classes[place] for place in sorted(self._classes) if self._classes[place].changed]
        stage = {r.number: r.stage for r in self.store.rounds.all()}
        row, cursor = self.store.views.row(STATE), asdict(self.cursor)
        summary = {"touched": sorted(self.touched)}
        same = row is not None and (row.cursor, row.summary, row.version) == (cursor, summary, self._version)
        if same and not changed and not self._trust_changed and within is None:
            return
        stale = [row.file] if row is not None and row.file else []
        file = None if row is None or self._trust_changed else row.file
        if file is None:
            file = f"trust-{self.cursor}.npz"
            self.store.views.write(file, *self.trust.state())
        if self._from_history:  # snapshots of classes that were not opened may miss facts: they are worked out anew
            stale += [old.file for old in self.store.views.rows("class/") if old.file]
        with self.store.session() as session:
            if within is not None:
                within(session)
            if self._from_history:
                session.execute(delete(m.View).where(m.View.name.startswith("class/")))
            for view in changed:
                decides = view.round_number in also or stage.get(view.round_number) == Stage.VERIFY
                stale += self._save_class(session, view, decides)
            save_view(session, STATE, self._version, cursor, summary, file)
        kept = {row.file for row in self.store.views.rows("")}
        self.store.views.remove(set(stale) - kept)
        for view in changed:
            view.changed = False
        self._trust_changed = self._from_history = False

    def _save_class(self, session: Session, view: ClassView, decides: bool) -> list[str]:
        """Saves the view of a class, and with `decides` what was decided; returns the files that it takes the place of.

        Views over trees that this one's followed go, too.
        """
        place, generation = (view.round_number, view.class_id), view.entry.generation
        rows = [session.get(m.View, _name(*place, number)) for number in range(generation + 1)]
        stale = [str(row.file) for row in rows if row is not None and row.file]
        for row in rows[:-1]:
            if row is not None:
                session.delete(row)
        if rows[-1] is None or rows[-1].file != view.file:
            view.saved = None  # another process decided meanwhile
        if decides:
            save_decisions(session, view)
        file = f"r{place[0]}-c{place[1]}.{generation}-{self.cursor}-{view.rules.version[:8]}.npz"
        self.store.views.write(file, view.search.state(), {"saved": view.saved})
        name = _name(*place, generation)
        save_view(session, name, view.rules.version, asdict(self.cursor), view.summary(), file)
        view.file = file
        return stale

    def _load(self) -> None:
        self._loaded = True
        for _ in range(2):  # another process may save, and remove what it replaces, between the row and its file
            row = self._saved()
            stored = self.store.views.read(str(row.file)) if row is not None else None
            if row is not None and stored is not None:
                self.cursor = Cursor(**row.cursor)
                self.trust = TrustView.restore(self.store, *stored)
                self.touched = set(row.summary.get("touched", ()))
                self._take_overrides([o for o in self.store.overrides.rows() if o.id <= row.cursor["override"]])
                return
        # Nothing is known: the gold is read as a whole, and each class when it is asked for.
        self._from_history = self._trust_changed = True
        self.cursor = Cursor(self.store.answers.newest(), self.store.pages.newest())
        asked = [
            Asked(p.key, p.number, q.mask_id, q.gold, p.kind, p.round, p.class_id)
            for q, p in self.store.questions.gold()
        ]
        self.trust.add_questions(asked)
        self.trust.update(asked)
        self._take_overrides(self.store.overrides.rows())
        self.touched = {page.key for page in self.store.pages.rows(published=True)}

    def _restored(self, entry: m.ClassTree) -> ClassView | None:
        """The view of a class from its snapshot, None where there is none that can be gone on from."""
        row = self.store.views.row(_name(entry.round, entry.class_id, entry.generation))
        stored = self.store.views.read(row.file) if row is not None and row.file and not self._from_history else None
        if row is None or stored is None:
            return None
        rules, (state, values) = self.rules(entry), stored
        if row.version == rules.version:
            search = rules.search(self.store, entry, state)
            return ClassView(self.store, entry, rules, search, values["saved"], row.file)
        view = ClassView(self.store, entry, rules, rules.search(self.store, entry))
        facts = {view.mask(leaf): Verdict(verdict) for leaf, verdict in state["facts"].tolist()}
        view.take([view.mask(leaf) for leaf in state["asked"].tolist()], facts)
        view.search.catch_up()
        return view

    def _folded(self, entry: m.ClassTree) -> ClassView:
        """The view of a class from all its facts."""
        rules = self.rules(entry)
        view = ClassView(self.store, entry, rules, rules.search(self.store, entry))
        masks = self.store.questions.of_class(entry.round, entry.class_id)
        facts = self.store.answers.of_class(entry.round, entry.class_id)
        asked = [a for a in self.store.questions.on_pages({f.page_key for f in facts}) if a.gold is None]
        known = {mask: verdict for (_, mask), verdict in self._verdicts(asked, facts).items()}
        view.take(masks, known)
        view.search.catch_up()
        return view


def live(store: Store) -> LiveViews:
    """The views of a campaign as it stands now."""
    views: LiveViews = store.companions.setdefault(LiveViews, LiveViews(store))
    try:
        return views.refresh()
    except BaseException:
        # Half of the news may be taken in: the next look begins with what was saved.
        store.companions.pop(LiveViews, None)
        raise


def steady(store: Store, work: Callable[[], _Made]) -> _Made:
    """What `work` makes of trees, decisions and orders that are of one time.

    They are read one after the other: where joined trees took the place of others meanwhile, it is done again.
    """
    while True:
        before, error = store.trees.generation(), None
        try:
            made = work()
        except (IndexError, KeyError, ValueError) as caught:  # a number of one tree was looked up in the other
            error = caught
        if store.trees.generation() == before:
            if error is not None:
                raise error
            return made


def forget(store: Store) -> None:
    """Drops all views of a campaign: the next look works them out from the facts."""
    store.companions.clear()
    store.views.drop()


def save_decisions(session: Any, view: ClassView) -> None:
    """Stores what a class's search decided since the last time, and whether it came to its end."""
    place = view.round_number, view.class_id
    if view.saved is None:
        replace_decisions(session, *place, view.kept_decisions())
    else:
        add_decisions(session, *place, view.kept_decisions(view.saved))
    view.saved = len(view.search.decisions)
    done = view.search.done
    tree = update(m.ClassTree).where(m.ClassTree.round == place[0], m.ClassTree.class_id == place[1])
    session.execute(tree.where(m.ClassTree.searched != done).values(searched=done))


def _name(round_number: int, class_id: int | str, generation: int = 0) -> str:
    return f"class/{round_number}/{class_id}" + (f".{generation}" if generation else "")
