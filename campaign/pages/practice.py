"""Practice: pages of masks whose answer is known, each of which says at once what was right and why.

What was right stands in the page itself, hidden until the annotator asks for it: Label Studio runs no script of ours,
so nothing could be told after the submit. Nothing is read back of practice, and its masks are never gold, nor was any
of them: what it tells helps nobody in real work.
"""

from __future__ import annotations

import time
from collections import defaultdict
from secrets import token_hex
from typing import Any

from campaign.label_studio.client import Client
from campaign.label_studio.verification import create_project, drawn_task, publish_tasks
from campaign.pages.gold import clear_pages
from campaign.pages.instructions import DAY, class_rules, project_instructions
from campaign.quality.mistakes import Fault, Mistake, mistake
from campaign.records.page import EVERYONE
from campaign.store import Store
from campaign.store.values import Key
from label_config import Crop, Language, Lesson, language, load, practice_data
from ml_backend.errors import InputError
from ml_backend.server.signing import crop_url


def practices(store: Store) -> list[dict[str, Any]]:
    """The practices made so far, {"number", "project"}."""
    return [{"number": p["number"], "project": p["project"]} for p in _made(store) if p["project"] is not None]


def begin_practice(store: Store, client: Client, pages: int | None = None) -> int:
    """Makes a practice of masks that nobody was shown, publishes it, and returns its project's id.

    `pages` by default as set in `quality.practice_pages`. Killed halfway and run again, it goes on with the same one.
    Raises InputError where there is no gold.
    """
    with store.locked():
        made = _made(store)
        if not made or made[-1]["project"] is not None:
            drawn = clear_pages(store, pages or store.settings.quality.practice_pages)
            if not drawn:
                raise InputError("practice", "held-out images with predictions whose answer is known", "none left")
            shown = [{"key": f"{store.key}-x{token_hex(8)}", "class": c, "gold": {str(i): v for i, v in g.items()}}
                     for c, g in drawn]  # fmt: skip
            made.append({"number": len(made) + 1, "project": None, "pages": shown})
            store.values.set(Key.PRACTICE, {"made": made})
        own, words = made[-1], language(store.settings.page.language)
        named = words.gettext("Practice {number}", number=own["number"])
        project = create_project(
            client, f"{named}: {store.settings.name} [{store.key}]", label_config=load("practice", code=words.code).xml,
            instructions=project_instructions(store, "practice"), overlap=EVERYONE,
        )  # fmt: skip
        publish_tasks(client, project, _tasks(store, own["pages"], words))
        own["project"] = project
        store.values.set(Key.PRACTICE, {"made": made})
        store.log(f"practice {own['number']} published, {len(own['pages'])} pages")
    return project


def _made(store: Store) -> list[dict[str, Any]]:
    return list((store.values.get(Key.PRACTICE) or {}).get("made", []))


def _tasks(store: Store, pages: list[dict[str, Any]], words: Language) -> dict[str, dict[str, Any]]:
    rules, classes = class_rules(store), store.classes()
    secret, base = store.secret("crop_key"), store.settings.page.public_url
    expires = time.time() + store.settings.page.url_days * DAY
    lessons = _lessons(store, [int(mask) for page in pages for mask in page["gold"]], words)
    tasks = {}
    for page in pages:
        name, masks = classes[page["class"]], [int(mask) for mask in page["gold"]]
        data = practice_data(
            page["key"], name, [Crop(token_hex(8), crop_url(base, secret, mask, expires)) for mask in masks],
            [Lesson(page["gold"][str(mask)] == "yes", lessons[mask]) for mask in masks],
            title=words.gettext("Which outlines are not a correct {class_name}?", class_name=name),
            rules=rules.get(page["class"], ""), code=words.code,
        )  # fmt: skip
        tasks[page["key"]] = drawn_task(page["key"], data)
    return tasks


def _lessons(store: Store, mask_ids: list[int], words: Language) -> dict[int, str]:
    """Why each of these masks is wrong, "" where it is not."""
    masks, classes = store.masks.read(mask_ids), store.classes()
    truths: dict[int, list[tuple[int, dict]]] = defaultdict(list)
    wanted = set(masks.image_id.tolist())
    for annotation in store.images.annotated("heldout").annotations:
        if annotation.image_id in wanted:
            truths[annotation.image_id].append((annotation.class_id, annotation.rle))
    said = {}
    for n, mask in enumerate(masks.mask_id.tolist()):
        found = mistake(
            masks.rles()[n], int(masks.class_id[n]), truths[int(masks.image_id[n])], store.settings.search.k_iou
        )
        said[mask] = "" if found is None else reason(found, words, classes)
    return said


def reason(found: Mistake, words: Language, classes: dict[int, str]) -> str:
    """A mistake in a sentence."""
    missing, extra = round(100 * found.missing), round(100 * found.extra)
    other = classes.get(found.class_id or 0, "")
    return {
        Fault.TOO_LARGE: words.gettext("Too large: {extra} % of the mask lies beside the object.", extra=extra),
        Fault.TOO_SMALL: words.gettext("Too small: {missing} % of the object is missing.", missing=missing),
        Fault.BESIDE: words.gettext(
            "Does not fit: {missing} % of the object is missing, {extra} % of the mask lies beside it.",
            missing=missing, extra=extra,
        ),
        Fault.SEVERAL: words.gettext("{number} objects in one mask.", number=found.number),
        Fault.OTHER_CLASS: words.gettext("Another class: {class_name}.", class_name=other),
        Fault.NOTHING: words.gettext("There is no such object here."),
    }[found.fault]  # fmt: skip
