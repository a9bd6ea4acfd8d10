"""Correct: masks nearly right, put before annotators to be corrected by clicks, and read back as verified masks.

What is submitted is a fact like a correction by the brush (`campaign.pages.editing`); every click with the masks before
and after it is one beside it. A mask may be visited several times, each on a page of its own that begins where the one
before ended (Benenson, Popov, Ferrari, "Large-scale interactive object segmentation with human annotators").
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from datetime import timedelta
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.propagation import drop_known
from campaign.derived.answers import counted_verdicts
from campaign.derived.clicks import correction_times, correctors, is_gold, seconds_each
from campaign.derived.corrections import counted_corrections
from campaign.derived.dataset import final_masks, obtained, standing_masks
from campaign.derived.heldout import heldout
from campaign.derived.pace import work
from campaign.derived.ranking import accepted_unseen, judgements
from campaign.derived.selection import chances_of
from campaign.derived.showing import shown_pages, task_name
from campaign.label_studio.client import Client, LabelStudioError
from campaign.label_studio.drawing import DrawnAnnotation, DrawnTask, read_drawings
from campaign.label_studio.interactive import connect_backend
from campaign.label_studio.verification import drawn_task
from campaign.pages.editing import VERSION, add_drawings, drawing_fact, drawn_before, gone_facts, near_misses, outcome
from campaign.pages.instructions import class_rules
from campaign.pages.projects import ensure_project
from campaign.pages.publishing import put
from campaign.pages.readback import own_annotations, read_on
from campaign.quality.measures import stable_hash
from campaign.records.page import NewPage, PageKind, Screen
from campaign.records.stage import Stage
from campaign.store import Store
from campaign.store import models as m
from campaign.store.clicks import STEPS
from campaign.store.drawings import CORRECTED, NOTHING
from campaign.store.values import Key, cursor_name
from label_config import correct_data
from ml_backend.errors import Unavailable
from ml_backend.interactive.protocol import Said, correct_prediction, read_said
from ml_backend.interactive.steps import Step, StepLog
from ml_backend.mask_ids import drawn_id, is_drawn, round_of
from ml_backend.masks import editing
from ml_backend.masks.rle import decode_window
from ml_backend.predictions import Predictions
from ml_backend.server.signing import crop_url

logger = logging.getLogger(__name__)

GOLD_FROM, GOLD_BELOW = 0.35, 0.02  # IoU of gold at least, and how far below `k_iou` at most
GOLD_SALT = 0xC2


class Candidate(NamedTuple):
    """A mask that may be corrected, and how many correct masks a second of that is expected to bring."""

    mask_id: int
    value: float


def candidates(store: Store, class_ids: Collection[int]) -> list[Candidate]:
    """Masks of these classes whose correction is worth most, best first.

    They are those voted no, and in classes of `page.single_classes` also those nobody was asked about, whose object the
    dataset does not have. Worth is the mask's score, which says that there is an object, times the chance that the mask
    is not correct yet: certain where people said so, else the verifier's; over the time of a correction.
    """
    names, done = store.classes(), asked(store)
    single = {i for i in class_ids if names[i] in store.settings.page.single_classes}
    wrong = [i for class_id in class_ids for i in near_misses(store, class_id, store.images.count("pool") + 10_000)]
    open_ = [i for class_id in sorted(single) for i in _unasked(store, class_id)]
    ids = np.array([i for i in dict.fromkeys([*wrong, *open_]) if i not in done], np.int64)
    if not len(ids):
        return []
    masks, chance = store.masks.read(ids), np.zeros(len(ids))
    unasked = ~np.isin(ids, wrong)
    if unasked.any() and store.settings.search.policy == "target":
        chance[unasked] = chances_of(store, ids[unasked])[0]
    value = masks.score * (1 - chance) / seconds_each(store)
    order = np.lexsort((ids, -value))
    return [Candidate(int(ids[i]), float(value[i])) for i in order]


def _unasked(store: Store, class_id: int) -> list[int]:
    """Masks of a class in the newest round that nobody was asked about and whose object the dataset lacks."""
    current = store.rounds.newest()
    entry = next((t for t in store.trees.rows(current.number) if t.class_id == class_id), None) if current else None
    if current is None or entry is None or not entry.masks:
        return []
    voted = counted_verdicts(store)
    _, mask_ids = store.trees.read(current.number, class_id)
    masks = store.masks.read([i for i in np.asarray(mask_ids).tolist() if i not in voted])
    return drop_known(masks, final_masks(store), store.settings.rounds.dedupe_iou).mask_id.tolist()


def asked(store: Store) -> set[int]:
    """Masks that were put before annotators to be corrected, by clicks or with the brush."""
    return {q.mask_id for kind in (PageKind.CORRECT, PageKind.EDIT) for q, _ in store.questions.rows(kind=kind)}


def add_correct_pages(store: Store, mask_ids: Sequence[int]) -> int:
    """Stores a first page for each of these masks that has none, and gold among them; returns how many are new.

    Raises KeyError for no mask.
    """
    known = asked(store)
    new = [i for i in dict.fromkeys(int(i) for i in mask_ids) if i not in known]
    masks = store.masks.read(new)
    pages = [_page(store, i, c, 1, i) for i, c in zip(masks.mask_id.tolist(), masks.class_id.tolist(), strict=True)]
    in_order = {page.questions[0][0]: page for page in pages}
    pages = [in_order[i] for i in new]
    for page in _gold_pages(store, len(pages)):
        pages.insert(stable_hash(store.settings.seed, page.key) % (len(pages) + 1), page)
    return store.pages.add(pages)


def _page(
    store: Store, mask: int, class_id: int, visit: int, shown: int, more: dict[str, Any] | None = None
) -> NewPage:
    """The page of one visit to a mask, which begins from the mask `shown`."""
    number = 0 if is_drawn(mask) else round_of(mask)
    place = {"shown": shown, "visit": visit} | (more or {})
    key = _key(store, mask, visit)
    return NewPage(key, number, class_id, ((mask, None),), PageKind.CORRECT, screen=Screen.CORRECT, place=place)


def _key(store: Store, mask: int, visit: int) -> str:
    return f"{store.key}-k{mask}-{visit}"


def _visit(page: m.Page) -> int:
    return int((page.place or {})["visit"])


def _gold_pages(store: Store, count: int) -> list[NewPage]:
    """Gold for so many new pages: held-out predictions that are not quite right, each object once."""
    share, k_iou = store.settings.quality.gold_share, store.settings.search.k_iou
    current = store.rounds.newest()
    if not share or not count or current is None:
        return []
    rows = store.pages.rows(kind=PageKind.CORRECT)
    gold = sum(is_gold(p.place) for p in rows)
    wanted = int(np.ceil(share * (len(rows) - gold + count))) - gold
    columns = heldout(store).of_round(current.number)
    fit = (columns["iou"] >= GOLD_FROM) & (columns["iou"] < k_iou - GOLD_BELOW)
    used = {q.mask_id for q, _ in store.questions.rows()} | {
        i for shown in store.values.examples().values() for masks in shown.values() for i in masks
    }
    chosen = [i for i in columns["mask_id"][fit].tolist() if i not in used]
    chosen.sort(key=lambda i: stable_hash(store.settings.seed, GOLD_SALT, i))
    truths = {tuple((p.place or {})["truth"]["counts"]) for p in rows if is_gold(p.place)}
    pages: list[NewPage] = []
    for mask in chosen:
        if len(pages) >= wanted:
            break
        one = store.masks.read([mask])
        truth, before = _truth(store, one)
        if truth is not None and tuple(truth["counts"]) not in truths:
            truths.add(tuple(truth["counts"]))
            pages.append(_page(store, mask, int(one.class_id[0]), 1, mask, {"truth": truth, "before": before}))
    return pages


def _truth(store: Store, mask: Predictions) -> tuple[dict[str, Any] | None, float]:
    """The true mask that a held-out prediction overlaps most, and their IoU."""
    own = [
        a for a in store.images.annotated("heldout").annotations
        if a.image_id == int(mask.image_id[0]) and a.class_id == int(mask.class_id[0])
    ]  # fmt: skip
    if not own:
        return None, 0.0
    ious = mask_util.iou(mask.rles(), [a.rle for a in own], [0] * len(own))[0]
    best = own[int(np.argmax(ious))].rle
    return {"size": [int(v) for v in best["size"]], "counts": best["counts"].decode("ascii")}, float(ious.max())


def ask_for_corrections(store: Store, round_number: int) -> int:
    """Stores the pages that `rounds.correct` has corrected after a round that was verified; returns how many.

    It is a share of the people's time: of `search.budget_hours`, or without one of the time worked so far. Once for
    each round, and nothing waits for them.
    """
    note, share = store.values.get(Key.CORRECTIONS) or {}, store.settings.rounds.correct
    if not share or round_number in note.get("rounds", []):
        return 0
    hours, each = store.settings.search.budget_hours, seconds_each(store)
    if hours is not None:
        allowed = share * hours * 3600 * round_number / max(store.settings.rounds.rounds, round_number)
    else:
        allowed = share / (1 - share) * work(store).seconds(store.settings.search.seconds_per_answer)
    waiting = store.pages.count(PageKind.CORRECT) - len(correction_times(store))
    count = int((allowed - sum(correction_times(store)) - waiting * each) / each)
    wanted = [c.mask_id for c in candidates(store, list(store.classes()))[: max(count, 0)]]
    new = add_correct_pages(store, wanted)
    store.values.set(Key.CORRECTIONS, note | {"rounds": [*note.get("rounds", []), round_number]})
    return new


# Label Studio


def publish_corrections(store: Store, client: Client) -> int:
    """Publishes the pages that Label Studio does not hold yet; returns how many there were."""
    rows = store.pages.rows(published=False, kind=PageKind.CORRECT)
    if rows:
        project = ensure_project(store, client, Screen.CORRECT)
        url = store.settings.page.public_url
        connect_backend(client, project, url, "campaign", store.secret("backend_password"))
        newest = store.pages.newest_task(Screen.CORRECT)
        put(store, client, project, rows, partial(_tasks, store), newest, cursor_name(Screen.CORRECT))
        # Label Studio takes the name of predictions only once there are some.
        body = {"model_version": VERSION, "show_collab_predictions": True}
        client.request("PATCH", f"api/projects/{project}/", body=body, thing=f"project {project}", repeatable=True)
    return len(rows)


def publish_if_possible(store: Store, client: Client) -> int:
    """Publishes as `publish_corrections` does; where Label Studio takes no ML backend they wait, and the log says so.

    The questions of the campaign must not wait for that. Raises Unavailable.
    """
    try:
        return publish_corrections(store, client)
    except Unavailable:
        raise
    except LabelStudioError as error:
        logger.warning("corrections by clicks wait: %s", error)
        return 0


def _tasks(store: Store, rows: Sequence[m.Page]) -> dict[str, dict]:
    """Tasks by name: the part of the image around a mask, and the mask as a prediction to be changed."""
    shown = [int((row.place or {})["shown"]) for row in rows]
    masks = store.masks.read(shown)
    names, rules = store.classes(), class_rules(store)
    secret, base, days = store.secret("crop_key"), store.settings.page.public_url, store.settings.page.url_days
    tasks = {}
    for i, (row, rle) in enumerate(zip(rows, masks.rles(), strict=True)):
        expires = (row.created_at + timedelta(days=days)).timestamp()
        key, name = task_name(row), names[row.class_id]
        data = correct_data(key, name, crop_url(base, secret, shown[i], expires, row.number),
                            rules=rules.get(row.class_id, ""), code=store.settings.page.language)  # fmt: skip
        part = decode_window(rle, *window_of(masks, i))
        tasks[key] = drawn_task(key, data, correct_prediction(part, name, VERSION))
    return tasks


def window_of(masks: Predictions, row: int = 0) -> editing.Window:
    """The part of its image in which a mask is corrected."""
    height, width = (int(v) for v in masks.size[row])
    return editing.edit_window(masks.box[row].tolist(), width, height)


def subject_key(store: Store, page: m.Page) -> str:
    """What names the object of a page, and the mask that it begins from, among the server's steps."""
    return f"{store.key} {page.key} {(page.place or {})['shown']}"


