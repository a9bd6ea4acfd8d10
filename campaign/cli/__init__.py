"""The command line: `campaign init | run | worker | serve | status | ...`."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from campaign.cli import (
    care,
    checking,
    clicking,
    comparison,
    exchange,
    growth,
    lifecycle,
    manual,
    people,
    results,
    steps,
    trial,
)
from campaign.cli.usage import UsageError, in_words
from campaign.clustering.blas import prefer_wide_kernels
from ml_backend.errors import InputError

app = typer.Typer(
    name="campaign",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (
    lifecycle,
    growth,
    steps,
    exchange,
    results,
    comparison,
    people,
    manual,
    care,
    checking,
    trial,
    clicking,
):
    for command in module.COMMANDS:
        app.command()(command)


def _print_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(version("label-studio-cluster-verification"))
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Instance masks for large image collections in Label Studio, for a few yes/no answers per cluster."""


def main() -> None:
    """Runs the command line: exit status 0, 1 for a failure and 2 for bad usage, each failure in one line."""
    prefer_wide_kernels()  # before NumPy is first imported, here and in the processes that are started
    logging.getLogger("httpx").setLevel(logging.WARNING)
    try:
        code = app(standalone_mode=False)
    except InputError as error:
        _fail(str(error), 1)
    except (KeyboardInterrupt, typer.Abort):
        _fail("interrupted; run the same command again to go on", 130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except UsageError as error:
        _fail(in_words(error), 2)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"campaign: {message}" if len(message.splitlines()) == 1 else message, file=sys.stderr)
    sys.exit(code)
