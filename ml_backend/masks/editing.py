"""Masks to be corrected by hand: cut out for Label Studio's brush, and put back into their image.

A small object in a large image can hardly be painted, so the annotator gets the part around it, pixel for pixel.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as mask_util

from ml_backend.errors import InputError
from ml_backend.masks.brush import decode_brush
from ml_backend.masks.regions import Target, to_regions
from ml_backend.masks.rendering import brightened
from ml_backend.masks.rle import decode_window

Window = tuple[int, int, int, int]
# Names in the labeling configs `edit` and `paint`.
MASK, IMAGE, VERDICT, TITLE = "mask", "image", "verdict", "title"
CORRECTED, NO_OBJECT, UNSURE = "corrected", "no such object", "unsure"
CONTEXT = 0.75
LEAST_SIDE = 48


def edit_window(box: Sequence[float], width: int, height: int) -> Window:
    """The part x0, y0, x1, y1 of an image of width x height pixels in which the mask in `box` is edited."""
    x, y, w, h = (float(v) for v in box)
    margin = max(CONTEXT * max(w, h), (LEAST_SIDE - max(w, h)) / 2)
    x0, y0 = max(int(x - margin), 0), max(int(y - margin), 0)
    return x0, y0, min(int(np.ceil(x + w + margin)), width), min(int(np.ceil(y + h + margin)), height)


def cut_image(image: np.ndarray, window: Window) -> bytes:
    """A PNG of that part of `image`, (height, width, 3) uint8, brightened where it is dark."""
    x0, y0, x1, y1 = window
    out = io.BytesIO()
    Image.fromarray(brightened(np.ascontiguousarray(image[y0:y1, x0:x1]))).save(out, "PNG", compress_level=1)
    return out.getvalue()


def whole_image(image: np.ndarray) -> bytes:
    """A JPEG of all of `image`, pixel for pixel, brightened where it is dark: to paint on."""
    out = io.BytesIO()
    Image.fromarray(brightened(image)).save(out, "JPEG", quality=92)
    return out.getvalue()


def edit_prediction(rle: dict, window: Window, label: str, model_version: str) -> dict[str, Any]:
    """The Label Studio prediction that puts the mask on an `edit` page. It fills every required control."""
    part = mask_util.encode(np.asfortranarray(decode_window(rle, *window).astype(np.uint8)))
    verdict = {
        "id": "verdict",
        "from_name": VERDICT,
        "to_name": TITLE,
        "type": "choices",
        "value": {"choices": [CORRECTED]},
    }
    regions = to_regions(part, Target("BrushLabels", MASK, IMAGE, label))
    return {"result": [*regions, verdict], "model_version": model_version}


def edited_mask(result: Iterable[dict], window: Window, height: int, width: int) -> dict | None:
    """The corrected mask in an `edit` annotation as COCO RLE of the whole image, exact inside the window.

    All brush regions together are the mask. None where the annotator saw no such object or was unsure. Raises
    InputError where a region is malformed or of another size.
    """
    masks = []
    x0, y0, x1, y1 = window
    for region in result:
        if region.get("from_name") == VERDICT and _value(region).get("choices") != [CORRECTED]:
            return None
        if region.get("from_name") == MASK and region.get("type") == "brushlabels":
            masks.append(_region(region, y1 - y0, x1 - x0))
    whole = np.zeros((height, width), np.uint8, order="F")
    for mask in masks:
        whole[y0:y1, x0:x1] |= mask
    return mask_util.encode(whole) if whole.any() else None


def edit_verdict(result: Iterable[dict]) -> str:
    """What an `edit` annotation says of its mask: `CORRECTED`, `NO_OBJECT` or `UNSURE`, also where it says nothing."""
    for region in result:
        if region.get("from_name") == VERDICT:
            choices = _value(region).get("choices")
            return choices[0] if choices in ([CORRECTED], [NO_OBJECT]) else UNSURE
    return UNSURE


def painted_masks(result: Iterable[dict], height: int, width: int) -> list[tuple[str, dict]]:
    """(class name, COCO RLE) of each region on a `paint` page of an image of height x width pixels; empty ones not.

    Raises InputError where a region is malformed or of another size.
    """
    masks = []
    for region in result:
        if region.get("from_name") == MASK and region.get("type") == "brushlabels":
            mask = _region(region, height, width)
            labels = _value(region).get("brushlabels")
            if mask.any() and isinstance(labels, list) and labels:
                masks.append((str(labels[0]), mask_util.encode(np.asfortranarray(mask.astype(np.uint8)))))
    return masks


def _region(region: dict, height: int, width: int) -> np.ndarray:
    if (region.get("original_height"), region.get("original_width")) != (height, width):
        raise InputError(f"region {ascii(region.get('id'))[:40]}", f"a mask of {width}x{height}", "another size")
    try:
        return decode_brush(_value(region).get("rle", []), height, width)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"region {ascii(region.get('id'))[:40]}", "a brush mask", str(error)[:100]) from None


def _value(region: dict) -> dict:
    """What a region holds; nothing where that is no object."""
    value = region.get("value")
    return value if isinstance(value, dict) else {}