def read_corrections(store: Store, client: Client) -> int:
    """Reads corrections back as facts; returns how many were new. Datasets of rounds that are over take them in."""
    project = store.values.project(Screen.CORRECT)
    if project is None:
        return 0

    def keep(tasks: Sequence[DrawnTask]) -> int:
        if not tasks:
            return 0
        log = StepLog(store.folder / STEPS)
        try:
            drawings, clicks = correction_facts(store, tasks, log)
        finally:
            log.close()
        store.clicks.add(clicks)
        new = add_drawings(store, tasks, drawings)
        # Before the cursor moves, and whether or not a turn that was killed has stored the facts already.
        for row in store.rounds.all():
            if row.stage == Stage.DONE:
                store.datasets.save(row.number, obtained(store, row.number))
        return new

    read = partial(read_drawings, client, project, partial(shown_pages, store))
    new = read_on(store, cursor_name(Screen.CORRECT), read, keep)
    add_next_visits(store)
    return new


def correct_facts(store: Store, tasks: Sequence[DrawnTask]) -> list[dict]:
    """The drawings that these pages tell, without their clicks."""
    return correction_facts(store, tasks, None)[0]


def correction_facts(store: Store, tasks: Sequence[DrawnTask], log: StepLog | None) -> tuple[list[dict], list[dict]]:
    """(drawings, clicks) that pages tell: what each annotation made of its mask and by which clicks."""
    pages = store.pages.some({t.page_key for t in tasks})
    standing, stamps = drawn_before(store, tasks)
    drawings: list[dict] = []
    clicks: list[dict] = []
    for task in tasks:
        page = pages.get(task.page_key)
        if page is None or page.kind != PageKind.CORRECT or page.place is None:
            continue
        shown = store.masks.read([int(page.place["shown"])])
        (question,) = store.questions.on_pages([page.key])
        base = {"page_key": page.key, "mask_id": question.mask_id, "image_id": int(shown.image_id[0])}
        for a in own_annotations(task.annotations, stamps):
            read = _Read.of(store, page, shown, a, log)
            drawings.append(base | drawing_fact(a, *read.outcome()))
            clicks += read.clicks()
        drawings += gone_facts(task, standing)
    return drawings, clicks


