"""Whatever annotators write, and whatever Label Studio answers, is read without an exception of anybody else's."""

import random

import pytest

from tests.security.surfaces_answers import SURFACES

CASES = 1500


@pytest.mark.parametrize("surface", SURFACES)
def test_nothing_that_is_written_stops_the_reader(surface):
    for case in range(CASES):
        seed = f"{surface} 1 {case}"
        try:
            SURFACES[surface](random.Random(seed))
        except Exception as error:
            raise AssertionError(f"random.Random({seed!r}): {type(error).__name__}: {error}") from error


def test_cases_follow_from_their_seed_alone():
    from tests.security.surfaces_answers import task

    assert all(repr(task(random.Random(n))) == repr(task(random.Random(n))) for n in range(50))
    assert len({repr(task(random.Random(n))) for n in range(50)}) > 30
