"""IoU targets, pasting and run lengths of masks on a GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tests.benchmarks.gpu_bench import Bench


def drawn_masks(bench: Bench, count: int, height: int, width: int, cells: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft disks (n, cells, cells) and their boxes (n, 4) in an image, some of them partly outside, on the CPU."""
    rng = bench.rng()
    centre = rng.uniform([0, 0], [width, height], (count, 2))
    half = rng.uniform(6, min(height, width) / 8, (count, 2))
    axis = (np.arange(cells) + 0.5) / cells * 2 - 1
    reach = rng.uniform(0.6, 1.0, (count, 1, 1))
    values = 1 / (1 + np.exp(12 * (np.hypot(axis[:, None], axis) - reach)))
    boxes = np.concatenate([centre - half, centre + half], 1).astype(np.float32)
    return torch.from_numpy(values.astype(np.float32)), torch.from_numpy(boxes)


def iou_targets(bench: Bench) -> dict[str, Any]:
    """What the IoU head learns from: IoU of predicted masks with the best of 64 true ones in an image of 800x1066."""
    from ml_backend.detectors.shared.iou_target import best_iou

    height, width = bench.sizes.side, bench.sizes.side * 4 // 3
    values, boxes = drawn_masks(bench, bench.sizes.targets, height, width, 56)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    middle, radius = (boxes[:64, :2] + boxes[:64, 2:]) / 2, (boxes[:64, 2:] - boxes[:64, :2]).amin(1) / 2
    true = torch.stack(
        [((columns - x) ** 2 + (rows - y) ** 2 < r * r).byte() for (x, y), r in zip(middle, radius, strict=True)]
    )
    true_boxes = torch.cat([middle - radius[:, None], middle + radius[:, None]], 1)
    arguments = [values, boxes, true, true_boxes]
    on_device = [a.to(bench.device) for a in arguments]
    seconds = bench.seconds(lambda: best_iou(*on_device))
    difference = float((best_iou(*on_device).cpu() - best_iou(*arguments)).abs().max())
    return {
        "masks": len(values), "true_masks": len(true), "ms": round(1000 * seconds, 2),
        "masks_per_s": round(len(values) / seconds), "difference_to_cpu": difference, "correct": difference < 1e-3,
    }  # fmt: skip


def pasting(bench: Bench) -> dict[str, Any]:
    """Masks of 112x112 pasted into an image of 3000x4000 and brought back as the edges of their runs."""
    from ml_backend.detectors.shared.device_pasting import edges

    height, width = (300, 400) if bench.quick else (3000, 4000)
    values, boxes = drawn_masks(bench, bench.sizes.masks, height, width, 112)
    on_device = values.to(bench.device), boxes.to(bench.device)
    seconds = bench.seconds(lambda: edges(*on_device, height, width))
    ours, theirs = edges(*on_device, height, width), edges(values, boxes, height, width)
    area = [np.array([(p[1::2] - p[::2]).sum() for p in places]) for places in (ours, theirs)]
    differing = sum(not np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    off = float(np.abs(area[0] - area[1]).sum() / area[1].sum())
    return {
        "masks": len(values), "ms": round(1000 * seconds, 2), "masks_per_s": round(len(values) / seconds),
        "pixels": int(area[1].sum()), "masks_that_differ_from_cpu": differing, "difference_of_area": off,
        "correct": off < 1e-4,
    }  # fmt: skip


def rle(bench: Bench) -> dict[str, Any]:
    """Run lengths from the device's edges, encoded and read back on one thread of the host."""
    from ml_backend.detectors.shared.device_pasting import edges
    from ml_backend.masks.pasting import edges_rle
    from ml_backend.masks.rle import decode_window, run_lengths

    height, width = (300, 400) if bench.quick else (3000, 4000)
    values, boxes = drawn_masks(bench, bench.sizes.masks, height, width, 112)
    places = edges(values.to(bench.device), boxes.to(bench.device), height, width)
    encoded = [edges_rle(own, height, width) for own in places]
    encode = bench.seconds(lambda: [edges_rle(own, height, width) for own in places])
    records = [{"size": [height, width], "counts": counts} for counts in encoded]
    frames = torch.cat([boxes[:, :2].floor(), boxes[:, 2:].ceil()], 1).long().tolist()
    decode = bench.seconds(lambda: [decode_window(r, *frame) for r, frame in zip(records, frames, strict=True)])
    area = [int(run_lengths(counts)[1::2].sum()) for counts in encoded]
    correct = area == [int((own[1::2] - own[::2]).sum()) for own in places]
    rates = {"encoded_per_s": round(len(places) / encode), "read_per_s": round(len(places) / decode)}
    return {"masks": len(places)} | rates | {"correct": correct}
