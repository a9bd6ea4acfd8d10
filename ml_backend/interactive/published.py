"""The published pair (Benenson, Popov, Ferrari): `M_b` makes a mask of a box, `M_b+c` corrects it by clicks.

Two DeepLabv3 networks with extra input channels, class-agnostic. The object fills 385 of the 513 pixels of a crop;
channels are colour, the box and, for `M_b+c`, positive and negative clicks as discs of radius 5. They are trained on
disjoint halves of the images, so that `M_b+c` learns from masks as `M_b` makes them of images that it has not seen.
Neither takes the previous mask as an input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ml_backend.detector import Progress
from ml_backend.errors import InputError
from ml_backend.interactive.annotators import Annotator, noisy_box
from ml_backend.interactive.encodings import box_channel, drawn
from ml_backend.interactive.options import PublishedOptions
from ml_backend.interactive.prompts import Said, checked
from ml_backend.interactive.segmenter import Click, Prompt, Proposal
from ml_backend.interactive.training import trained, unfinished_at
from ml_backend.interactive.windows import (
    Window,
    clicks_on_grid,
    extent_of,
    joined,
    pixels_in,
    proposal_of,
    seen,
    window_around,
)
from ml_backend.learning.checkpoints import digest, fingerprint, read, save
from ml_backend.learning.devices import chosen_device
from ml_backend.learning.pictures import jittered, statistics
from ml_backend.learning.scenes import Scenes
from ml_backend.learning.training import Losses
from ml_backend.masks.coco import CocoDataset

CHECKPOINT = "published.pt"
# Input channels beside the three colours.
_OF_BOX, _OF_CLICKS = 1, 3
# Batches over which batch normalisation settles after a training.
_SETTLING = 50
# Clicks that `M_b+c` learns from, at most.
_MOST_CLICKS = 9


class BoundaryRefinement(nn.Module):
    """What is added to the logits near outlines: two convolutions over them and the pixels, at full resolution."""

    def __init__(self, width: int = 16):
        super().__init__()
        self.first, self.last = nn.Conv2d(4, width, 3, padding=1), nn.Conv2d(width, 1, 3, padding=1)
        # It begins by changing nothing.
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, logits: Tensor, pixels: Tensor) -> Tensor:
        """Refined logits (n, 1, c, c) of logits (n, 1, c, c) and pixels (n, 3, c, c)."""
        return logits + self.last(self.first(torch.cat([logits, pixels], 1)).relu())


class ExtraChannelsNetwork(nn.Module):
    """DeepLabv3 of torchvision with further input channels, one logit per pixel, its outlines refined."""

    def __init__(self, backbone: str, extra: int):
        from torchvision.models import segmentation

        super().__init__()
        build = getattr(segmentation, f"deeplabv3_{backbone}")
        self.deeplab = build(weights=None, weights_backbone=None, num_classes=1)
        name, first = next((n, m) for n, m in self.deeplab.named_modules() if isinstance(m, nn.Conv2d))
        shape: Any = (first.out_channels, first.kernel_size, first.stride, first.padding)
        wider = nn.Conv2d(3 + extra, *shape)
        parent, _, own = name.rpartition(".")
        setattr(self.deeplab.get_submodule(parent), own, wider)
        self.refine = BoundaryRefinement()

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits (n, c, c) of inputs (n, 3 + extra, c, c)."""
        return self.refine(self.deeplab(inputs)["out"], inputs[:, :3])[:, 0]


def published_channels(
    options: PublishedOptions, box: np.ndarray, clicks: list[Click], with_clicks: bool
) -> np.ndarray:
    """The channels beside the colours, (1 or 3, crop, crop) float32: the box, and positive and negative clicks.

    Args:
        options: of the pair.
        box: x0, y0, x1, y1 in pixels of the crop.
        clicks: in pixels of the crop.
        with_clicks: whether the channels are those of `M_b+c`.
    """
    side, channels = options.crop, [box_channel(box, options.crop, options.crop)]
    for sign in (True, False) if with_clicks else ():
        points = np.array([(c.x, c.y) for c in clicks if c.positive is sign]).reshape(-1, 2)
        channels.append(drawn(points, side, side, options.encoding, options.radius))
    return np.stack(channels)


@dataclass(frozen=True)
class Crops:
    """Objects to learn from: pixels (n, 3, c, c), truth (n, c, c), and each one's box in pixels of its crop."""

    pixels: Tensor
    truth: Tensor
    boxes: list[np.ndarray]


