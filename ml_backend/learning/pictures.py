"""Pictures as networks take them: read, normalised, and with other colours in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ml_backend.errors import InputError
from ml_backend.masks.coco import ImageRecord
from ml_backend.masks.images import read_rgb


def statistics(pixels: np.ndarray, standardise: bool) -> tuple[np.ndarray, float | np.ndarray]:
    """Mean (3,) and deviation that an image is normalised by: its own, or those of ImageNet."""
    if not standardise:
        return np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
    sample = pixels[:: max(pixels.shape[0] // 256, 1), :: max(pixels.shape[1] // 256, 1)].astype(np.float32)
    mean = sample.mean((0, 1))
    return mean, max(float(np.sqrt(((sample - mean) ** 2).mean())), 4.0)


def load_pixels(record: ImageRecord) -> np.ndarray:
    """The image's pixels. Raises InputError where its size is not the one its record states."""
    pixels = read_rgb(record.path)
    if pixels.shape[:2] != (record.height, record.width):
        raise InputError(record.path, f"{record.width}x{record.height} pixels", f"{pixels.shape[1]}x{pixels.shape[0]}")
    return pixels


def jittered(image: Tensor, strength: float, rng: np.random.Generator) -> Tensor:
    """A normalised image (3, h, w) with random contrast, brightness, colour balance and noise; 0 changes nothing."""
    if strength == 0:
        return image
    contrast = float(np.exp(rng.normal(0, strength * 0.6)))
    shift = rng.normal(0, strength * 0.5) + rng.normal(0, strength * 0.15, 3)
    gains = contrast * np.exp(rng.normal(0, strength * 0.15, 3))
    image = image * torch.tensor(gains, dtype=torch.float32)[:, None, None]
    image = image + torch.tensor(shift, dtype=torch.float32)[:, None, None]
    if rng.random() < 0.3:
        noise = np.random.Generator(np.random.SFC64(int(rng.integers(2**31)))).standard_normal(image.shape, np.float32)
        image = image + torch.from_numpy(noise) * float(rng.uniform(0, 0.25 * strength))
    return image
