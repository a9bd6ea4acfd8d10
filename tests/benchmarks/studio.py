"""Label Studio at size: what its projects of many tasks cost a campaign, and many annotators at once.

    python -m tests.benchmarks.studio --json [--only pages source people] [--database sqlite] [--processes 2]

Starts the real Label Studio on a PostgreSQL of its own (Debian's packages), which keeps what it is told (`fsync`), and
prints what `tests.benchmarks.studio_pages`, `studio_source` and `studio_people` measure beside it:

    pages    publishing and reading back in a verification project as it grows, see --sizes
    source   starting from a project of --tasks tasks, killed halfway and begun again
    people   --people annotators at once, each with a page every 10 seconds, for --seconds
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks import studio_pages, studio_people, studio_source
from tests.benchmarks.studio_server import running


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("pages", "source", "people"), default=[])
    parser.add_argument("--database", choices=("postgresql", "sqlite"), default="postgresql")
    parser.add_argument(
        "--processes", type=int, default=0, help="of Label Studio behind Gunicorn; its own server for 0"
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[2000, 10_000, 50_000], help="pages of the project")
    parser.add_argument("--tasks", type=int, default=100_000, help="of the source project, three annotations to one")
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=600.0, help="that people work")
    parser.add_argument("--folder", type=Path, help="where to put all of it; a temporary folder by default")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    result: dict[str, Any] = {
        "database": options.database, "processes": options.processes, "cpus": os.cpu_count(), "load": os.getloadavg()
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="studio-", dir=options.folder) as name:
        folder = Path(name)
        with running(folder, options.database, options.processes) as studio:
            if not options.only or "pages" in options.only:
                result["pages"] = studio_pages.measure(studio, folder, sorted(options.sizes), say)
            if not options.only or "source" in options.only:
                result["source"] = studio_source.measure(studio, folder, options.tasks, say)
            if not options.only or "people" in options.only:
                result["people"] = studio_people.measure(studio, folder, options.people, options.seconds, say)
    result["load_at_end"] = os.getloadavg()
    print(json.dumps(result) if options.json else json.dumps(result, indent=1))


def say(text: str) -> None:
    """What is going on, for whoever waits."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
