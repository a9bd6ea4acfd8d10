"""The lead's page in a real browser: at three widths, without a script, without another machine."""

import threading

import pytest
from werkzeug.serving import make_server

from campaign.web.lead import mount
from campaign.web.lead.login import lead_password
from campaign.web.serving import StoreCrops
from ml_backend.server.app import create_app
from tests.browser.conftest import ARTIFACTS
from tests.campaign.builders import finish, gold_store

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    store = gold_store(tmp_path_factory.mktemp("lead") / "a", {"gold_share": 0.1, "wage_per_hour": 20})
    finish(store, 7)
    return store


@pytest.fixture(scope="module")
def address(store):
    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, store)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/lead/"
    server.shutdown()
    thread.join()


@pytest.mark.parametrize("width", [1400, 820, 390])
def test_every_page_fits_the_screen_without_errors(browser, store, address, width):
    was = max((d for d in store.decisions.rows() if d.kind == "accept"), key=lambda d: d.size)
    place = f"1/{was.class_id}/{was.cluster}"
    mask = store.answers.rows()[0].mask_id
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_default_timeout(120_000)
    page, errors, asked = context.new_page(), [], []
    page.on("console", lambda m: errors.append(m.text) if m.type in ("error", "warning") else None)
    page.on("requestfailed", lambda r: errors.append(r.url))
    page.on("request", lambda r: asked.append(r.url))
    page.goto(address)
    page.fill("input[name=user]", "lead")
    page.fill("input[name=password]", lead_password(store))
    page.get_by_role("button", name="Log in").click()
    page.wait_for_selector(".cards")
    pages = {
        "overview": "", "tree": f"trees/1/{was.class_id}", "cluster": f"clusters/{place}",
        "change": f"clusters/{place}/change?kind=split", "mask": f"masks/{mask}", "annotator": "annotators/7",
    }  # fmt: skip
    for name, path in pages.items():
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(ARTIFACTS / f"lead-{name}-{width}.png"), full_page=True)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        broken = "() => [...document.images].filter(i => i.complete && !i.naturalWidth).length"
        assert page.evaluate(broken) == 0, name
    assert errors == [] and all(url.startswith("http://127.0.0.1") for url in asked)
    context.close()
