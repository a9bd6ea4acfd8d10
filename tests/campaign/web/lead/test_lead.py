"""The lead's page: behind its login, complete without a script or another machine, and able to take decisions back."""

import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import pytest

from campaign.derived.dataset import obtained
from campaign.derived.team import team
from campaign.steps.replay import replay
from campaign.store import Store
from campaign.web.lead import mount
from campaign.web.lead.changes import decide, foresee
from campaign.web.lead.explorer import ClassExplorer, Listing
from campaign.web.lead.login import SECRET, lead_password
from campaign.web.lead.views import Figures
from campaign.web.serving import StoreCrops
from ml_backend.errors import InputError
from ml_backend.server.app import create_app
from tests.campaign.builders import answer, finish, gold_store, is_good, turn


@pytest.fixture
def store(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0.1})
    finish(store, 7)
    return store


@pytest.fixture
def browser(store):
    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, store)
    return app.test_client()


def token(page) -> str:
    return re.search(r'name="token" value="([^"]+)"', page.text).group(1)


def log_in(browser, store, password=None):
    form = {"token": token(browser.get("/lead/login")), "user": "lead", "password": password or lead_password(store)}
    return browser.post("/lead/login", data=form)


def accepted(store):
    return max((d for d in store.decisions.rows() if d.kind == "accept"), key=lambda d: d.size)


