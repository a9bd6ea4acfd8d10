"""The central record."""

from dataclasses import replace

import numpy as np
import pytest

from ml_backend.mask_ids import mask_id, split_mask_id
from ml_backend.predictions import Predictions
from tests.ml_backend.builders import some_predictions


def test_columns_get_their_types():
    p = some_predictions()
    assert p.mask_id.dtype == np.int64 and p.box.dtype == np.float32 and p.features.dtype == np.float16


@pytest.mark.parametrize(("name", "value"), [("box", np.ones((3, 3))), ("size", np.ones(3)), ("image_id", np.ones(2))])
def test_columns_that_do_not_fit_are_named(name, value):
    columns = {k: getattr(some_predictions(), k) for k in Predictions.COLUMNS} | {name: value}
    with pytest.raises(ValueError, match=f"{name}: expected shape"):
        Predictions(**columns)


def test_parts_are_joined_in_order_and_empty_ones_may_have_any_width():
    joined = Predictions.concatenate([Predictions.empty(features=7), some_predictions(2), some_predictions(1, start=5)])
    assert joined.mask_id.tolist() == [0, 1, 5]


@pytest.mark.parametrize("parts", [(1, 0, 0), (2, 17, 4), (8000, 2**20 - 1, 2**20 - 1)])
def test_mask_ids_are_unique_reversible_and_exact_in_javascript(parts):
    assert split_mask_id(mask_id(*parts)) == parts
    assert mask_id(*parts) < 2**53
    assert some_predictions().with_ids(*parts[:2]).mask_id[0] == mask_id(*parts[:2], 0)


def test_stability_is_unknown_where_nothing_is_said_of_it():
    unknown = some_predictions(2)
    assert unknown.stability.dtype == np.float32 and np.isnan(unknown.stability).all()
    known = replace(unknown, stability=[0.5, 1])
    joined = Predictions.concatenate([unknown, known.select([1])])
    assert np.isnan(joined.stability).tolist() == [True, True, False] and joined.stability[2] == 1
