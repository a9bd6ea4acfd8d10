"""`publish`, `sync`, `cluster`, `retrain`, `replay`: single steps of the loop by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from campaign.cli.arguments import Folder, Json
from campaign.cli.output import Display, emit, steps_progress


def publish(
    folder: Folder,
    new_project: Annotated[
        bool, typer.Option("--new-project", help="Make a new verification project, where the old one was deleted.")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also those whose task was deleted; pages that are there twice once only.")
    ] = False,
    json: Json = False,
) -> None:
    """Publish pages that Label Studio does not hold yet."""
    from campaign.pages.again import mend_published
    from campaign.pages.projects import abandon_project, connect, ensure_project
    from campaign.pages.publishing import publish_missing
    from campaign.store import Store

    store = Store.open(folder)
    client = connect(store)
    with store.locked():
        if new_project:
            abandon_project(store, client)
        if again:
            mend_published(store, client)
        project = ensure_project(store, client)
        count = len(publish_missing(store, client))
    url = f"{client.url}/projects/{project}"
    emit({"published": count, "project": project, "url": url}, json, f"{count} pages published at {url}")


def sync(
    folder: Folder,
    again: Annotated[bool, typer.Option("--again", help="Read every answer anew, whenever it was given.")] = False,
    json: Json = False,
) -> None:
    """Do one turn: read answers back, decide, publish what follows."""
    from campaign.pages.again import read_from_the_beginning
    from campaign.steps.verify import turn
    from campaign.store import Store

    store = Store.open(folder)
    if again:
        with store.locked():
            read_from_the_beginning(store)
    done = turn(store)
    text = f"{done.read} answers read, {done.published} pages published, {done.open_questions} questions open"
    emit(vars(done), json, text)


def cluster(folder: Folder, json: Json = False) -> None:
    """Cluster the running round's masks, class by class; what is finished is kept."""
    from campaign.records.stage import Stage
    from campaign.steps.rounds import StepName, due, progress_of, run_step, running_round
    from campaign.store import Store

    store = Store.open(folder)
    number = running_round(store, Stage.CLUSTER)
    display = Display()
    with display.live():
        for step in due(progress) if (progress := progress_of(store)) else []:
            if step.name == StepName.GATHER:
                run_step(store, StepName.GATHER, number, *step.args, report=steps_progress(display, "gathering masks"))
        for class_id, name in store.classes().items():
            run_step(store, StepName.CLUSTER, number, class_id, report=steps_progress(display, f"clustering {name}"))
    rows = {store.classes()[t.class_id]: t.masks for t in store.trees.rows(number)}
    emit(rows, json, "\n".join(f"{name}: {masks} masks" for name, masks in rows.items()))


def retrain(folder: Folder, json: Json = False) -> None:
    """Train the detector of the running round here and now."""
    from campaign.records.stage import Stage
    from campaign.steps.rounds import StepName, run_step, running_round
    from campaign.store import Store

    store = Store.open(folder)
    number = running_round(store, Stage.TRAIN)
    display = Display()
    with display.live():
        run_step(store, StepName.TRAIN, number, report=steps_progress(display, f"training, round {number}"))
    version = store.rounds.get(number).model_version
    emit({"round": number, "model_version": version}, json, f"round {number}: model {version}")


def replay(folder: Folder, json: Json = False) -> None:
    """Make all decisions and the dataset anew from the stored answers; they come out the same."""
    from campaign.steps.replay import replay as run_replay
    from campaign.store import Store

    result = run_replay(Store.open(folder))
    text = f"{result['decisions']} decisions and {result['masks']} masks made anew; {result['changed']} differ"
    emit(result, json, text)


COMMANDS = (publish, sync, cluster, retrain, replay)
