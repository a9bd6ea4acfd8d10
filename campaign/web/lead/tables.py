"""The tables of the lead's page as CSV: streamed, a portion of rows at a time, and harmless to spreadsheets."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from campaign.derived.duplicates import duplicates
from campaign.derived.status import status
from campaign.derived.team import Team, team
from campaign.store import Store

PORTION = 2000  # rows read at a time
# Where a cell begins, or would begin where a spreadsheet takes another separator, such a sign makes it a formula.
_FORMULA = re.compile(r"(^|[;,\t\r\n])(\s*)([=+\-@\uff1d\uff0b\uff0d\uff20])")


def harmless(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula: an apostrophe goes before its sign. Numbers stay as they are.

    >>> harmless("=1+1"), harmless(" @x"), harmless("a;-b"), harmless(-3), harmless("a-b"), harmless(None)
    ("'=1+1", " '@x", "a;'-b", -3, 'a-b', '')
    """
    if value is None:
        return ""
    return value if isinstance(value, (int, float)) else _FORMULA.sub(r"\1\2'\3", str(value))


def as_csv(header: Iterable[str], rows: Iterable[Iterable[Any]]) -> Iterator[str]:
    """The table as CSV text, in parts of up to `PORTION` rows."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow([harmless(name) for name in header])
    for n, row in enumerate(rows, 1):
        writer.writerow([harmless(value) for value in row])
        if n % PORTION == 0:
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
    yield buffer.getvalue()


@dataclass(frozen=True)
class Table:
    """A table: what it holds, its columns, and its rows.

    `rows` may read from the database as it goes, and nothing else: nothing is locked while a slow browser takes them.
    """

    title: str
    columns: tuple[str, ...]
    rows: Callable[[Store], Iterator[tuple[Any, ...]]]


def _decisions(store: Store) -> Iterator[tuple[Any, ...]]:
    names = store.classes()
    for d in store.decisions.stream(PORTION):
        yield (
            d.round, names.get(d.class_id), d.cluster, d.kind, d.size, d.asked, d.yes, d.quality, d.lower_bound,
            d.mean_score, d.rule, d.decided_at.isoformat(),
        )  # fmt: skip


def _answers(store: Store) -> Iterator[tuple[Any, ...]]:
    people = store.values.people()
    for a in store.answers.stream(PORTION):
        yield (
            a.id, a.page_key, a.annotation_id, a.mask_id, people.get(a.annotator, f"user {a.annotator}"), a.verdict,
            a.answered_at, a.lead_time,
        )  # fmt: skip


def _pages(store: Store) -> Iterator[tuple[Any, ...]]:
    names = store.classes()
    for p in store.pages.stream(PORTION):
        yield p.number, p.round, names.get(p.class_id), p.kind, p.screen, p.task_id, p.created_at.isoformat()


def _events(store: Store) -> Iterator[tuple[Any, ...]]:
    yield from ((e.at.isoformat(), e.text) for e in store.events())


def _aside(store: Store) -> Iterator[tuple[Any, ...]]:
    people = store.values.people()
    for row in store.aside.newest(sum(store.aside.counts().values())):
        yield (
            row.reason, people.get(row.annotator, row.annotator), people.get(row.editor, row.editor), row.task_id,
            row.annotation_id, row.at, row.what,
        )  # fmt: skip


def _course(store: Store) -> Iterator[tuple[Any, ...]]:
    for p in store.course.rows():
        precision, recall = (
            (None, None, None) if f is None else (f.value, f.low, f.high) for f in (p.precision, p.recall)
        )
        yield p.round, p.questions, p.seconds / 3600, p.masks, *precision, p.promised, *recall, p.recall_promised


def _annotators(store: Store) -> Iterator[tuple[Any, ...]]:
    figures = team(store, estimates=False)
    for u in figures.users:
        rates = [None if r is None else r.value for r in (u.gold.sensitivity, u.gold.specificity)]
        yield (
            u.user, u.name, u.answers, u.withdrawn, u.gold.asked, *rates, u.eye and u.eye.eye.cut, u.agreement.kappa,
            u.pace.per_answer, u.seconds, figures.cost(u.seconds), "; ".join(u.flags),
        )  # fmt: skip


def _costs(store: Store) -> Iterator[tuple[Any, ...]]:
    figures: Team = team(store, estimates=False)
    for c in figures.classes:
        yield (
            c.name, c.pace.answers, c.pace.per_answer, c.drawn.answers, c.seconds, c.masks, c.seconds_per_mask,
            figures.cost(c.seconds), c.kappa,
        )  # fmt: skip


def _clusters(store: Store) -> Iterator[tuple[Any, ...]]:
    names, counts = store.classes(), {(r, c, k): (n, size) for r, c, k, n, size in store.decisions.counts()}
    for number in [r.number for r in store.rounds.all()]:
        for tree in store.trees.rows(number):
            of_kind = [counts.get((number, tree.class_id, k), (0, 0)) for k in ("accept", "reject", "split")]
            yield (
                names.get(tree.class_id), number, tree.masks, tree.known, *(n for n, _ in of_kind),
                *(size for _, size in of_kind[:2]), "finished" if tree.searched else "under way",
            )  # fmt: skip


def _duplicates(store: Store) -> Iterator[tuple[Any, ...]]:
    found = duplicates(store)
    pairs = [(a, b, "copy") for a, b in found.copy_of.items()] + [(b, a, "alike") for a, b in found.alike.tolist()]
    for start in range(0, len(pairs), PORTION):
        part = pairs[start : start + PORTION]
        images = store.images.some([i for a, b, _ in part for i in (a, b)])
        yield from ((kind, images[a].file_name, images[b].file_name) for a, b, kind in part)


def _recall(store: Store) -> Iterator[tuple[Any, ...]]:
    figures = status(store)["recall"]
    if figures and figures["estimate"] is not None:
        for name, row in {"all": figures, **figures["per_class"]}.items():
            yield name, row["estimate"], row["bound"], row["masks"], row["clicked"]


TABLES: dict[str, Table] = {
    "decisions": Table(
        "every decision on a cluster",
        (
            "round", "class", "cluster", "decision", "masks", "asked", "yes", "quality", "lower_bound", "mean_score",
            "rule", "decided_at",
        ), _decisions,
    ),
    "answers": Table(
        "every answer that was read, none rewritten",
        ("number", "page", "annotation", "mask", "annotator", "verdict", "answered_at", "lead_time"), _answers,
    ),
    "pages": Table("every page", ("number", "round", "class", "kind", "screen", "task", "created_at"), _pages),
    "clusters": Table(
        "classes by round",
        (
            "class", "round", "masks", "known", "accepted", "rejected", "split", "masks_accepted", "masks_rejected",
            "search",
        ), _clusters,
    ),
    "annotators": Table(
        "annotators",
        (
            "user", "name", "answers", "withdrawn", "gold", "sensitivity", "specificity", "eye_cut", "kappa",
            "seconds_per_answer", "seconds", "cost", "flags",
        ), _annotators,
    ),
    "costs": Table(
        "time and cost by class",
        (
            "class", "answers", "seconds_per_answer", "drawn", "seconds", "masks", "seconds_per_mask", "cost",
            "fleiss_kappa",
        ), _costs,
    ),
    "course": Table(
        "what was known after each turn",
        (
            "round", "questions", "hours", "masks", "precision", "precision_low", "precision_high", "promised",
            "recall", "recall_low", "recall_high", "recall_promised",
        ), _course,
    ),
    "duplicates": Table("images that are there twice", ("how", "image", "of"), _duplicates),
    "recall": Table("recall by class", ("class", "estimate", "bound", "masks", "clicked"), _recall),
    "set-aside": Table(
        "what was set aside", ("why", "in_the_name_of", "by", "task", "annotation", "changed", "what"), _aside,
    ),
    "log": Table("the log", ("at", "text"), _events),
}  # fmt: skip
WORKED_OUT = frozenset({"annotators", "costs", "duplicates", "recall"})  # from views: before the first row is sent
