"""What `label-studio-ml start ml_backend` and `gunicorn ml_backend._wsgi:app` run: this package's own server.

The checkpoint and more are named in the environment, see `ml_backend.model.default_backend`.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    # Run as a file, its folder comes first in the path, and modules here are called `images` or `errors`.
    here = str(Path(__file__).resolve().parent)
    sys.path[:] = [str(Path(here).parent), *(p for p in sys.path if p != here)]

from flask import Flask

from ml_backend.errors import InputError
from ml_backend.model import MaskModel, default_backend
from ml_backend.server.access import Access
from ml_backend.server.app import create_app
from ml_backend.server.push import PushThread

# Waives the password for programs on this machine; only where no reverse proxy runs on it.
OPEN_HERE = "CAMPAIGN_THIS_MACHINE_WITHOUT_PASSWORD"


def make_app(user: str | None = None, password: str | None = None) -> Flask:
    """The server for one checkpoint, with the model loaded. Basic auth from BASIC_AUTH_USER and _PASS by default.

    Raises InputError where there is neither that nor the word that programs on this machine need none.
    """
    user, password = user or os.environ.get("BASIC_AUTH_USER"), password or os.environ.get("BASIC_AUTH_PASS")
    open_here = os.environ.get(OPEN_HERE) == "1"
    if not (user and password) and not open_here:
        raise InputError("BASIC_AUTH_USER and BASIC_AUTH_PASS", f"a user and a password, or {OPEN_HERE}=1", "neither")
    MaskModel.backend = backend = default_backend()
    backend.model.detector()  # Label Studio waits 3 s for /setup, which answers the model's version
    depth = backend.enqueue.depth if isinstance(backend.enqueue, PushThread) else None
    return create_app(
        backend=backend,
        queue_depth=depth,
        access=Access(
            basic_auth=(user, password) if user and password else None,
            this_machine=open_here,
            webhook_secret=os.environ.get("CAMPAIGN_WEBHOOK_SECRET"),
        ),
    )


def main() -> int:
    """Runs the server with the options of `label-studio-ml start`; returns the exit status."""
    parser = argparse.ArgumentParser(description="The ML backend of one checkpoint")
    parser.add_argument("-p", "--port", type=int, default=9090)
    parser.add_argument("--host", default="127.0.0.1", help="others than this machine need basic auth")
    parser.add_argument("--basic-auth-user")
    parser.add_argument("--basic-auth-pass")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING", "ERROR"])
    options, _ = parser.parse_known_args()
    logging.basicConfig(level=options.log_level, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        app = make_app(options.basic_auth_user, options.basic_auth_pass)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    app.run(host=options.host, port=options.port, threaded=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
elif "gunicorn" in sys.modules:
    app = make_app()
