"""Beginning again with Label Studio where the two have come apart: reading everything, publishing what was deleted."""

from __future__ import annotations

from campaign.derived.consistency import pages_of
from campaign.derived.showing import task_name
from campaign.label_studio.annotations import page_name, task_number
from campaign.label_studio.client import Client
from campaign.label_studio.verification import ensure_webhook
from campaign.pages.projects import QUESTIONS, webhook_of
from campaign.pages.qualification import tests
from campaign.records.page import Screen
from campaign.store import Store
from campaign.store.values import Key, cursor_name


def read_from_the_beginning(store: Store) -> None:
    """Has the next turn read every answer anew, whenever it was given. Facts that are known are not stored twice.

    To be called under the campaign's lock.
    """
    for screen in Screen:
        store.values.drop(cursor_name(screen))
    for test in tests(store):
        store.values.drop(f"{Key.QUALIFICATION_TESTS}_cursor_{test['number']}")


def mend_published(store: Store, client: Client) -> tuple[int, int]:
    """(pages, copies): pages whose task was deleted, to be published again, and copies of pages that were removed.

    Webhooks that were deleted or changed are registered again. A page that has an answer needs no other task, and a
    copy with an annotation is left for the lead to look at. To be called under the campaign's lock. Raises ProjectGone
    where a project was deleted.
    """
    answered = {d.page_key for d in store.drawings.standing()}
    gone, copies = list[str](), 0
    for screen in Screen:
        project, pages = store.values.project(screen), pages_of(store, screen)
        if project is not None and screen in QUESTIONS:
            ensure_webhook(client, project, *webhook_of(store))
        held: dict[str, list[dict]] = {}
        for task in client.tasks(project, "id,meta,total_annotations") if project is not None else ():
            held.setdefault(page_name(task) or "", []).append(task)
        answered |= {f.page_key for f in store.answers.rows([p.key for p in pages])}
        for page in pages:
            named = held.get(task_name(page), ())
            ids = {task_number(t) for t in named}
            if page.task_id is not None and page.task_id not in ids and page.key not in answered:
                gone.append(page.key)
            for task in named:
                first = page.task_id if page.task_id in ids else min(ids)
                if (number := task_number(task)) != first and not task.get("total_annotations"):
                    client.request("DELETE", f"api/tasks/{number}/", thing=f"task {number}", repeatable=True)
                    copies += 1
    store.pages.unpublish(gone)
    if gone or copies:
        store.log(f"{len(gone)} pages whose task was deleted are published again; {copies} copies of pages are removed")
    return len(gone), copies
