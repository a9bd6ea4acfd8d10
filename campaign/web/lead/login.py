"""Who may see the lead's page: one user with one password, and forms that no other site can send."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from math import ceil
from urllib.parse import urlsplit

from flask import Blueprint, Flask, Response, abort, redirect, render_template, request, session, url_for
from flask.typing import ResponseReturnValue
from werkzeug.exceptions import TooManyRequests

from campaign.store import Store
from campaign.web.lead.sessions import Sessions, Throttle
from ml_backend.errors import InputError

USER = "lead"
SECRET = "lead_password"
STATIC = ("lead.style", "lead.icon", "lead.live_script")
SCRIPTED = ("lead.overview",)  # pages that may load our own script, and ask for more by it
UNATTENDED = ("lead.now",)  # what a script asks for, with nobody there: it keeps no session open
OPEN = ("lead.log_in", *STATIC)  # without a login
MOST_FORM_BYTES = 64 << 10


def lead_password(store: Store) -> str:
    """The password of the lead's page; campaigns made before there was one get theirs now."""
    try:
        return store.secret(SECRET)
    except InputError:
        store.save_secrets({SECRET: secrets.token_urlsafe(24)})
        return store.secret(SECRET)


def protect(app: Flask, pages: Blueprint, store: Store) -> None:
    """Puts the pages behind the login, and every form on them behind a token of the session."""
    password = lead_password(store)
    # Follows from the password, so that a new one ends every session.
    app.secret_key = hashlib.blake2b(password.encode(), key=b"lead session", digest_size=32).digest()
    app.config.update(
        SESSION_COOKIE_NAME=f"campaign_{store.key}",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_PATH="/lead",
        SESSION_COOKIE_SECURE=store.settings.page.public_url.startswith("https:"),
    )
    sessions = Sessions()
    _guard(pages, sessions)
    _add_login(pages, password, sessions)

    @pages.context_processor
    def form() -> dict[str, str]:
        here = store.settings.page.public_url.rstrip("/") + request.full_path.rstrip("?")
        return {"token": _token(), "campaign": store.settings.name, "here": here}


def _guard(pages: Blueprint, sessions: Sessions) -> None:
    """Refuses requests without a session or with another site's form, and tells browsers what pages may load."""

    @pages.before_request
    def check() -> ResponseReturnValue | None:
        request.max_content_length = MOST_FORM_BYTES
        by_itself = request.endpoint in UNATTENDED
        if request.endpoint not in OPEN and not sessions.is_open(session.get("lead"), used=not by_itself):
            if request.method != "GET" or by_itself:
                abort(401)
            return redirect(url_for("lead.log_in", then=request.full_path.rstrip("?")))
        if request.method == "POST" and not _same(request.form.get("token", ""), session.get("token", "")):
            abort(400, "This form is out of date: go back, load the page again and repeat it.")
        return None

    @pages.after_request
    def harden(response: Response) -> Response:
        scripts = "script-src 'self'; connect-src 'self'; " if request.endpoint in SCRIPTED else ""
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; style-src 'self'; img-src 'self'; {scripts}form-action 'self'; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["X-Content-Type-Options"] = "nosniff"
        if request.endpoint not in STATIC:
            response.headers["Cache-Control"] = "no-store"
        return response


def _add_login(pages: Blueprint, password: str, sessions: Sessions) -> None:
    """Adds the page on which the lead logs in, and the way out."""
    throttle = Throttle()

    @pages.route("/login", methods=["GET", "POST"])
    def log_in() -> ResponseReturnValue:
        then = _own(request.values.get("then", ""))
        if request.method == "GET":
            return render_template("login.html", then=then, wrong=False)
        peer = request.remote_addr or ""
        if seconds := throttle.wait(peer):
            raise TooManyRequests(
                f"Too many wrong passwords: try again in {seconds:.0f} seconds.", retry_after=ceil(seconds)
            )
        right = [_same(request.form.get("user", ""), USER), _same(request.form.get("password", ""), password)]
        if not all(right):
            throttle.failed(peer)
            return render_template("login.html", then=then, wrong=True), 401
        sessions.end(session.get("lead"))
        session.clear()
        session["lead"] = sessions.begin()
        return redirect(then or url_for("lead.overview"))

    @pages.post("/logout")
    def log_out() -> ResponseReturnValue:
        sessions.end(session.get("lead"))
        session.clear()
        return redirect(url_for("lead.log_in"))


def _token() -> str:
    return session.setdefault("token", secrets.token_urlsafe(16))


def _same(given: str, wanted: str) -> bool:
    return bool(wanted) and hmac.compare_digest(given.encode(), wanted.encode())


def _own(address: str) -> str:
    """An address on the lead's page, or nothing: a link must not lead elsewhere after the login."""
    try:
        parts = urlsplit(address)
    except ValueError:
        return ""
    # What splits an address leaves out line ends, which a header must not hold.
    if not address.isprintable() or " " in address:
        return ""
    if parts.scheme or parts.netloc or "\\" in address or not parts.path.startswith("/lead/"):
        return ""
    return address
