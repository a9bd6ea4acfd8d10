"""Pages and answers for the tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.label_studio.verification import Page, PageMask


def square(x: int, y: int, side: int = 20, size: tuple[int, int] = (64, 64)) -> dict[str, Any]:
    """A square mask as COCO compressed RLE with text counts."""
    mask = np.zeros(size, np.uint8, order="F")
    mask[y : y + side, x : x + side] = 1
    rle = mask_util.encode(mask)
    return {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()}


def page(key: str, first: int = 0, masks: int = 3) -> Page:
    """A page of masks with the ids `first` and on."""
    return Page(
        key=key,
        class_name="nucleus",
        title=f"Page {key}",
        masks=[
            PageMask(
                first + i, "a.png", 1, [float(i), 0.0, 20.0, 20.0], square(i, 0), f"http://127.0.0.1:9/{first + i}"
            )
            for i in range(masks)
        ],
    )


def answer(status: str | None = "reviewed", wrong: list[int | str] = (), doubt: list[int | str] = ()) -> list[dict]:  # type: ignore[assignment]
    """The result of an annotation as the labeling screen makes it."""
    chosen = {"status": [status] if status else [], "wrong": [str(w) for w in wrong], "doubt": [str(d) for d in doubt]}
    return [
        {"id": name, "from_name": name, "to_name": "title", "type": "choices", "value": {"choices": values}}
        for name, values in chosen.items()
        if values
    ]
