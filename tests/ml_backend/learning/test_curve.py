"""What a learning curve says."""

import pytest

from ml_backend.learning.curve import gained_last, has_stopped_rising


def curve(*ap, decaying=0):
    """A point every 100 steps, the last ones while the learning rate decays."""
    constant = len(ap) - decaying
    return [{"step": 100 * n, "ap": value, "decaying": n > constant} for n, value in enumerate(ap, 1)]


@pytest.mark.parametrize(
    ("points", "stopped"),
    [
        ([], False),
        (curve(0.1, 0.2), False),
        (curve(0.2, 0.2, 0.2), True),
        (curve(0.2, 0.2, 0.3), False),
        (curve(0.2, 0.1, 0.19), True),
        (curve(0.2, 0.203, 0.206), False),
        (curve(0.2, 0.201, 0.2015), True),
        (curve(0.0, 0.0, 0.0, 0.0), False),
        (curve(0.001, 0.001, 0.001), False),
        (curve(0.2, 0.2, 0.3, 0.3, decaying=2), False),
    ],
    ids=["nothing", "rises", "flat", "late", "falls", "slowly", "too slowly", "nothing yet", "hardly", "the decay's"],
)
def test_when_ap_has_stopped_rising(points, stopped):
    assert has_stopped_rising(points, patience=2) is stopped


@pytest.mark.parametrize(
    ("points", "gained"),
    [
        ([], None),
        (curve(0.1), None),
        (curve(0.1, 0.2, 0.3, 0.4), 0.1),
        (curve(0.1, 0.2, 0.3, 0.4, 0.9, decaying=1), 0.1),
        (curve(0.1, 0.2, 0.2, 0.2), 0.0),
        (curve(0.4, 0.3, 0.2, 0.1), -0.1),
        ([{"step": 900, "ap": 0.1, "decaying": False}, {"step": 1000, "ap": 0.2, "decaying": False}], None),
        ([{"step": 500, "ap": 0.1, "decaying": False}, {"step": 1000, "ap": 0.2, "decaying": False}], 0.05),
    ],
    ids=["nothing", "one", "rising", "the decay apart", "flat", "falling", "too late", "between points"],
)
def test_what_the_last_quarter_brought(points, gained):
    assert gained_last(points) == (None if gained is None else pytest.approx(gained))
