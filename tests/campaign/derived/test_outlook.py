"""What is expected before the first question, which classes wait for the lead because of it, and the order to go on."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from campaign.cli import app
from campaign.cli.lifecycle import forecast_rows
from campaign.derived import outlook
from campaign.derived.selection import round_selection
from campaign.derived.status import status
from campaign.report.collection import report_data
from campaign.settings import CampaignSettings
from campaign.steps.forecast import forecast
from campaign.steps.rounds import progress_of, run_step, stage_progress
from campaign.store import Store
from campaign.store.values import Key
from campaign.web.lead import mount
from campaign.web.lead.login import lead_password
from campaign.web.serving import StoreCrops
from ml_backend.server.app import create_app
from tests.campaign.target_builders import CLASSES, Truth, answer, target_store, turn

FIGURES = {"masks": 90, "correct": 80, "questions": 100, "objects": 160, "recall": 0.5, "hours": 0.06}


def expected(**changed: float) -> dict:
    """What a class is expected to bring; every interval is a tenth to either side."""
    values = FIGURES | changed
    return {k: {"value": v, "low": 0.9 * v, "high": 1.1 * v} for k, v in values.items()} | {"cost": None}


def forecast_with(store, hopeless: tuple[int, ...]) -> None:
    """Stores a forecast by which these classes are hopeless."""
    classes = {str(c): expected(recall=0.01) if c in hopeless else expected() for c in CLASSES}
    store.rounds.update(1, metrics={outlook.FORECAST: {"target": 0.9, "all": expected(), "classes": classes}})


@pytest.fixture
def store(tmp_path):
    return target_store(tmp_path / "a", images=4)


def asked(store) -> set[int]:
    return {page.class_id for page in store.pages.rows()}


def test_opening_a_round_forecasts_it_once(store, monkeypatch):
    store.rounds.update(1, stage="cluster")
    run_step(store, "open", 1)
    assert store.rounds.get(1).stage == "verify"
    shown = status(store)["forecast"]
    assert shown["classes"].keys() == set(CLASSES.values()) and not shown["waiting"]
    every = shown["all"]
    good = Truth(4)
    ids = np.concatenate([store.trees.mask_ids(1, c) for c in CLASSES])
    really = sum(map(good, ids.tolist()))
    assert every["objects"]["low"] <= really <= every["objects"]["high"]  # nothing true was missed there
    assert 0 < every["correct"]["value"] <= every["masks"]["value"] <= len(ids)
    assert every["hours"]["value"] == pytest.approx(every["questions"]["value"] * 2 / 3600, abs=1e-3)
    monkeypatch.setattr(outlook, "work_out", None)  # not called again
    forecast(store, 1)
    assert status(store)["forecast"] == shown
    json.dumps(shown, allow_nan=False)


def test_other_policies_are_not_forecast(tmp_path):
    store = target_store(tmp_path / "b", images=2, policy="adaptive")
    forecast(store, 1)
    assert outlook.FORECAST not in store.rounds.get(1).metrics
    assert status(store)["forecast"] is None


def test_without_held_out_masks_nothing_is_forecast_and_nothing_waits(store):
    store.rounds.update(1, metrics={outlook.FORECAST: None})
    assert status(store)["forecast"] is None and not outlook.waiting(store, 1)


def test_a_hopeless_class_is_left_out_until_the_lead_says_to_go_on(store):
    forecast_with(store, (2,))
    keys, done = turn(store)
    assert asked(store) == {1} and keys and not done
    chosen = round_selection(store, 1)
    assert set(chosen.columns.class_id[chosen.delivered].tolist()) == {1}
    assert not outlook.all_wait(store, 1)
    outlook.go_on(store)
    for key in keys:
        answer(store, key, Truth(4))
    turn(store)
    chosen = round_selection(store, 1)
    assert set(chosen.columns.class_id[chosen.delivered].tolist()) == {1, 2}


def test_a_hopeless_campaign_asks_nothing_and_does_not_end(store):
    forecast_with(store, (1, 2))
    assert turn(store) == ([], False)
    assert status(store)["forecast"]["all_wait"]
    what, done, total = stage_progress(store, progress_of(store))
    assert (
        what.startswith("waits for the lead: cell: 1.0% of the objects")
        and "--go-on" in what
        and (done, total) == (0, 0)
    )
    outlook.go_on(store)
    at = store.values.get(Key.GO_ON)
    outlook.go_on(store)
    assert store.values.get(Key.GO_ON) == at  # once
    keys, _ = turn(store)
    assert keys and status(store)["forecast"]["went_on"] == at["at"]


@pytest.mark.parametrize("changed", [{"wait": False}, {"least_recall": 0.005}])
def test_settings_say_what_waits(store, changed):
    forecast_with(store, (1, 2))
    settings = store.settings.model_dump()
    settings["forecast"] |= changed
    store.settings = CampaignSettings.model_validate(settings)
    assert not outlook.waiting(store, 1)


@pytest.mark.parametrize(
    ("gained", "place", "words"),
    [(0.05, 0, "still rose by 0.050"), (0.0, 3, "had stopped rising"), (None, 0, "is not known")],
)
def test_what_would_help_begins_with_what_helps_most(store, gained, place, words):
    metrics = {"training": {"gained_last_quarter": gained}, "ap": {"mask": {"ap": 0.2}}}
    forecast_with(store, (1,))
    store.rounds.update(1, metrics=metrics if gained is not None else {})
    helps = outlook.forecast_of(store)["help"]
    assert len(helps) == 4 and words in helps[place] and helps[place].startswith("longer training")


def test_people_see_it(store, capsys):
    forecast_with(store, (1, 2))
    shown = status(store)["forecast"]
    rows = dict(forecast_rows(shown))
    assert rows["forecast, all"].startswith("80 (72 to 88) correct masks of 90 (81 to 99), recall 0.50 (0.45 to 0.55)")
    assert "waits, cell" in rows and rows["would help"].startswith("1. longer training")
    table = report_data(store).forecast
    assert list(table) == ["all", *CLASSES.values()] and table["cell"][0] == "80 (72 to 88)"
    printed = CliRunner().invoke(app, ["status", str(store.folder), "--json", "--forecast", "5"])
    said = json.loads(printed.stdout)
    assert said["forecast"]["all_wait"] and isinstance(said["prospects"], list)


def test_the_lead_may_say_so_on_the_page(store):
    forecast_with(store, (1, 2))
    server = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(server, store)
    browser = server.test_client()

    def token(page) -> str:
        return re.search(r'name="token" value="([^"]+)"', page.text).group(1)

    form = {"token": token(browser.get("/lead/login")), "user": "lead", "password": lead_password(store)}
    browser.post("/lead/login", data=form)
    page = browser.get("/lead/")
    assert "The campaign waits" in page.text and "Ask all the same" in page.text and "longer training" in page.text
    assert browser.post("/lead/go-on", data={}).status_code in (400, 403)  # without the page's token
    assert store.values.get(Key.GO_ON) is None
    assert browser.post("/lead/go-on", data={"token": token(page)}).status_code == 303
    after = browser.get("/lead/")
    assert "The campaign waits" not in after.text and "said to go on" in after.text


def test_run_takes_the_order(store, monkeypatch):
    forecast_with(store, (1, 2))
    result = CliRunner().invoke(app, ["run", str(store.folder), "--go-on"])
    assert result.exit_code == 1  # no Label Studio here; the order stands
    assert Store.open(store.folder).values.get(Key.GO_ON) is not None
