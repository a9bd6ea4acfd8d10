"""The pages under /lead, made on the server and whole without a script; nothing from other machines."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from flask import Blueprint, Flask, Response, abort, g, redirect, render_template, request, send_file, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import HTTPException
from werkzeug.routing import BaseConverter, ValidationError

from campaign.derived.answers import verdicts_on
from campaign.derived.resemblance import resembling
from campaign.derived.team import money, team
from campaign.pages import editing
from campaign.pages.painting import reference
from campaign.pages.projects import connect, project_url
from campaign.records.page import Screen
from campaign.store import Store
from campaign.web.lead.changes import KINDS, check_generation, decide, foresee
from campaign.web.lead.explorer import DECISIONS, ROW, WIDTH, ClassExplorer, Listing, mask_facts, page_facts
from campaign.web.lead.eyes import eye_plot
from campaign.web.lead.login import STATIC, protect
from campaign.web.lead.now import OWN_LOCK, WORDS, add_overview
from campaign.web.lead.operations import OPERATIONS
from campaign.web.lead.tables import TABLES, WORKED_OUT, as_csv
from ml_backend.errors import InputError
from ml_backend.mask_ids import is_drawn, is_heldout
from ml_backend.server.openapi import add_operations
from ml_backend.server.signing import crop_url

MOST_EDITS = 1000  # masks put up for correction at once
MOST_DOWNLOADS = 4  # tables that are being sent at a time: each holds a thread as long as its browser is slow
ALIKE = 30  # masks shown of each kind that resemble one
LISTINGS = (
    (Listing.ASKED, "asked about"), (Listing.ACCEPT, "accepted"), (Listing.REJECT, "rejected"),
    (Listing.SPLIT, "split"), (Listing.UNSEEN, "by score alone"),
)  # fmt: skip
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
    lock = _one_at_a_time(pages)
    _see_one_time(pages, store)
    _add_filters(pages, store)
    add_overview(pages, store, lock)
    _add_people(pages, store)
    _add_explorer(pages, store)
    _add_changes(pages, store)
    _add_corrections(pages, store)
    _add_tables(pages, store)

    @pages.get("/style.css")
    def style() -> Response:
        return send_file(Path(__file__).with_name("style.css"), mimetype="text/css", max_age=300)

    @pages.get("/live.js")
    def live_script() -> Response:
        return send_file(Path(__file__).with_name("live.js"), mimetype="text/javascript", max_age=300)

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


def _one_at_a_time(pages: Blueprint) -> Any:
    """Serves these pages one after the other: they share views that take in new facts, as one thread may alone.

    Returns the lock, for pages that see to it themselves.
    """
    lock = threading.RLock()

    @pages.before_request
    def enter() -> None:
        if request.endpoint not in (*STATIC, *OWN_LOCK):
            lock.acquire()
            g.entered = True

    @pages.teardown_request
    def leave(_error: BaseException | None) -> None:
        if g.pop("entered", False):
            lock.release()

    return lock


def _see_one_time(pages: Blueprint, store: Store) -> None:
    """Makes a page again where joined trees took the place of those that it was made of: it may show both."""

    @pages.before_request
    def look() -> None:
        g.generation = store.trees.generation()

    @pages.after_request
    def look_again(response: Response) -> ResponseReturnValue:
        shows = request.method == "GET" and request.endpoint not in STATIC and "generation" in g
        if shows and store.trees.generation() != g.generation:
            response.close()
            return redirect(request.full_path, code=307)
        return response


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


def _add_people(pages: Blueprint, store: Store) -> None:
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

    @pages.get("/masks/<id:mask_id>/alike")
    def alike(mask_id: int) -> str:
        facts = _or_404(lambda i: mask_facts(store, i), mask_id)
        found = resembling(store, mask_id, facts["class_id"], ALIKE)
        known = verdicts_on(store, [n.mask_id for n in (*found.own, *found.others)])
        return render_template(
            "alike.html", mask=facts, found=found, verdicts={i: v.word for i, v in known.items()},
            k_iou=store.settings.search.k_iou,
        )  # fmt: skip

    @pages.get("/pages/<id:number>")
    def page(number: int) -> str:
        return render_template("page.html", page=_or_404(lambda n: page_facts(store, n), number))


def _add_tables(pages: Blueprint, store: Store) -> None:
    slots = threading.BoundedSemaphore(MOST_DOWNLOADS)

    @pages.get("/tables/<name>.csv")
    def table(name: str) -> ResponseReturnValue:
        if name not in TABLES:
            abort(404)
        if not slots.acquire(blocking=False):
            abort(503, "Other tables are being taken: try again when they are.")
        try:
            rows: Iterable = TABLES[name].rows(store)
            body = as_csv(TABLES[name].columns, list(rows) if name in WORKED_OUT else rows)
        except BaseException:
            slots.release()
            raise
        response = Response(body, mimetype="text/csv")
        response.call_on_close(slots.release)
        response.headers["Content-Disposition"] = f"attachment; filename={name}.csv"
        return response


def _add_changes(pages: Blueprint, store: Store) -> None:
    route = "/clusters/<id:round_number>/<id:class_id>/<id:cluster>/change"

    @pages.get(route)
    def preview(round_number: int, class_id: int, cluster: int) -> str:
        _check_tree(store, round_number, class_id)
        kind = _kind(request.args.get("kind"))
        change = foresee(store, round_number, class_id, cluster, kind)
        explorer = _explorer(store, round_number, class_id)
        if "generation" in request.args:
            check_generation(explorer.entry, _generation())
        return render_template(
            "change.html", explorer=explorer, view=_or_404(explorer.cluster, cluster), kind=kind, change=change
        )

    @pages.post(route)
    def change(round_number: int, class_id: int, cluster: int) -> ResponseReturnValue:
        _check_tree(store, round_number, class_id)
        kind = _kind(request.form.get("kind"))
        name = store.classes().get(class_id, "")
        decide(store, round_number, class_id, cluster, kind, name, _generation())
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
        check_generation(_explorer(store, round_number, class_id).entry, _generation())
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


def _generation() -> int:
    """Which of a class's trees the page showed that a form was sent from."""
    return _page(request.values.get("generation"))


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
