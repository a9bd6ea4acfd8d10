"""The central record."""

import numpy as np
import pytest

from ml_backend.mask_ids import mask_id, split_mask_id
from ml_backend.predictions import Predictions


def some(n=3, dim=4, start=0):
    rle = np.empty(n, object)
    rle[:] = [b"04" + bytes([48 + i]) for i in range(n)]
    return Predictions(
        np.arange(start, start + n), np.ones(n), np.full(n, 2), np.ones((n, 4)), rle, np.full((n, 2), 9),
        np.linspace(0.5, 1, n), np.full(n, 0.5), np.ones((n, dim)),
    )  # fmt: skip


def test_columns_get_their_types_and_scores():
    p = some()
    assert p.mask_id.dtype == np.int64 and p.box.dtype == np.float32 and p.features.dtype == np.float16
    np.testing.assert_allclose(p.score, [0.25, 0.375, 0.5])
    assert p.rles()[1] == {"size": [9, 9], "counts": b"041"}


@pytest.mark.parametrize(("name", "value"), [("box", np.ones((3, 3))), ("size", np.ones(3)), ("image_id", np.ones(2))])
def test_columns_that_do_not_fit_are_named(name, value):
    columns = {k: getattr(some(), k) for k in Predictions._types} | {name: value}
    with pytest.raises(ValueError, match=f"{name}: expected shape"):
        Predictions(**columns)


def test_parts_are_joined_in_order_and_empty_ones_may_have_any_width():
    joined = Predictions.concatenate([Predictions.empty(7), some(2), some(1, start=5)])
    assert joined.mask_id.tolist() == [0, 1, 5]
    assert len(Predictions.concatenate([])) == 0
    assert Predictions.concatenate([Predictions.empty(7)]).features.shape == (0, 7)


@pytest.mark.parametrize("parts", [(1, 0, 0), (2, 17, 4), (8000, 2**20 - 1, 2**20 - 1)])
def test_mask_ids_are_unique_reversible_and_exact_in_javascript(parts):
    assert split_mask_id(mask_id(*parts)) == parts
    assert mask_id(*parts) < 2**53
    assert some().with_ids(*parts[:2]).mask_id[0] == mask_id(*parts[:2], 0)
