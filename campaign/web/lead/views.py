"""The pages under /lead, made on the server: no scripts, nothing from other machines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, abort, g, redirect, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, ValidationError

from campaign.derived import outlook
from campaign.derived.status import status
from campaign.derived.team import PUBLISHED_ANSWER, PUBLISHED_DRAWING, money, team
from campaign.pages import editing
from campaign.pages.painting import reference
from campaign.pages.projects import connect, project_url
from campaign.records.decision import Kind
from campaign.records.page import PageKind, Screen
from campaign.report.course import course_figure
from campaign.store import Store
from campaign.store.models import ClassTree
from campaign.web.lead.changes import KINDS, decide, foresee
from campaign.web.lead.explorer import DECISIONS, ROW, WIDTH, ClassExplorer, Listing, mask_facts
from campaign.web.lead.eyes import eye_plot
from campaign.web.lead.login import STATIC, protect
from campaign.web.lead.operations import OPERATIONS
from ml_backend.errors import InputError
from ml_backend.mask_ids import is_drawn, is_heldout
from ml_backend.server.openapi import add_operations
from ml_backend.server.signing import crop_url

WORDS = {"accept": "accepted", "reject": "rejected", "split": "split"}
MOST_EDITS = 1000  # masks put up for correction at once
LISTINGS = (
    (Listing.ASKED, "asked about"), (Listing.ACCEPT, "accepted"), (Listing.REJECT, "rejected"),
    (Listing.SPLIT, "split"), (Listing.UNSEEN, "by score alone"),
)  # fmt: skip
EVENTS = 30  # shown at most
ASIDE = 30  # newest things that were set aside, which the overview shows
HOUR = 3600
T = TypeVar("T")
ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#14532d"/>'
    '<path d="M4 8.5l2.7 2.7L12 5.6" fill="none" stroke="#ffe100" stroke-width="2"/></svg>'
)


class IdConverter(BaseConverter):
    """Numbers as the database holds them: Latin digits, below 2^63. Anything else is no page of ours."""

    regex = "[0-9]{1,19}"

    def to_python(self, value: str) -> int:
        """The number in an address."""
        number = int(value)
        if number >= 1 << 63:
            raise ValidationError
        return number


def mount(app: Flask, store: Store) -> None:
    """Adds the lead's page to the campaign's server."""
    # These take seconds to load: here, rather than while the lead waits.
    import pyarrow.parquet  # noqa: F401
    import scipy.special  # noqa: F401

    app.url_map.converters["id"] = IdConverter
    pages = Blueprint("lead", __name__, url_prefix="/lead", template_folder=".")
    protect(app, pages, store)
    _one_at_a_time(pages)
    _add_filters(pages, store)
    _add_overview(pages, store)
    _add_explorer(pages, store)
    _add_changes(pages, store)
    _add_corrections(pages, store)

    @pages.get("/style.css")
    def style() -> Response:
        return send_file(Path(__file__).with_name("style.css"), mimetype="text/css", max_age=300)

    @pages.get("/icon.svg")
    def icon() -> Response:
        return Response(ICON, mimetype="image/svg+xml", headers={"Cache-Control": "max-age=86400"})

    @pages.errorhandler(HTTPException)
    def refused(error: HTTPException) -> ResponseReturnValue:
        reason = "There is no such page." if error.code == 404 else error.description
        return render_template("trouble.html", title=error.name, reason=reason), error.code or 500

    @pages.errorhandler(InputError)
    def unusable(error: InputError) -> ResponseReturnValue:
        return render_template("trouble.html", title="That cannot be", reason=str(error)), 400

    app.register_blueprint(pages)
    add_operations(app, OPERATIONS)
    app.jinja_env.get_template("overview.html")  # compiled here for the same reason


def _one_at_a_time(pages: Blueprint) -> None:
    """Serves these pages one after the other: they share views that take in new facts, as one thread may alone."""
    lock = threading.RLock()

    @pages.before_request
    def enter() -> None:
        if request.endpoint not in STATIC:
            lock.acquire()
            g.entered = True

    @pages.teardown_request
    def leave(_error: BaseException | None) -> None:
        if g.pop("entered", False):
            lock.release()


def _add_filters(pages: Blueprint, store: Store) -> None:
    secret = store.secret("crop_key")

    def crop(mask_id: int) -> str:
        # The same address for an hour, so that a browser may keep the picture.
        return crop_url("", secret, mask_id, (time.time() // HOUR + 25) * HOUR)

    @pages.context_processor
    def helpers() -> dict[str, Any]:
        return {
            "crop": crop, "words": WORDS, "percent": percent, "duration": duration, "seconds": seconds,
            "class_names": store.classes(), "number": lambda v: f"{v:,}", "money": money,
            "whole": lambda v: f"{v:,.0f}",
            "eye_plot": eye_plot,
        }  # fmt: skip


def _add_overview(pages: Blueprint, store: Store) -> None:
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

    @pages.post("/go-on")
    def go_on() -> ResponseReturnValue:
        outlook.go_on(store)
        return redirect(url_for("lead.overview"), code=303)

    @pages.get("/drawn")
    def drawn() -> str:
        return render_template(
            "drawn.html",
            edits=editing.summary(store),
            reference=reference(store),
            edit_url=project_url(store, Screen.EDIT),
        )

    @pages.get("/annotators/<user>")
    def annotator(user: str) -> str:
        row = next((u for u in team(store).users if u.user == user), None)
        if row is None:
            abort(404)
        return render_template("annotator.html", user=row, k_iou=store.settings.search.k_iou)


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

    def all(self) -> dict[str, Any]:
        """The campaign's status, its annotators, and how many pages are drawn on by hand."""
        mark = self.store.state_mark()
        if self._known is None or self._known[0] != mark:
            figures = {
                "state": status(self.store),
                "course": course_figure(self.store.course.rows()),
                "team": team(self.store, estimates=False),
                "aside": self.store.aside.newest(ASIDE),
                "people": self.store.values.people(),
                "drawing_pages": {kind: self.store.pages.count(kind) for kind in (PageKind.EDIT, PageKind.PAINT)},
            }
            self._known = mark, figures
        return self._known[1]


