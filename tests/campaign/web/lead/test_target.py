"""The lead's page and the report of a campaign under the policy of a target."""

import re

import pytest

from campaign.derived.dataset import final_masks
from campaign.derived.promises import standing
from campaign.report import report_data, write_report
from campaign.web.lead import mount
from campaign.web.lead.changes import decide, foresee
from campaign.web.lead.login import lead_password
from campaign.web.serving import StoreCrops
from ml_backend.server.app import create_app
from tests.campaign.target_builders import Truth, finish, target_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = target_store(tmp_path_factory.mktemp("target") / "a", images=4, precision_per_class=0.8)
    finish(store, Truth(4))
    return store


def test_the_overview_says_what_is_promised(store):
    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, store)
    browser = app.test_client()
    login = browser.get("/lead/login")
    token = re.search(r'name="token" value="([^"]+)"', login.text).group(1)
    browser.post("/lead/login", data={"token": token, "user": "lead", "password": lead_password(store)})
    page = browser.get("/lead/").text
    assert "90 % correct" in page or "90% correct" in page
    assert "confidence" in page and f"of these {len(final_masks(store))} masks" in page
    for name in standing(store).classes:
        assert f"<tr><td>{name}</td>" in page and "Class by itself" in page
    assert browser.get("/lead/trees/1/1").status_code == 200
    assert "precision by questions: expected, 90 % interval" in page and "promised at least" in page
    assert page.count('class="chart"') == 5 and page.count("<script") == page.count("/lead/live.js") == 1
    assert "Will the promise be met?" in page and "would be delivered" in page


def test_the_report_carries_the_promise(store, tmp_path):
    data = report_data(store)
    assert data.masks == len(final_masks(store)) and "confidence" in data.certificate["promise"]
    assert data.course[-1].masks == data.masks
    write_report(tmp_path / "report.html", data)
    assert "precision by questions: expected, 90 % interval" in (tmp_path / "report.html").read_text()
    assert data.certificate["promise"] in (tmp_path / "report.html").read_text()


def test_what_an_order_brings_is_foreseen(store):
    before = set(final_masks(store).mask_id.tolist())
    tree, _ = store.trees.read(1, 1)
    change = foresee(store, 1, 1, int(tree.root), "accept")
    assert change.differences and change.gained and not change.reopens
    decide(store, 1, 1, int(tree.root), "accept", "cell")
    brought = set(final_masks(store).mask_id.tolist()) - before
    assert 0 < len(brought) <= change.gained, "rivals of what is there stay out"
    assert [(d.cluster, d.kind) for d in store.decisions.rows()] == [(tree.root, "accept")]
    decide(store, 1, 1, int(tree.root), None, "cell")
    assert set(final_masks(store).mask_id.tolist()) == before
