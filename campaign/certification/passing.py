"""Wrong masks that annotators pass: how many of those voted yes are wrong all the same.

An annotator's yes is a function of the true IoU (`campaign.quality.eyes`), and how many wrong masks lie where it is
generous depends on the masks. Held-out masks show that: by how likely the verifier thought them correct, they say
what IoUs such masks have. Put together, for every draw of the eyes' posterior and of the held-out images, they say how
many wrong masks among delivered ones look right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from campaign.quality.eyes import Eyes

BINS = 8  # of the verifier's chance, with as many held-out masks each
_LEAST = 20  # held-out masks in a bin


@dataclass(frozen=True)
class Passing:
    """Shares of wrong masks that look right, by the verifier's chance.

    `edges` (B − 1,) between the bins. For each of S posterior draws: `unasked` (S, B), of masks nobody was asked about
    the share that is wrong and would be voted yes, and `voted` (S, B), of masks voted yes the share that is wrong.
    """

    edges: np.ndarray
    unasked: np.ndarray
    voted: np.ndarray

    def bins(self, chance: np.ndarray) -> np.ndarray:
        """The bin of each chance, (n,) int."""
        return np.searchsorted(self.edges, chance, side="right")

    def counts(self, chance: np.ndarray) -> np.ndarray:
        """How many masks fall in each bin, (B,) int."""
        return np.bincount(self.bins(chance), minlength=len(self.edges) + 1)

    def most(self, unasked: np.ndarray, voted: np.ndarray, alpha: float) -> float:
        """The most wrong masks that look right at error probability `alpha`, for so many masks of each bin (B,)."""
        return float(np.quantile(self.unasked @ unasked + self.voted @ voted, 1 - alpha))

    def mean(self, unasked: np.ndarray, voted: np.ndarray) -> float:
        """How many wrong masks that look right are expected."""
        return float((self.unasked @ unasked + self.voted @ voted).mean())

    def wrong_if_voted(self, chance: np.ndarray) -> np.ndarray:
        """The chance that a mask is wrong although it was voted yes, (n,)."""
        return self.voted.mean(axis=0)[self.bins(chance)]


def no_passing() -> Passing:
    """Of annotators who are taken to pass no wrong mask."""
    return Passing(np.zeros(0), np.zeros((1, 1)), np.zeros((1, 1)))


def passing(eyes: Eyes, iou: np.ndarray, chance: np.ndarray, image: np.ndarray, k_iou: float, seed: int = 0) -> Passing:
    """From the eyes and the held-out masks: their true IoU, the cross-fitted chance and the image, (h,) each.

    Every posterior draw of the eyes meets another weighting of the held-out images (Rubin 1981, "The Bayesian
    bootstrap"), for these are a sample too.
    """
    if not len(iou):
        return no_passing()
    order = np.lexsort((image, chance, iou))
    iou, chance, image = (np.asarray(column)[order] for column in (iou, chance, image))
    bins = int(np.clip(len(iou) // _LEAST, 1, BINS))
    edges = np.unique(np.quantile(chance, np.arange(1, bins) / bins)) if bins > 1 else np.zeros(0)
    place = np.searchsorted(edges, chance, side="right")
    yes = eyes.chances(iou)
    _, of_image = np.unique(image, return_inverse=True)
    rng = np.random.default_rng((seed, 51))
    weight = rng.exponential(size=(len(yes), of_image.max() + 1))[:, of_image]
    member = (place[:, None] == np.arange(len(edges) + 1)).astype(np.float64)
    passed = (weight * yes * (iou < k_iou)) @ member
    unasked = passed / np.maximum(weight @ member, 1e-12)
    voted = passed / np.maximum((weight * yes) @ member, 1e-12)
    return Passing(edges, unasked, voted)
