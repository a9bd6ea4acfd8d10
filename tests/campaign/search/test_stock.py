"""How many pages lie ready, and how far it is asked ahead."""

import pytest

from campaign.search.stock import pages_ahead, pages_wanted
from campaign.search.verifier import milestone, next_milestone


@pytest.mark.parametrize(
    "people, asked, candidates, pages",
    [
        (0, None, 9999, 4), (2, None, 9999, 4), (10, None, 9999, 20),
        (0, 0, 9999, 14), (0, 100, 9999, 7), (20, 0, 9999, 50), (0, 0, 300, 6), (0, 5000, 9999, 4),
    ],
)  # fmt: skip
def test_pages_for_everybody_at_work_and_the_first_questions_at_once(people, asked, candidates, pages):
    assert pages_wanted(people, asked, candidates, 15) == pages


@pytest.mark.parametrize("known", [0, 10, 149, 150, 290, 400, 1000, 5000])
@pytest.mark.parametrize("pages", [0, 3, 20, 100])
def test_what_is_asked_ahead_does_not_put_off_the_end(known, pages):
    """Once the fit is made that open pages lead to, none of those still open leads to another one."""
    ahead = pages_ahead(known, pages, 15)
    assert ahead >= 0
    assert milestone(known + 15 * (pages + ahead)) == milestone(known + 15 * pages)
    assert known + 15 * (pages + ahead + 1) >= next_milestone(known + 15 * pages)
