"""Edit: masks nearly right, put before annotators to be corrected with the brush, and read back as verified masks.

A correction is a fact. The dataset takes the newest one of a mask in its place, with an id of its own that every crop,
audit and export knows.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial

import numpy as np

from campaign.dataset.propagation import drop_known, unlike
from campaign.derived.answers import counted_verdicts
from campaign.derived.corrections import counted_corrections
from campaign.derived.dataset import final_masks, obtained
from campaign.derived.showing import shown_pages, task_name
from campaign.label_studio.client import Client
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask, read_drawings
from campaign.label_studio.verification import drawn_task
from campaign.pages.instructions import class_rules
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import put
from campaign.pages.readback import own_annotations, put_aside, read_on, stamps_of
from campaign.records.dataset_masks import EDITED_RULE, DatasetMasks
from campaign.records.page import NewPage, PageKind, Screen
from campaign.records.stage import Stage
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store import models as m
from campaign.store.drawings import CORRECTED, NOTHING, UNSURE, WITHDRAWN
from campaign.store.values import cursor_name
from label_config import edit_data
from ml_backend.errors import InputError
from ml_backend.mask_ids import is_drawn, round_of
from ml_backend.masks import editing
from ml_backend.predictions import Predictions
from ml_backend.server.signing import crop_url

logger = logging.getLogger(__name__)

VERSION = "campaign"


def near_misses(store: Store, class_id: int, count: int) -> list[int]:
    """Masks of a class that were voted no with a high score, best first, whose object the dataset does not have.

    Of several that show the same object, of different rounds say, the best alone.
    """
    voted = counted_verdicts(store)
    ids = [q.mask_id for q, p in store.questions.rows(kind=PageKind.VERIFY) if p.class_id == class_id]
    wrong = [i for i in dict.fromkeys(ids) if voted.get(i) == Verdict.NO and i not in edited(store)]
    masks = drop_known(store.masks.read(wrong), final_masks(store), store.settings.rounds.dedupe_iou)
    masks = masks.select(np.argsort(-masks.score, kind="stable"))
    return masks.mask_id[unlike(masks, store.settings.rounds.dedupe_iou)[:count]].tolist()


def cluster_masks(store: Store, round_number: int, class_id: int, cluster: int, count: int) -> list[int]:
    """Masks of a cluster to be corrected, best score first; those voted yes need it not.

    Raises InputError where there is no such cluster.
    """
    entry = next((t for t in store.trees.rows(round_number) if t.class_id == class_id and t.masks), None)
    if entry is None or not 0 <= cluster < 2 * entry.masks - 1:
        raise InputError("cluster", f"one of round {round_number} and class {class_id}", cluster)
    tree, mask_ids = store.trees.read(round_number, class_id, entry.generation)
    voted, done = counted_verdicts(store), edited(store)
    members = np.sort(np.asarray(mask_ids)[tree.members(cluster)]).tolist()
    masks = store.masks.read([i for i in members if voted.get(i) != Verdict.YES and i not in done])
    return masks.mask_id[np.argsort(-masks.score, kind="stable")][:count].tolist()


def edited(store: Store) -> set[int]:
    """Masks that were put before annotators to be corrected."""
    return {q.mask_id for q, _ in store.questions.rows(kind=PageKind.EDIT)}


def is_edited(store: Store, mask_id: int) -> bool:
    """Whether a mask was put before annotators to be corrected."""
    return any(a.kind == PageKind.EDIT for a in store.questions.on_masks([mask_id]))


def add_edit_pages(store: Store, mask_ids: Sequence[int]) -> int:
    """Stores a page for each of these masks that has none; returns how many are new. Raises KeyError for no mask."""
    known = edited(store)
    new = [i for i in dict.fromkeys(int(i) for i in mask_ids) if i not in known]
    masks = store.masks.read(new)
    return store.pages.add(
        NewPage(
            f"{store.key}-e{mask}", 0 if is_drawn(mask) else round_of(mask), class_id, ((mask, None),), PageKind.EDIT,
            screen=Screen.EDIT,
        )
        for mask, class_id in zip(masks.mask_id.tolist(), masks.class_id.tolist(), strict=True)
    )  # fmt: skip


def publish_edits(store: Store, client: Client) -> int:
    """Publishes the edit pages that Label Studio does not hold yet; returns how many there were."""
    rows = [p for p in store.pages.rows(published=False) if p.screen == Screen.EDIT]
    if rows:
        project = ensure_project(store, client, Screen.EDIT)
        newest = store.pages.newest_task(Screen.EDIT)
        put(store, client, project, rows, partial(_tasks, store), newest, cursor_name(Screen.EDIT))
        # Label Studio takes the name of predictions only once there are some.
        body = {"model_version": VERSION, "show_collab_predictions": True}
        client.request("PATCH", f"api/projects/{project}/", body=body, thing=f"project {project}", repeatable=True)
    return len(rows)


def _tasks(store: Store, rows: Sequence[m.Page]) -> dict[str, dict]:
    """Tasks by key: the part of the image around a mask, and the mask as a prediction to be changed."""
    mask_of = {p.key: q.mask_id for q, p in store.questions.rows(kind=PageKind.EDIT)}
    masks = store.masks.read([mask_of[row.key] for row in rows])
    names, rules = store.classes(), class_rules(store)
    secret, base, days = store.secret("crop_key"), store.settings.page.public_url, store.settings.page.url_days
    tasks = {}
    for i, (row, rle) in enumerate(zip(rows, masks.rles(), strict=True)):
        expires = (row.created_at + timedelta(days=days)).timestamp()
        url = crop_url(base, secret, mask_of[row.key], expires, row.number)
        key, name = task_name(row), names[row.class_id]
        data = edit_data(key, name, url, rules=rules.get(row.class_id, ""), code=store.settings.page.language)
        tasks[key] = drawn_task(key, data, editing.edit_prediction(rle, _window(masks, i), name, VERSION))
    return tasks


def _window(masks: Predictions, row: int) -> editing.Window:
    height, width = (int(v) for v in masks.size[row])
    return editing.edit_window(masks.box[row].tolist(), width, height)


def read_edits(store: Store, client: Client) -> int:
    """Reads corrections back as facts; returns how many were new. Datasets of rounds that are over take them in."""
    project = store.values.project(Screen.EDIT)
    if project is None:
        return 0

    def keep(tasks: Sequence[DrawnTask]) -> int:
        new = add_drawings(store, tasks, edit_facts(store, tasks))
        # Before the cursor moves, and whether or not a turn that was killed has stored the facts already.
        for row in store.rounds.all() if tasks else ():
            if row.stage == Stage.DONE:
                store.datasets.save(row.number, obtained(store, row.number))
        return new

    read = partial(read_drawings, client, project, partial(shown_pages, store))
    return read_on(store, cursor_name(Screen.EDIT), read, keep)


def edit_facts(store: Store, tasks: Sequence[DrawnTask]) -> list[dict]:
    """Facts that edit pages tell: what each annotation made of its mask, and which annotations are gone."""
    mask_of = {p.key: q.mask_id for q, p in store.questions.rows(kind=PageKind.EDIT)}
    standing, stamps = drawn_before(store, tasks)
    known = [task for task in tasks if task.page_key in mask_of]
    masks = store.masks.read([mask_of[task.page_key] for task in known])  # at once, not mask by mask
    rows: list[dict] = []
    for n, task in enumerate(known):
        mask = masks.select([n])
        base = {"page_key": task.page_key, "mask_id": mask_of[task.page_key], "image_id": int(mask.image_id[0])}
        for a in own_annotations(task.annotations, stamps):
            state, shapes = outcome(mask, a)
            rows.append(base | drawing_fact(a, state, shapes))
        rows += gone_facts(task, standing)
    return rows


def drawing_fact(a: DrawnAnnotation, state: str, shapes: list[dict]) -> dict:
    """The columns of a fact that an annotation holds."""
    return {
        "annotation_id": a.id, "annotator": str(a.user), "state": state, "masks": {"masks": shapes},
        "answered_at": a.updated_at, "lead_time": a.lead_time,
    }  # fmt: skip


def place_facts(
    store: Store, tasks: Sequence[DrawnTask], kind: str, said: Callable[[DrawnAnnotation, m.Page], dict]
) -> list[dict]:
    """Facts that pages of a kind tell which show a place: what each annotation holds, and which are gone.

    `said` returns the columns of a fact that an annotation of a page holds, as `drawing_fact` does.
    """
    pages = store.pages.some({t.page_key for t in tasks})
    (standing, stamps), rows = drawn_before(store, tasks), list[dict]()
    for task in tasks:
        page = pages.get(task.page_key)
        if page is None or page.kind != kind or page.place is None:
            continue
        base = {"page_key": task.page_key, "mask_id": None, "image_id": page.place["image_id"]}
        rows += [base | said(a, page) for a in own_annotations(task.annotations, stamps)]
        rows += gone_facts(task, standing)
    return rows


def gone_facts(task: DrawnTask, standing: Iterable[m.Drawing]) -> list[dict]:
    """The facts that annotations of a task were deleted, of those that are known of."""
    present = {a.id for a in task.annotations}
    return [
        {
            "page_key": fact.page_key, "mask_id": fact.mask_id, "image_id": fact.image_id, "annotator": fact.annotator,
            "annotation_id": fact.annotation_id, "state": WITHDRAWN, "masks": {"masks": []},
            "answered_at": fact.answered_at, "lead_time": None,
        }
        for fact in standing
        if task.whole and fact.page_key == task.page_key and fact.annotation_id not in present
    ]  # fmt: skip


def drawn_before(store: Store, tasks: Sequence[DrawnTask]) -> tuple[list[m.Drawing], dict[int, str]]:
    """(what is known of each annotation, {annotation: the time of that}) on these pages."""
    keys = {task.page_key for task in tasks}
    known = [fact for fact in store.drawings.by_annotation() if fact.page_key in keys]
    return known, stamps_of(store, keys, known)


def add_drawings(store: Store, tasks: Sequence[DrawnTask], rows: Iterable[dict]) -> int:
    """Stores what was drawn on these pages, and sets aside what nobody's drawing is; returns how many facts are new."""
    put_aside(store, tasks, drawn_before(store, tasks)[1])
    return store.drawings.add(rows)


