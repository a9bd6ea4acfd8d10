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
from campaign.search.portions import portions
from campaign.search.selection import Beliefs

BINS = 8  # of the verifier's chance, with as many held-out masks each
FEARED = 0.9  # quantile of what annotators pass that is planned for
EYES_KNOWN = 60  # gold answers until which annotators are planned for as if they never erred
_LEAST = 20  # held-out masks in a bin
_MOST = 4000  # held-out masks that are looked at


@dataclass(frozen=True)
class Passing:
    """Shares of wrong masks that look right, by the verifier's chance.

    `edges` (B − 1,) between the bins. For each of S posterior draws: `voted` (S, B), of masks voted yes the share that
    is wrong; `unasked` (S, B), of masks nobody was asked about the same, less the share that is correct and would be
    voted no: what a count of votes overlooks of either kind. `spread` (S, B) is the share that is overlooked either
    way, less the square of `unasked`: the variance of one mask. `of_all` (B,) is the mean share that is wrong and would
    be voted yes, less the other, of all masks of a bin, delivered or not. `noise` (S,) are standard normal.

    Chances are always those of a verifier that saw no answer on the mask itself or its image: what it thinks of masks
    that were voted yes, once it knows that, says nothing about who votes.
    """

    edges: np.ndarray
    unasked: np.ndarray
    voted: np.ndarray
    of_all: np.ndarray
    spread: np.ndarray
    noise: np.ndarray

    def bins(self, chance: np.ndarray) -> np.ndarray:
        """The bin of each chance, (n,) uint8."""
        found = np.empty(len(chance), np.uint8)
        for part in portions(len(chance)):
            found[part] = np.searchsorted(self.edges, chance[part], side="right")
        return found

    def counts(self, chance: np.ndarray) -> np.ndarray:
        """How many masks fall in each bin, (B,) int."""
        found = np.zeros(len(self.edges) + 1, np.int64)
        for part in portions(len(chance)):
            found += np.bincount(self.bins(chance[part]), minlength=len(found))
        return found

    def most(self, unasked: np.ndarray, voted: np.ndarray, alpha: float) -> float:
        """The most wrong masks that votes overlook at error probability `alpha`, for so many masks of each bin (B,).

        Shares are those of masks like these; how many of just these are overlooked varies around them.
        """
        variance = self.spread @ unasked + (self.voted * (1 - self.voted)) @ voted
        return float(np.quantile(self.unasked @ unasked + self.voted @ voted + variance**0.5 * self.noise, 1 - alpha))

    def mean(self, unasked: np.ndarray, voted: np.ndarray) -> float:
        """How many wrong masks votes are expected to overlook."""
        return float((self.unasked @ unasked + self.voted @ voted).mean())

    def overlooked(self, unasked: np.ndarray, voted: np.ndarray) -> np.ndarray:
        """(S,): how many wrong masks votes overlook in each posterior draw, of masks with these unseen chances."""
        return self.unasked @ self.counts(unasked) + self.voted @ self.counts(voted)

    def beliefs(self, chance: np.ndarray, unseen: np.ndarray) -> Beliefs:
        """What is believed of masks by the verifier's chance, (n,): learned from votes, so it is one of a yes.

        Of what votes overlook as much is feared as gold leaves open: the promise counts the most of it, so a set that
        were planned by the mean would be too large to be promised, and hold yes of little worth where it cannot be.
        """
        passed, overlooked = (np.quantile(share, FEARED, axis=0) for share in (self.voted, self.unasked))
        more = self.of_all + overlooked - self.unasked.mean(axis=0)
        return Beliefs(chance, self.bins(unseen), more, 1 - passed)


def no_passing() -> Passing:
    """Of annotators who are taken to pass no wrong mask."""
    nothing = np.zeros((1, 1))
    return Passing(np.zeros(0), nothing, nothing, np.zeros(1), nothing, np.zeros(1))


def passing(eyes: Eyes, iou: np.ndarray, chance: np.ndarray, image: np.ndarray, k_iou: float, seed: int = 0) -> Passing:
    """From the eyes and the held-out masks: their true IoU, the cross-fitted chance and the image, (h,) each.

    Every posterior draw of the eyes meets another weighting of the held-out images (Rubin 1981, "The Bayesian
    bootstrap"), for these are a sample too.
    """
    if not len(iou):
        return no_passing()
    order = np.lexsort((image, chance, iou))
    if len(order) > _MOST:
        order = order[np.sort(np.random.default_rng((seed, 52)).permutation(len(order))[:_MOST])]
    iou, chance, image = (np.asarray(column)[order] for column in (iou, chance, image))
    bins = int(np.clip(len(iou) // _LEAST, 1, BINS))
    edges = np.unique(np.quantile(chance, np.arange(1, bins) / bins)) if bins > 1 else np.zeros(0)
    edges = edges[edges > chance.min()]  # no bin is empty where many chances are the same
    place = np.searchsorted(edges, chance, side="right")
    yes = eyes.chances(iou)
    _, of_image = np.unique(image, return_inverse=True)
    rng = np.random.default_rng((seed, 51))
    weight = rng.exponential(size=(len(yes), of_image.max() + 1))[:, of_image]
    member = (place[:, None] == np.arange(len(edges) + 1)).astype(np.float64)
    passed = (weight * yes * (iou < k_iou)) @ member
    missed = (weight * (1 - yes) * (iou >= k_iou)) @ member
    voted = passed / np.maximum((weight * yes) @ member, 1e-12)
    # Delivered masks are chosen by what the answers around them say, so more of them look right than of their bin.
    masks = np.maximum(weight @ member, 1e-12)
    unasked = voted - missed / masks
    spread = np.maximum(voted + missed / masks - unasked**2, 0.0)
    return Passing(edges, unasked, voted, ((passed - missed) / masks).mean(axis=0), spread, rng.normal(size=len(yes)))
