"""What the store holds of images' signatures: a file for each shard, written when it was first looked at."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from campaign.dataset.duplicates import Signatures
from campaign.dataset.pictures import SIDE
from campaign.store.objects import Files
from campaign.store.scratch import scratch_array


class SignatureFiles:
    """Part of `Store`: signatures of images, under `signatures/` in the campaign folder. They are never rewritten."""

    def __init__(self, files: Files, folder: Path):
        self._files, self._folder = files, folder / "signatures"

    def has(self, split: str, number: int) -> bool:
        """Whether the images of a shard have theirs."""
        return self._files.has(self._path(split, number))

    def write(self, split: str, number: int, signatures: Signatures) -> None:
        """Stores those of a shard, whole."""
        buffer = io.BytesIO()
        np.savez(buffer, image_id=signatures.image_id, digest=signatures.digest, small=signatures.small)
        self._files.write(self._path(split, number), lambda p: p.write_bytes(buffer.getbuffer()))

    def version(self) -> str | None:
        """Names what there is; None where no image has any."""
        files = sorted(self._files.sizes(self._folder, "*.npz").items())
        return hashlib.blake2b(repr(files).encode(), digest_size=16).hexdigest() if files else None

    def read(self) -> Signatures:
        """Those of all images that have them, by image id; their pictures on disk, in a file that is gone after use."""
        paths = self._files.listed(self._folder, "*.npz")
        ids, digests = [np.zeros(0, np.int64)], [np.zeros((0, 16), np.uint8)]
        for path in self._files.each(paths):
            with np.load(path, allow_pickle=False) as stored:
                ids.append(stored["image_id"])
                digests.append(stored["digest"])
        image_id = np.concatenate(ids)
        order = np.argsort(image_id, kind="stable")
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        small = scratch_array(self._folder, (len(order), SIDE, SIDE), np.uint8)
        start = 0
        for path, count in zip(self._files.each(paths), map(len, ids[1:]), strict=True):
            with np.load(path, allow_pickle=False) as stored:
                small[place[start : start + count]] = stored["small"]
            start += count
        return Signatures(image_id[order], np.concatenate(digests)[order], small)

    def _path(self, split: str, number: int) -> Path:
        return self._folder / f"{split}-{number:05d}.npz"