class _Read(NamedTuple):
    """One annotation of a page with the steps that the server noted of what it says."""

    page: m.Page
    shown: Predictions
    annotation: DrawnAnnotation
    said: Said
    steps: list[Step | None]

    @classmethod
    def of(cls, store: Store, page: m.Page, shown: Predictions, a: DrawnAnnotation, log: StepLog | None) -> _Read:
        x0, y0, x1, y1 = window_of(shown)
        said = read_said(a.result, y1 - y0, x1 - x0, int(time.time() * 1000))
        known = log.of_subject(subject_key(store, page)) if log is not None else []
        wanted = [(said.box, said.clicks[:n]) for n in range(0 if said.box else 1, len(said.clicks) + 1)]
        return cls(page, shown, a, said, [_matching(known, box, clicks) for box, clicks in wanted])

    def outcome(self) -> tuple[str, list[dict]]:
        """What the annotation says of its mask, and the corrected shape.

        Where the answers to its clicks were not accepted it still holds the mask of before: then the last answer is
        what the annotator saw.
        """
        state, shapes = outcome(self.shown, self.annotation)
        last = self.steps[-1] if self.steps else None
        if state != CORRECTED or not self.said.unanswered or last is None:
            return state, shapes
        rle = self._whole(last)
        return (NOTHING, []) if rle is None else (CORRECTED, [{"class_id": int(self.shown.class_id[0]), **rle}])

    def clicks(self) -> list[dict]:
        """A fact for each step: what was said, and the masks before and after it."""
        x0, y0 = window_of(self.shown)[:2]
        a, said = self.annotation, self.said
        made: list[tuple[str, float, float, float | None, float | None, int]] = []
        if said.box is not None:
            made.append(("box", *said.box, said.box_at))
        for p in said.points:
            made.append(("positive" if p.click.positive else "negative", p.click.x, p.click.y, None, None, p.at))
        rle = self.shown.rles()[0]
        before: dict[str, Any] | None = {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode("ascii")}
        rows: list[dict] = []
        for number, ((kind, x, y, right, low, at), step) in enumerate(zip(made, self.steps, strict=True)):
            after = None if step is None else self._whole(step, empty=True)
            noted = at / 1000 if not said.unanswered else None if step is None else step.at
            rows.append(
                {
                    "page_key": self.page.key, "annotation_id": a.id, "annotator": str(a.user),
                    "answered_at": a.updated_at, "number": number, "kind": kind, "x": x + x0, "y": y + y0,
                    "x1": None if right is None else right + x0, "y1": None if low is None else low + y0,
                    "clicked_at": noted, "before": before, "after": after,
                    "predicted_iou": None if step is None else step.predicted_iou,
                    "model_version": None if step is None else step.version,
                }
            )  # fmt: skip
            before = after
        return rows

    def _whole(self, step: Step, empty: bool = False) -> dict[str, Any] | None:
        """The mask of a step in its whole image; None where it holds nothing, unless that is wanted `empty`."""
        height, width = (int(v) for v in self.shown.size[0])
        x0, y0, x1, y1 = window_of(self.shown)
        whole = np.zeros((height, width), np.uint8, order="F")
        if step.size == (y1 - y0, x1 - x0):
            whole[y0:y1, x0:x1] = step.mask()
        if not empty and not whole.any():
            return None
        return {"size": [height, width], "counts": mask_util.encode(whole)["counts"].decode("ascii")}