def _add_explorer(pages: Blueprint, store: Store) -> None:
    @pages.get("/trees/<id:round_number>/<id:class_id>")
    def tree(round_number: int, class_id: int) -> str:
        explorer = _explorer(store, round_number, class_id)
        blocks, rows = explorer.icicle()
        listing, page = _listing(request.args.get("list")), _page(request.args.get("page"))
        decided = explorer.decided(listing, page)
        return render_template(
            "tree.html",
            explorer=explorer,
            blocks=blocks,
            frame=(WIDTH, rows * ROW, ROW),
            decisions=decided[:DECISIONS],
            more=len(decided) > DECISIONS,
            listings=LISTINGS,
            listing=listing,
            page=page,
            classes=[t for t in store.trees.rows(round_number) if t.masks],
            rounds=[r.number for r in store.rounds.all() if any(t.masks for t in store.trees.rows(r.number))],
        )

    @pages.get("/clusters/<id:round_number>/<id:class_id>/<id:cluster>")
    def cluster(round_number: int, class_id: int, cluster: int) -> str:
        explorer = _explorer(store, round_number, class_id)
        view = _or_404(explorer.cluster, cluster)
        blocks, rows = explorer.icicle(cluster)
        return render_template(
            "cluster.html",
            explorer=explorer,
            view=view,
            blocks=blocks,
            frame=(WIDTH, rows * ROW, ROW),
            kinds=KINDS,
            can_edit=store.settings.label_studio.url is not None,
        )

    @pages.get("/masks/<id:mask_id>")
    def mask(mask_id: int) -> str:
        facts = _or_404(lambda i: mask_facts(store, i), mask_id)
        try:
            explorer = ClassExplorer(store, facts["round"], facts["class_id"])
        except KeyError:
            explorer = None
        leaf = explorer.leaf(mask_id) if explorer else None
        return render_template(
            "mask.html",
            mask=facts,
            explorer=explorer,
            view=explorer.cluster(leaf) if explorer and leaf is not None else None,
            drawing=next((d.state for d in store.drawings.standing(mask_id)), None),
            can_edit=store.settings.label_studio.url is not None
            and not (is_drawn(mask_id) or is_heldout(mask_id) or editing.is_edited(store, mask_id)),
        )


