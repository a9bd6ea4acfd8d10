import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from ml_backend.errors import InputError
from ml_backend.masks.coco import CocoDataset
from tests.campaign.dataset.builders import CLASSES, IMAGES, dataset, ring_in_two_parts, write_coco


def test_every_field(tmp_path):
    mask = ring_in_two_parts()
    licence = {"id": 4, "name": "CC0", "url": "https://example.com"}
    written = write_coco(
        tmp_path / "export.json",
        dataset([mask, mask]),
        info={
            "description": "ten nuts",
            "year": 2026,
            "certificate": {"precision": np.float32(0.5), "lower_bound": 0.25},
        },
        licenses=[licence],
    )
    coco = json.loads((tmp_path / "export.json").read_text())
    assert written == 2
    assert coco["info"] == {
        "description": "ten nuts",
        "year": 2026,
        "certificate": {"precision": 0.5, "lower_bound": 0.25},
    }
    assert coco["licenses"] == [licence]
    assert coco["categories"] == [{"id": 5, "name": "nut"}, {"id": 2, "name": "bolt"}]
    assert coco["images"] == [
        {"id": 7, "file_name": "a.png", "width": 30, "height": 20},
        {"id": 3, "file_name": "b.png", "width": 12, "height": 16},
    ]
    first, second = coco["annotations"]
    assert np.array_equal(mask_util.decode(first.pop("segmentation")), mask)
    assert first == {
        "id": 1,
        "image_id": 7,
        "category_id": 5,
        "area": int(mask.sum()),
        "bbox": [2.0, 2.0, 27.0, 17.0],
        "iscrowd": 0,
        "attributes": {
            "mask_id": 1 << 40,
            "round": 1,
            "cluster": 11,
            "asked": 15,
            "yes": 14,
            "rule": "quality",
            "source": "voted yes",
            "model_version": "v1",
            "score": 0.72,
            "class_confidence": 0.9,
            "predicted_iou": 0.8,
        },
    }
    assert second["id"] == 2
    assert second["attributes"]["source"] == "propagated"


def test_rows_given_as_mappings_are_kept_as_they_are(tmp_path):
    image = {"id": 7, "width": 30, "height": 20, "file_name": "ä.png", "license": 4, "date_captured": "2026-11-20"}
    category = {"id": 5, "name": "nut", "supercategory": "hardware"}
    write_coco(tmp_path / "export.json", dataset([ring_in_two_parts()]), [image], [category])
    coco = json.loads((tmp_path / "export.json").read_text(encoding="utf-8"))
    assert coco["images"] == [image]
    assert coco["categories"] == [category]


@pytest.mark.parametrize("masks", [[], [ring_in_two_parts()]])
def test_loads_in_pycocotools_without_warnings(tmp_path, masks, capsys):
    write_coco(tmp_path / "export.json", dataset(masks))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        coco = COCO(str(tmp_path / "export.json"))
        found = coco.loadRes(coco.dataset["annotations"]) if masks else coco
    assert len(found.getAnnIds()) == len(masks)
    assert "arning" not in capsys.readouterr().out


def test_loads_as_a_data_set_of_ours(tmp_path):
    for image in IMAGES:
        (tmp_path / image.file_name).touch()
    write_coco(tmp_path / "export.json", dataset([ring_in_two_parts()]))
    loaded = CocoDataset.load(tmp_path / "export.json", tmp_path)
    assert loaded.classes == CLASSES
    assert [(a.image_id, a.class_id) for a in loaded.annotations] == [(7, 5)]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 9), piece=st.integers(1, 4))
def test_masks_are_exact_whatever_the_pieces(tmp_path_factory, seed, n, piece):
    rng = np.random.default_rng(seed)
    masks = [(rng.random((20, 30)) < rng.uniform(0.05, 0.95)).astype(np.uint8) for _ in range(n)]
    for mask in masks:
        mask[rng.integers(20), rng.integers(30)] = 1
    path = tmp_path_factory.mktemp("export") / "export.json"
    assert write_coco(path, dataset(masks).chunks(piece)) == n
    annotations = json.loads(path.read_text())["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, n + 1))
    for mask, annotation in zip(masks, annotations, strict=True):
        assert np.array_equal(mask_util.decode(annotation["segmentation"]), mask)
        assert annotation["area"] == mask.sum()
        ys, xs = np.nonzero(mask)
        assert annotation["bbox"] == [xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (dict(image=8), "mask 1099511627776: expected an image of the export, got image 8"),
        (dict(class_id=1), "mask 1099511627776: expected a class of the export, got class 1"),
        (dict(image=3), "expected its image's height and width [16, 12], got [20, 30]"),
    ],
)
def test_mask_that_does_not_belong_leaves_nothing(tmp_path, columns, message):
    path = tmp_path / "export.json"
    with pytest.raises(InputError) as caught:
        write_coco(path, dataset([ring_in_two_parts()], **columns))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_missing_folder_is_one_line(tmp_path):
    with pytest.raises(InputError, match="expected a file that can be written, got No such file or directory"):
        write_coco(tmp_path / "none" / "export.json", dataset([]))


# A process that may write 64 KiB to one file meets the same error as one on a full disk.
FULL_DISK = """
    import resource, sys
    from tests.campaign.dataset.builders import dataset, ring_in_two_parts, write_coco
    from ml_backend.errors import InputError

    pieces = (dataset([ring_in_two_parts()] * 50) for _ in range(40))
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
    try:
        write_coco(sys.argv[1], pieces)
    except InputError as error:
        sys.exit(str(error))
"""


def test_full_disk_is_one_line_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "export.json"
    path.write_text("the old export")
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL_DISK), str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert process.returncode == 1
    assert process.stderr == f"{path}: expected a file that can be written, got File too large\n"
    assert path.read_text() == "the old export"
    assert list(tmp_path.iterdir()) == [path]


def test_memory_is_that_of_one_piece(tmp_path):
    import tracemalloc

    mask = ring_in_two_parts()

    def peak(pieces):
        tracemalloc.start()
        write_coco(tmp_path / "export.json", (dataset([mask] * 400) for _ in range(pieces)))
        highest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return highest

    peak(1)
    assert peak(20) < 2 * peak(1)
