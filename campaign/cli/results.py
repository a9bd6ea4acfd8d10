"""`report` and `certify`: what a campaign brought, and how precise it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import emit

if TYPE_CHECKING:
    from campaign.store import Store

Out = Annotated[Path | None, typer.Option("--out", help="File to write; by default in the campaign folder.")]


def report(folder: Folder, out: Out = None, json: Json = False) -> None:
    """Write the report: one HTML page that needs no network."""
    from campaign.report import report_data, write_report
    from campaign.store import Store

    store = Store.open(folder)
    path = out or store.desk / "report.html"
    write_report(path, report_data(store))
    emit({"path": str(path)}, json, str(path))


def certify(
    folder: Folder,
    draws: Annotated[int, typer.Option(min=1, help="Masks to audit.")] = 300,
    per_class: Annotated[int, typer.Option(min=0, help="At least so many of each class.")] = 0,
    confidence: Annotated[float, typer.Option(min=0.51, max=0.999, help="Of each bound.")] = 0.95,
    wait: Annotated[bool, typer.Option(help="Wait until the questions are answered.")] = False,
    json: Json = False,
) -> None:
    """State how precise the dataset is at least; the export carries it.

    Under the policy `target` that is what the campaign promised; where edits, orders or more answers have undone it,
    masks are drawn for another promise. Under other policies a fresh sample is audited. The first call publishes the
    questions; call again when they are answered. --draws, --per-class and --confidence are for audits.
    """
    import time

    from campaign.cli.output import Display
    from campaign.pages.audits import begin_audit, finish_audit, open_audit
    from campaign.steps.verify import turn
    from campaign.store import Store
    from campaign.store.values import Key

    store = Store.open(folder)
    if store.settings.search.policy == "target":
        _certify_target(store, wait, json)
        return
    known = store.values.get(Key.AUDIT)
    if known is None or known["certified"]:
        begin_audit(store, draws, per_class)
    display = Display()
    with display.live():
        while True:
            turn(store)
            outcome = finish_audit(store, confidence)
            if not isinstance(outcome, int) or not wait:
                break
            running = open_audit(store)
            total = store.questions.count(running.kind) if running else outcome
            display.show("audit, answers", total - outcome, total)
            time.sleep(store.settings.jobs.poll_seconds)
    if isinstance(outcome, int):
        emit({"open_questions": outcome}, json, f"{outcome} audit questions wait in Label Studio; then call this again")
        return
    classes = store.classes()
    lines = [outcome.sentence()]
    for class_id, bound in outcome.classes.items():
        lines.append(f"{classes[class_id]}: precision >= {bound.lower_bound:.3f}, {bound.yes} of {bound.audited} right")
    emit(outcome.as_dict(), json, "\n".join(lines))


def _certify_target(store: Store, wait: bool, json: bool) -> None:
    """The promise of the dataset; where it does not stand, questions for another one."""
    import time

    from campaign.cli.output import Display
    from campaign.derived.classes import class_line
    from campaign.derived.delivery import promise_of
    from campaign.pages.projects import reached
    from campaign.pages.promises import go_on_promising, open_draws
    from campaign.steps.verify import turn
    from campaign.store.values import Key

    display = Display()
    with display.live():
        client, missing = (None, None) if wait or store.values.get(Key.PROMISE) is None else reached(store)
        waiting = open_draws(store)[0] if missing else 0
        while not missing:
            turn(store, client)
            waiting = go_on_promising(store)
            if not waiting or not wait:
                break
            turn(store)
            done, total = open_draws(store)
            display.show("promise, answers", total - done, total)
            time.sleep(store.settings.jobs.poll_seconds)
        if waiting and not missing:
            turn(store)
    promise = promise_of(store)
    text = promise["sentence"] + (f"; {promise['missing']}" if promise["missing"] else "")
    text += "".join(f"\n{name}: {class_line(one)}" for name, one in promise["classes"].items())
    if waiting:
        text += f"\n{waiting} questions wait in Label Studio; then call this again"
    if missing is not None:
        text += f"\nLabel Studio: unknown, {missing}; this is what stood when it was last read"
    emit(promise | {"open_questions": waiting, "unknown": missing}, json, text)


COMMANDS = (report, certify)
