"""Detectors on a GPU: images per second of inference, steps per second of training."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from tests.benchmarks.gpu_bench import Bench, OutOfTimeError, import_error


def network(bench: Bench) -> dict[str, Any]:
    """torchvision's ResNet-50 with the IoU head on tensors: images/s to the edges of masks, and steps/s of training.

    Random weights; the threshold lets some 300 boxes of an image into suppression, as trained weights do.
    """
    from ml_backend.detectors.shared.device_pasting import edges
    from ml_backend.detectors.torchvision.presets import build

    sizes, side = bench.sizes, bench.sizes.side
    options = argparse.Namespace(
        preset="tiny" if bench.quick else "resnet50", seed=0, weights="none", anchors=None, min_score=0.0, nms=0.5,
        max_detections=100,
    )  # fmt: skip
    if bench.quick:
        options.anchors = ((16.0,), (32.0,), (64.0,))
    net = build(options, sizes.classes, pretrained=False).to(bench.device).to(memory_format=torch.channels_last).eval()
    torch.manual_seed(0)
    shape = side, -(-side * 4 // 3 // 32) * 32
    images = torch.randn(sizes.batch, 3, *shape, device=bench.device).to(memory_format=torch.channels_last)
    shapes = [shape] * sizes.batch
    calibrated(net, lambda: net.detect(images, shapes), 300 * sizes.batch)

    def detect(half: bool) -> int:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=half):
            found = net.detect(images, shapes)
        return sum(len(edges(one.masks, one.boxes, *shape)) for one in found)

    figures: dict[str, Any] = {"preset": options.preset, "side": side, "batch": sizes.batch}
    figures["masks_per_image"] = detect(False) / sizes.batch
    for name, half in (("float32", False), ("bfloat16", True)):
        figures[f"{name}_images_per_s"] = round(sizes.batch / bench.seconds(lambda half=half: detect(half)), 2)
    figures["training_steps_per_s"] = round(1 / bench.seconds(training_step(bench, net)), 2)
    return figures


def calibrated(net: Any, run: Callable[[], Any], wanted: int) -> None:
    """Set the least score of a torchvision network so that so many boxes of a run pass it."""
    scores: list[torch.Tensor] = []
    hook = net.box_predictor.register_forward_hook(lambda *call: scores.append(call[2][0].float().softmax(1)[:, 1:]))
    run()
    hook.remove()
    least = float(scores[0].flatten().topk(min(wanted, scores[0].numel()))[0][-1])
    net.settings = replace(net.settings, min_score=least)


def training_step(bench: Bench, net: Any) -> Callable[[], None]:
    """A step of training in bfloat16 (float32 on a CPU) on crops of 640 with 20 objects each, batch of 4."""
    from ml_backend.detectors.torchvision.network import Target

    crop, count = (128, 5) if bench.quick else (640, 20)
    batch = 1 if bench.quick else 4
    rng, targets = bench.rng(), []
    for _ in range(batch):
        low = rng.integers(0, crop - 64, (count, 2))
        boxes = np.concatenate([low, low + rng.integers(16, 64, (count, 2))], 1)
        true = np.zeros((count, crop, crop), np.uint8)
        for mask, (x0, y0, x1, y1) in zip(true, boxes, strict=True):
            mask[y0:y1, x0:x1] = 1
        labels = torch.from_numpy(rng.integers(1, bench.sizes.classes + 1, count))
        target = Target(torch.from_numpy(boxes.astype(np.float32)), labels, torch.from_numpy(true))
        targets.append(target.to(bench.device))
    images = torch.randn(batch, 3, crop, crop, device=bench.device).to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-5)
    net.train()

    def step() -> None:
        with torch.autocast(bench.device.type, torch.bfloat16, enabled=bench.gpu):
            losses = net(images, targets)
        optimiser.zero_grad(set_to_none=True)
        torch.stack([loss.float() for loss in losses.values()]).sum().backward()
        optimiser.step()

    return step


def drawings(bench: Bench) -> Any:
    """The data set that detectors are measured on: drawn JPEG files with annotations, made once."""
    from tests.benchmarks import detection

    if bench.pictures is None:
        sizes = bench.sizes
        bench.pictures = detection.draw(bench.folder, sizes.drawn, sizes.side, sizes.classes)
    return bench.pictures


def repeated(data: Any, count: int) -> Any:
    """The same pictures over and over, as so many images."""
    images = [replace(data.images[n % len(data.images)], id=n + 1) for n in range(count)]
    return replace(data, images=images)


def torchvision_inference(bench: Bench) -> dict[str, Any]:
    """JPEG files to predictions with IoU, features and run lengths: torchvision's ResNet-50 at 800 pixels."""
    from ml_backend.detectors.shared.options import DetectorOptions
    from ml_backend.detectors.torchvision.detector import MaskScoringRCNN
    from ml_backend.detectors.torchvision.presets import build
    from ml_backend.learning.calibration import Calibration

    data = repeated(drawings(bench), bench.sizes.images)
    figures: dict[str, Any] = {"images": len(data.images), "batch": bench.sizes.batch}
    for name, half in (("float32", False), ("bfloat16", True)):
        values = {"preset": "tiny" if bench.quick else "resnet50", "weights": "none", "scale": 1.0}
        values |= {"min_score": 0.0, "min_area": 0.0, "max_detections": 100, "predict_batch": bench.sizes.batch}
        values |= {"bfloat16": half, "device": str(bench.device)}
        options = DetectorOptions.create(values).resolve(data)
        state = build(options, len(data.classes)).state_dict()
        detector = MaskScoringRCNN(options, data.classes, state, Calibration(), {})
        first = data.images[: bench.sizes.batch]
        calibrated(detector.network, partial(predicted, detector, first), 300 * len(first))
        figures["masks_per_image"] = predicted(detector, data.images) / len(data.images)
        seconds = bench.seconds(partial(predicted, detector, data.images), 2)
        figures[f"{name}_images_per_s"] = round(len(data.images) / seconds, 2)
    return figures