def _matching(known: Sequence[Step], box: Any, clicks: Sequence[Any]) -> Step | None:
    """The newest step that answered this, whichever model did."""

    def places(box: Any, clicks: Sequence[Any]) -> list[float]:
        return [*(box or ()), *(v for c in clicks for v in (c.x, c.y, float(c.positive) * 1e6))]

    wanted = places(box, clicks)
    for step in reversed(known):
        said = places(step.box, step.clicks)
        if (step.box is None) == (box is None) and len(said) == len(wanted) and np.allclose(said, wanted, atol=0.01):
            return step
    return None


def add_next_visits(store: Store) -> int:
    """Stores a page for every mask that is to be visited once more; returns how many.

    A mask is, as long as `correct.visits` allow and the visit before changed it, unless `M_r` takes it for correct:
    those that together keep `search.precision` get none. The least likely correct come first; of whose correctness
    nothing is known, before them.
    """
    if store.settings.correct.visits == 1:
        return 0
    waiting = _waiting(store)
    judged = judgements(store, [d for d, _ in waiting])
    accepted = accepted_unseen(store, judged)
    left = [(d, page) for d, page in waiting if drawn_id(d.id) not in accepted]
    left.sort(key=lambda row: judged[drawn_id(row[0].id)].chance if drawn_id(row[0].id) in judged else -1.0)
    return store.pages.add(
        _page(store, int(d.mask_id or 0), page.class_id, _visit(page) + 1, drawn_id(d.id)) for d, page in left
    )


