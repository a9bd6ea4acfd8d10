"""What annotators read: the lead's Markdown files in the campaign folder, with example crops of the campaign.

Three levels, as in the corrective-clicks study (Benenson et al.): how the task works, rules for every class, rules for
a class or a group of classes. Good and bad examples are held-out predictions whose IoU with the true mask is known.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from campaign.derived.gold import gold_supply
from campaign.label_studio.client import Client
from campaign.pages.gold import practised
from campaign.quality.measures import stable_hash
from campaign.records.page import Screen
from campaign.records.verdict import Verdict
from campaign.store import Store
from campaign.store.objects import digest_of
from campaign.store.values import Key
from label_config import Instructions
from label_config.instructions import DEFAULTS, default_text, examples_html
from ml_backend.errors import InputError
from ml_backend.files import write_whole
from ml_backend.server.signing import crop_url

FOLDER = "instructions"
BASE = ".shared.json"  # beside copies of shared texts: what these were when they were copied
EXAMPLES_EACH = 4
CLEARLY_GOOD, NEARLY_GOOD = 0.85, 0.35  # IoU of good examples at least, and of bad ones: a mask on nothing teaches less
DAY = 86400
TEMPLATE = """classes: {name}
<!--
Rules for {name}, in Markdown; they are shown above the rules for every class. Where several classes share rules, name
them all in the first line, with commas. ![words](crop:123) shows the crop of mask 123; a mask's number stands on its
page in the cluster explorer. As long as no crop is named here, examples are chosen by themselves. Now these are:
good {good}
bad {bad}
-->
"""


def texts_of(store: Store) -> Instructions:
    """The texts of a campaign: the lead's, else the package's in the campaign's language."""
    folder, page = store.files.folder(store.folder / FOLDER), store.settings.page
    return Instructions(folder, page.language, page.change_hours)


def class_rules(store: Store, wanted: Collection[int] | None = None) -> dict[int, str]:
    """HTML of the rules of each class, its own first, with examples: what the class's pages show.

    With `wanted` those of these classes only.
    """
    texts, shown = texts_of(store), examples(store)
    url = _urls(store)
    return {
        class_id: texts.class_html(name, url, _rows(texts, name, shown.get(class_id), url))
        for class_id, name in store.classes().items()
        if wanted is None or class_id in wanted
    }


def project_instructions(store: Store, screen: str = "verification") -> str:
    """HTML that Label Studio shows before the first page: all three levels."""
    texts, shown = texts_of(store), examples(store)
    url = _urls(store)
    rows = {name: _rows(texts, name, shown.get(i), url) for i, name in store.classes().items()}
    return texts.project_html(url, screen, rows)


def examples(store: Store) -> dict[int, dict[str, list[int]]]:
    """{class: {"good": mask ids, "bad": mask ids}}, chosen once, as soon as there are held-out predictions.

    Masks shown as examples are never gold.
    """
    known = store.values.examples()
    missing = [i for i in store.classes() if i not in known]
    if not missing or not any(store.masks.shards(r.number, "heldout") for r in store.rounds.all()):
        return known
    gold = {q.mask_id for q, _ in store.questions.gold()} | practised(store).keys()
    supply = sorted(gold_supply(store), key=lambda g: stable_hash("example", g.mask_id))
    for class_id in missing:
        of_class = [g for g in supply if g.class_id == class_id and g.mask_id not in gold and not g.near]
        good = sorted((g for g in of_class if g.truth == Verdict.YES), key=lambda g: g.iou < CLEARLY_GOOD)
        bad = sorted((g for g in of_class if g.truth == Verdict.NO), key=lambda g: g.iou < NEARLY_GOOD)
        # A tenth of what there is at most: the rest is wanted as gold.
        known[class_id] = {
            word: [g.mask_id for g in chosen[: min(EXAMPLES_EACH, math.ceil(len(chosen) / 10))]]
            for word, chosen in (("good", good), ("bad", bad))
        }
    store.values.set_examples(known)
    return known


def keep_instructions(store: Store, client: Client) -> int:
    """Puts the instructions into the campaign's projects where the texts changed or addresses grow old.

    Returns how many projects were updated.
    """
    shown = dict(store.values.get(Key.INSTRUCTIONS_SHOWN) or {})
    updated = 0
    for screen in Screen:
        project = store.values.project(screen)
        if project is None:
            continue
        digest = _digest(store, screen)
        before, at = shown.get(screen, ("", 0.0))
        if before == digest and time.time() - at < store.settings.page.url_days * DAY / 2:
            continue
        body = {"expert_instruction": project_instructions(store, screen), "show_instruction": True}
        client.request("PATCH", f"api/projects/{project}/", body=body, thing=f"project {project}", repeatable=True)
        shown[screen] = [digest, time.time()]
        updated += 1
    if updated:
        store.values.set(Key.INSTRUCTIONS_SHOWN, shown)
    return updated


