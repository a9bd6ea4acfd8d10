"""`init`, `run`, `worker`, `serve`, `status`: a campaign from its start to its end."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from campaign.cli.arguments import Folder, Json, add_addresses, ask_token, settings_from
from campaign.cli.output import emit

if TYPE_CHECKING:
    from campaign.store import Store


def init(
    folder: Folder,
    data: Annotated[
        Path | None, typer.Option(help="Folder with images/, labelled.json, pool.json and, if any, heldout.json.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(help="Folder of images, here or by its URL, with --labelled and --pool.")
    ] = None,
    labelled: Annotated[Path | None, typer.Option(help="COCO file of the annotated images.")] = None,
    pool: Annotated[Path | None, typer.Option(help="COCO file of the images to be filled with masks.")] = None,
    heldout: Annotated[Path | None, typer.Option(help="COCO file of annotated images kept for calibration.")] = None,
    heldout_share: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of the annotated images to keep where there is no --heldout.")
    ] = 0.2,
    label_studio: Annotated[str | None, typer.Option(help="Address of the running Label Studio.")] = None,
    source_project: Annotated[int | None, typer.Option(help="Project to start from; it is only read.")] = None,
    name: Annotated[str | None, typer.Option(help="Name of the campaign.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting, such as search.k_a=0.9.")
    ] = None,
    compose: Annotated[
        bool, typer.Option("--compose", help="Only write the secrets that docker/compose.yaml needs, to FOLDER.")
    ] = False,
    check_images: Annotated[bool, typer.Option(help="Look at every image now, to find bad ones early.")] = True,
    json: Json = False,
) -> None:
    """Start a campaign from COCO files, or beside a running Label Studio.

    At a URL, such as s3://bucket/mine, it needs jobs.database_url and jobs.redis_url, which all machines reach; images
    of this machine are copied there, and those in an object store stay where they are.

    The token of Label Studio is taken from $LABEL_STUDIO_API_KEY, or asked for. Addresses with passwords are taken from
    $CAMPAIGN_DATABASE_URL and $CAMPAIGN_REDIS_URL, or the files of $CAMPAIGN_SECRETS.
    """
    from campaign.steps.create import create_from_files, create_from_label_studio
    from ml_backend.masks.fetched import file_of

    if compose:
        from campaign.cli.deployment import write_deployment

        new = write_deployment(Path(folder))
        text = f"{len(new)} files written to {folder}; next: docker compose --env-file {folder}/.env ..."
        emit({"folder": str(Path(folder).resolve()), "new": new}, json, text)
        return
    values = settings_from(set_ or [])
    values.setdefault("name", name or Path(folder).resolve().name)
    add_addresses(values)
    token = None
    if label_studio is not None:
        values.setdefault("label_studio", {})["url"] = label_studio
        token = ask_token()
    if source_project is not None:
        if label_studio is None or token is None:
            raise typer.BadParameter("--source-project needs --label-studio")
        values["label_studio"]["source_project"] = source_project
        store = create_from_label_studio(folder, values, token, heldout_share)
    else:
        if data is not None:
            images, labelled, pool = images or str(data / "images"), data / "labelled.json", data / "pool.json"
            heldout = data / "heldout.json" if (data / "heldout.json").exists() else None
        if images is None or labelled is None or pool is None:
            raise typer.BadParameter("expected --data, or --images with --labelled and --pool, or --source-project")
        store = create_from_files(
            folder, values, file_of(images), labelled, pool, heldout, heldout_share, token=token, check=check_images
        )
    counts = {split: store.images.count(split) for split in ("labelled", "pool", "heldout")}
    result = {"folder": store.place, "classes": list(store.classes().values()), "images": counts}
    text = f"{store.place}: {counts['labelled']} labelled images, {counts['pool']} pool, {counts['heldout']} heldout"
    emit(result, json, f"{text}\nnext: campaign run {folder}")


def run(
    folder: Folder,
    gpu_workers: Annotated[int, typer.Option(min=0, help="Workers that train, detect and cluster: one per GPU.")] = 1,
    default_workers: Annotated[int, typer.Option(min=0, help="Workers for Label Studio and decisions.")] = 1,
    serve: Annotated[bool, typer.Option(help="Also run the web server for crops and webhooks.")] = True,
    go_on: Annotated[bool, typer.Option("--go-on", help="Ask, even where the forecast is hopeless.")] = False,
    json: Json = False,
) -> None:
    """Run the campaign until it ends: detect, cluster, verify, propagate, retrain, again.

    Where the forecast is hopeless it waits for the lead, until --go-on or the lead's page says otherwise.
    """
    from campaign.cli.output import Display
    from campaign.derived.outlook import go_on as store_order
    from campaign.derived.status import status as state
    from campaign.jobs.supervisor import Supervisor, exit_on_sigterm
    from campaign.steps.rounds import start_campaign
    from campaign.store import Store

    store = Store.open(folder)
    if go_on:
        store_order(store)
    exit_on_sigterm()
    check_label_studio(store)
    display = Display()
    with Supervisor.started(store, gpu_workers, default_workers, serve) as running, display.live():
        start_campaign(store)
        running.until_done(display)
    final = state(store)
    emit(final, json, f"finished after {final['questions']} questions; next: campaign export {folder}")


def worker(
    folder: Folder,
    queue: Annotated[list[str] | None, typer.Option(help="gpu, default, or both (repeat the option).")] = None,
    burst: Annotated[bool, typer.Option(help="End when the queues are empty.")] = False,
    health: Annotated[
        bool, typer.Option("--health", help="Only say whether a worker of this machine is alive; exit 1 where not.")
    ] = False,
) -> None:
    """Work on the campaign's queues, also from another machine on the same Redis and folder or URL."""
    if health:
        from campaign.jobs.measures import check_alive
        from campaign.store import Store

        print(check_alive(Store.open(folder)))
        return
    from campaign.jobs.worker import work

    queues = queue or ["gpu", "default"]
    if unknown := set(queues) - {"gpu", "default"}:
        raise typer.BadParameter(f"--queue: expected gpu or default, got {', '.join(sorted(unknown))}")
    work(folder, queues, burst=burst)


