"""Pages and answers for the tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from campaign.label_studio.readback import Pages
from campaign.label_studio.verification import Page
from campaign.records.page import ShownPage
from label_config import Crop


def page(key: str, first: int = 0, masks: int = 3) -> Page:
    """A page of masks with the ids `first` and on, called by them."""
    crops = [Crop(str(first + i), f"http://127.0.0.1:9/{first + i}") for i in range(masks)]
    return Page(key=key, class_name="nucleus", title=f"Page {key}", crops=crops)


def published(tasks: Mapping[str, int], pages: Sequence[Page]) -> Pages:
    """What the reader is told of pages that were published as these tasks."""
    known = {tasks[p.key]: ShownPage(p.key, {c.name: int(c.name) for c in p.crops}) for p in pages}
    return lambda wanted: {task: page for task, page in known.items() if task in wanted}


def answer(status: str | None = "reviewed", wrong: list[int | str] = (), doubt: list[int | str] = ()) -> list[dict]:  # type: ignore[assignment]
    """The result of an annotation as the labeling screen makes it."""
    chosen = {"status": [status] if status else [], "wrong": [str(w) for w in wrong], "doubt": [str(d) for d in doubt]}
    return [
        {"id": name, "from_name": name, "to_name": "title", "type": "choices", "value": {"choices": values}}
        for name, values in chosen.items()
        if values
    ]
