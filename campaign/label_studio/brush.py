"""Label Studio's brush run lengths and COCO's, exactly into one another."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

# Label Studio stores four channels per pixel, row by row; the mask is the last, from 0 to 255.
CHANNELS = 4
HALF = 127


def from_brush(rle: list[int], height: int, width: int) -> dict[str, Any]:
    """A brush region's run lengths as COCO compressed RLE. Raises ValueError where they are of another size."""
    from label_studio_sdk.converter.brush import decode_rle

    if not isinstance(rle, list) or len(rle) < 4 or not all(type(v) is int and 0 <= v < 256 for v in rle):
        raise ValueError("bytes of a brush mask")
    # The first four bytes say how long the whole is; looked at first, as a wrong one could ask for any memory.
    if int.from_bytes(bytes(rle[:4]), "big") != height * width * CHANNELS:
        raise ValueError(f"a brush mask of {width}x{height} pixels")
    alpha = decode_rle(rle).reshape(height, width, CHANNELS)[:, :, 3]
    return mask_util.encode(np.asfortranarray(alpha > HALF, dtype=np.uint8))


def to_brush(rle: dict[str, Any]) -> list[int]:
    """A COCO RLE mask as a brush region's run lengths."""
    from label_studio_sdk.converter.brush import mask2rle

    # 255 and not 1: Label Studio takes the value for how opaque the pixel is.
    return mask2rle(mask_util.decode(rle) * np.uint8(255))


def brush_region(
    rle: dict[str, Any], class_name: str, from_name: str, to_name: str, *, score: float | None = None
) -> dict[str, Any]:
    """A brush region as it stands in an annotation's or a prediction's result."""
    height, width = (int(v) for v in rle["size"])
    region: dict[str, Any] = {
        "id": hashlib.blake2b(f"{class_name} {rle['counts']!r}".encode(), digest_size=5).hexdigest(),
        "from_name": from_name,
        "to_name": to_name,
        "type": "brushlabels",
        "original_width": width,
        "original_height": height,
        "image_rotation": 0,
        "value": {"format": "rle", "rle": to_brush(rle), "brushlabels": [class_name]},
    }
    if score is not None:
        region["score"] = round(float(score), 6)
    return region
