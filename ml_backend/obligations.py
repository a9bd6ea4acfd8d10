"""The obligations of a detector, numbered as in `ml_backend.detector`, and whether one keeps them.

Each is looked at by what the detector really does: it is trained, killed, loaded and asked to predict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from ml_backend.detector import Detector, Progress
from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset, ImageRecord
from ml_backend.predictions import Predictions

EDGE = 1.0  # pixels that a box may differ from its mask's


@dataclass(frozen=True)
class Outcome:
    """Whether an obligation is kept: True, False, or None where nothing could be seen of it, with the reason."""

    number: int
    obligation: str
    kept: bool | None
    reason: str


class Broken(Exception):  # noqa: N818
    """An obligation is not kept; the message says how."""


class Unseen(Exception):  # noqa: N818
    """Nothing can be said of an obligation; the message says why."""


@dataclass
class Trial:
    """One detector, put to the test.

    kind: its class. data, heldout: what it is trained and tried on. folder: where it may write. options: of its
    training, short enough to be waited for.
    """

    kind: type[Detector]
    data: CocoDataset
    heldout: CocoDataset
    folder: Path
    options: dict[str, Any]
    progress: Progress | None = None

    def train(self, name: str, progress: Progress | None = None, data: CocoDataset | None = None) -> Path:
        """The checkpoint of a training into a folder of this name."""
        folder = self.folder / name
        return self.kind.train(data or self.data, self.heldout, folder, options=dict(self.options), progress=progress)

    @cached_property
    def checkpoint(self) -> Path:
        """A finished checkpoint."""
        return self.train("trained", self.progress)

    @cached_property
    def detector(self) -> Detector:
        """The detector of this checkpoint."""
        return self.kind.load(self.checkpoint)

    @cached_property
    def parts(self) -> list[Predictions]:
        """What it predicts, image by image."""
        parts = list(self.detector.predict(iter(self.heldout.images)))
        for part in parts:
            if not isinstance(part, Predictions):
                raise Broken(f"predict returned {type(part).__name__}, no Predictions")
        return parts

    @cached_property
    def masks(self) -> Predictions:
        """All of it together. Raises Unseen where there is no mask."""
        masks = Predictions.concatenate(self.parts)
        if not len(masks):
            raise Unseen(f"no mask was predicted on {len(self.heldout.images)} images: give options that predict some")
        return masks


def one_for_each_image(trial: Trial) -> str:
    """One `Predictions` for each image, in order; the best score first."""
    images = trial.heldout.images
    if len(trial.parts) != len(images):
        raise Broken(f"expected {len(images)} Predictions for {len(images)} images, got {len(trial.parts)}")
    for image, part in zip(images, trial.parts, strict=True):
        if set(part.image_id.tolist()) - {image.id}:
            raise Broken(f"expected masks of image {image.id} in its place, got {sorted(set(part.image_id.tolist()))}")
        if (np.diff(part.score) > 0).any():
            raise Broken(f"expected the best score first, got another order on image {image.id}")
    if extra := list(trial.detector.predict(iter(()))):
        raise Broken(f"expected nothing for no images, got {len(extra)}")
    backwards = list(trial.detector.predict(reversed(images)))
    if [len(part) for part in backwards] != [len(part) for part in trial.parts[::-1]]:
        raise Broken("expected the same masks for images in another order, got others")
    return f"{len(images)} images, {len(Predictions.concatenate(trial.parts))} masks"


def ids(trial: Trial) -> str:
    """`image_id` and `size` of the record, `class_id` a key of `classes`, `mask_id` from 0 for each image."""
    classes = trial.detector.classes
    if classes != trial.data.classes:
        raise Broken(f"expected classes {trial.data.classes}, as it was trained on, got {classes}")
    for image, part in zip(trial.heldout.images, trial.parts, strict=True):
        if (part.size != [image.height, image.width]).any():
            raise Broken(f"expected size {[image.height, image.width]}, got {part.size[0].tolist()}")
        if part.mask_id.tolist() != list(range(len(part))):
            raise Broken(
                f"expected mask_id from 0 to {len(part) - 1} on image {image.id}, got {part.mask_id.tolist()[:5]}"
            )
    if strange := set(trial.masks.class_id.tolist()) - set(classes):
        raise Broken(f"expected class_id of {sorted(classes)}, got {sorted(strange)[:5]}")
    return f"classes {', '.join(classes.values())}"


def run_lengths(trial: Trial) -> str:
    """`rle` is COCO's compressed run lengths, as bytes, of the image's size, with at least one pixel."""
    for counts, rle in zip(trial.masks.rle, trial.masks.rles(), strict=True):
        if not isinstance(counts, bytes):
            raise Broken(f"expected bytes, got {type(counts).__name__}")
        try:
            shape, area = mask_util.decode(rle).shape, int(mask_util.area(rle))
        except Exception as error:  # pycocotools raises what its C code meets
            raise Broken(f"expected run lengths that pycocotools decodes, got {type(error).__name__}") from None
        if list(shape) != rle["size"] or not area:
            raise Broken(f"expected pixels in {rle['size']}, got {area} in {list(shape)}")
    return f"{len(trial.masks)} masks"


def boxes(trial: Trial) -> str:
    """`box` is x, y, width and height in pixels: it lies in the image and holds the mask."""
    masks = trial.masks
    tight = np.asarray(mask_util.toBbox(masks.rles()), np.float64).reshape(-1, 4)
    box = masks.box.astype(np.float64)
    if not np.isfinite(box).all():
        raise Broken("expected finite numbers, got others")
    for inner, outer, what in (
        (tight, box, "a box that holds its mask's"),
        (box, _frames(masks), "a box in the image"),
    ):
        over = np.maximum(
            outer[:, :2] - inner[:, :2], (inner[:, :2] + inner[:, 2:]) - (outer[:, :2] + outer[:, 2:])
        ).max(1)
        worst = int(np.argmax(over))
        if over[worst] > EDGE:
            raise Broken(f"expected {what} {outer[worst].tolist()}, got {inner[worst].tolist()}")
    return f"{len(masks)} boxes"


def _frames(masks: Predictions) -> np.ndarray:
    """The boxes of the masks' whole images."""
    sizes = masks.size.astype(np.float64)
    return np.hstack([np.zeros_like(sizes), sizes[:, ::-1]])


