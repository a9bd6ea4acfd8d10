"""The masks that a simulation searches: a pool and held-out masks of each class, with their trees."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from campaign.clustering import LinkageOptions, Tree, linkage
from campaign.search.thresholds import Thresholds, learn_thresholds
from campaign.simulation.mixtures import Mixture, Triplets, default_mixture
from ml_backend.errors import InputError

Progress = Callable[[str, int, int], None]
MIN_SCORE = 0.2  # detections below it are not kept, as in the published study


@dataclass(frozen=True)
class ClassPopulation:
    """One class: `score`, `iou` (n,) and tree of the pool's masks, and the same of its held-out masks.

    `features` are kept where a baseline needs them, None otherwise.
    """

    class_id: int
    score: np.ndarray
    iou: np.ndarray
    tree: Tree
    heldout_score: np.ndarray
    heldout_iou: np.ndarray
    heldout_tree: Tree
    features: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.score)

    def thresholds(self, k_iou: float, k_a: float, k_pr: float | None = None, k_pa: float | None = None) -> Thresholds:
        """Learned from the held-out masks; a given `k_pr` or `k_pa` takes the place of the learned one."""
        learned = learn_thresholds(self.heldout_tree, self.heldout_score, self.heldout_iou >= k_iou, k_a)
        if k_pr is None and k_pa is None:
            return learned
        pa = learned.k_pa if k_pa is None else k_pa
        return Thresholds(min(learned.k_pr, pa) if k_pr is None else k_pr, pa, learned.curves, "set", learned.prior)


def class_sizes(masks: int, classes: int, skew: float = 0.0) -> list[int]:
    """Masks of each class, summing to `masks`: equal, or falling off as rank to the power of −`skew`."""
    if classes < 1 or masks < classes:
        raise InputError("masks and classes", "at least one class and a mask in each", (masks, classes))
    share = np.arange(1, classes + 1, dtype=np.float64) ** -skew
    edges = np.round(np.cumsum(share) / share.sum() * (masks - classes)).astype(int)
    return (np.diff(edges, prepend=0) + 1).tolist()


def sample_population(
    sizes: list[int],
    seed: int,
    *,
    mixtures: Mapping[int, Mixture] | None = None,
    heldout_share: float = 0.1,
    keep_features: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[ClassPopulation]:
    """Classes with masks drawn from `mixtures`, taken in turn, or from made-up ones.

    Held out of each class are `heldout_share` as many masks again, at least 300 and at most 2,000. Trees are kept in
    the folder `cache` and read from there the next time, for clustering is most of the work.
    """
    if not 0 < heldout_share <= 1:
        raise InputError("heldout_share", "a share above 0 and up to 1", heldout_share)
    given = list((mixtures or {}).values())
    population = []
    for class_id, size in enumerate(sizes):
        mixture = given[class_id % len(given)] if given else default_mixture(seed * 1_000_003 + class_id)
        rng = np.random.default_rng((seed, class_id, 5))
        pool = draw_masks(mixture, size, rng)
        heldout = draw_masks(mixture, int(np.clip(heldout_share * size, 300, 2000)), rng)
        population.append(_cluster(class_id, pool, heldout, keep_features, cache))
        if progress is not None:
            progress("cluster", class_id + 1, len(sizes))
    return population


def given_population(
    pool: Mapping[int, Triplets],
    heldout: Mapping[int, Triplets],
    *,
    keep_features: bool = False,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[ClassPopulation]:
    """Classes with the masks of a detector, by class id; `heldout` of each class must come from other images."""
    population = []
    for done, class_id in enumerate(sorted(pool), start=1):
        if class_id not in heldout:
            raise InputError(f"held-out masks of class {class_id}", "at least one", 0)
        population.append(_cluster(class_id, pool[class_id], heldout[class_id], keep_features, cache))
        if progress is not None:
            progress("cluster", done, len(pool))
    return population


def draw_masks(mixture: Mixture, n: int, rng: np.random.Generator) -> Triplets:
    """Draws n masks with a score above the detector's threshold."""
    parts, left = [], n
    for _ in range(50):
        drawn = mixture.sample(max(64, int(left * 1.2)), rng)
        kept = drawn.select(np.flatnonzero(drawn.score > MIN_SCORE)[:left])
        parts.append(kept)
        left -= len(kept)
        if left == 0:
            break
    else:
        raise InputError("mixture", f"masks with a score above {MIN_SCORE}", "next to none")
    return Triplets(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("features", "score", "iou")))


def _cluster(
    class_id: int, pool: Triplets, heldout: Triplets, keep_features: bool, cache: Path | None
) -> ClassPopulation:
    return ClassPopulation(
        class_id,
        pool.score,
        pool.iou,
        _tree(pool, cache),
        heldout.score,
        heldout.iou,
        _tree(heldout, cache),
        pool.features if keep_features else None,
    )


def _tree(triplets: Triplets, cache: Path | None) -> Tree:
    def build() -> Tree:
        return Tree.build(linkage(triplets.features, triplets.score, LinkageOptions()), triplets.score)

    if cache is None:
        return build()
    digest = hashlib.blake2b(np.ascontiguousarray(triplets.features).tobytes(), digest_size=12)
    digest.update(np.ascontiguousarray(triplets.score).tobytes())
    folder = Path(cache) / digest.hexdigest()
    if not (folder / "tree.json").is_file():
        build().save(folder)
    return Tree.load(folder)