def outcome(mask: Predictions, a: DrawnAnnotation) -> tuple[str, list[dict]]:
    """What an annotation says of a mask, and the corrected shape. A malformed drawing counts as unsure."""
    said = UNSURE if a.skipped else editing.edit_verdict(a.result)
    if said != editing.CORRECTED:
        return (NOTHING if said == editing.NO_OBJECT else UNSURE), []
    height, width = (int(v) for v in mask.size[0])
    try:
        rle = editing.edited_mask(a.result, _window(mask, 0), height, width)
    except InputError as error:
        logger.warning("annotation %d: %s", a.id, error)
        return UNSURE, []
    if rle is None:  # all of it erased
        return NOTHING, []
    return CORRECTED, [
        {"class_id": int(mask.class_id[0]), "size": [height, width], "counts": rle["counts"].decode("ascii")}
    ]


def summary(store: Store) -> dict[str, int]:
    """Edit pages and what came of them."""
    corrections = counted_corrections(store)
    masks: DatasetMasks = final_masks(store)
    return {
        "pages": len(edited(store)),
        "corrected": sum(d.state == CORRECTED for d in corrections.values()),
        "no_object": sum(d.state == NOTHING for d in corrections.values()),
        "in_dataset": sum(str(rule).startswith(EDITED_RULE) for rule in masks.rule),
    }
