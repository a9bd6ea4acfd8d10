"""`verify`, `jobs`, `token`, `backup`, `restore`, `clean`: is all as it should be, and what to do where it is not."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import emit
from ml_backend.buckets import is_url
from ml_backend.errors import InputError

PASSPHRASE = "CAMPAIGN_PASSPHRASE"
_SHOWN = 20  # leftovers that are listed for people


def verify(
    folder: Folder,
    label_studio: Annotated[bool, typer.Option(help="Hold it against Label Studio, too.")] = True,
    json: Json = False,
) -> int:
    """Check that all that a campaign holds fits together and with Label Studio; nothing is changed.

    Shards, trees, pages, questions, answers, decisions, promises and datasets are read and worked out anew, also while
    the campaign runs. Each thing that does not fit is named, with the command that mends it; the exit status is 1 then,
    and where Label Studio should be looked at and cannot.
    """
    from campaign.cli.output import Display, steps_progress
    from campaign.label_studio.client import LabelStudioError
    from campaign.pages.consistency import findings
    from campaign.pages.projects import reached
    from campaign.store import Store

    store = Store.open(folder, read_only=True)
    display, client, missing = Display(), None, None
    with display.live():
        progress = steps_progress(display, "verify")
        if label_studio and store.settings.label_studio.url:
            client, missing = reached(store)
        try:
            found = findings(store, client, progress)
        except LabelStudioError as error:
            client, missing = None, str(error)
            found = findings(store, None, progress)
    rows = [{"thing": f.thing, "problem": f.problem, "mend": f.mend} for f in found]
    lines = [f"{f.thing}: {f.problem}; to mend it: {f.mend}" for f in found]
    against = "" if client is not None else ", Label Studio aside"
    text = "\n".join(lines) if found else f"{store.place}: all fits together{against}"
    if missing is not None:
        text += f"\nLabel Studio: unknown, {missing}"
    fits = not found and missing is None
    said = {"fits": fits, "label_studio": client is not None, "unknown": missing, "findings": rows}
    emit(said, json, text)
    return 0 if fits else 1


def jobs(
    folder: Folder,
    retry: Annotated[bool, typer.Option("--retry", help="Have those that are dead tried anew.")] = False,
    json: Json = False,
) -> None:
    """Show the jobs that wait, run, are tried later, are dead or stuck, each with the reason."""
    from campaign.cli.output import table
    from campaign.jobs.broker import connect
    from campaign.jobs.health import jobs_of, retry_dead, shown_time
    from campaign.jobs.queues import enqueue_due
    from campaign.store import Store

    store = Store.open(folder)
    connection = connect(store)
    again = retry_dead(store, connection) if retry else []
    if again:
        enqueue_due(store, connection)
    rows = jobs_of(store, connection)
    if json:
        shown = [{"job": r.job_id, "queue": r.queue, "state": r.state, "since": r.since, "text": r.text} for r in rows]
        emit({"retried": again, "jobs": shown}, True)
        return
    lines = [(r.job_id, " ".join(f"{r.state} {shown_time(r.since)} {r.text}".split())) for r in rows]
    table(f"{store.settings.name}: jobs", lines or [("none", "no step is due that needs one")])
    if again:
        emit(None, False, f"{len(again)} dead jobs are tried anew")


def token(folder: Folder, json: Json = False) -> None:
    """Give the campaign another token of Label Studio, where the old one was revoked; the next turn goes on with it.

    It is taken from $LABEL_STUDIO_API_KEY, or asked for.
    """
    from campaign.cli.arguments import ask_token
    from campaign.label_studio.client import Client
    from campaign.store import Store

    store = Store.open(folder)
    url = store.settings.label_studio.url
    if url is None:
        raise InputError("label_studio.url", "the address of a running Label Studio", "none")
    value = ask_token()
    release = Client(url, value).check()
    store.save_secrets({"label_studio_token": value})
    text = f"Label Studio {release} at {url} takes the token; whoever has an old one in its environment keeps that"
    emit({"url": url, "release": release}, json, text)


def backup(
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", help="File to write.")],
    objects: Annotated[
        bool, typer.Option(help="Put predictions, trees, models and the like in; without, only their checksums.")
    ] = True,
    json: Json = False,
) -> None:
    """Write all of a campaign to one file: database, settings, secrets under a passphrase, and its files.

    The campaign may run meanwhile. The passphrase is taken from $CAMPAIGN_PASSPHRASE, or asked for.
    """
    from campaign.cli.output import Display, steps_progress
    from campaign.store import Store
    from campaign.store.backup import back_up

    store, passphrase, display = Store.open(folder), ask_passphrase(confirm=True), Display()
    with display.live():
        made = back_up(store, out, passphrase, objects, steps_progress(display, "backup"))
    rows, files = sum(made["rows"].values()), len(made["objects"])
    what = "in it" if objects else "listed in it, to be copied apart"
    text = f"{out}: {rows} rows, {files} files {what}\nback again: campaign restore {out} FOLDER, or a URL"
    emit({"path": str(out), "rows": made["rows"], "files": files, "with_objects": objects}, json, text)


def restore(
    backup: Annotated[Path, typer.Argument(help="What `campaign backup` wrote.")],
    folder: Folder,
    database_url: Annotated[
        str | None, typer.Option(help="Empty database; by default SQLite in a folder, $CAMPAIGN_DATABASE_URL at a URL.")
    ] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="Redis of the queues; by default the one it had, $CAMPAIGN_REDIS_URL at a URL.")
    ] = None,
    moved: Annotated[
        list[str] | None, typer.Option(metavar="OLD=NEW", help="Where images of a folder or URL lie now (repeatable).")
    ] = None,
    json: Json = False,
) -> None:
    """Make a campaign of a backup, in a folder or at a URL, to go on with its open questions.

    The one it was made of must not run any more. Where the backup has no files in it, they are to lie in the folder
    already, or at the URL under the names that they had; those in a folder are held against their checksums.
    """
    from campaign.cli.output import Display, steps_progress
    from campaign.store.addresses import given_address
    from campaign.store.restoration import restore as restore_from

    given = {"database_url": database_url, "redis_url": redis_url}
    addresses = {name: url or (given_address(name) if is_url(folder) else None) for name, url in given.items()}
    places = dict(pair.split("=", 1) for pair in moved or [] if "=" in pair)
    if len(places) != len(moved or []):
        raise typer.BadParameter("--moved: expected OLD=NEW")
    display = Display()
    with display.live():
        passphrase, report = ask_passphrase(), steps_progress(display, "restore")
        store = restore_from(backup, folder, passphrase, {n: u for n, u in addresses.items() if u}, places, report)
    pages = store.pages.rows(published=True)
    waiting = len({p.key for p in pages} - {f.page_key for f in store.answers.rows()})
    text = f"{store.place}: {waiting} published pages wait for answers\nnext: campaign verify {folder}"
    emit({"folder": store.place, "open_pages": waiting}, json, text)


def clean(
    folder: Folder,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is old enough; without, it is listed.")] = False,
    hours: Annotated[float, typer.Option(min=1, help="Age from which something is old enough.")] = 24,
    json: Json = False,
) -> None:
    """List, or remove, what interrupted work left behind: objects and files that nothing of the campaign names.

    The campaign may run meanwhile: what is being written has no name yet either, and is younger.
    """
    from campaign.store import Store
    from campaign.store.leftovers import leftovers, remove_leftovers, total

    store = Store.open(folder)
    found = leftovers(store)
    old = [one for one in found if one.age > hours * 3600]
    removed = remove_leftovers(store, old, hours * 3600) if remove else []
    lines = [f"{one.place}: {one.bytes} bytes, {one.age / 3600:.1f} hours old" for one in found[:_SHOWN]]
    lines += [f"and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
    lines.append(
        f"{store.place}: {len(found)} objects and files that nothing names, {total(found)['bytes']} bytes;"
        f" older than {hours:g} hours: {len(old)}, {total(old)['bytes']} bytes"
    )
    if remove:
        lines.append(f"removed: {len(removed)}, {total(removed)['bytes']} bytes")
    elif old:
        lines.append(f"to remove what is old enough: campaign clean {folder} --remove")
    shown = [{"place": one.place, "bytes": one.bytes, "hours": round(one.age / 3600, 3)} for one in found]
    said = {"unnamed": total(found), "old": total(old), "removed": total(removed), "leftovers": shown}
    emit({"folder": store.place, **said}, json, "\n".join(lines))


def ask_passphrase(confirm: bool = False) -> str:
    """The passphrase of backups from the environment, or from a prompt that does not show it."""
    if value := os.environ.get(PASSPHRASE):
        return value
    if not sys.stdin.isatty():
        raise InputError("passphrase", f"${PASSPHRASE} to be set", "nothing")
    return typer.prompt("Passphrase of the backup", hide_input=True, confirmation_prompt=confirm)


COMMANDS: tuple[Any, ...] = (verify, jobs, token, backup, restore, clean)