def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port; by default that of page.public_url.")
    ] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that answer requests.")] = 8,
) -> None:
    """Serve crops, webhooks and the ML backend."""
    from campaign.web.serving import serve as run_server

    run_server(folder, host, port, threads)


def status(
    folder: Folder,
    forecast: Annotated[
        int | None, typer.Option(min=1, help="Also forecast what so many questions more would bring.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show rates, time left, who waits and trouble until it ends.")
    ] = False,
    every: Annotated[float, typer.Option(min=0.5, help="Seconds between two looks of --watch.")] = 5.0,
    json: Json = False,
) -> None:
    """Say where the campaign stands, and what more questions would bring."""
    from dataclasses import asdict

    from campaign.cli.output import table
    from campaign.derived.duplicates import duplicates_line
    from campaign.derived.recall import recall_line
    from campaign.derived.spending import prospects
    from campaign.derived.status import status as state
    from campaign.store import Store

    store = Store.open(folder)
    if watch:
        from campaign.cli.watching import watch as keep_looking

        keep_looking(store, every, json)
        return
    now = state(store)
    ahead = prospects(store, forecast) if forecast else []
    if json:
        emit(now | ({"prospects": [asdict(p) for p in ahead]} if forecast else {}), True)
        return
    budget = f" of {now['budget_questions']}" if now["budget_questions"] is not None else ""
    rows: list[tuple[str, Any]] = [
        ("round", f"{now['round']} of at most {now['rounds']}, {now['stage']}"),
        ("questions", f"{now['questions']}{budget}, {now['answered']} answered by {now['annotators']} annotators"),
        *([("gold", f"{now['gold']} masks hidden among them, not counted as questions")] if now["gold"] else []),
        ("masks", now["masks"]),
        *([("promise", promise_line(now["promise"]))] if now["promise"] else []),
    ]
    for entry in now["per_round"]:
        ap = "-" if entry["ap"] is None else f"{entry['ap']:.3f}"
        kinds = ", ".join(f"{n} {kind}" for kind, n in sorted(entry["decisions"].items()))
        # Under the policy of a target only the lead decides clusters.
        by_cluster = kinds or store.settings.search.policy != "target"
        clusters = f", clusters: {kinds or 'none yet'}" if by_cluster else ""
        rows.append((f"round {entry['round']}", f"AP {ap}, {entry['predictions']} predictions{clusters}"))
    if now["forecast"]:
        rows += forecast_rows(now["forecast"])
    for p in ahead:
        rows.append((f"{p.questions} questions more", f"{p.masks:.0f} masks more, likely {p.low:.0f} to {p.high:.0f}"))
    if now["recall"]:
        rows.append(("recall", recall_line(now["recall"])))
    if now["duplicates"]:
        rows.append(("duplicates", duplicates_line(now["duplicates"])))
    rows += _joining_row(now["joining"])
    if aside := [f"{count} {reason}" for reason, count in now["set_aside"].items() if count]:
        rows.append(("set aside", ", ".join(aside)))
    if now["trouble"]:
        rows.append(("trouble", now["trouble"]))
    table(now["name"], rows)


