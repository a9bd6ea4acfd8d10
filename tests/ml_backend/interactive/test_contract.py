"""What every trained segmenter must keep, as one table. All of it holds for any weights: they have hardly learnt."""

import threading
from importlib import import_module

import numpy as np
import pytest
import torch

from ml_backend.errors import InputError
from ml_backend.interactive.segmenter import Click, Prompt, Segmenter, load_segmenter_class
from ml_backend.masks.coco import decode
from ml_backend.masks.images import read_rgb
from tests.ml_backend.detectors.drawn import draw

SHORT = {"steps": 4, "warmup": 1, "checkpoint_every": 2, "threads": 1}
# Name, module and class, and options that make a run of seconds.
SEGMENTERS = {
    "click": ("click.ClickSegmenter", {"crop": 64, "grid": 32, "regions": 1, "objects": 2, "scale": 1.0}),
    "published": ("published.PublishedPair", {"crop": 65, "object": 49, "backbone": "mobilenet_v3_large", "batch": 2}),
}
BOX = (20.0, 30.0, 50.0, 60.0)
CLICKS = (Click(35.0, 45.0, True), Click(5.5, 5.5, False))


@pytest.fixture(scope="module", params=["click", pytest.param("published", marks=pytest.mark.slow)])
def name(request):
    return request.param


@pytest.fixture(scope="module")
def kind(name):
    module, attribute = SEGMENTERS[name][0].split(".")
    return getattr(import_module(f"ml_backend.interactive.{module}"), attribute)


@pytest.fixture(scope="module")
def options(name):
    return {**SHORT, **SEGMENTERS[name][1]}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw(tmp_path_factory.mktemp("drawn"), images=4, seed=1)


@pytest.fixture(scope="module")
def checkpoint(kind, options, data, tmp_path_factory):
    return kind.train(data, None, tmp_path_factory.mktemp("trained"), options=options)


@pytest.fixture(scope="module")
def segmenter(kind, checkpoint):
    return kind.load(checkpoint, threads=1)


@pytest.fixture(scope="module")
def image(data):
    return read_rgb(data.images[0].path)


@pytest.fixture(scope="module")
def ring():
    """A mask with a hole and a second part."""
    mask = np.zeros((96, 96), bool)
    mask[20:60, 20:60] = True
    mask[30:50, 30:50] = False
    mask[70:76, 70:76] = True
    return mask


def prompts(ring):
    return [
        Prompt(box=BOX),
        Prompt(box=BOX, clicks=CLICKS),
        Prompt(clicks=CLICKS),
        Prompt(previous=ring),
        Prompt(box=BOX, clicks=CLICKS, previous=ring),
        Prompt(box=(-10, -10, 500, 500)),
        Prompt(clicks=(Click(96.0, 96.0, True),)),
        Prompt(box=(10, 10, 10.5, 11)),
    ]


def test_it_is_a_segmenter_that_is_found_by_its_name(name, kind, segmenter):
    assert load_segmenter_class(name) is kind
    assert isinstance(segmenter, Segmenter)


def test_masks_have_the_shape_of_the_picture(segmenter, image, ring):
    encoding = segmenter.encode(image)
    assert (encoding.height, encoding.width) == (96, 96)
    assert encoding.nbytes >= image.nbytes
    for prompt in prompts(ring):
        proposal = segmenter.segment(encoding, prompt)
        assert proposal.mask.shape == (96, 96) and proposal.mask.dtype == bool
        assert 0 <= proposal.predicted_iou <= 1 and 0 <= proposal.stability <= 1


def test_pictures_that_are_not_square_and_hardly_anything(segmenter):
    for shape in ((7, 200, 3), (1, 1, 3), (130, 17, 3)):
        encoding = segmenter.encode(np.full(shape, 90, np.uint8))
        assert segmenter.segment(encoding, Prompt(box=(0, 0, shape[1], shape[0]))).mask.shape == shape[:2]


