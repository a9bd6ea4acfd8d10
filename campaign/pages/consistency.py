"""Whether a campaign and Label Studio fit together: what is published is there once, what was answered there is a fact.

Read-only, like `campaign.derived.consistency`.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable
from functools import partial

from campaign.derived.consistency import Finding, Report, local_findings, pages_of
from campaign.derived.showing import shown_pages, task_name
from campaign.label_studio.annotations import page_name
from campaign.label_studio.client import Client, ProjectGone
from campaign.label_studio.drawing import parse_drawn
from campaign.label_studio.readback import parse_task, read_tasks
from campaign.label_studio.verification import has_webhook
from campaign.pages.completeness import complete_facts
from campaign.pages.correcting import correct_facts
from campaign.pages.editing import edit_facts
from campaign.pages.painting import paint_facts
from campaign.pages.projects import QUESTIONS, webhook_of
from campaign.pages.qualification import tests
from campaign.pages.readback import facts
from campaign.records.page import PageKind, Screen
from campaign.store import Store
from campaign.store import models as m
from campaign.store.models import Drawing

LOOKS = 3  # at a campaign that runs: what is under way now is over then
PAUSE = 1.0
_DRAWN = {
    Screen.EDIT: edit_facts,
    Screen.PAINT: paint_facts,
    Screen.COMPLETE: complete_facts,
    Screen.CORRECT: correct_facts,
}


def findings(store: Store, client: Client | None, report: Report | None = None, pause: float = PAUSE) -> list[Finding]:
    """What does not fit, in the campaign and, with a `client`, between it and Label Studio.

    Where something does not, it is looked at again: a campaign that runs may have been caught between two steps. What
    stands in every look is returned. Raises Unavailable where the database or Label Studio is away.
    """
    standing: list[Finding] = []
    for look in range(LOOKS):
        if look:
            time.sleep(pause)
            store.companions.clear()
        now = local_findings(store, report)
        if client is not None:
            if report:
                report("checking Label Studio", 0, 0)
            now += remote_findings(store, client)
        standing = [f for f in now if f in standing] if look else now
        if not standing:
            return []
    return standing


def remote_findings(store: Store, client: Client) -> list[Finding]:
    """What does not fit between the campaign and Label Studio, project by project."""
    found: list[Finding] = []
    known: dict[int, tuple[Screen, list[m.Page]]] = {}
    for screen in Screen:
        pages, project = pages_of(store, screen), store.values.project(screen)
        if project is not None:
            known[project] = (screen, pages)
        elif any(p.task_id is not None for p in pages):
            problem = "pages are noted as published, but no project is"
            found.append(Finding(f"project of {screen}", problem, "campaign publish --again"))
    for test in tests(store):
        own = [p for p in store.pages.rows(kind=PageKind.QUALIFY) if p.key.startswith(f"{store.key}-q{test['number']}")]
        known[int(test["project"])] = (Screen.VERIFICATION, own)
    for project, (screen, pages) in known.items():
        try:
            found += _project(store, client, project, screen, pages)
            wakes = project == store.values.project(screen) and screen in QUESTIONS
            if wakes and not has_webhook(client, project, *webhook_of(store)):
                problem = "is gone or was changed: answers wait for the next poll"
                found.append(Finding(f"webhook of project {project}", problem, "campaign publish --again"))
        except ProjectGone:
            found.append(Finding(f"project {project}", "was deleted in Label Studio", "campaign publish --new-project"))
    return found


def _project(store: Store, client: Client, project: int, screen: Screen, pages: list[m.Page]) -> Iterable[Finding]:
    tasks: dict[str, list[int]] = defaultdict(list)
    for task in client.tasks(project, "id,meta"):
        if (name := page_name(task)) is not None:
            tasks[name].append(int(task["id"]))
        else:
            yield Finding(f"task {task['id']}", f"of project {project} is no page", "delete it in Label Studio")
    answered = {f.page_key for f in store.answers.rows([p.key for p in pages])}
    answered |= {d.page_key for d in store.drawings.standing()}
    for page in pages:
        held = tasks.pop(task_name(page), [])
        thing = f"page {page.key}"
        if len(held) > 1:
            yield Finding(thing, f"is in Label Studio {len(held)} times: {_numbers(held)}", "campaign publish --again")
        if page.task_id is None and held:
            yield Finding(thing, f"is task {held[0]}, and not noted as published", "campaign sync")
        elif page.task_id is not None and page.task_id not in held and page.key not in answered:
            yield Finding(thing, f"was task {page.task_id}, which is gone", "campaign publish --again")
    for key, held in sorted(tasks.items()):
        problem = f"of project {project} calls itself page {key}, which there is not"
        yield Finding(f"task {_numbers(held)}", problem, "delete it in Label Studio")
    yield from _facts(store, client, project, screen)


def _facts(store: Store, client: Client, project: int, screen: Screen) -> Iterable[Finding]:
    """Annotations that are not facts as they are, and facts whose annotation is gone."""
    new: dict[tuple[int, str], str] = {}
    if screen in QUESTIONS:
        snapshots = read_tasks(client, project, partial(shown_pages, store), parse_task).tasks
        rows = facts(store, snapshots)
        known = {
            (a.annotation_id, a.mask_id, a.answered_at, a.verdict)
            for a in store.answers.rows({r["page_key"] for r in rows})
        }
        for r in rows:
            if (r["annotation_id"], r["mask_id"], r["answered_at"], r["verdict"]) not in known:
                new[r["annotation_id"], r["page_key"]] = str(r["verdict"])
    else:
        drawn = read_tasks(client, project, partial(shown_pages, store), parse_drawn).tasks
        rows = _DRAWN[screen](store, drawn)
        held = _drawings(store)
        for r in rows:
            if (r["annotation_id"], r["answered_at"], str(r["state"])) not in held:
                new[r["annotation_id"], r["page_key"]] = str(r["state"])
    for (annotation, key), said in sorted(new.items()):
        problem = "is gone from Label Studio, and counts here" if said == "withdrawn" else "is not stored as it is now"
        yield Finding(f"annotation {annotation}", f"on page {key} {problem}", "campaign sync --again")


def _drawings(store: Store) -> set[tuple[int, str, str]]:
    from sqlalchemy import select

    with store.session() as session:
        rows = session.execute(select(Drawing.annotation_id, Drawing.answered_at, Drawing.state))
        return {(a, at, state) for a, at, state in rows}


def _numbers(ids: list[int]) -> str:
    return ", ".join(map(str, ids))
