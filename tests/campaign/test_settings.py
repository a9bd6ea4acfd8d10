"""Settings: parsed with one-line errors."""

import pytest

from campaign.settings import CampaignSettings, parse_settings
from ml_backend.errors import InputError


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "name: expected Field required"),
        ({"name": "x", "search": {"k_a": 0.4}}, "search.k_a: expected Input should be greater than 0.5, got 0.4"),
        ({"name": "x", "speed": 1}, "speed: expected Extra inputs are not permitted, got 1"),
        ({"name": "x", "page": {"page_size": 16}}, "page.page_size"),
    ],
)
def test_bad_settings_are_named(values, told):
    with pytest.raises(InputError) as caught:
        parse_settings(values, "settings")
    assert told in str(caught.value)


def test_settings_survive_json():
    settings = CampaignSettings(name="x", search={"k_a": 0.9})
    assert CampaignSettings.model_validate_json(settings.model_dump_json()) == settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"search": {"policy": "foo"}}, "search.policy"),
        ({"search": {"k_pr": 0.9, "k_pa": 0.1}}, "search.k_pr of no more than search.k_pa, 0.1"),
        ({"search": {"budget_hours": float("inf")}}, "search.budget_hours"),
        ({"search": {"seconds_per_answer": float("nan")}}, "search.seconds_per_answer"),
        ({"clustering": {"device": "gpu"}}, "clustering.device"),
        ({"clustering": {"engine": "fast"}}, "clustering.engine"),
    ],
)
def test_what_would_fail_later_is_refused_at_the_start(values, message):
    with pytest.raises(InputError) as error:
        parse_settings({"name": "t"} | values, "settings")
    assert message in str(error.value)
