"""`invite`, `qualify`, `annotators`: what they print, and what they refuse in one line."""

import json

import pytest

from campaign.store import Store
from tests.campaign.builders import answer, finish, gold_store, turn
from tests.campaign.cli.builders import campaign


@pytest.fixture
def store(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.1})
    for key in turn(store):
        answer(store, key, 8, wrong=True)
        answer(store, key, 7)
    finish(store, 7)
    store.values.add_people({7: "careful@example.com", 8: "careless@example.com"})
    return store


def test_annotators_are_shown_with_what_they_are_worth(store):
    printed = json.loads(campaign("annotators", store.folder, "--json").stdout)
    users = {u["name"]: u for u in printed["users"]}
    assert users["careful@example.com"]["sensitivity"]["value"] == 1 and users["careful@example.com"]["trusted"]
    assert users["careless@example.com"]["specificity"]["value"] == 0 and not users["careless@example.com"]["trusted"]
    assert users["careful@example.com"]["kappa"] < 0 and printed["seconds_per_answer"] > 0
    text = campaign("annotators", store.folder, COLUMNS="200").stdout
    assert "careless@example.com: does not count until more gold is answered right" in text


def test_the_lead_is_shown_the_address_and_the_password(store):
    printed = json.loads(campaign("invite", store.folder, "--lead", "--json").stdout)
    assert printed["url"].endswith("/lead/") and printed["user"] == "lead"
    assert printed["password"] == Store.open(store.folder).secret("lead_password")


@pytest.mark.parametrize("command", ["invite", "qualify"])
def test_without_label_studio_one_line_says_so(store, command):
    done = campaign(command, store.folder)
    assert done.returncode == 1 and "label_studio.url" in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.label_studio
def test_annotators_are_invited_and_tested(tmp_path, label_studio):
    store = gold_store(tmp_path / "a", url=label_studio.url)
    token = {"LABEL_STUDIO_API_KEY": label_studio.token}
    email = f"new-{label_studio.port}@example.com"
    printed = json.loads(campaign("invite", store.folder, "--user", email, "--json", **token).stdout)
    assert printed["users"][0]["email"] == email and printed["link"].startswith(label_studio.url)
    again = campaign("invite", store.folder, "--user", email, **token)
    assert again.returncode == 1 and email in again.stderr and len(again.stderr.splitlines()) == 1
    made = json.loads(campaign("qualify", store.folder, "--pages", "1", "--json", **token).stdout)
    scored = json.loads(campaign("qualify", store.folder, "--json", **token).stdout)
    assert made["tests"] == scored["tests"] and len(made["tests"]) == 1 and scored["results"] == []
