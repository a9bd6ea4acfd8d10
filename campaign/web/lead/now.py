"""The overview: the campaign at a glance, and the part of it that moves as answers come."""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from campaign.derived import outlook
from campaign.derived.pace import work
from campaign.derived.status import status
from campaign.derived.team import PUBLISHED_ANSWER, PUBLISHED_DRAWING, team
from campaign.jobs.watching import Watch
from campaign.pages.projects import project_url
from campaign.records.decision import Kind
from campaign.records.page import PageKind, Screen
from campaign.report.course import course_figure
from campaign.store import Store
from campaign.store.models import ClassTree
from campaign.web.lead.moving import moving_charts
from campaign.web.lead.standing import standing

WORDS = {"accept": "accepted", "reject": "rejected", "split": "split"}
EVENTS = 30  # shown at most
ASIDE = 30  # newest things that were set aside, which the overview shows
OWN_LOCK = ("lead.now",)  # pages that wait for no other
PATIENCE = 0.2  # seconds that such a page waits
LOOKED = 30.0  # seconds for which a look at the workers holds: that Redis is away takes seconds to find out


def add_overview(pages: Blueprint, store: Store, lock: Any) -> None:
    """Adds the overview, and the part of it that moves, which browsers ask for again and again.

    That part is asked for by a mark of what is stored: where nothing was added the answer is empty and no other page is
    waited for, and where other pages are being made it is to be asked for later, so that however many tabs are open, no
    thread of the server waits for them.
    """
    figures = Figures(store)

    @pages.get("/")
    def overview() -> str:
        return render_template(
            "overview.html",
            **figures.all(),
            edit_url=project_url(store, Screen.EDIT),
            complete_url=project_url(store, Screen.COMPLETE),
            rows=class_rows(store),
            events=store.events(EVENTS)[::-1],
            published=(PUBLISHED_ANSWER, PUBLISHED_DRAWING),
            label_studio=store.settings.label_studio.url,
        )

    @pages.get("/now")
    def now() -> ResponseReturnValue:
        tag = figures.tag()
        if request.if_none_match.contains(tag):
            return _tagged(Response(status=304), tag)
        if not lock.acquire(timeout=PATIENCE):
            return Response(status=503, headers={"Retry-After": "10"})
        try:
            return _tagged(Response(render_template("now.html", **figures.all())), tag)
        finally:
            lock.release()

    @pages.post("/go-on")
    def go_on() -> ResponseReturnValue:
        outlook.go_on(store)
        return redirect(url_for("lead.overview"), code=303)


def _tagged(response: Response, tag: str) -> Response:
    response.set_etag(tag)
    return response


@dataclass(frozen=True)
class ClassRow:
    """One class of one round on the overview: its tree, its decisions by kind, and the masks that they settle."""

    tree: ClassTree
    clusters: dict[str, int]
    masks: dict[str, int]

    @property
    def open(self) -> int:
        """Masks in no cluster that is accepted or rejected."""
        return max(0, self.tree.masks - sum(self.masks.values()))


def class_rows(store: Store) -> list[ClassRow]:
    """What was decided of every class that has a tree, by round and class."""
    counts = {(number, class_id, kind): (n, size) for number, class_id, kind, n, size in store.decisions.counts()}
    rows = []
    for number in [r.number for r in store.rounds.all()]:
        for tree in store.trees.rows(number):
            of_kind = {kind: counts.get((number, tree.class_id, kind), (0, 0)) for kind in WORDS}
            masks = {kind: size for kind, (_, size) in of_kind.items() if kind != Kind.SPLIT}
            if tree.masks:
                rows.append(ClassRow(tree, {kind: n for kind, (n, _) in of_kind.items()}, masks))
    return rows


class Figures:
    """What the overview shows of the whole campaign, worked out again only where something was added."""

    def __init__(self, store: Store):
        self.store = store
        self._known: tuple[tuple, dict[str, Any]] | None = None
        self._shown: tuple[str, dict[str, Any]] | None = None
        self._watch = Watch(store)

    def tag(self) -> str:
        """Something that differs whenever the figures may. Safe between threads."""
        return self._tag(self.store.state_mark())

    def all(self) -> dict[str, Any]:
        """The campaign's status, its annotators, where it stands, and what moves."""
        mark = self.store.state_mark()
        tag = self._tag(mark)
        if self._known is None or self._known[0] != mark:
            self._known = mark, self._worked_out()
        if self._shown is None or self._shown[0] != tag:
            figures = self._known[1]
            look = self._watch.look()
            self._shown = tag, figures | {"standing": standing(figures["state"], figures["team"], look), "tag": tag}
        return self._shown[1]

    def _tag(self, mark: tuple) -> str:
        part = int(time.time() // LOOKED)  # rates and workers change without a fact
        return hashlib.blake2b(repr((part, mark)).encode(), digest_size=16).hexdigest()

    def _worked_out(self) -> dict[str, Any]:
        people, points = team(self.store, estimates=False), self.store.course.rows()
        return {
            "state": status(self.store),
            "team": people,
            "course": course_figure(points),
            "charts": moving_charts(work(self.store), people, points),
            "aside": self.store.aside.newest(ASIDE),
            "people": self.store.values.people(),
            "drawing_pages": {kind: self.store.pages.count(kind) for kind in (PageKind.EDIT, PageKind.PAINT)},
        }