class Links(HTMLParser):
    """Every address that a page names, and every script."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.pages, self.scripts, self.inline = [], [], 0, 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.inline += any(name == "style" or name.startswith("on") for name, _ in attributes)
        self.addresses += [value for name, value in attributes if name in ("href", "src", "action")]
        self.pages += [value for name, value in attributes if name == "href" and value.startswith("/lead/")]


def test_nothing_is_shown_before_the_login(browser, store):
    for path in ("/lead/", "/lead/trees/1/1", f"/lead/clusters/1/1/{accepted(store).cluster}", "/lead/masks/1"):
        posted = browser.get(path)
        assert posted.status_code == 302 and posted.headers["Location"].startswith("/lead/login")
    assert browser.post("/lead/clusters/1/1/3/change", data={"kind": "reject"}).status_code == 401
    assert log_in(browser, store, "wrong").status_code == 401
    assert browser.get("/lead/").status_code == 302
    assert store.overrides.rows() == []


@pytest.mark.parametrize(
    ("then", "to"),
    [("/lead/trees/1/1", "/lead/trees/1/1"), ("//evil.example/lead/", "/lead/"), ("http://evil.example", "/lead/")],
)
def test_a_login_leads_nowhere_else(browser, store, then, to):
    form = {"token": token(browser.get("/lead/login")), "user": "lead", "password": lead_password(store), "then": then}
    assert browser.post("/lead/login", data=form).headers["Location"] == to


def test_forms_of_other_sites_are_refused(browser, store):
    assert log_in(browser, store).status_code == 302
    address = f"/lead/clusters/1/{accepted(store).class_id}/{accepted(store).cluster}/change"
    assert browser.post(address, data={"kind": "reject"}).status_code == 400
    assert browser.post(address, data={"kind": "reject", "token": "x"}).status_code == 400
    assert store.overrides.rows() == []


def test_an_older_campaign_gets_a_password(store):
    store.save_secrets({SECRET: ""})
    assert len(lead_password(store)) > 20 and lead_password(store) == lead_password(store)


def test_every_page_is_there_whole_and_needs_no_other_machine(browser, store):
    log_in(browser, store)
    todo, seen, pictures = ["/lead/"], set(), set()
    while todo and len(seen) < 60:
        path = todo.pop(0)
        seen.add(path)
        page = browser.get(path)
        assert page.status_code == 200, path
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        if page.mimetype != "text/html":
            continue
        links = Links(page.text)
        assert links.scripts == links.inline == 0
        assert all(link.startswith("/") for link in links.addresses), path
        pictures |= {link for link in links.addresses if link.startswith("/crops/")}
        todo += [link for link in links.pages if link not in seen and link not in todo]
    kinds = {path.split("/")[2] for path in seen}
    assert kinds >= {"", "annotators", "trees", "clusters", "masks", "style.css"}
    for picture in sorted(pictures)[:5]:
        assert browser.get(picture).mimetype == "image/jpeg"


def test_an_annotator_s_eye_is_drawn(browser, store):
    log_in(browser, store)
    eye = team(store).users[0].eye
    for path in ("/lead/", "/lead/annotators/7"):
        text = browser.get(path).text
        assert f"the eye cuts at {eye.eye.cut:.2f}" in text and "<polyline points=" in text
        assert text.count("<circle") == len(eye.seen)
    assert f"{eye.low:.3f} to {eye.high:.3f} (90 %)" in text


@pytest.mark.parametrize("path", ["trees/1/9", "trees/9/1", "clusters/1/1/99999", "masks/123", "annotators/nobody"])
def test_what_is_not_there_is_named(browser, store, path):
    log_in(browser, store)
    page = browser.get(f"/lead/{path}")
    assert page.status_code == 404 and "no such page" in page.text


def test_a_decision_is_changed_after_what_follows_was_shown(browser, store):
    log_in(browser, store)
    was = accepted(store)
    address = f"/lead/clusters/1/{was.class_id}/{was.cluster}"
    before = obtained(store, 1).mask_id.tolist()
    page = browser.get(f"{address}/change?kind=reject")
    assert "masks that leave it" in page.text and store.overrides.rows() == []
    assert browser.post(f"{address}/change", data={"kind": "reject", "token": token(page)}).status_code == 303
    now = next(d for d in store.decisions.rows(1, was.class_id) if d.cluster == was.cluster)
    assert now.kind == "reject" and (now.asked, now.yes) == (was.asked, was.yes) and "against accept" in now.rule
    assert len(obtained(store, 1)) < len(before)
    page = browser.get(f"{address}/change?kind=policy")
    browser.post(f"{address}/change", data={"kind": "policy", "token": token(page)})
    assert obtained(store, 1).mask_id.tolist() == before
    assert [o.kind for o in store.overrides.rows()] == ["reject", None]
    assert browser.get(f"{address}/change?kind=burn").status_code == 400


def test_what_is_foreseen_is_what_happens(store):
    was = accepted(store)
    before = set(obtained(store, 1).mask_id.tolist())
    kinds = {d.cluster: d.kind for d in store.decisions.rows(1, was.class_id)}
    change = foresee(store, 1, was.class_id, was.cluster, "split")
    assert change.questions > 0 and change.lost > 0 and change.gained == 0 and not change.reopens
    assert (was.cluster, "accept", "split") in [(d.cluster, d.before, d.after) for d in change.differences]
    assert {d.cluster: d.kind for d in store.decisions.rows(1, was.class_id)} == kinds, "nothing is stored yet"
    decide(store, 1, was.class_id, was.cluster, "split", "cell")
    assert len(before - set(obtained(store, 1).mask_id.tolist())) == change.lost
    asked = store.questions.count()
    keys = turn(store)
    assert store.questions.count() - asked == change.questions
    for key in keys:
        answer(store, key, 7)
    finish(store, 7)
    assert obtained(store, 1).mask_id.tolist() == sorted(before), "its halves are as good as it was"


def test_a_round_that_was_over_goes_on_and_replay_honours_the_lead(store):
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    was = accepted(store)
    assert foresee(store, 1, was.class_id, was.cluster, "split").reopens
    decide(store, 1, was.class_id, was.cluster, "reject", "cell")
    assert store.rounds.newest().stage == "done" and replay(store)["changed"] == 0
    decide(store, 1, was.class_id, was.cluster, "split", "cell")
    assert store.rounds.newest().stage == "verify" and store.rounds.newest().ended_at is None
    assert sum("says the lead" in e.text for e in store.events()) == 2


@pytest.mark.parametrize(("cluster", "kind"), [(10**6, "accept"), (-1, "accept"), (3, "burn")])
def test_bad_changes_are_refused(store, cluster, kind):
    with pytest.raises(InputError):
        foresee(store, 1, 1, cluster, kind)


@pytest.mark.parametrize("page", [0, 1])
@pytest.mark.parametrize("listing", list(Listing))
def test_decisions_are_paged_the_largest_first(store, listing, page, monkeypatch):
    monkeypatch.setattr("campaign.web.lead.explorer.DECISIONS", 3)
    kept = {
        Listing.ASKED: lambda d: d.asked, Listing.UNSEEN: lambda d: not d.asked,
    }.get(listing, lambda d: d.kind == str(listing))  # fmt: skip
    every = sorted(filter(kept, store.decisions.rows(1, 1)), key=lambda d: (-d.size, d.cluster))
    shown = ClassExplorer(store, 1, 1).decided(listing, page)
    assert [d.cluster for d in shown] == [d.cluster for d in every[3 * page : 3 * page + 4]]


def test_of_a_large_cluster_a_sample_is_shown(store, monkeypatch):
    explorer = ClassExplorer(store, 1, 1)
    whole = explorer.cluster(explorer.tree.root)
    monkeypatch.setattr("campaign.derived.cluster_masks.DRAWN_FROM", 20)
    monkeypatch.setattr("campaign.web.lead.explorer.ASKED_CROPS", 4)
    view = ClassExplorer(store, 1, 1).cluster(explorer.tree.root)
    assert view.with_verdict == whole.with_verdict == len(whole.asked) > len(view.asked) == 4
    assert 0 < len(view.others) <= 20 and {c.mask_id for c in view.others} < {c.mask_id for c in whole.others}
    assert {c.mask_id: c.verdict for c in view.asked}.items() <= {c.mask_id: c.verdict for c in whole.asked}.items()
    assert all((c.verdict == "yes") == is_good(c.mask_id) for c in whole.asked)


def test_the_drawn_tree_is_as_wide_as_its_masks(store):
    explorer = ClassExplorer(store, 1, 1)
    blocks, rows = explorer.icicle()
    assert blocks[0].width == 1200 and rows > 1
    for b in blocks[1:]:
        assert b.x >= 0 and b.x + b.width <= 1200.01 and b.width == pytest.approx(1200 * b.size / 80)


def test_the_overview_is_worked_out_anew_where_facts_came_in(store):
    figures = Figures(store)
    before = figures.all()
    assert figures.all() is before
    key = next(p.key for p in store.pages.rows())
    answer(store, key, 9)
    assert len(figures.all()["team"].users) == len(before["team"].users) + 1


def test_the_first_looks_of_several_at_once_show_the_same(store):
    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, Store.open(store.folder))
    browsers = [app.test_client() for _ in range(4)]
    for browser in browsers:
        log_in(browser, store)
    with ThreadPoolExecutor(len(browsers)) as pool:
        pages = list(pool.map(lambda browser: browser.get("/lead/").text, browsers))
    assert len({re.sub(r'value="[^"]+"', "", page) for page in pages}) == 1
    assert f"{team(store).masks:,}" in pages[0]


def test_corrections_need_a_label_studio(browser, store):
    log_in(browser, store)
    address = f"/lead/clusters/1/{accepted(store).class_id}/{accepted(store).cluster}"
    page = browser.get(address)
    assert "corrected by hand" not in page.text
    form = {"token": token(page), "count": 5}
    assert browser.post(f"{address}/edit", data=form).status_code == 400
    assert browser.post(f"{address}/edit", data={"count": 5}).status_code == 400
    assert not [p for p in store.pages.rows() if p.kind == "edit"]


@pytest.mark.label_studio
def test_the_lead_puts_masks_up_for_correction(tmp_path, label_studio):
    store = gold_store(tmp_path / "b", url=label_studio.url)
    store.save_secrets({"label_studio_token": label_studio.token})
    finish(store, 7)
    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, store)
    browser = app.test_client()
    log_in(browser, store)
    was = accepted(store)
    address = f"/lead/clusters/1/{was.class_id}/{was.cluster}"
    form = {"token": token(browser.get(address)), "count": 2}
    posted = browser.post(f"{address}/edit", data=form)
    assert (
        posted.status_code == 200 and "2 masks put up for correction" in posted.text and label_studio.url in posted.text
    )
    mask = next(q.mask_id for q, p in store.questions.rows(kind="edit"))
    assert "Have it corrected" not in browser.get(f"/lead/masks/{mask}").text
    other = store.answers.rows()[0].mask_id
    assert browser.post(f"/lead/masks/{other}/edit", data={"token": form["token"]}).status_code == 200
    assert browser.post(f"{address}/edit", data=form | {"count": 10**6}).status_code == 400
    assert len([p for p in store.pages.rows() if p.kind == "edit" and p.task_id]) == 3
    assert "3 masks put up for correction" in browser.get("/lead/").text
    assert "3 masks put up for correction: 0 corrected" in browser.get("/lead/drawn").text
