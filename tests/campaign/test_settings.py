"""Settings: parsed with one-line errors."""

import pytest

from campaign.settings import CampaignSettings, parse_settings
from ml_backend.errors import InputError


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({}, "name: expected a value, got nothing"),
        ({"name": ""}, "name: expected a text, at least 1 characters long, got ''"),
        ({"name": "x", "search": {"k_a": 0.4}}, "search.k_a: expected a number above 0.5, got 0.4"),
        ({"name": "x", "search": {"k_a": 2}}, "search.k_a: expected a number of at most 1, got 2"),
        ({"name": "x", "search": {"k_a": "high"}}, "search.k_a: expected a number, got 'high'"),
        (
            {"name": "x", "search": {"precision_per_class": True}},
            "search.precision_per_class: expected a number below 1, got True",
        ),
        ({"name": "x", "search": {"n_s": 1.5}}, "search.n_s: expected a whole number, got 1.5"),
        ({"name": "x", "search": 3}, "search: expected a group of settings, got 3"),
        ({"name": "x", "sead": 1}, "sead: expected a known setting (the nearest is seed), got 1"),
        ({"name": "x", "search": {"kiou": 1}}, "search.kiou: expected a known setting (the nearest is search.k_iou)"),
        ({"name": "x", "budget": 1}, "budget: expected a known setting (the nearest is search.budget_"),
        ({"name": "x", "page": {"page_size": 16}}, "page.page_size: expected a number of at most 15, got 16"),
        ({"name": "x", "page": {"single_audits": "perhaps"}}, "page.single_audits: expected true or false"),
        ({"name": "x", "page": {"single_classes": "cell"}}, "page.single_classes: expected a list, got 'cell'"),
        ({"name": "x", "detector": {"options": 1}}, "detector.options: expected names with values, got 1"),
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
        (
            {"search": {"policy": "foo"}},
            "search.policy: expected one of target, adaptive, paper or curtailed, got 'foo'",
        ),
        ({"search": {"k_pr": 0.9, "k_pa": 0.1}}, "search.k_pr: expected no more than search.k_pa, 0.1, got 0.9"),
        ({"search": {"budget_hours": float("inf")}}, "search.budget_hours: expected a finite number, got inf"),
        ({"search": {"seconds_per_answer": float("nan")}}, "search.seconds_per_answer"),
        ({"clustering": {"device": "gpu"}}, "clustering.device: expected cpu, cuda or cuda:N"),
        ({"search": {"budget_money": 9}}, "quality.wage_per_hour: expected a wage, which search.budget_money needs"),
        ({"clustering": {"engine": "fast"}}, "clustering.engine"),
    ],
)
def test_what_would_fail_later_is_refused_at_the_start(values, message):
    with pytest.raises(InputError) as error:
        parse_settings({"name": "t"} | values, "settings")
    assert message in str(error.value)