def _joining_row(joining: dict[str, int] | None) -> list[tuple[str, str]]:
    if joining is None:
        return []
    detected = f"{joining['detected']} of {joining['images']} images detected"
    return [("joining", f"{detected}; the trees of all classes will have them at one moment")]


def promise_line(promise: dict[str, Any]) -> str:
    """What is promised, and what is missing to the target, in a line."""
    return promise["sentence"] + (f"; {promise['missing']}" if promise["missing"] else "")


def forecast_rows(forecast: dict[str, Any]) -> list[tuple[str, str]]:
    """What was expected before the first question, and what waits for the lead because of it."""
    rows = []
    for name, one in [("all", forecast["all"]), *forecast["classes"].items()]:
        if name == "all" and len(forecast["classes"]) == 1:
            continue
        recall = "" if one["recall"] is None else f", recall {_span(one['recall'], 2)}"
        cost = "" if one["cost"] is None else f", cost {_span(one['cost'], 2)}"
        masks = f"{_span(one['correct'])} correct masks of {_span(one['masks'])}{recall}"
        work = f"{_span(one['questions'])} questions, {_span(one['hours'], 1)} hours{cost}"
        rows.append((f"forecast, {name}", f"{masks}, for {work}"))
    for name, why in forecast["waiting"].items():
        rows.append((f"waits, {name}", why))
    if forecast["waiting"]:
        what = "; ".join(f"{n}. {text}" for n, text in enumerate(forecast["help"], 1))
        rows.append(("would help", f"{what}; campaign run --go-on asks all the same"))
    return rows


def _span(figure: dict[str, float], digits: int = 0) -> str:
    """A figure with its interval.

    >>> _span({"value": 1200.4, "low": 900.0, "high": 1500.0})
    '1,200 (900 to 1,500)'
    """
    value, low, high = (f"{figure[k]:,.{digits}f}" for k in ("value", "low", "high"))
    return f"{value} ({low} to {high})"


COMMANDS = (init, run, worker, serve, status)


def check_label_studio(store: Store) -> None:
    """Raises InputError where Label Studio does not answer, refuses the token, or lost the verification project."""
    from campaign.pages.projects import connect
    from campaign.records.page import Screen

    client = connect(store)
    client.check()
    known = store.values.project(Screen.VERIFICATION)
    if known is not None:
        client.project(known)