def scores(trial: Trial) -> str:
    """`confidence`, `predicted_iou` and, where known, `stability` from 0 to 1."""
    for name in ("confidence", "predicted_iou", "stability"):
        values = getattr(trial.masks, name)
        bad = values[~((values >= 0) & (values <= 1)) & ~(np.isnan(values) & (name == "stability"))]
        if len(bad):
            raise Broken(f"expected {name} from 0 to 1, got {float(bad[0]):g}")
    return f"scores from {trial.masks.score.min():.3f} to {trial.masks.score.max():.3f}"


def features(trial: Trial) -> str:
    """`features` of one width, finite in 16 bits, also where an image has no mask; of unlike masks they differ."""
    widths = {part.features.shape[1] for part in trial.parts if len(part)}
    if len(widths) > 1:
        raise Broken(f"expected one width on all images, got {sorted(widths)}")
    values = trial.masks.features
    if not np.isfinite(values).all():
        raise Broken("expected finite numbers that fit into 16 bits, got others")
    if values.shape[1] and len(values) > 1 and len(np.unique(values, axis=0)) == 1:
        raise Broken("expected features that tell masks apart, got one for all")
    return f"width {values.shape[1]}"


def determinism(trial: Trial) -> str:
    """The same weights have the same `version` and predict the same; other weights have another version."""
    again = trial.kind.load(trial.checkpoint)
    if again.version != trial.detector.version:
        raise Broken(f"expected version {trial.detector.version} of the same weights, got {again.version}")
    images = trial.heldout.images[:2]
    one, other = (list(d.predict(images)) for d in (trial.detector, again))
    for a, b in zip(one, other, strict=True):
        if a.rle.tolist() != b.rle.tolist() or not np.array_equal(a.features, b.features):
            raise Broken("expected the same masks and features of the same weights, got others")
    return f"version {again.version}"