class CropsOfObjects:
    """Batches of objects of some images, the same for the same seed and step."""

    def __init__(self, data: CocoDataset, image_ids: set[int], options: PublishedOptions):
        annotations = data.by_image()
        own = {i.id: [a for a in annotations.get(i.id, []) if not a.iscrowd] for i in data.images if i.id in image_ids}
        self.options, self.images = options, [i for i in data.images if own.get(i.id)]
        self.scenes = Scenes(own, {c: n + 1 for n, c in enumerate(sorted(data.classes))}, standardise=False)

    def batch(self, step: int) -> Crops:
        """The objects of a step."""
        rng = np.random.default_rng([self.options.seed, step])
        crops = [self._crop(rng) for _ in range(self.options.batch)]
        pixels, truth, boxes = zip(*crops, strict=True)
        return Crops(torch.stack(pixels), torch.stack(truth), list(boxes))

    def _crop(self, rng: np.random.Generator) -> tuple[Tensor, Tensor, np.ndarray]:
        options = self.options
        scene = self.scenes.of(self.images[rng.integers(len(self.images))])
        x, y, bitmap = scene.windows[rng.integers(len(scene.windows))]
        height, width = bitmap.shape
        box = noisy_box((float(x), float(y), float(x + width), float(y + height)), rng)
        window = window_around(box, options.crop / options.object)
        pixels = pixels_in(scene.pixels, scene.mean, scene.deviation, window, options.crop)[0]
        local = Window(window.x0 - x, window.y0 - y, window.side)
        truth = (seen(torch.from_numpy(bitmap.astype(np.float32))[None], [local], options.crop)[0, 0] > 0.5).float()
        inside: np.ndarray = window.on_grid(np.array(box), options.crop).ravel()
        if rng.random() < 0.5:
            pixels, truth = pixels.flip(2), truth.flip(1)
            inside = np.array([options.crop - inside[2], inside[1], options.crop - inside[0], inside[3]])
        return jittered(pixels, options.colour_jitter, rng), truth, inside


def box_losses(options: PublishedOptions) -> Callable[[nn.Module, Crops, int], dict[str, Tensor]]:
    """The loss of `M_b`."""

    def losses(network: nn.Module, crops: Crops, _step: int) -> dict[str, Tensor]:
        inputs = _inputs(options, crops, [[] for _ in crops.boxes], False, network)
        return {"mask": functional.binary_cross_entropy_with_logits(network(inputs), crops.truth.to(inputs.device))}

    return losses


def click_losses(options: PublishedOptions, first: nn.Module) -> Callable[[nn.Module, Crops, int], dict[str, Tensor]]:
    """The loss of `M_b+c`, of one to nine clicks on the errors of the masks that `M_b`, `first`, makes."""
    first.eval()

    def losses(network: nn.Module, crops: Crops, step: int) -> dict[str, Tensor]:
        rng = np.random.default_rng([options.seed, step, 1])
        annotator = Annotator(place=options.place, boundary=options.boundary)
        with torch.no_grad():
            made = first(_inputs(options, crops, [[] for _ in crops.boxes], False, first)) > 0
        clicks: list[list[Click]] = []
        for mask, truth in zip(made.cpu().numpy(), crops.truth.numpy() > 0.5, strict=True):
            wanted = int(rng.integers(1, _MOST_CLICKS + 1))
            clicks.append([c for _ in range(wanted) for c in annotator.click(mask, truth, rng)])
        inputs = _inputs(options, crops, clicks, True, network)
        return {"mask": functional.binary_cross_entropy_with_logits(network(inputs), crops.truth.to(inputs.device))}

    return losses


def settled(
    network: nn.Module, weights: dict[str, Tensor], batch: Callable[[int], Crops], losses: Losses,
    options: PublishedOptions,
) -> dict[str, Tensor]:  # fmt: skip
    """The weights with the means and variances that batch normalisation meets with them; `network` has them then.

    What it kept in training is of other weights: of those before, and of none that were averaged.
    """
    network.load_state_dict(weights)
    network.train()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # the mean over all batches
    with torch.no_grad():
        for number in range(_SETTLING):
            step = options.steps + number  # of objects that no step saw
            losses(network, batch(step), step)
    network.eval()
    return {name: value.detach().cpu() for name, value in network.state_dict().items()}


def _inputs(
    options: PublishedOptions, crops: Crops, clicks: list[list[Click]], with_clicks: bool, network: nn.Module
) -> Tensor:
    rows = [published_channels(options, b, c, with_clicks) for b, c in zip(crops.boxes, clicks, strict=True)]
    return torch.cat([crops.pixels, torch.from_numpy(np.stack(rows))], 1).to(next(network.parameters()).device)


