"""The verification project: made once, filled with pages in batches, neither doubled nor lost."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from campaign.label_studio.annotations import is_id, page_name
from campaign.label_studio.client import Client, LabelStudioError, LabelStudioUnavailable
from label_config import ENGLISH, PAGE_SIZE, Crop, Instructions, load, page_data, single_data
from ml_backend.errors import InputError

logger = logging.getLogger(__name__)

# The receiver of webhooks knows Label Studio by this header; Label Studio signs nothing itself.
SECRET_HEADER = "X-Campaign-Secret"
WEBHOOK_ACTIONS = ("ANNOTATION_CREATED", "ANNOTATIONS_CREATED", "ANNOTATION_UPDATED", "ANNOTATIONS_DELETED")
FORMAT = 2  # of tasks, in their `meta`: since 2 they name masks by names drawn by chance; before it was missing
TITLE_LENGTH = 50
BATCH = 400  # each call counts all of the project, however few it brings


@dataclass(frozen=True)
class Page:
    """One page of questions on masks of one class. `key` names it for good: the same page has the same key.

    `crops` are its masks, in the order in which they are shown. `rules` is HTML, shown at the press of a key. `screen`
    is the labeling config that shows it: `verification`, or `single` for one mask in its whole image; `language`
    is that of its own texts, `sheet` the address of all its crops in one picture, `ahead` those of the pages after it.
    """

    key: str
    class_name: str
    title: str
    crops: list[Crop]
    rules: str = ""
    screen: str = "verification"
    language: str = ENGLISH
    sheet: str | None = None
    ahead: Sequence[str] = ()


def create_project(
    client: Client,
    title: str,
    *,
    webhook_url: str | None = None,
    webhook_secret: str | None = None,
    label_config: str | None = None,
    instructions: str | None = None,
    overlap: int = 1,
    predictions: bool = False,
) -> int:
    """The id of the project of this title, made where there is none, with its webhook.

    Run again after it was killed halfway it returns the same project and mends what is missing. `overlap` is the
    number of users who answer each page, `predictions` says whether what a task brings is shown to be changed.
    Raises LabelStudioError where Label Studio refuses.
    """
    title = shorten(title)
    wanted = _settings(label_config, instructions, overlap) | {"show_collab_predictions": predictions}
    project_id = find_project(client, title)
    if project_id is None:
        made = client.request("POST", "api/projects/", body={"title": title, **wanted})
        if not isinstance(made, dict) or not is_id(made.get("id")):
            raise LabelStudioError(f"project {title}", "the project that was made", type(made).__name__)
        project_id = made["id"]
        logger.info("made project %d, %s", project_id, title)
    if webhook_url:
        ensure_webhook(client, project_id, webhook_url, webhook_secret)
    return project_id


def find_project(client: Client, title: str) -> int | None:
    """The oldest project with exactly this title, or None."""
    projects = client.request("GET", "api/projects/", params={"title": title, "page_size": 1000, "include": "id,title"})
    listed = projects.get("results") if isinstance(projects, dict) else None
    if not isinstance(listed, list) or not all(isinstance(p, dict) and is_id(p.get("id")) for p in listed):
        raise LabelStudioError(f"projects called {title}", "a list of projects", type(projects).__name__)
    return min((p["id"] for p in listed if p.get("title") == title), default=None)


def shorten(title: str) -> str:
    """A title of the length that Label Studio takes; a part in brackets at the end stays whole."""
    if len(title) <= TITLE_LENGTH:
        return title
    head, bracket, tail = title.rpartition(" [")
    if not bracket or len(tail) > TITLE_LENGTH - 10:
        return title[: TITLE_LENGTH - 1] + "…"
    return head[: TITLE_LENGTH - 3 - len(tail)] + "…" + bracket + tail


def delete_project(client: Client, project_id: int) -> None:
    """Deletes a project with all that is in it. Raises LabelStudioError where Label Studio refuses."""
    client.request("DELETE", f"api/projects/{project_id}/", thing=f"project {project_id}", repeatable=False)


def _webhooks(client: Client, project_id: int) -> list[dict[str, Any]]:
    thing = f"webhook of project {project_id}"
    hooks = client.request("GET", "api/webhooks/", params={"project": project_id}, thing=thing)
    if not isinstance(hooks, list) or not all(isinstance(hook, dict) for hook in hooks):
        raise LabelStudioError(thing, "a list of webhooks", type(hooks).__name__)
    return hooks


def has_webhook(client: Client, project_id: int, url: str, secret: str | None) -> bool:
    """Whether the webhook at `url` is registered as `ensure_webhook` does it; nothing is changed."""
    hook = _registered(client, project_id, url)
    return hook is not None and _is_as(hook, _webhook(project_id, url, secret, WEBHOOK_ACTIONS))


def _webhook(project_id: int, url: str, secret: str | None, events: tuple[str, ...]) -> dict[str, Any]:
    return {
        "project": project_id,
        "url": url,
        "send_payload": False,
        "send_for_all_actions": False,
        "headers": {SECRET_HEADER: secret} if secret else {},
        "is_active": True,
        "actions": list(events),
    }


def _registered(client: Client, project_id: int, url: str) -> dict[str, Any] | None:
    own = (
        hook
        for hook in _webhooks(client, project_id)
        if hook.get("url") == url and hook.get("project") == project_id and is_id(hook.get("id"))
    )
    return next(own, None)


def _is_as(hook: dict[str, Any], body: dict[str, Any]) -> bool:
    actions = hook.get("actions")
    told = sorted(map(str, actions if isinstance(actions, list) else []))
    return told == sorted(body["actions"]) and all(hook.get(k) == v for k, v in body.items() if k != "actions")


def ensure_webhook(
    client: Client, project_id: int, url: str, secret: str | None, events: tuple[str, ...] = WEBHOOK_ACTIONS
) -> None:
    """Registers the webhook at `url`, or mends the one that is there.

    It carries no payload: it only wakes the reader, and a payload would hold the project's token.
    """
    body, thing = _webhook(project_id, url, secret, events), f"webhook of project {project_id}"
    if (hook := _registered(client, project_id, url)) is not None:
        if not _is_as(hook, body):
            update = {k: v for k, v in body.items() if k != "project"}
            client.request("PATCH", f"api/webhooks/{hook['id']}/", body=update, thing=thing, repeatable=True)
        return
    try:
        client.request("POST", "api/webhooks/", body=body, thing=thing)
    except LabelStudioUnavailable:
        raise
    except LabelStudioError as error:
        raise LabelStudioError(
            f"webhook {url}",
            "an address that it takes (on its own machine only with LABEL_STUDIO_SSRF_PROTECTION_ENABLED=false)",
            error.got,
        ) from None


def publish_pages(
    client: Client,
    project_id: int,
    pages: Iterable[Page],
    progress: Callable[[int], None] | None = None,
    **options: Any,
) -> dict[str, int]:
    """The task of each page, {key: task id}; `publish_tasks` for pages of questions."""
    return publish_tasks(client, project_id, page_tasks(pages), progress, **options)


def page_tasks(pages: Iterable[Page]) -> dict[str, dict[str, Any]]:
    """The tasks of pages, by their keys. Raises InputError where a key is there twice, or a page cannot be shown."""
    pages = list(pages)
    _check(pages)
    return {page.key: page_task(page) for page in pages}


def publish_tasks(
    client: Client,
    project_id: int,
    bodies: Mapping[str, dict[str, Any]],
    progress: Callable[[int], None] | None = None,
    *,
    after: int = 0,
    published: Callable[[dict[str, int]], None] | None = None,
    found: Callable[[dict[str, int]], None] | None = None,
    batch: int = BATCH,
) -> dict[str, int]:
    """The task of each page, {key: task id}; tasks that the project does not hold yet are imported.

    Each has its key under `meta`. Killed halfway and run again, no page is doubled or lost: the keys of the project's
    tasks with an id above `after` are read first. Where many pages were published before, `after` is the highest task
    id known to hold none of these. `found` is called with those that were there, `published` with each batch once its
    tasks are known, `progress` with each batch's size. Raises LabelStudioUnavailable, LabelStudioUnauthorized,
    ProjectGone.
    """
    held = read_keys(client, project_id, after) if bodies else {}
    known = {key: task for key, task in held.items() if key in bodies}
    if known:
        logger.info("%d of %d pages are in project %d already", len(known), len(bodies), project_id)
        if found or published:
            (found or published)(dict(known))  # type: ignore[misc]
        if progress:
            progress(len(known))
    missing = [key for key in bodies if key not in known]
    newest = max(held.values(), default=after)
    for part in _batches(missing, batch):
        tasks = _import(client, project_id, {key: bodies[key] for key in part}, newest)
        known |= tasks
        newest = max(newest, *tasks.values())
        if published:
            published(tasks)
        if progress:
            progress(len(part))
    return known


def read_keys(client: Client, project_id: int, after: int = 0) -> dict[str, int]:
    """{key: task id} of the pages in the project with a task id above `after`. Where a key is doubled, the first.

    Anybody may have imported the later ones: they are none of ours.
    """
    keys: dict[str, int] = {}
    for task in client.tasks(project_id, "id,meta", after=after):
        key = page_name(task)
        if key is not None and key in keys:
            logger.warning("project %d holds page %s in tasks %d and %d", project_id, key, keys[key], task["id"])
        elif key is not None:
            keys[key] = int(task["id"])
    return keys


def page_task(page: Page) -> dict[str, Any]:
    """The task that shows a page.

    Every annotator can read all of a task, so it holds what the screen shows and nothing else: no id, no file name, no
    shape. `meta` repeats the key, because Label Studio can list it without the far larger data.
    """
    if page.screen == "single":
        (crop,) = page.crops
        data = single_data(page.key, page.class_name, crop.url, rules=page.rules, code=page.language)
    else:
        data = page_data(page.key, page.class_name, page.crops, title=page.title, rules=page.rules, code=page.language,
                         sheet=page.sheet, ahead=page.ahead)  # fmt: skip
    return {"data": data, "meta": {"key": page.key, "format": FORMAT}}


def drawn_task(key: str, data: dict[str, Any], prediction: dict[str, Any] | None = None) -> dict[str, Any]:
    """The task of a page on which something is drawn, with the prediction that is to be changed."""
    predictions = {} if prediction is None else {"predictions": [prediction]}
    return {"data": data, **predictions, "meta": {"key": key, "format": FORMAT}}


def _import(client: Client, project_id: int, bodies: dict[str, dict[str, Any]], newest: int) -> dict[str, int]:
    """Imports one batch. Where the connection fails it may have arrived or not, so look before trying again."""
    thing = f"project {project_id}"
    missing = list(bodies)
    arrived: dict[str, int] = {}
    for _ in range(3):
        try:
            answer = client.request(
                "POST", f"api/projects/{project_id}/import", thing=thing, params={"return_task_ids": "true"},
                body=[bodies[key] for key in missing],
            )  # fmt: skip
        except LabelStudioUnavailable as error:
            problem = error
            logger.warning("%s; looking which pages arrived", error)
        else:
            ids = answer.get("task_ids") if isinstance(answer, dict) else None
            ids = ids if isinstance(ids, list) and all(map(is_id, ids)) else []
            # Label Studio returns the ids in the order of the tasks; where it returns none, the keys are read back.
            if len(ids) == len(missing):
                return arrived | {key: int(i) for key, i in zip(missing, ids, strict=True)}
            problem = LabelStudioUnavailable(thing, f"{len(missing)} tasks imported", len(ids))
        held = read_keys(client, project_id, newest)
        arrived |= {key: held[key] for key in missing if key in held}
        missing = [key for key in missing if key not in arrived]
        if not missing:
            return arrived
    raise problem


def _settings(label_config: str | None, instructions: str | None, overlap: int) -> dict[str, Any]:
    instructions = Instructions().project_html() if instructions is None else instructions
    return {
        "label_config": load("verification").xml if label_config is None else label_config,
        "expert_instruction": instructions,
        "show_instruction": bool(instructions),
        "maximum_annotations": overlap,
        "sampling": "Sequential sampling",
        # A skipped page is answered, with "unsure"; by default it would be put to others again.
        "skip_queue": "IGNORE_SKIPPED",
        "show_skip_button": True,
        "enable_empty_annotation": True,
        "show_annotation_history": False,
        "description": "Questions of a campaign. Its pages are made and read by a program: please import none by hand.",
    }


def _check(pages: list[Page]) -> None:
    keys: set[str] = set()
    for page in pages:
        if page.key in keys:
            raise InputError(f"page {page.key}", "a key of its own", "one used twice")
        keys.add(page.key)
        if not 0 < len(page.crops) <= PAGE_SIZE or len({c.name for c in page.crops}) != len(page.crops):
            raise InputError(f"page {page.key}", f"1 to {PAGE_SIZE} different masks", [c.name for c in page.crops])


def _batches(keys: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