def _add_changes(pages: Blueprint, store: Store) -> None:
    route = "/clusters/<id:round_number>/<id:class_id>/<id:cluster>/change"

    @pages.get(route)
    def preview(round_number: int, class_id: int, cluster: int) -> str:
        _check_tree(store, round_number, class_id)
        kind = _kind(request.args.get("kind"))
        change = foresee(store, round_number, class_id, cluster, kind)
        explorer = _explorer(store, round_number, class_id)
        return render_template(
            "change.html", explorer=explorer, view=_or_404(explorer.cluster, cluster), kind=kind, change=change
        )

    @pages.post(route)
    def change(round_number: int, class_id: int, cluster: int) -> ResponseReturnValue:
        _check_tree(store, round_number, class_id)
        kind = _kind(request.form.get("kind"))
        decide(store, round_number, class_id, cluster, kind, store.classes().get(class_id, ""))
        address = url_for("lead.cluster", round_number=round_number, class_id=class_id, cluster=cluster)
        return redirect(address, code=303)


def _add_corrections(pages: Blueprint, store: Store) -> None:
    def put_up(mask_ids: list[int], back: str) -> str:
        client = connect(store)
        with store.locked():
            new = editing.add_edit_pages(store, mask_ids)
            editing.publish_edits(store, client)
        return render_template("correction.html", new=new, url=project_url(store, Screen.EDIT), back=back)

    @pages.post("/clusters/<id:round_number>/<id:class_id>/<id:cluster>/edit")
    def edit_cluster(round_number: int, class_id: int, cluster: int) -> str:
        count = request.form.get("count", type=int) or 0
        if not 0 < count <= MOST_EDITS:
            abort(400, f"count: expected 1 to {MOST_EDITS}")
        ids = editing.cluster_masks(store, round_number, class_id, cluster, count)
        address = url_for("lead.cluster", round_number=round_number, class_id=class_id, cluster=cluster)
        return put_up(ids, address)

    @pages.post("/masks/<id:mask_id>/edit")
    def edit_mask(mask_id: int) -> str:
        _or_404(lambda i: mask_facts(store, i), mask_id)
        if is_drawn(mask_id) or is_heldout(mask_id):
            abort(400, "mask: expected a prediction on an image of the pool")
        return put_up([mask_id], url_for("lead.mask", mask_id=mask_id))


def _explorer(store: Store, round_number: int, class_id: int) -> ClassExplorer:
    try:
        return ClassExplorer(store, round_number, class_id)
    except KeyError:
        abort(404)


def _check_tree(store: Store, round_number: int, class_id: int) -> None:
    """Ends the request with 404 where the round has no tree of the class."""
    if class_id not in {tree.class_id for tree in store.trees.rows(round_number)}:
        abort(404)


def _or_404(find: Callable[[int], T], key: int) -> T:
    """What `find` returns for a key, or the answer that there is no such page."""
    try:
        return find(key)
    except KeyError:
        abort(404)


def _kind(text: str | None) -> str | None:
    """The wanted decision; "policy" takes the lead's back."""
    if text in KINDS:
        return text
    if text == "policy":
        return None
    abort(400, "decision: expected accept, reject, split or policy")


def _listing(text: str | None) -> Listing:
    try:
        return Listing(text or Listing.ASKED)
    except ValueError:
        abort(400, f"list: expected one of {', '.join(Listing)}")


def _page(text: str | None) -> int:
    """A page of a list, from 0 on."""
    if text is None:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        abort(400, "page: expected a number from 0 on")
    return int(text)


def percent(value: float | None) -> str:
    """A share in whole percent, one decimal near the ends."""
    if value is None:
        return "–"
    return f"{value * 100:.1f} %" if 0.99 < value < 1 or 0 < value < 0.01 else f"{value * 100:.0f} %"


def seconds(value: float | None) -> str:
    """A short time."""
    return "–" if value is None else f"{value:.2f} s" if value < 10 else f"{value:.0f} s"


def duration(value: float) -> str:
    """A long time: minutes up to an hour and a half, then hours."""
    return f"{value:.0f} s" if value < 100 else f"{value / 60:.0f} min" if value < 5400 else f"{value / 3600:,.1f} h"
