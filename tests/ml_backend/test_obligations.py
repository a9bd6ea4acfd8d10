"""The obligations of detectors: each is seen to be broken, and kept by those that ship."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as mask_util

from ml_backend.detectors.coco_results import CocoResults
from ml_backend.errors import InputError
from ml_backend.masks.coco import annotation_json
from ml_backend.masks.images import image_size
from ml_backend.obligations import OBLIGATIONS, Trial, outcomes
from ml_backend.predictions import Predictions
from tests.ml_backend.detectors.drawn import CLASSES, draw


class Halves:
    """Takes the left and the right half of every image for objects, and keeps all obligations."""

    def __init__(self, version):
        self.version, self.classes = version, dict(CLASSES)

    def predict(self, images):
        for image in images:
            yield self.one(image)

    def one(self, image):
        try:
            width, height = image_size(image.path)
            image.path.read_bytes()[image.path.stat().st_size - 12 :].index(b"IEND")
        except (OSError, ValueError) as error:
            raise InputError(image.path, "an image", type(error).__name__) from None
        if (width, height) != (image.width, image.height):
            raise InputError(image.path, f"{image.width}x{image.height}", f"{width}x{height}")
        half = width // 2
        rles = []
        for left in (0, half):
            mask = np.zeros((height, width), np.uint8, order="F")
            mask[:, left : left + half] = 1
            rles.append(mask_util.encode(mask)["counts"])
        return Predictions(
            mask_id=[0, 1], image_id=[image.id] * 2, class_id=[3, 7], rle=np.array(rles, object),
            box=[[0, 0, half, height], [half, 0, half, height]], size=[[height, width]] * 2,
            confidence=[0.9, 0.5], predicted_iou=[1.0, 1.0], features=[[0.0], [1.0]],
        )  # fmt: skip

    @classmethod
    def load(cls, checkpoint, **_options):
        path = Path(checkpoint)
        text = path.read_text() if path.is_file() else ""
        if not text.startswith("halves"):
            raise InputError(path, "a checkpoint of halves", "another file" if text else "none")
        return cls(text)

    @classmethod
    def train(cls, data, heldout, output, *, options, progress=None, start_from=None):
        target = Path(output) / "halves.txt"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            for step in range(4):
                if progress:
                    progress("train", step + 1, 4)
            target.write_text(f"halves-{len(data.annotations)}")
        return target


def changed(**columns):
    """A detector whose masks have other columns."""

    class Changed(Halves):
        def one(self, image):
            return replace(super().one(image), **columns)

    return Changed


class Skips(Halves):
    def predict(self, images):
        for image in list(images)[1:]:
            yield self.one(image)


class Shuffled(Halves):
    def predict(self, images):
        yield from (self.one(image) for image in sorted(images, key=lambda i: -i.id))


class WorstFirst(Halves):
    def one(self, image):
        return super().one(image).select([1, 0])


class OtherClasses(Halves):
    def __init__(self, version):
        super().__init__(version)
        self.classes = {1: "thing"}


class OfItsTime(Halves):
    count = 0

    def __init__(self, version):
        OfItsTime.count += 1
        super().__init__(f"{version}-{OfItsTime.count}")


class Restless(Halves):
    @classmethod
    def train(cls, data, heldout, output, **rest):
        target = super().train(data, heldout, output, **rest)
        target.write_text(target.read_text())
        return target


class LosesTheKilled(Halves):
    @classmethod
    def train(cls, data, heldout, output, *, progress=None, **rest):
        Path(output).mkdir(parents=True, exist_ok=True)
        begun = Path(output) / "begun"
        late = begun.exists() and not (Path(output) / "halves.txt").exists()
        begun.touch()
        target = super().train(data, heldout, output, progress=progress, **rest)
        if late:
            target.write_text("halves-late")
        return target


class Raises(Halves):
    def one(self, image):
        if not image.path.exists():
            raise FileNotFoundError(image.path)
        return super().one(image)


class TakesAnything(Halves):
    @classmethod
    def load(cls, checkpoint, **_options):
        return cls("halves-1")


class OfTwoLines(Halves):
    @classmethod
    def load(cls, checkpoint, **options):
        try:
            return super().load(checkpoint, **options)
        except InputError:
            raise ValueError("a checkpoint\nof ours") from None


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    return draw(folder, 2, seed=1), draw(folder, 3, seed=2)


def broken(kind, sets, folder):
    return {one.number: one.reason for one in outcomes(Trial(kind, *sets, folder, {})) if one.kept is False}


def test_a_good_detector_keeps_them_all(sets, tmp_path):
    seen = list(outcomes(Trial(Halves, *sets, tmp_path, {})))
    assert [one.number for one in seen] == list(range(1, len(OBLIGATIONS) + 1))
    assert all(one.kept for one in seen), seen


@pytest.mark.parametrize(
    ("kind", "number", "reason"),
    [
        (Skips, 1, "expected 3 Predictions for 3 images, got 2"),
        (Shuffled, 1, "expected masks of image"),
        (WorstFirst, 1, "expected the best score first"),
        (OtherClasses, 2, "as it was trained on, got {1: 'thing'}"),
        (changed(mask_id=[5, 6]), 2, "expected mask_id from 0 to 1"),
        (changed(class_id=[3, 4]), 2, "expected class_id of [3, 7], got [4]"),
        (changed(size=[[10, 10]] * 2), 2, "expected size [96, 96], got [10, 10]"),
        (changed(rle=np.array(["text", "text"], object)), 3, "expected bytes, got str"),
        (changed(box=[[0, 0, 10, 10], [48, 0, 48, 96]]), 4, "expected a box that holds its mask"),
        (changed(box=[[0, 0, 48, 96], [48, 0, 148, 96]]), 4, "expected a box in the image"),
        (changed(confidence=[1.5, 0.5]), 5, "expected confidence from 0 to 1, got 1.5"),
        (changed(predicted_iou=[np.nan, 0.5]), 5, "expected predicted_iou from 0 to 1, got nan"),
        (changed(features=[[np.inf], [0]]), 6, "expected finite numbers"),
        (changed(features=[[1.0], [1.0]]), 6, "expected features that tell masks apart"),
        (OfItsTime, 7, "of the same weights"),
        (Restless, 8, "expected a finished run to be returned as it is"),
        (LosesTheKilled, 8, "after a kill, as without, got halves-late"),
        (Raises, 9, "predict of a missing image: expected an InputError, got FileNotFoundError"),
        (TakesAnything, 9, "load of none: expected an InputError, got none"),
        (OfTwoLines, 9, "load of none: expected an InputError, got ValueError"),
    ],
)
def test_what_is_broken_is_named(kind, number, reason, sets, tmp_path):
    assert reason in broken(kind, sets, tmp_path)[number]


def test_of_no_masks_nothing_is_said(sets, tmp_path):
    class Blind(Halves):
        def one(self, image):
            return super().one(image).select([])

    seen = {one.number: one.kept for one in outcomes(Trial(Blind, *sets, tmp_path, {}))}
    assert seen[3] is seen[4] is seen[5] is seen[6] is None and seen[1] and seen[9]


def test_a_detector_that_does_not_train_breaks_all_it_is_asked_for(sets, tmp_path):
    class Untrained(Halves):
        @classmethod
        def train(cls, *_args, **_rest):
            raise RuntimeError("out of memory")

    assert set(broken(Untrained, sets, tmp_path)) == set(range(1, len(OBLIGATIONS) + 1))


def test_results_files_keep_them(sets, tmp_path):
    rows = [
        {k: annotation_json(a)[k] for k in ("image_id", "category_id", "segmentation")} | {"score": 0.5}
        for a in sets[1].annotations
    ]
    results = tmp_path / "mine.json"
    results.write_text(json.dumps(rows))
    trial = Trial(CocoResults, *sets, tmp_path, {"results": str(results)})
    seen = list(outcomes(trial))
    assert [one for one in seen if not one.kept] == []
    assert seen[-1].reason == "checkpoints; it reads no images"
