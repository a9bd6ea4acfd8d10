"""Where masks of the dataset can be read again: other processes bring the same ones, whatever is answered meanwhile.

Numbers alone: a mask of a round that has ended lies in the file of that round, and what a promise speaks of is made of
predictions and chances. What lies nowhere yet, the masks of a round under way, is written down.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from campaign.dataset.listed import ListedMasks
from campaign.derived.dataset import chosen_masks
from campaign.derived.promises import standing
from campaign.records.dataset_masks import DatasetMasks
from campaign.store import Store
from campaign.store.shards import RowFile
from ml_backend.errors import InputError

_UNDER_WAY, _NOWHERE = 0, -1  # in place of the number of a round
_OUTLINE = "mask_id", "image_id", "class_id", "round", "score", "voted"


def listing(store: Store, masks: ListedMasks, rest: Path) -> dict[str, np.ndarray]:
    """Columns (n,) of masks that are in the dataset as it stands, from which `listed_again` makes them.

    Those of a round under way are written to the file `rest`.
    """
    columns = {name: getattr(masks, name) for name in _OUTLINE}
    promised = standing(store)
    if promised is not None and _places(promised.mask_id, masks.mask_id).all():
        rows = np.searchsorted(promised.mask_id, masks.mask_id)
        return columns | {"chance": promised.chance[rows], "voted": promised.voted[rows]}
    file, row = np.full(len(masks), _NOWHERE, np.int32), np.zeros(len(masks), np.int64)

    def look(number: int, path: Path) -> None:
        ids = RowFile(path).columns(["mask_id"])["mask_id"]
        order = np.argsort(ids, kind="stable")
        place = (file == _NOWHERE) & _places(ids[order], masks.mask_id)
        file[place] = number
        row[place] = order[np.searchsorted(ids[order], masks.mask_id[place])]

    for number, path in store.datasets.files().items():
        look(number, path)
    if (file == _NOWHERE).any():
        store.datasets.write(rest, masks.select(file == _NOWHERE))
        look(_UNDER_WAY, store.files.local(rest))
    return columns | {"lies_in": file, "row": row}


def listed_again(store: Store, columns: Mapping[str, np.ndarray], rest: Path) -> ListedMasks:
    """The masks of some rows of such columns.

    Reading them raises InputError where the round that they are of was made anew since.
    """
    mask_id, voted = columns["mask_id"], columns["voted"]
    outline = {name: columns[name] for name in _OUTLINE}
    if "chance" in columns:
        chance = columns["chance"]
        return ListedMasks(**outline, fetch=lambda rows: chosen_masks(store, mask_id[rows], voted[rows], chance[rows]))
    file, row, files = columns["lies_in"], columns["row"], dict[int, RowFile]()
    for number in np.unique(file).tolist():
        path = store.datasets.file(number) if number != _UNDER_WAY else store.files.local(rest)
        if path is None:
            raise _made_anew(store, number)
        files[number] = RowFile(path)

    def fetch(rows: np.ndarray) -> DatasetMasks:
        parts, places = [DatasetMasks.empty()], list[np.ndarray]([np.zeros(0, np.int64)])
        for number in np.unique(file[rows]).tolist():
            here = np.flatnonzero(file[rows] == number)
            own = row[rows[here]]
            if len(own) and own.max() >= len(files[number]):
                raise _made_anew(store, number)
            parts.append(DatasetMasks(**files[number].rows(own)))
            places.append(here)
            if not np.array_equal(parts[-1].mask_id, mask_id[rows[here]]):
                raise _made_anew(store, number)
        if len(parts) == 2:
            return parts[1]
        return DatasetMasks.concatenate(parts).select(np.argsort(np.concatenate(places), kind="stable"))

    return ListedMasks(**outline, fetch=fetch)


def _places(known: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Which of the wanted are among the known, which rise, (n,) bool."""
    if not len(known):
        return np.zeros(len(wanted), bool)
    found: np.ndarray = known[np.minimum(np.searchsorted(known, wanted), len(known) - 1)] == wanted
    return found


def _made_anew(store: Store, number: int) -> InputError:
    thing = f"masks of round {number} of {store.place}"
    return InputError(thing, "those that were listed for an export", "others; begin the export again")
