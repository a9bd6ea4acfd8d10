"""Masks of the dataset by their numbers: what they look like is read in pieces, and never all at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from campaign.dataset.propagation import unlike_rows
from campaign.records.dataset_masks import DatasetMasks

PIECE = 1 << 16  # masks whose shapes are in memory together
Index = np.ndarray | slice
_OUTLINE = ("mask_id", "image_id", "class_id", "round", "score", "voted")


@dataclass(frozen=True)
class ListedMasks:
    """n masks in outline; row i of every column, (n,) each, belongs to the same mask.

    The columns are those of `DatasetMasks`, with `score` (n,) float32. `fetch` returns the whole of any rows (k,) of
    them, in the order of these rows.
    """

    mask_id: np.ndarray
    image_id: np.ndarray
    class_id: np.ndarray
    round: np.ndarray
    score: np.ndarray
    voted: np.ndarray
    fetch: Callable[[np.ndarray], DatasetMasks]

    def __len__(self) -> int:
        """The number of masks."""
        return len(self.mask_id)

    @classmethod
    def of(cls, masks: DatasetMasks) -> ListedMasks:
        """Masks that are in memory."""
        return cls(**{name: getattr(masks, name) for name in _OUTLINE}, fetch=masks.select)

    @classmethod
    def concatenate(cls, parts: Sequence[ListedMasks]) -> ListedMasks:
        """All rows of `parts`, in order."""
        if not parts:
            return cls.of(DatasetMasks.empty())
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _OUTLINE}
        return parts[0] if len(parts) == 1 else cls(**columns, fetch=partial(_from_parts, parts))

    def select(self, index: Index) -> ListedMasks:
        """The masks that a NumPy index, boolean mask or slice picks, in its order."""
        rows = np.arange(len(self))[index]
        columns = {name: getattr(self, name)[rows] for name in _OUTLINE}
        return ListedMasks(**columns, fetch=lambda wanted: self.fetch(rows[wanted]))

    def on_images(self, image_id: np.ndarray) -> ListedMasks:
        """The same masks with other ids of their images, (n,)."""
        return replace(
            self, image_id=image_id, fetch=lambda rows: replace(self.fetch(rows), image_id=image_id[rows])
        )  # fmt: skip

    def read(self, index: Index = slice(None)) -> DatasetMasks:
        """The whole of some masks, by default of all; in memory."""
        return self.fetch(np.arange(len(self))[index])

    def chunks(self, length: int = PIECE) -> Iterator[DatasetMasks]:
        """The whole of the masks, in order and at most `length` at a time."""
        for start in range(0, len(self), length):
            yield self.read(slice(start, start + length))

    def without_duplicates(self, iou: float) -> ListedMasks:
        """What `drop_duplicates` leaves of them, by mask id. Images are looked at in portions, each as a whole."""
        order = np.argsort(self.image_id, kind="stable")
        kept = np.zeros(len(self), bool)
        for start, end in _portions(self.image_id[order]):
            rows = np.sort(order[start:end])
            kept[rows[unlike_rows(self.read(rows), iou)]] = True
        chosen = np.flatnonzero(kept)
        return self.select(chosen[np.argsort(self.mask_id[chosen], kind="stable")])


def _from_parts(parts: Sequence[ListedMasks], rows: np.ndarray) -> DatasetMasks:
    ends = np.cumsum([len(part) for part in parts])
    of = np.searchsorted(ends, rows, side="right")
    found, places = [], []
    for number in np.unique(of).tolist():
        here = np.flatnonzero(of == number)
        found.append(parts[number].fetch(rows[here] - (ends[number] - len(parts[number]))))
        places.append(here)
    if len(found) == 1:
        return found[0]
    whole = DatasetMasks.concatenate(found)
    return whole.select(np.argsort(np.concatenate(places), kind="stable")) if found else whole


def _portions(image_id: np.ndarray) -> Iterator[tuple[int, int]]:
    """[start, end) of rows, which rise, with whole images: `PIECE` rows, or the fewest more."""
    ends = np.append(np.flatnonzero(np.diff(image_id)) + 1, len(image_id))
    start = 0
    while start < len(image_id):
        end = int(ends[min(int(np.searchsorted(ends, start + PIECE)), len(ends) - 1)])
        yield start, end
        start = end