def write_templates(store: Store, take_desk: bool = False) -> list[Path]:
    """The lead's files; those that are not there yet are made, so that they can be changed.

    Of a campaign at a URL they are copies on the lead's desk. What was changed there is shared, and what others have
    shared since is copied there. Where a text was changed in both places it raises InputError and changes nothing,
    unless `take_desk` says that the desk's counts.
    """
    folder, shared = store.desk / FOLDER, store.folder / FOLDER
    if folder == shared:
        return _with_templates(store, folder)
    base = _base(folder)
    ours, theirs = _digests(folder), _digests(store.files.folder(shared))
    differing = [name for name in theirs if name in ours and ours[name] != theirs[name]]
    if not take_desk:
        for name in differing:
            if base.get(name) not in (ours[name], theirs[name]):
                expected = "a text that was changed here or by others since it was copied, not both"
                hint = "remove it to take the shared one, or use --take-mine to share this one"
                raise InputError(folder / name, expected, f"another than the shared one; {hint}")
    for name in theirs:
        if name not in ours or (name in differing and not take_desk and base.get(name) == ours[name]):
            write_whole(folder / name, partial(shutil.copyfile, shared / name), durable=False)
    paths = _with_templates(store, folder)
    now = _digests(folder)
    for name in now:
        if now[name] != theirs.get(name):
            store.files.write(shared / name, partial(shutil.copyfile, folder / name))
    write_whole(folder / BASE, lambda path: path.write_text(json.dumps(now, indent=1)), durable=False)
    return paths


def _with_templates(store: Store, folder: Path) -> list[Path]:
    """The lead's files in a folder, with templates for those that are missing."""
    (folder / "classes").mkdir(parents=True, exist_ok=True)
    shown = examples(store)
    paths = []
    for path in sorted(DEFAULTS.glob("*.md")):
        paths.append(folder / path.name)
        if not paths[-1].exists():
            paths[-1].write_text(default_text(path.name, store.settings.page.language), encoding="utf-8")
    described = Instructions(folder).classes
    for class_id, name in store.classes().items():
        path = folder / "classes" / f"{re.sub(r'[^A-Za-z0-9_-]+', '-', name).strip('-') or class_id}.md"
        if name.lower() not in described and not path.exists():
            chosen = shown.get(class_id, {})
            words = {word: " ".join(f"crop:{i}" for i in chosen.get(word, [])) or "none" for word in ("good", "bad")}
            path.write_text(TEMPLATE.format(name=name, **words), encoding="utf-8")
    return [*paths, *sorted((folder / "classes").glob("*.md"))]


def _digests(folder: Path) -> dict[str, str]:
    """{path in the folder: digest} of the texts in it."""
    return {path.relative_to(folder).as_posix(): digest_of(path) for path in sorted(folder.rglob("*.md"))}


def _base(folder: Path) -> dict[str, str]:
    """{path in the folder: digest} of the texts as they were when they last were the shared ones."""
    try:
        content = json.loads((folder / BASE).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a copy of before, or none
        return {}
    return content if isinstance(content, dict) else {}


def _rows(texts: Instructions, name: str, shown: dict[str, list[int]] | None, url: Callable[[int], str]) -> str:
    """Example crops in two rows; none where the lead's text names its own."""
    if shown is None or "(crop:" in texts.classes.get(name.lower(), ""):
        return ""
    return examples_html([url(i) for i in shown["good"]], [url(i) for i in shown["bad"]], texts.code)


def _urls(store: Store) -> Callable[[int], str]:
    """Addresses of crops; the same all day, so that a browser loads each example once."""
    secret, base = store.secret("crop_key"), store.settings.page.public_url
    expires = (time.time() // DAY + 1 + store.settings.page.url_days) * DAY
    return lambda mask: crop_url(base, secret, mask, expires)


def _digest(store: Store, screen: str) -> str:
    """Changes with the texts and the examples, not with the time."""
    texts, shown = texts_of(store), examples(store)
    parts = (texts.project_html(None, screen), sorted(shown.items()))
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).hexdigest()
