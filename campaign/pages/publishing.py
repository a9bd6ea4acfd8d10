"""Stored pages put into Label Studio, neither doubled nor lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from datetime import timedelta

from campaign.label_studio.client import Client
from campaign.label_studio.verification import Page, PageMask, publish_pages
from campaign.pages.instructions import class_rules
from campaign.pages.projects import QUESTIONS, ensure_project
from campaign.quality.measures import page_order
from campaign.records.page import PageKind
from campaign.store import Store
from campaign.store import models as m
from ml_backend.server.signing import crop_url


def publish_missing(store: Store, client: Client) -> list[str]:
    """Publishes the stored pages of questions that Label Studio does not hold yet; returns their keys."""
    rows = [p for p in store.pages.rows(published=False) if p.kind != PageKind.QUALIFY]
    for screen in QUESTIONS:
        pages = [page for page in rows if page.screen == screen]
        if pages:
            publish_pages(
                client,
                ensure_project(store, client, screen),
                build_pages(store, pages),
                # Pages newer than the last one noted may be there already, if a turn was killed before it noted them.
                after=store.pages.newest_task(screen),
                published=store.pages.mark_published,
            )
    return [page.key for page in rows if page.screen in QUESTIONS]


def build_pages(store: Store, rows: Sequence[m.Page]) -> list[Page]:
    """Pages with their masks and the signed addresses of the crops."""
    shown: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for a in store.questions.on_pages([row.key for row in rows]):
        shown[a.page_key].append((a.mask_id, a.gold is not None))
    order = {row.key: page_order(row.key, shown[row.key]) for row in rows}
    # All masks at once: every shard is read once, however many pages show its masks.
    masks = store.masks.read([mask for row in rows for mask in order[row.key]])
    names = {i: image.file_name for i, image in store.images.some(masks.image_id.tolist()).items()}
    classes, rules = store.classes(), class_rules(store)
    secret, base, days = store.secret("crop_key"), store.settings.page.public_url, store.settings.page.url_days
    built = []
    start = 0
    rles = masks.rles()
    for row in rows:
        expires = (row.created_at + timedelta(days=days)).timestamp()
        end = start + len(order[row.key])
        crops = [
            PageMask(
                mask_id=int(masks.mask_id[i]),
                image=names[int(masks.image_id[i])],
                image_id=int(masks.image_id[i]),
                box=[float(v) for v in masks.box[i]],
                rle={"size": rles[i]["size"], "counts": rles[i]["counts"].decode("ascii")},
                url=crop_url(base, secret, int(masks.mask_id[i]), expires),
            )
            for i in range(start, end)
        ]
        title = f"Which outlines are not a correct {classes[row.class_id]}?"
        built.append(Page(row.key, classes[row.class_id], title, crops, rules.get(row.class_id, ""), row.screen))
        start = end
    return built