def test_the_same_prompt_has_the_same_answer_in_any_order_and_thread(segmenter, image, ring):
    encoding = segmenter.encode(image)
    first = [segmenter.segment(encoding, p) for p in prompts(ring)]
    again: dict[int, object] = {}

    def ask(rows):
        for i in rows:
            again[i] = segmenter.segment(encoding, prompts(ring)[i])

    threads = [threading.Thread(target=ask, args=(rows,)) for rows in (range(7, -1, -2), range(6, -1, -2))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, proposal in enumerate(first):
        assert (again[i].mask == proposal.mask).all()
        assert again[i].predicted_iou == pytest.approx(proposal.predicted_iou, abs=1e-6)


def test_a_prompt_is_left_as_it_was(segmenter, image, ring):
    before = ring.copy()
    encoding = segmenter.encode(image)
    segmenter.segment(encoding, Prompt(clicks=CLICKS, previous=ring))
    assert (ring == before).all()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Prompt(), "a box, a positive click or a mask to correct, got nothing"),
        (Prompt(clicks=(Click(3, 3, False),)), "got 1 negative clicks alone"),
        (Prompt(previous=np.zeros((96, 96), bool)), "a mask to correct, got nothing"),
        (Prompt(previous=np.ones((4, 4), bool)), r"previous mask: expected the picture's shape \(96, 96\)"),
        (Prompt(box=(5, 5, 5, 9)), "box: expected a size within the picture"),
        (Prompt(box=(200, 5, 300, 9)), "box: expected a size within the picture"),
        (Prompt(box=(5, 5, float("nan"), 9)), "box: expected x0, y0, x1, y1"),
        (Prompt(clicks=(Click(97, 3, True),)), "click: expected a place in the picture of 96x96 pixels"),
        (Prompt(clicks=(Click(3, float("inf"), True),)), "click: expected a place in the picture"),
    ],
)
def test_bad_prompts(segmenter, image, prompt, message):
    with pytest.raises(InputError, match=message):
        segmenter.segment(segmenter.encode(image), prompt)


def test_ten_thousand_clicks(segmenter, image):
    rng = np.random.default_rng(0)
    clicks = tuple(Click(float(x), float(y), bool(p)) for x, y, p in rng.uniform(0, 96, (10_000, 3)))
    assert segmenter.segment(segmenter.encode(image), Prompt(clicks=clicks)).mask.shape == (96, 96)


def test_a_finished_run_is_returned_and_other_options_train_anew(kind, options, data, checkpoint, segmenter):
    before = checkpoint.stat().st_mtime_ns
    assert kind.train(data, None, checkpoint.parent, options=options) == checkpoint
    assert checkpoint.stat().st_mtime_ns == before
    assert kind.load(checkpoint).version == segmenter.version


def test_a_killed_run_goes_on_and_ends_the_same(kind, options, data, checkpoint, segmenter, tmp_path):
    class Killed(KeyboardInterrupt):
        pass

    def kill(_name, done, _total):
        if done == 3:
            raise Killed

    with pytest.raises(Killed):
        kind.train(data, None, tmp_path, options=options, progress=kill)
    steps = []
    again = kind.train(data, None, tmp_path, options=options, progress=lambda *at: steps.append(at[1]))
    assert steps[0] == 3  # the checkpoint is of two steps
    assert kind.load(again).version == segmenter.version
    other = kind.train(data, None, tmp_path / "other", options={**options, "seed": 1})
    assert kind.load(other).version != segmenter.version


def test_bad_checkpoints_and_options(kind, checkpoint, data, tmp_path):
    with pytest.raises(InputError, match="expected a checkpoint, got no such file"):
        kind.load(tmp_path / "none.pt")
    torch.save({"format": "other"}, tmp_path / "other.pt")
    with pytest.raises(InputError, match="a checkpoint of format"):
        kind.load(tmp_path / "other.pt")
    with pytest.raises(InputError, match="segmenter option steps"):
        kind.load(checkpoint, steps=3)
    with pytest.raises(InputError, match=r"segmenter option stepps: expected one of .*the nearest is steps"):
        kind.train(data, None, tmp_path, options={"stepps": 3})
    data = type(data)(data.images, data.classes, [])
    with pytest.raises(InputError, match="labelled set: expected at least one annotated object, got none"):
        kind.train(data, None, tmp_path, options={})


@pytest.mark.slow
def test_it_learns_what_objects_look_like(kind, name, data, image, tmp_path):
    """From a box the bright disk or dark square in it, much better than the box itself."""
    if name != "click":
        pytest.skip("one network that learns in seconds is enough")
    checkpoint = kind.train(
        data, None, tmp_path, options={**SHORT, "steps": 60, "warmup": 5, "averaging": 0.9, "crop": 64, "grid": 32}
    )
    segmenter = kind.load(checkpoint)
    boxes, masks = [], []
    for record in data.images[:2]:
        encoding = segmenter.encode(read_rgb(record.path))
        for annotation in data.by_image()[record.id]:
            truth = decode(annotation.rle).astype(bool)
            ys, xs = np.nonzero(truth)
            box = np.zeros_like(truth)
            box[max(ys.min() - 3, 0) : ys.max() + 4, max(xs.min() - 3, 0) : xs.max() + 4] = True
            prompt = Prompt(box=(xs.min() - 3, ys.min() - 3, xs.max() + 4, ys.max() + 4))
            mask = segmenter.segment(encoding, prompt).mask
            boxes.append((box & truth).sum() / (box | truth).sum())
            masks.append((mask & truth).sum() / (mask | truth).sum())
    assert np.mean(masks) > np.mean(boxes) + 0.08
