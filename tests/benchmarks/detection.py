"""Our whole inference against detectron2's own loop over PointRend, in one process.

    python -m tests.benchmarks.detection --json

`bare` is detectron2's loop on tensors that are already in memory, resized and in batches: network and masks pasted
into their images. `ours` is everything from JPEG files to a written shard: decoding, resizing, the network with IoU
scores and features, exact masks, their run lengths, suppression, Parquet. Both have the same weights, the same
batches and compute in float32. `backend_added_ms` is what one `/predict` for a 1024x1024 image takes
longer through our server than the model alone, `backend_added_cpu_ms` what it costs in CPU time, which other work on
the machine does not change; `cpu_seconds_ratio` is the ratio of CPU times in the same way.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    """Run the benchmark of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.detection", description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=("small", "r50", "r101"), help="default: r50 on a GPU, else small")
    parser.add_argument("--checkpoint", type=Path, help="a trained checkpoint instead of random weights")
    parser.add_argument("--images", type=int, help="number of images; default: 200 on a GPU, else 8")
    parser.add_argument("--side", type=int, default=800, help="short side of the images")
    parser.add_argument("--batch", type=int, help="images per forward pass; default: 8 on a GPU, else 2")
    parser.add_argument("--detections", type=int, default=100, help="most detections per image")
    parser.add_argument("--classes", type=int, default=80, help="classes of random weights; COCO has 80")
    parser.add_argument("--device", help="torch device; default: cuda where there is one")
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each; the fastest counts")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    result = measure(parser.parse_args())
    print(json.dumps(result) if result.pop("json") else "\n".join(f"{k:24} {v}" for k, v in result.items()))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both loops, in turn, over the same drawn images."""
    import torch

    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    gpu = device.type == "cuda"
    images = arguments.images or (200 if gpu else 8)
    batch = arguments.batch or (8 if gpu else 2)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory(prefix="detection-") as name:
        folder = Path(name)
        data = draw(folder, images, arguments.side, arguments.classes)
        detector = build_detector(arguments, data, device, batch)
        tensors = prepared(detector, data)
        bare = bare_model(detector)
        times: dict[str, list[float]] = {"bare": [], "ours": []}
        cpu: dict[str, list[float]] = {"bare": [], "ours": []}
        runs = {
            "bare": lambda: bare_loop(bare, tensors, batch),
            "ours": lambda: our_loop(detector, data, folder),
        }
        found, peak_gpu = {}, 0.0
        for run in runs.values():
            run()
        for _ in range(arguments.repeat):
            for which, run in runs.items():
                if gpu:
                    torch.cuda.reset_peak_memory_stats(device)
                    held = torch.cuda.memory_allocated(device)
                began, busy = time.perf_counter(), time.process_time()
                found[which] = run()
                times[which].append(time.perf_counter() - began)
                cpu[which].append(time.process_time() - busy)
                if gpu and which == "ours":
                    # What the other loop keeps on the device, its inputs above all, is not ours.
                    own = sum(p.nbytes for p in detector.network.state_dict().values())
                    peak_gpu = max(peak_gpu, torch.cuda.max_memory_allocated(device) - held + own)
        added, added_cpu = backend_added_ms(detector, folder)
    rates = {which: images / min(seconds) for which, seconds in times.items()}
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if gpu else f"cpu, {torch.get_num_threads()} threads",
        "bare_images_per_s": round(rates["bare"], 3),
        "ours_images_per_s": round(rates["ours"], 3),
        "ratio": round(rates["ours"] / rates["bare"], 3),
        "peak_rss_gib": peak_rss(),
        "peak_gpu_gib": round(peak_gpu / 2**30, 3) if gpu else None,
        "cpu_seconds_ratio": round(min(cpu["bare"]) / min(cpu["ours"]), 3),
        "backend_added_ms": added,
        "backend_added_cpu_ms": added_cpu,
        "preset": detector.options.preset,
        "images": images,
        "side": arguments.side,
        "batch": batch,
        "classes": len(data.classes),
        "bare_masks": found["bare"],
        "our_masks": found["ours"],
    }
    return result | {"json": arguments.json}


def draw(folder: Path, count: int, side: int, classes: int) -> Any:
    """JPEG photographs, so to say: disks and squares over smooth noise, 4:3, their short side `side` pixels.

    Of `classes` classes only the first two are there to be seen.
    """
    from PIL import Image
    from pycocotools import mask as mask_util

    from ml_backend.masks.coco import Annotation, CocoDataset, ImageRecord

    rng = np.random.default_rng(0)
    height, width = side, side * 4 // 3
    rows, columns = np.mgrid[:height, :width]
    records: list[ImageRecord] = []
    annotations: list[Annotation] = []
    for number in range(1, count + 1):
        coarse = rng.normal(110, 25, (height // 16, width // 16, 3))
        ground = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        pixels = np.asarray(ground, np.float32) + rng.normal(0, 4, (height, width, 3)).astype(np.float32)
        for _ in range(30):
            radius, x, y = rng.uniform(12, 60), rng.uniform(0, width), rng.uniform(0, height)
            disk = rng.random() < 0.5
            inside = (
                np.hypot(columns - x, rows - y) < radius
                if disk
                else np.maximum(abs(columns - x), abs(rows - y)) < radius
            )
            pixels[inside] += 80 if disk else -80
            rle = mask_util.encode(np.asfortranarray(inside.astype(np.uint8)))
            annotations.append(Annotation(len(annotations) + 1, number, 1 if disk else 2, rle))
        path = folder / f"{number}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)
        records.append(ImageRecord(number, path.name, width, height, path))
    names = ["disk", "square", *(f"class {n}" for n in range(3, classes + 1))]
    return CocoDataset(records, dict(enumerate(names[: max(classes, 2)], 1)), annotations)


def build_detector(arguments: argparse.Namespace, data: Any, device: Any, batch: int) -> Any:
    """The trained detector, or one of random weights whose best boxes all count."""
    from ml_backend.detectors.pointrend.config import PointRendOptions
    from ml_backend.detectors.pointrend.detector import PointRend
    from ml_backend.detectors.pointrend.network import build
    from ml_backend.learning.calibration import Calibration

    common: dict[str, Any] = {
        "device": str(device), "threads": arguments.threads, "bfloat16": False,
        "max_detections": arguments.detections, "predict_batch": batch,
    }  # fmt: skip
    if arguments.checkpoint:
        return PointRend.load(arguments.checkpoint, **common)
    preset = arguments.preset or ("r50" if device.type == "cuda" else "small")
    sizing = {"schedule": "published", "weights": "none", "norm": "frozen" if preset != "small" else "group"}
    options = PointRendOptions.create(
        {"preset": preset, **sizing, **common, "min_score": 0.0, "min_area": 0.0, "mask_nms": 1.0}
    ).resolve(data)
    state = build(options, len(data.classes)).state_dict()
    return PointRend(options, data.classes, state, Calibration(), {})


def bare_model(detector: Any) -> Any:
    """detectron2's own model with the detector's weights, without the IoU head and without our classes."""
    import torch
    from detectron2.modeling import GeneralizedRCNN

    from ml_backend.detectors.pointrend.heads import build_config

    config = build_config(detector.options, len(detector.classes))
    config.MODEL.ROI_HEADS.NAME, config.MODEL.PROPOSAL_GENERATOR.NAME = "StandardROIHeads", "RPN"
    config.MODEL.PIXEL_MEAN, config.MODEL.PIXEL_STD = [0.0] * 3, [1.0] * 3
    model = GeneralizedRCNN(config).eval().to(detector.device)
    state = detector.network.model.state_dict()
    model.load_state_dict({k: v for k, v in state.items() if "iou_head" not in k})
    return model.to(memory_format=torch.channels_last)


def prepared(detector: Any, data: Any) -> list[dict[str, Any]]:
    """Inputs of detectron2's loop on the device: normalised and resized as ours are."""
    pipeline = detector._pipeline([])
    inputs = []
    for record in data.images:
        _, tile, _ = next(pipeline._tiles(pipeline._read(record)))
        pixels = tile.pixels
        if detector.network.published_input:
            pixels = (pixels * detector.network.deviation[0]).flip(0)
        inputs.append({"image": pixels.contiguous(), "height": record.height, "width": record.width})
    return inputs


