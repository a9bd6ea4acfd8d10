"""Images of the same bytes, and images that show the same: saved again, resized or slightly cropped.

An image's signature is the digest of its file and a small grey picture of it, by which `campaign.dataset.near` finds
those that show the same. Everything here is a function of the signatures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Signatures:
    """n images: `image_id` (n,), `digest` (n, 16) uint8 of the file, and `small` (n, h, w) uint8 pictures of them."""

    image_id: np.ndarray
    digest: np.ndarray
    small: np.ndarray

    def __len__(self) -> int:
        return len(self.image_id)


@dataclass(frozen=True)
class Duplicates:
    """`copy_of` is {image: the first image of the same bytes}; `alike` (k, 2) are pairs of images that show the same.

    The pairs are of images that are no copies of others.
    """

    copy_of: dict[int, int]
    alike: np.ndarray

    def groups(self) -> dict[int, int]:
        """{image: the first image of its group} of all images that have a copy or show the same as another."""
        first: dict[int, int] = {}

        def root(image: int) -> int:
            while image in first and first[image] != image:
                image = first[image]
            return image

        for a, b in [*self.copy_of.items(), *self.alike.tolist()]:
            one, other = sorted((root(a), root(b)))
            first[one] = first[other] = one
            for image in (a, b):
                first.setdefault(image, one)
        return {image: root(image) for image in first}


def find_duplicates(signatures: Signatures) -> Duplicates:
    """Copies and near duplicates among images. Of the images of the same bytes the first counts, by order."""
    whole = np.ascontiguousarray(signatures.digest).view("V16").reshape(-1)
    _, first, of = np.unique(whole, return_index=True, return_inverse=True)
    earliest = first[of.reshape(-1)]
    ids = signatures.image_id
    rows = np.flatnonzero(earliest != np.arange(len(signatures)))
    copies = dict(zip(ids[rows].tolist(), ids[earliest[rows]].tolist(), strict=True))
    kept = np.flatnonzero(earliest == np.arange(len(signatures)))
    from campaign.dataset.near import near_pairs

    pairs = near_pairs(signatures.small[kept])
    return Duplicates(copies, ids[kept][pairs])