def _waiting(store: Store) -> list[tuple[m.Drawing, m.Page]]:
    """Masks as they were changed by their last visit, with its page, that could be visited again and are not yet."""
    rows = {p.key: p for p in store.pages.rows(kind=PageKind.CORRECT) if not is_gold(p.place)}
    most = store.settings.correct.visits
    corrected = {d.page_key: d for d in counted_corrections(store).values() if d.state == CORRECTED}
    steps = store.clicks.of_annotations([d.annotation_id for d in corrected.values()])
    return [
        (d, rows[key])
        for key, d in sorted(corrected.items())
        if key in rows and steps.get((d.annotation_id, d.answered_at)) and _visit(rows[key]) < most
        and _key(store, int(d.mask_id or 0), _visit(rows[key]) + 1) not in rows
    ]  # fmt: skip


def summary(store: Store) -> dict[str, Any]:
    """Pages, what came of them, and who corrected how well; gold is not among the pages."""
    rows = [p for p in store.pages.rows(kind=PageKind.CORRECT) if not is_gold(p.place)]
    keys = {p.key for p in rows}
    corrections = [d for d in counted_corrections(store).values() if d.page_key in keys]
    ids, held = set(standing_masks(store).mask_id.tolist()), correctors(store)
    times = correction_times(store)
    people = store.values.people()
    judged = judgements(store, corrections)
    waiting = {drawn_id(d.id) for d, _ in _waiting(store)}
    unseen = accepted_unseen(store, {i: j for i, j in judged.items() if i in waiting})
    return {
        "pages": len(rows),
        "masks": len({p.key.rsplit("-", 1)[0] for p in rows}),
        "corrected": sum(d.state == CORRECTED for d in corrections),
        "no_object": sum(d.state == NOTHING for d in corrections),
        "in_dataset": sum(drawn_id(d.id) in ids for d in corrections),
        "judged": len(judged),
        "expected_correct": round(sum(j.chance for j in judged.values()), 1) if judged else None,
        "accepted_unseen": len(unseen),
        "clicks": sum(c.clicks for c in held),
        "seconds_each": round(float(np.median(times)), 1) if times else None,
        "people": [
            {
                "user": c.user, "email": people.get(c.user), "corrections": c.corrections, "clicks": c.clicks,
                "seconds": c.seconds, "gold": c.gold, "gold_right": c.right, "too_fast": c.fast,
                "held_back": [list(t) for t in c.held_back],
            }
            for c in held
        ],
    }  # fmt: skip