@dataclass(frozen=True)
class PlainEncoding:
    """A picture (h, w, 3) uint8 as it is: the published networks see crops alone."""

    pixels: np.ndarray

    @property
    def height(self) -> int:
        """Of the picture."""
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        """Of the picture."""
        return int(self.pixels.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return int(self.pixels.nbytes)


class PublishedPair:
    """`M_b` where nobody has clicked, else `M_b+c`.

    Attributes:
        version: a name of the weights, the same for the same weights.
        options: how it was trained and answers.
    """

    FORMAT: ClassVar[str] = "published-pair/1"

    def __init__(self, options: PublishedOptions, of_box: dict[str, Tensor], of_clicks: dict[str, Tensor]):
        self.options, self.device = options, chosen_device(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.of_box = ExtraChannelsNetwork(options.backbone, _OF_BOX)
        self.of_clicks = ExtraChannelsNetwork(options.backbone, _OF_CLICKS)
        self.of_box.load_state_dict(of_box)
        self.of_clicks.load_state_dict(of_clicks)
        for network in (self.of_box, self.of_clicks):
            network.to(self.device).eval()
        self.version = f"published-{digest(of_box, of_clicks, options.identity())}"

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> PublishedPair:
        """The pair stored at `checkpoint`; `options` may give anew what concerns answering only."""
        stored = read(Path(checkpoint), cls.FORMAT)
        chosen = PublishedOptions.of_checkpoint(stored["options"], options)
        return cls(chosen, stored["box"], stored["clicks"])

    @classmethod
    def train(
        cls,
        data: CocoDataset,
        heldout: CocoDataset | None,
        output: str | Path,
        *,
        options: dict[str, Any],
        progress: Progress | None = None,
    ) -> Path:
        """Trains both, one after the other, and returns the checkpoint; goes on where a killed run stopped."""
        chosen = PublishedOptions.create(options).resolve(data)
        name = fingerprint(chosen.identity(), data, heldout, None)
        output, finished = Path(output), Path(output) / CHECKPOINT
        if finished.is_file() and read(finished, cls.FORMAT)["fingerprint"] == name:
            return finished
        first, second = halves(data, chosen.seed)
        torch.manual_seed(chosen.seed)
        at_box, at_clicks = unfinished_at(output, "box", name), unfinished_at(output, "clicks", name)
        of_box = ExtraChannelsNetwork(chosen.backbone, _OF_BOX)
        batches = CropsOfObjects(data, first, chosen).batch
        losses = box_losses(chosen)
        box = trained(of_box, batches, losses, chosen, at_box, _in_half(progress, 0)).weights
        box = settled(of_box, box, batches, losses, chosen)
        of_clicks = ExtraChannelsNetwork(chosen.backbone, _OF_CLICKS)
        batches = CropsOfObjects(data, second, chosen).batch
        losses = click_losses(chosen, of_box)
        clicks = trained(of_clicks, batches, losses, chosen, at_clicks, _in_half(progress, 1)).weights
        clicks = settled(of_clicks, clicks, batches, losses, chosen)
        stored = {"format": cls.FORMAT, "fingerprint": name, "options": chosen.model_dump(mode="json")}
        save(finished, stored | {"box": box, "clicks": clicks})
        at_box.path.unlink(missing_ok=True)
        at_clicks.path.unlink(missing_ok=True)
        return finished

    def encode(self, image: np.ndarray) -> PlainEncoding:
        """The picture, (height, width, 3) uint8 RGB, as `segment` takes it."""
        return PlainEncoding(image)

    @torch.inference_mode()
    def segment(self, encoding: PlainEncoding, prompt: Prompt) -> Proposal:
        """The mask of the object that the prompt is about. Raises InputError where that has no box, click or mask."""
        options, said = self.options, checked(prompt, encoding.height, encoding.width)
        box = self._box(said)
        window = window_around(box, options.crop / options.object)
        pixels = pixels_in(encoding.pixels, *statistics(encoding.pixels, False), window, options.crop)
        clicks = clicks_on_grid(said.clicks, window, options.crop)
        channels = published_channels(
            options, window.on_grid(np.array(box), options.crop).ravel(), clicks, bool(clicks)
        )
        network = self.of_clicks if clicks else self.of_box
        inputs = torch.cat([pixels, torch.from_numpy(channels)[None]], 1).to(self.device)
        probability = network(inputs).sigmoid()[0].cpu().numpy()
        return proposal_of(probability, window, encoding.height, encoding.width, _expected_iou(probability))

    def _box(self, said: Said) -> tuple[float, float, float, float]:
        """The box of an object: as drawn, else around its mask, else of the usual size around the clicks."""
        if said.box is not None:
            return said.box
        if said.previous is not None and (extent := extent_of(said.previous)) is not None:
            return extent
        assert self.options.first_side is not None
        half = self.options.first_side / 2
        return joined([(c.x - half, c.y - half, c.x + half, c.y + half) for c in said.clicks if c.positive])


def halves(data: CocoDataset, seed: int) -> tuple[set[int], set[int]]:
    """The ids of the images with objects, in two halves by chance. Raises InputError where there are fewer than two."""
    images = sorted({a.image_id for a in data.annotations if not a.iscrowd})
    if not images:
        raise InputError("labelled set", "at least one annotated object", "none")
    if len(images) < 2:
        raise InputError("labelled set", "annotated objects on at least two images, half for each network", len(images))
    order = np.random.default_rng([seed, 7]).permutation(images)
    return set(order[::2].tolist()), set(order[1::2].tolist())


def _expected_iou(probability: np.ndarray) -> float:
    """The IoU that is expected of the mask if its probabilities are right."""
    inside = probability > 0.5
    union = float(inside.sum() + probability[~inside].sum())
    return float(probability[inside].sum()) / union if union > 0 else 0.0


def _in_half(progress: Progress | None, half: int) -> Progress | None:
    """Progress of the first or second of two trainings of one length."""
    if progress is None:
        return None
    return lambda name, done, total: progress(name, half * total + done, 2 * total)