class _KilledError(Exception):
    pass


def training(trial: Trial) -> str:
    """`train` leaves a killed run so that the same call goes on with it, and returns a finished one as it is."""
    stamp = trial.checkpoint.stat().st_mtime_ns
    if trial.train("trained") != trial.checkpoint or trial.checkpoint.stat().st_mtime_ns != stamp:
        raise Broken("expected a finished run to be returned as it is, got another")
    steps: list[int] = []

    def kill(_name: str, done: int, total: int) -> None:
        steps.append(done)
        if done >= max(1, total // 2):
            raise _KilledError

    with suppress(_KilledError):
        trial.train("killed", kill)
    resumed = trial.kind.load(trial.train("killed"))
    if resumed.version != trial.detector.version:
        raise Broken(f"expected version {trial.detector.version} after a kill, as without, got {resumed.version}")
    later = trial.kind.train(
        trial.data, trial.heldout, trial.folder / "later", options=dict(trial.options), start_from=trial.checkpoint
    )
    trial.kind.load(later)
    return f"killed after {len(steps)} reports of progress" if steps else "it reports no progress, so it was not killed"


def errors(trial: Trial) -> str:
    """Bad input is an `InputError`: a missing or foreign checkpoint, an image that cannot be read."""
    foreign = trial.folder / "foreign"
    foreign.write_text("no checkpoint")
    for path in (trial.folder / "none", foreign):
        _refused(f"load of {path.name}", partial(trial.kind.load, path))
    good = trial.heldout.images[0]
    damaged = trial.folder / "damaged.png"
    cases: list[tuple[str, ImageRecord, bytes | None]] = [
        ("a missing image", replace(good, path=trial.folder / "missing.png"), None),
        ("a file that is no image", replace(good, path=damaged), b"no image"),
        ("an image cut short", replace(good, path=damaged), good.path.read_bytes()[: good.path.stat().st_size // 2]),
        ("an image of another size", replace(good, width=good.width + 1), None),
    ]
    reads = _reads_images(trial)
    for what, record, content in cases if reads else []:
        if content is not None:
            damaged.write_bytes(content)
        _refused(f"predict of {what}", partial(_predict, trial.detector, record))
    return "checkpoints and images" if reads else "checkpoints; it reads no images"


def _predict(detector: Detector, record: ImageRecord) -> list[Predictions]:
    return list(detector.predict([record]))


def _reads_images(trial: Trial) -> bool:
    return getattr(trial.kind, "READS_IMAGES", True)


def _refused(what: str, call: Callable[[], Any]) -> None:
    try:
        call()
    except InputError as error:
        if len(str(error).splitlines()) != 1:
            raise Broken(f"{what}: expected an error of one line, got {len(str(error).splitlines())}") from None
    except Exception as error:  # whatever a stranger's code raises
        raise Broken(f"{what}: expected an InputError, got {type(error).__name__}: {str(error)[:100]}") from None
    else:
        raise Broken(f"{what}: expected an InputError, got none")


OBLIGATIONS: tuple[Callable[[Trial], str], ...] = (
    one_for_each_image, ids, run_lengths, boxes, scores, features, determinism, training, errors,
)  # fmt: skip


def outcomes(trial: Trial) -> Iterator[Outcome]:
    """What became of each obligation, in their order. Whatever the detector raises breaks the one that is looked at."""
    for number, look in enumerate(OBLIGATIONS, 1):
        words = " ".join(str(look.__doc__).split())
        kept: bool | None = False
        try:
            reason = look(trial)
            kept = True
        except Broken as broken:
            reason = str(broken)
        except Unseen as unseen:
            kept, reason = None, str(unseen)
        except Exception as error:  # whatever a stranger's code raises
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        yield Outcome(number, words, kept, reason)