def predicted(detector: Any, images: Any) -> int:
    """Predict all images; the number of masks."""
    return sum(len(found) for found in detector.predict(images))


def torchvision_training(bench: Bench) -> dict[str, Any]:
    """Steps/s of the detector's own training, crops read and augmented on the way."""
    from ml_backend.detectors.torchvision.detector import MaskScoringRCNN

    presets = ("tiny",) if bench.quick else ("tiny", "resnet50")
    return {preset: trained(bench, MaskScoringRCNN, preset) for preset in presets}


def trained(bench: Bench, detector: Any, preset: str) -> dict[str, Any]:
    """Steps/s of a detector's training after a third of the steps: pictures are read by then and kernels chosen."""
    ends: list[float] = []

    def progress(step: str, done: int, total: int) -> None:
        ends.append(time.perf_counter())
        if ends[-1] > bench.end:
            raise OutOfTimeError(f"stopped in training at {done} of {total} steps")

    options: dict[str, Any] = {"preset": preset, "weights": "none", "steps": bench.sizes.steps, "score_from": 0.0}
    options |= {"device": str(bench.device)}
    if detector.__name__ == "PointRend":
        options["schedule"] = "short"
    if bench.quick:
        options |= {"batch": 1, "crop": 128}
    detector.train(drawings(bench), None, bench.folder / f"{detector.__name__}-{preset}", options=options,
                   progress=progress)  # fmt: skip
    # The last step also stores the weights.
    ends = ends[len(ends) // 3 : -1]
    rate = (len(ends) - 1) / (ends[-1] - ends[0]) if len(ends) > 1 else None
    chosen = detector.OPTIONS.create(options)
    return {"steps_per_s": rate and round(rate, 2), "batch": chosen.batch, "crop": chosen.crop}


def pointrend_inference(bench: Bench) -> dict[str, Any]:
    """JPEG files to a written shard by our PointRend against detectron2's own loop on tensors in memory.

    Both in float32, as in `tests.benchmarks.detection`; ours also in bfloat16, its default on such a GPU. `shard` says
    whether it was written: the store needs more packages than detectors do.
    """
    from tests.benchmarks import detection

    data = repeated(drawings(bench), bench.sizes.images)
    arguments = argparse.Namespace(
        threads=None, detections=100, checkpoint=None, preset="small" if bench.quick else "r50"
    )
    detector = detection.build_detector(arguments, data, bench.device, bench.sizes.batch)
    if bench.quick:
        detector.options = detector.options.model_copy(update={"short_edges": (bench.sizes.side,)})
    tensors, bare = detection.prepared(detector, data), detection.bare_model(detector)
    unwritten = import_error("campaign.store.shards")
    times: dict[str, list[float]] = {"bare": [], "ours": [], "bfloat16": []}
    count = 1 if bench.quick else 3
    for turn in range(count + 1):
        for name in times:
            detector.network.mixed = name == "bfloat16"
            began = time.perf_counter()
            if name == "bare":
                detection.bare_loop(bare, tensors, bench.sizes.batch)
            elif unwritten:
                predicted(detector, data.images)
            else:
                detection.our_loop(detector, data, bench.folder)
            bench.finish()
            if turn:
                times[name].append(time.perf_counter() - began)
    rates = {f"{name}_images_per_s": round(len(data.images) / min(seconds), 2) for name, seconds in times.items()}
    ratio = round(min(times["bare"]) / min(times["ours"]), 3)
    figures = {"preset": detector.options.preset, "images": len(data.images), "ratio": ratio} | rates
    return figures | {"shard": f"not written: {unwritten}" if unwritten else "written"}


def pointrend_training(bench: Bench) -> dict[str, Any]:
    """Steps/s of PointRend's own training on crops, one process."""
    from ml_backend.detectors.pointrend.detector import PointRend

    return {preset: trained(bench, PointRend, preset) for preset in (("small",) if bench.quick else ("small", "r50"))}
