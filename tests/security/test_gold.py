"""A cheat who wants to answer gold right and "yes" to the rest: nothing that a page shows tells which masks are gold.

500 pages are published as annotators get them; a classifier is trained on all that they say beside their pictures.
Held-out and other masks look alike here, so whatever it finds is a leak.
"""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from collections import Counter
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as mask_util

from campaign.label_studio.verification import page_task
from campaign.pages.publishing import build_pages
from campaign.records.page import NewPage, PageKind, Screen
from campaign.settings import CampaignSettings
from campaign.store import Store
from campaign.web.serving import StoreCrops
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions
from ml_backend.server.app import create_app

PAGES, ON_PAGE, GOLD = 500, 6, 2
SHARDS, IMAGES, PER_IMAGE, SIDE = 40, 2, 26, 96
WORDS = 64  # of the hashed bag of character pairs


def predictions(rng: np.random.Generator, images: list[int]) -> Predictions:
    """Squares of random place and size: of every split alike."""
    n = len(images) * PER_IMAGE
    boxes = np.column_stack([rng.integers(0, 60, (n, 2)), rng.integers(8, 34, (n, 2))])
    counts = np.empty(n, object)
    for i, (x, y, w, h) in enumerate(boxes.tolist()):
        mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
        mask[y : y + h, x : x + w] = 1
        counts[i] = mask_util.encode(mask)["counts"]
    return Predictions(
        np.arange(n), np.repeat(images, PER_IMAGE), np.ones(n, np.int32), boxes.astype(np.float32), counts,
        np.full((n, 2), SIDE), rng.uniform(0.3, 0.9, n).astype(np.float32), np.ones(n, np.float32),
        np.zeros((n, 4), np.float16),
    )  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """A campaign with 500 pages of six masks, two of them gold; audits ask about some masks once more."""
    folder: Path = tmp_path_factory.mktemp("gold")
    rng, data = np.random.default_rng(3), {}
    for split, images in (("heldout", IMAGES * SHARDS // 2), ("pool", IMAGES * SHARDS)):
        records = []
        for n in range(images):
            path = folder / f"{split}-{n}.png"
            Image.fromarray(rng.integers(0, 255, (SIDE, SIDE, 3), np.uint8)).save(path)
            records.append(ImageRecord(n + 1, path.name, SIDE, SIDE, path))
        data[split] = CocoDataset(records, {1: "cell"})
    store = Store.create(folder / "c", CampaignSettings(name="t"), data)
    store.rounds.start(1, "verify")
    store.rounds.update(1, model_version="v1")
    ids: dict[str, list[int]] = {"heldout": [], "pool": []}
    for split in ids:
        own = [image.id for image in store.images.records(split)]
        for number in range(len(own) // IMAGES):
            shard = predictions(rng, own[IMAGES * number : IMAGES * (number + 1)])
            ids[split] += store.masks.save_shard(1, split, number, shard, IMAGES, 0.0).mask_id.tolist()
    gold, asked = rng.permutation(ids["heldout"]).tolist(), rng.permutation(ids["pool"]).tolist()
    pages = []
    for n in range(PAGES):
        hidden = {i: ("yes", "no")[i % 2] for i in gold[GOLD * n : GOLD * (n + 1)]}
        real = asked[(ON_PAGE - GOLD) * n : (ON_PAGE - GOLD) * (n + 1)]
        shown = tuple((i, None) for i in (*sorted(real), *hidden))
        screen = Screen.VERIFICATION if n % 5 else Screen.SINGLE
        if screen == Screen.SINGLE:  # a page for each mask
            for mask, _ in shown:
                own = {mask: hidden[mask]} if mask in hidden else {}
                pages.append(NewPage(f"k{n}-{mask}", 1, 1, ((mask, None),), PageKind.VERIFY, own, screen))
        else:
            pages.append(NewPage(f"k{n}", 1, 1, shown, PageKind.VERIFY if n % 7 else "audit1", hidden))
    rng.shuffle(pages)
    store.pages.add(pages)
    return store


def strings(value: object) -> list[str]:
    """Every text and number in a piece of JSON."""
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in (k, *strings(v))]
    return [s for v in value for s in strings(v)] if isinstance(value, list) else [str(value)]


def token_bytes(token: str) -> bytes:
    """A token as far as a cheat can read it."""
    text = re.sub(r"\.jpg$", "", token).split(".")[0]
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except ValueError:
        return b""


def features(texts: list[str], address: str, answer, seconds: float, place: int, seen: Counter[str]) -> list[float]:
    """All that a cheat can count of one mask."""
    token = address.rsplit("/", 1)[1]
    raw = token_bytes(token)
    whole = " ".join(texts)
    words = np.zeros(WORDS)
    for source in (*texts, *answer.headers.keys(), *answer.headers.values()):
        for k in range(len(source) - 1):
            words[zlib.crc32(source[k : k + 2].encode()) % WORDS] += 1
    numbers = [float(t) for t in texts if re.fullmatch(r"-?\d+(\.\d+)?", t)]
    digits = re.findall(rb"\d+", raw)
    return [
        place, len(whole), len(texts), len(token), len(raw), *(raw[:16].ljust(16, b"\0")),
        max(numbers, default=-1.0), min(numbers, default=-1.0), float(digits[0]) if digits else -1.0,
        max(seen[t] for t in texts if len(t) > 3), seen[token], len(answer.data), len(answer.headers), seconds, *words,
    ]  # fmt: skip


def data_sheet(data: dict) -> str:
    """The address of the picture of all crops of a page."""
    return re.findall(r"src='([^'?]+/sheets/[^'?]+)'", data["crops"][0]["html"])[0]


def per_mask(task: dict) -> list[tuple[str, list[str], str]]:
    """(choice value, all texts that concern it, the address of its crop) of every mask on a page, as it is shown."""
    data, meta = task["data"], task["meta"]
    crops = data.get("crops") or [{"value": data.get("mask_id", "single"), "html": data["views"]}]
    own = []
    for place, crop in enumerate(crops):
        value = str(crop["value"])
        texts = [value, *strings(crop), *strings(data.get("doubts", [])[place : place + 1]), data["key"], meta["key"]]
        for listed in (data.get("masks", []), meta.get("masks", [])):
            texts += [s for row in listed if value in strings(row) or len(listed) == 1 for s in strings(row)]
        found = {a.partition("?")[0].partition("&")[0] for a in re.findall(r"(?:src|href)='([^']+)'", crop["html"])}
        (address,) = {a for a in found if "/crops/" in a}
        # Beside it there is the picture of the whole page at most, the same for all of its masks.
        assert {a for a in found if "/crops/" not in a} == ({data_sheet(data)} if "crops" in data else set())
        own.append((value, texts, address))
    return own


def test_no_classifier_tells_gold_from_questions(store):
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict

    rows = store.pages.rows()
    gold = {
        (q.page_key, getattr(q, "name", None) or str(q.mask_id)): q.gold for q, _ in store.questions.rows(gold=True)
    }
    web = create_app(StoreCrops(store), secret=store.secret("crop_key")).test_client()
    masks = [(row.key, *mask) for row, page in zip(rows, build_pages(store, rows), strict=True)
             for mask in enumerate(per_mask(page_task(page)))]  # fmt: skip
    seen = Counter(s for _, _, (_, texts, address) in masks for s in {*texts, address.rsplit("/", 1)[1]})
    x, y, groups = [], [], []
    for key, place, (value, texts, address) in masks:
        begin = time.perf_counter()
        answer = web.get(urlparse(address).path)
        seconds = time.perf_counter() - begin
        assert answer.status_code == 200
        known = gold[key, value] if (key, value) in gold else gold[key, next(v for k, v in gold if k == key)]
        x.append(features(texts, address, answer, seconds, place, seen))
        y.append(known is not None)
        groups.append(zlib.crc32(key.partition("-")[0].encode()))
    x, y = np.array(x), np.array(y)
    assert len(y) == PAGES * ON_PAGE and y.sum() == PAGES * GOLD
    forest = ExtraTreesClassifier(100, min_samples_leaf=5, random_state=0, n_jobs=1)
    said = cross_val_predict(forest, x, y, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
    auc = roc_auc_score(y, said)
    # Of no knowledge the AUC is 1/2 with this deviation (Hanley and McNeil 1982).
    deviation = np.sqrt((len(y) + 1) / (12 * y.sum() * (len(y) - y.sum())))
    print(json.dumps({"auc": round(auc, 4), "deviation": round(deviation, 4)}))
    assert abs(auc - 0.5) < 3.5 * deviation