def bare_loop(model: Any, inputs: list[dict[str, Any]], batch: int) -> int:
    """detectron2's inference over all inputs; gives the number of masks."""
    import torch

    masks = 0
    for start in range(0, len(inputs), batch):
        with torch.inference_mode():
            found = model(inputs[start : start + batch])
        masks += sum(len(part["instances"]) for part in found)
    if model.device.type == "cuda":
        torch.cuda.synchronize()
    return masks


def our_loop(detector: Any, data: Any, folder: Path) -> int:
    """Files to shard; gives the number of masks."""
    from campaign.store.shards import write_shard
    from ml_backend.predictions import Predictions

    found = Predictions.concatenate(list(detector.predict(data.images)))
    write_shard(folder / "shard.parquet", found.with_ids(1, 0))
    return len(found)


def backend_added_ms(detector: Any, folder: Path, repeat: int = 9) -> tuple[float, float]:
    """Milliseconds that `/predict` takes over the model's own time for one 1024x1024 image, median; CPU too."""
    from PIL import Image

    from ml_backend.server.app import Access, create_app
    from ml_backend.server.backend import Backend
    from ml_backend.server.image_files import ImageFiles
    from tests.ml_backend.file_server import serve_folder

    pixels = np.random.default_rng(0).integers(60, 190, (1024, 1024, 3)).astype(np.uint8)
    path = folder / "page.jpg"
    Image.fromarray(pixels).resize((1024, 1024)).save(path, quality=85)
    watched = Watched(detector)
    labels = "".join(f'<Label value="{name}"/>' for name in detector.classes.values())
    config = f'<View><Image name="img" value="$image"/><BrushLabels name="b" toName="img">{labels}</BrushLabels></View>'
    os.environ["CAMPAIGN_IMAGE_HOSTS"] = "127.0.0.1"
    with serve_folder(folder) as (url, _):
        client = create_app(
            backend=Backend(watched, ImageFiles(folder / "cache")), access=Access(this_machine=True)
        ).test_client()
        task = {"id": 1, "data": {"image": f"{url}/{path.name}"}}
        added = []
        for _ in range(repeat + 1):
            watched.seconds = watched.busy = 0.0
            began, busy = time.perf_counter(), time.process_time()
            answer = client.post("/predict", json={"tasks": [task], "project": "1.0", "label_config": config})
            spent = time.perf_counter() - began - watched.seconds, time.process_time() - busy - watched.busy
            added.append([1000 * value for value in spent])
            if answer.status_code != 200 or not watched.seconds:
                sys.exit(f"/predict: expected a prediction, got status {answer.status_code}")
    # The first one fetches the image.
    wall, cpu = np.median(added[1:], axis=0)
    return round(float(wall), 1), round(float(cpu), 1)


class Watched:
    """A detector with a clock, which is its own model source too."""

    def __init__(self, detector: Any):
        self.inner, self.version, self.classes = detector, detector.version, detector.classes
        self.seconds = self.busy = 0.0

    def detector(self) -> Any:
        return self

    def predict(self, images: Any) -> Any:
        began, busy = time.perf_counter(), time.process_time()
        found = list(self.inner.predict(images))
        self.seconds += time.perf_counter() - began
        self.busy += time.process_time() - busy
        return iter(found)


def peak_rss() -> float:
    """Most memory that the process had, GiB."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30, 3)


if __name__ == "__main__":
    main()
