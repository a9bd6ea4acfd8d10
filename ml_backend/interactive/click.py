"""`click`: the default segmenter. It takes the previous mask, and is trained from scratch in minutes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ml_backend.detector import Progress
from ml_backend.interactive.network import ClickNetwork, locally_normalised
from ml_backend.interactive.options import ClickOptions
from ml_backend.interactive.prompts import Said, checked
from ml_backend.interactive.samples import ObjectSampler, prompt_channels
from ml_backend.interactive.segmenter import Prompt, Proposal
from ml_backend.interactive.training import click_losses, trained, unfinished_at
from ml_backend.interactive.windows import (
    Window,
    clicks_on_grid,
    extent_of,
    joined,
    mask_on_grid,
    pixels_in,
    proposal_of,
    window_around,
)
from ml_backend.learning.checkpoints import digest, fingerprint, read, save
from ml_backend.learning.devices import chosen_device
from ml_backend.learning.pictures import statistics
from ml_backend.masks.coco import CocoDataset

CHECKPOINT = "click.pt"
# Network pixels of a tile that its neighbour sees as well.
_OVERLAP = 64
# A mask that comes so near to the edge of its window, as a share of the side, is looked at in a larger one.
_EDGE = 0.03


@dataclass(frozen=True)
class PictureEncoding:
    """A picture and its features: pixels (h, w, 3) uint8, levels (c, h / stride, w / stride) of the scaled picture."""

    pixels: np.ndarray
    mean: np.ndarray
    deviation: float
    levels: tuple[Tensor, ...]

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
        return self.pixels.nbytes + sum(level.numel() * level.element_size() for level in self.levels)


class ClickSegmenter:
    """Masks from boxes, clicks and previous masks.

    Attributes:
        version: a name of the weights, the same for the same weights.
        options: how it was trained and answers.
    """

    FORMAT: ClassVar[str] = "click-segmenter/1"

    def __init__(self, options: ClickOptions, state: dict[str, Tensor]):
        self.options = options
        self.device = chosen_device(options)
        if options.threads:
            torch.set_num_threads(options.threads)
        self.network = ClickNetwork(options)
        self.network.load_state_dict(state)
        self.network.to(self.device).to(memory_format=torch.channels_last).eval()
        self.version = f"click-{digest(state, options.identity())}"

    @classmethod
    def load(cls, checkpoint: str | Path, **options: Any) -> ClickSegmenter:
        """The segmenter stored at `checkpoint`; `options` may give anew what concerns answering only."""
        stored = read(Path(checkpoint), cls.FORMAT)
        chosen = ClickOptions.of_checkpoint(stored["options"], options)
        return cls(chosen, stored["network"])

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
        """Trains into the folder `output` and returns the finished checkpoint; goes on where a killed run stopped."""
        chosen = ClickOptions.create(options).resolve(data)
        name = fingerprint(chosen.identity(), data, heldout, None)
        finished = Path(output) / CHECKPOINT
        if finished.is_file() and read(finished, cls.FORMAT)["fingerprint"] == name:
            return finished
        torch.manual_seed(chosen.seed)
        unfinished = unfinished_at(Path(output), "click", name)
        sampler = ObjectSampler(data, chosen)
        done = trained(ClickNetwork(chosen), sampler.batch, click_losses(chosen), chosen, unfinished, progress)
        stored = {"format": cls.FORMAT, "fingerprint": name, "options": chosen.model_dump(mode="json")}
        save(finished, stored | {"network": done.weights})
        unfinished.path.unlink(missing_ok=True)
        return finished

    @torch.inference_mode()
    def encode(self, image: np.ndarray) -> PictureEncoding:
        """The picture, (height, width, 3) uint8 RGB, as `segment` takes it."""
        mean, deviation = statistics(image, True)
        height, width = image.shape[:2]
        scale = self.network.scale
        size = tuple(max(int(np.ceil(side * scale)), 1) for side in (height, width))
        normal = torch.from_numpy((image.astype(np.float32) - mean) / deviation).permute(2, 0, 1)[None]
        picture = functional.interpolate(normal, size=size, mode="bilinear", align_corners=False, antialias=True)
        levels = tuple(level.half() for level in self._levels(picture))
        return PictureEncoding(image, mean, float(deviation), levels)

    def _levels(self, picture: Tensor) -> list[Tensor]:
        """Features of a scaled picture (1, 3, h, w), in tiles where it is large."""
        height, width = (-(-side // 16) * 16 for side in picture.shape[2:])
        picture = functional.pad(picture, (0, width - picture.shape[3], 0, height - picture.shape[2]))
        tile = self.options.tile
        whole: list[Tensor] = []
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                y0, x0 = max(top - _OVERLAP, 0), max(left - _OVERLAP, 0)
                y1, x1 = min(top + tile + _OVERLAP, height), min(left + tile + _OVERLAP, width)
                part = picture[:, :, y0:y1, x0:x1].to(self.device).contiguous(memory_format=torch.channels_last)
                for number, level in enumerate(self.network.encode(part)):
                    stride = self.network.backbone.strides[number]
                    if len(whole) <= number:
                        whole.append(level.new_zeros((level.shape[1], height // stride, width // stride)))
                    bottom, right = min(top + tile, height), min(left + tile, width)
                    rows, columns = slice(top // stride, bottom // stride), slice(left // stride, right // stride)
                    inner = level[0, :, (top - y0) // stride :, (left - x0) // stride :]
                    kept = whole[number][:, rows, columns]
                    kept.copy_(inner[:, : kept.shape[1], : kept.shape[2]])
        return whole

    @torch.inference_mode()
    def segment(self, encoding: PictureEncoding, prompt: Prompt) -> Proposal:
        """The mask of the object that the prompt is about. Raises InputError where that has no box, click or mask."""
        said = checked(prompt, encoding.height, encoding.width)
        window = self._window(said)
        proposal, part = self._proposed(encoding, said, window)
        begun_by_click = said.box is None and said.previous is None
        extent = extent_of(proposal.mask)
        if extent is None or not (begun_by_click or _at_edge(part)):
            return proposal
        # Once more, in a window that suits what was seen.
        again = Said(said.box, said.clicks, proposal.mask)
        return self._proposed(encoding, again, self._window(again))[0]

    def _window(self, said: Said) -> Window:
        previous = None if said.previous is None else extent_of(said.previous)
        points = None
        if said.clicks:
            places = np.array([(c.x, c.y) for c in said.clicks])
            points = (*places.min(0), *places.max(0))
        extent = joined([said.box, previous, points])
        if said.box is None and previous is None:
            assert self.options.first_side is not None
            side = max(self.options.first_side / self.options.margin, extent[2] - extent[0], extent[3] - extent[1])
            x, y = (extent[0] + extent[2]) / 2, (extent[1] + extent[3]) / 2
            extent = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        return window_around(extent, self.options.margin)

    def _proposed(self, encoding: PictureEncoding, said: Said, window: Window) -> tuple[Proposal, np.ndarray]:
        """The proposal as it is seen in a window, and the mask's probabilities there."""
        grid = self.options.grid
        pixels = locally_normalised(
            pixels_in(encoding.pixels, encoding.mean, encoding.deviation, window, grid).to(self.device)
        )
        box = None if said.box is None else window.on_grid(np.array(said.box), grid).ravel()
        previous: np.ndarray = np.zeros((grid, grid), bool)
        if said.previous is not None:
            previous = mask_on_grid(said.previous, window, grid) > 0.5
        clicks = clicks_on_grid(said.clicks, window, grid)
        channels = torch.from_numpy(prompt_channels(self.options, box, clicks, previous, self.options.radius))[None]
        near = self.network.features_in(encoding.levels, [window], self.network.scale).float()
        logits, quality = self._head(pixels, channels.to(self.device), near)
        probability = logits.sigmoid()[0].cpu().numpy()
        height, width = encoding.height, encoding.width
        return proposal_of(probability, window, height, width, float(quality.sigmoid()[0])), probability

    def _head(self, pixels: Tensor, channels: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and predicted IoU, as the mean over mirrored views."""
        ways: list[list[int]] = [[], [-1], [-2], [-1, -2]][: self.options.flips]
        views = [torch.cat([x.flip(way) if way else x for way in ways]) for x in (pixels, channels, near)]
        logits, quality = self.network.head(*views)
        back = torch.stack([part.flip(way) if way else part for part, way in zip(logits, ways, strict=True)])
        return back.mean(0, keepdim=True), quality.mean(0, keepdim=True)


def _at_edge(probability: np.ndarray) -> bool:
    """Whether the mask reaches the edge of its window."""
    width = max(round(_EDGE * len(probability)), 1)
    inner = probability[width:-width, width:-width] > 0.5
    return bool((probability > 0.5).sum() > inner.sum())
