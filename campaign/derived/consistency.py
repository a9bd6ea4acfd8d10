"""Whether all that a campaign holds fits together: products, facts and what is derived, held against each other.

Everything is read and worked out anew, nothing is written: the store is to be opened with `read_only`. What does not
fit is named, with the command that mends it. A campaign that runs may be caught between two steps; whoever asks looks
twice and keeps what stands both times (`campaign.pages.consistency`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from campaign.derived.certificates import audited
from campaign.derived.dataset import obtained
from campaign.derived.live import live
from campaign.derived.promises import attempt_path, newest_attempt
from campaign.quality.answers import WITHDRAWN
from campaign.records.page import PageKind, Screen, audit_kind, is_audit, is_promise, promise_kind
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.settings import SPLITS, Split
from campaign.store import Store
from campaign.store import models as m
from campaign.store.shards import arrays_of, feature_path, read_columns, read_table
from campaign.store.values import Key
from ml_backend.errors import InputError, Unavailable
from ml_backend.mask_ids import is_drawn, is_heldout, mask_id, shard_number
from ml_backend.masks.fetched import are_there

BACKUP, AGAIN = "campaign restore", "campaign run"
WORDS = frozenset({*(verdict.word for verdict in Verdict), WITHDRAWN})
BROKEN = (InputError, OSError, ValueError, KeyError, IndexError, EOFError)  # what a file raises that is not whole
SHOWN = 5  # ids that a line names


@dataclass(frozen=True)
class Finding:
    """One thing that does not fit: what it is (`shard 1/pool/3`), what is wrong with it, and the command that mends it.

    `mend` is a command of the campaign without its folder, or words where no command can.
    """

    thing: str
    problem: str
    mend: str


Report = Callable[[str, int, int], None]


def local_findings(store: Store, report: Report | None = None) -> list[Finding]:
    """What does not fit in the folder and the database, by kind. Reads every shard, tree, page and answer.

    Raises Unavailable where the database is away.
    """
    check = _Check(store)
    parts: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("files", check.files), ("images", check.images), ("shards", check.shards), ("bundles", check.bundles),
        ("trees", check.trees),
        ("pages", check.pages), ("answers", check.answers), ("audits and promises", check.draws),
        ("decisions", check.decisions), ("datasets", check.datasets),
    ]  # fmt: skip
    findings: list[Finding] = []
    for done, (name, part) in enumerate(parts):
        if report:
            report(f"checking {name}", done, len(parts))
        new = list(part())
        if new and part in (check.pages, check.answers):
            check.broken |= check.stage.keys()  # nothing can be worked out from such facts
        findings += new
    return findings


class _Check:
    """One look at a campaign; what it has read of products serves the later parts."""

    def __init__(self, store: Store):
        self.store = store
        self.rounds = store.rounds.all()
        self.stage = {r.number: r.stage for r in self.rounds}
        self.class_of: dict[int, np.ndarray] = {}  # of the masks of a shard, by the id of its first mask
        self.broken: set[int] = set()  # rounds whose products are not whole: nothing can be worked out from them

    # products

    def files(self) -> Iterator[Finding]:
        """What the database names of a campaign at a URL."""
        for thing, problem in self.store.files.broken():
            yield Finding(thing, problem, BACKUP)

    def images(self) -> Iterator[Finding]:
        """Image files and the files of true masks."""
        for split in ("labelled", "heldout"):
            path = self.store.folder / f"{split}.json"
            if self.store.images.count(cast(Split, split)) and not self.store.files.has(path):
                yield Finding(f"{split}.json", "is missing; it holds the true masks", BACKUP)
        gone, first = 0, ""
        for split in SPLITS:
            for place, is_there in are_there(row.path for row in self.store.images.in_pages(split)):
                if not is_there:
                    gone, first = gone + 1, first or place
        if gone:
            yield Finding("images", f"{gone} files are missing, {first} first", "put them back where they lay")

    def shards(self) -> Iterator[Finding]:
        """Shards of predictions, with their features."""
        for row in self.rounds:
            for shard in self.store.masks.shards(row.number):
                if (problem := self._shard(shard)) is not None:
                    self.broken.add(row.number)
                    yield Finding(f"shard {row.number}/{shard.split}/{shard.number}", problem, BACKUP)
            done = {(s.split, s.number) for s in self.store.masks.shards(row.number)}
            if row.stage in (Stage.VERIFY, Stage.PROPAGATE, Stage.DONE) and not any(s == "pool" for s, _ in done):
                yield Finding(f"round {row.number}", "has no shards of predictions", BACKUP)

    def _shard(self, row: m.Shard) -> str | None:
        path = self.store.masks.shard_path(row.round, cast(Split, row.split), row.number)
        first = mask_id(row.round, shard_number(row.split == "pool", row.number), 0)
        try:
            shard = self.store.masks.shard(path, features=False)
            features = self.store.masks.features(path)
        except BROKEN as error:
            return _one_line(error)
        self.class_of[first] = np.asarray(shard.class_id)
        if len(shard) != row.masks or len(features) != row.masks:
            return f"holds {len(shard)} masks and {len(features)} features, the database says {row.masks}"
        if not np.array_equal(shard.mask_id, first + np.arange(len(shard))):
            return "holds masks with ids of another place"
        return None

    def bundles(self) -> Iterator[Finding]:
        """The masks by class that a round gathered to be clustered: those of its shards, each once."""
        for row in self.rounds:
            for bundle in self.store.bundles.rows(row.number):
                if (problem := self._bundle(bundle)) is not None:
                    yield Finding(f"bundle {row.number}/{bundle.number}", problem, AGAIN)

    def _bundle(self, row: m.Bundle) -> str | None:
        path = self.store.bundles.path(row.round, row.number)
        try:
            (path,) = self.store.files.each([path], feature_path)
            columns = arrays_of(read_table([path], ("mask_id", "class_id")))
            features = np.load(feature_path(path), mmap_mode="r")
        except BROKEN as error:
            return _one_line(error)
        ids, classes = columns["mask_id"], columns["class_id"]
        if not len(ids) == len(features) == row.masks:
            return f"holds {len(ids)} masks and {len(features)} features, the database says {row.masks}"
        firsts = [mask_id(row.round, shard_number(True, n), 0) for n in range(row.first, row.end)]
        want = [first + np.arange(len(self.class_of[first])) for first in firsts if first in self.class_of]
        if not np.array_equal(np.sort(ids), np.concatenate([*want, np.zeros(0, np.int64)])):
            return f"holds other masks than the shards {row.first} to {row.end - 1}"
        if not np.array_equal(self._classes(ids), classes) or (np.diff(classes) < 0).any():
            return "holds masks under another class than their shards"
        return None

    def trees(self) -> Iterator[Finding]:
        """Trees, and the masks at their leaves."""
        for row in self.rounds:
            rows = {t.class_id: t for t in self.store.trees.rows(row.number)}
            if row.stage in (Stage.VERIFY, Stage.PROPAGATE, Stage.DONE):
                for class_id in sorted(self.store.classes().keys() - rows.keys()):
                    yield Finding(f"tree {row.number}/{class_id}", "is missing", BACKUP)
            for entry in rows.values():
                if (problem := self._tree(entry)) is not None:
                    self.broken.add(row.number)
                    mend = AGAIN if row.stage == Stage.CLUSTER else BACKUP
                    yield Finding(f"tree {entry.round}/{entry.class_id}", problem, mend)

    def _tree(self, entry: m.ClassTree) -> str | None:
        try:
            place = entry.round, entry.class_id, entry.generation
            ids = self.store.trees.mask_ids(*place)
            leaves = self.store.trees.read(*place)[0].n if entry.masks else 0
        except BROKEN as error:
            return _one_line(error)
        if not len(ids) == leaves == entry.masks:
            return f"has {leaves} leaves for {len(ids)} masks, the database says {entry.masks}"
        if len(np.unique(ids)) != len(ids):
            return "holds a mask twice"
        classes = self._classes(ids)
        if (wrong := ids[classes != entry.class_id]).size:
            return f"holds masks that are no predictions of its class: {_some(wrong)}"
        return None

    def _classes(self, ids: np.ndarray) -> np.ndarray:
        """The class of each of these predictions, (n,); -1 where no shard holds it."""
        ids = np.asarray(ids, np.int64)
        found = np.full(len(ids), -1, np.int64)
        firsts = np.array(sorted(self.class_of), np.int64)
        if not len(firsts) or not len(ids):
            return found
        place = np.searchsorted(firsts, ids, side="right") - 1
        for p in np.unique(place[place >= 0]).tolist():
            classes = self.class_of[int(firsts[p])]
            here = np.flatnonzero(place == p)
            row = ids[here] - firsts[p]
            inside = row < len(classes)
            found[here[inside]] = classes[row[inside]]
        return found

    # facts

    def pages(self) -> Iterator[Finding]:
        """Pages and the questions on them."""
        pages = self.store.pages.rows()
        questions = self.store.questions.rows(gold=True)
        numbers = [p.number for p in pages]
        if None in numbers or len(set(numbers)) != len(numbers):
            yield Finding("pages", "are not numbered, each with a number of its own", BACKUP)
        filled = {p.key for _, p in questions}
        for page in pages:
            if page.key not in filled and page.place is None:
                yield Finding(f"page {page.key}", "has no question", BACKUP)
            if page.round not in self.stage and page.round != 0:
                yield Finding(f"page {page.key}", f"is of round {page.round}, which there is not", BACKUP)
        yield from self._questions(questions)

    def _questions(self, questions: list[tuple[m.Question, m.Page]]) -> Iterator[Finding]:
        ids = np.array([q.mask_id for q, _ in questions], np.int64)
        drawn = is_drawn(ids) if len(ids) else np.zeros(0, bool)
        classes = self._classes(ids)
        wrong = {int(i): "is in no shard" for i in ids[(classes < 0) & ~drawn]}
        for (q, p), class_id in zip(questions, classes.tolist(), strict=True):
            if class_id >= 0 and p.class_id not in (class_id, -1):
                wrong[q.mask_id] = f"of class {class_id} is asked about as one of class {p.class_id}"
            if q.gold is not None and (q.gold not in WORDS or not is_heldout(q.mask_id)):
                wrong[q.mask_id] = "is gold, but not one whose true verdict is known"
        for mask, problem in sorted(wrong.items()):
            yield Finding(f"question {mask}", problem, BACKUP)
        for mask in ids[drawn].tolist():
            try:
                self.store.drawings.origins(np.array([mask], np.int64))
            except KeyError:
                yield Finding(f"question {mask}", "is of a drawing that there is not", BACKUP)

    def answers(self) -> Iterator[Finding]:
        """Answers and drawings, each on a page that asks for it."""
        asked = {(q.page_key, q.mask_id) for q, _ in self.store.questions.rows(gold=True)}
        pages = {p.key for p in self.store.pages.rows()}
        seen: set[tuple] = set()
        for fact in self.store.answers.rows():
            problem = None
            identity = fact.annotation_id, fact.mask_id, fact.answered_at, fact.verdict
            if (fact.page_key, fact.mask_id) not in asked:
                problem = f"is about mask {fact.mask_id}, which page {fact.page_key} does not ask about"
            elif fact.verdict not in WORDS:
                problem = f"says {fact.verdict!r}, which is no verdict"
            elif identity in seen:
                problem = "is stored twice"
            seen.add(identity)
            if problem:
                yield Finding(f"answer {fact.id}", problem, BACKUP)
        for drawing in self.store.drawings.standing():
            if drawing.page_key not in pages:
                yield Finding(f"drawing {drawing.id}", f"is on page {drawing.page_key}, which there is not", BACKUP)

    def draws(self) -> Iterator[Finding]:
        """What audits and promises were drawn from, and that they ask about nothing else."""
        audit, promise = self.store.values.get(Key.AUDIT), self.store.values.get(Key.PROMISE)
        members: dict[str, np.ndarray] = {}
        for number in range(1, (audit["number"] if audit else 0) + 1):
            try:
                members[audit_kind(number)] = audited(self.store, number)[0]
            except BROKEN as error:
                yield Finding(f"audit {number}", _one_line(error), BACKUP)
        for number in range(1, (promise["attempt"] if promise else 0) + 1):
            try:
                with np.load(self.store.files.local(attempt_path(self.store, number)), allow_pickle=False) as stored:
                    members[promise_kind(number)] = stored["mask_id"]
            except BROKEN as error:
                self.broken |= self.stage.keys()  # what is delivered follows from it
                yield Finding(f"promise {number}", _one_line(error), BACKUP)
        questions = [(q.mask_id, p.kind) for q, p in self.store.questions.rows()]
        for kind in sorted({kind for _, kind in questions if is_audit(kind) or is_promise(kind)}):
            own = np.array([mask for mask, k in questions if k == kind], np.int64)
            if kind in members and (other := own[~np.isin(own, members[kind])]).size:
                yield Finding(kind, f"asks about masks that it was not drawn from: {_some(other)}", BACKUP)
        if promise and promise_kind(promise["attempt"]) in members:
            attempt = newest_attempt(self.store)
            if attempt is not None and (np.diff(attempt.frozen.chance) > 0).any():
                yield Finding(f"promise {attempt.number}", "is not in the order of its chances", BACKUP)

    # what is derived

    def decisions(self) -> Iterator[Finding]:
        """Decisions that are stored, against those that follow from the facts."""
        if self.broken:
            return
        views = live(self.store)
        for row in self.rounds:
            for view in views.views(row.number):
                want = {d["cluster"]: _decision(d) for d in view.kept_decisions()}
                have = {d.cluster: _decision(vars(d)) for d in self.store.decisions.rows(row.number, view.class_id)}
                differ = sorted(c for c in want.keys() | have.keys() if want.get(c) != have.get(c))
                if differ:
                    thing = f"decisions {row.number}/{view.class_id}"
                    problem = f"of {len(differ)} clusters do not follow from the answers: {_some(differ)}"
                    running = row.stage == Stage.VERIFY
                    yield Finding(thing, problem, "campaign sync" if running else "campaign replay")

    def datasets(self) -> Iterator[Finding]:
        """The masks that ended rounds obtained, against those that follow from the facts."""
        for row in self.rounds:
            if row.stage != Stage.DONE:
                continue
            thing = f"dataset {row.number}"
            try:
                have = self._dataset(row.number)
            except BROKEN as error:
                yield Finding(thing, _one_line(error), "campaign replay")
                continue
            if self.broken:
                continue
            want = obtained(self.store, row.number).mask_id
            if missing := sorted(set(want.tolist()) - set(have.tolist())):
                yield Finding(thing, f"lacks {len(missing)} masks: {_some(missing)}", "campaign replay")
            if beside := sorted(set(have.tolist()) - set(want.tolist())):
                yield Finding(thing, f"holds {len(beside)} masks too many: {_some(beside)}", "campaign replay")
            if len(have) != len(np.unique(have)):
                yield Finding(thing, "holds a mask twice", "campaign replay")

    def _dataset(self, number: int) -> np.ndarray:
        path = self.store.datasets.file(number) or self.store.datasets.path(number)
        return np.asarray(read_columns(path)["mask_id"])


def pages_of(store: Store, screen: Screen) -> list[m.Page]:
    """The pages of a screen's project, in the order they were opened; those of tests lie in projects of their own."""
    return [p for p in store.pages.rows() if p.screen == screen and p.kind != PageKind.QUALIFY]


def _decision(values: Any) -> tuple:
    return tuple(values[name] for name in ("kind", "rule", "asked", "yes", "size"))


def _some(ids: Any) -> str:
    shown = ", ".join(str(int(i)) for i in ids[:SHOWN])
    return shown + (", …" if len(ids) > SHOWN else "")


def _one_line(error: BaseException) -> str:
    if isinstance(error, Unavailable):
        raise error
    return " ".join(str(error).split())[:200] or type(error).__name__
