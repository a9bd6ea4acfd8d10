"""The command line: `campaign init | run | worker | serve | status | ...`."""

from __future__ import annotations

import logging
import sys

import typer

from campaign.cli import care, comparison, exchange, lifecycle, manual, people, results, steps, trial
from campaign.clustering.blas import prefer_wide_kernels
from ml_backend.errors import InputError

app = typer.Typer(
    name="campaign",
    help="Instance masks for large image collections in Label Studio, for a few yes/no answers per cluster.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for module in (lifecycle, steps, exchange, results, comparison, people, manual, care, trial):
    for command in module.COMMANDS:
        app.command()(command)


# Typer carries a click of its own and exports this much of its errors.
UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # type: ignore[assignment]


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
        _fail(error.format_message(), 2)  # type: ignore[attr-defined]
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int) -> None:
    print(f"campaign: {message}" if len(message.splitlines()) == 1 else message, file=sys.stderr)
    sys.exit(code)
