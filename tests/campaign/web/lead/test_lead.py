"""The lead's page: behind its login, complete without a script or another machine, and able to take decisions back."""

import csv
import html
import io
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser

import pytest

from campaign.derived.dataset import obtained
from campaign.derived.team import team
from campaign.steps.replay import replay
from campaign.store import Store
from campaign.store.models import ClassTree
from campaign.web.lead import mount
from campaign.web.lead.changes import decide, foresee
from campaign.web.lead.explorer import ClassExplorer, Listing
from campaign.web.lead.login import SECRET, lead_password
from campaign.web.lead.now import Figures
from campaign.web.lead.sessions import Sessions
from campaign.web.lead.tables import TABLES
from campaign.web.lead.views import MOST_DOWNLOADS
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
    """Every address that a page names, and every script but the one that is ours."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.pages, self.scripts, self.inline = [], [], 0, 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script" and ("src", "/lead/live.js") not in attributes
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
    [
        ("/lead/trees/1/1", "/lead/trees/1/1"),
        ("/lead/trees/1/1?list=accept&page=1", "/lead/trees/1/1?list=accept&page=1"),
        ("/lead/pages/3", "/lead/pages/3"),
        ("//evil.example/lead/", "/lead/"),
        ("http://evil.example", "/lead/"),
        ("/\\evil.example/lead/", "/lead/"),
        ("/lead/\\evil.example", "/lead/"),
        ("javascript:/lead/", "/lead/"),
        ("/lead/\r\nSet-Cookie: a=b", "/lead/"),
        ("/leader/", "/lead/"),
    ],
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
        page = browser.get(path, buffered=True)
        assert page.status_code == 200, path
        assert "default-src 'none'" in page.headers["Content-Security-Policy"]
        assert ("script-src" in page.headers["Content-Security-Policy"]) == (path == "/lead/")
        if page.mimetype != "text/html":
            continue
        links = Links(page.text)
        assert links.scripts == links.inline == 0
        assert all(link.startswith(("/", "#")) for link in links.addresses), path
        pictures |= {link for link in links.addresses if link.startswith("/crops/")}
        todo += [link for link in links.pages if link not in seen and link not in todo]
    kinds = {path.split("/")[2] for path in seen}
    assert kinds >= {"", "annotators", "trees", "clusters", "masks", "style.css", "tables"}
    for picture in sorted(pictures)[:5]:
        assert browser.get(picture).mimetype == "image/jpeg"


def test_every_cluster_mask_and_page_has_an_address_that_opens_after_the_login(browser, store):
    mask = store.answers.rows()[0].mask_id
    page = store.questions.on_masks([mask])[0].number
    was = accepted(store)
    for path in (f"/lead/pages/{page}", f"/lead/masks/{mask}", f"/lead/clusters/1/{was.class_id}/{was.cluster}"):
        browser.post("/lead/logout", data={"token": token(browser.get("/lead/login"))})
        asked = browser.get(browser.get(path).headers["Location"])
        then = html.unescape(re.search(r'name="then" value="([^"]*)"', asked.text).group(1))
        form = {"token": token(asked), "user": "lead", "password": lead_password(store), "then": then}
        opened = browser.get(browser.post("/lead/login", data=form).headers["Location"])
        assert opened.status_code == 200 and f"<code>http://127.0.0.1:9090{path}</code>" in opened.text
    shown = browser.get(f"/lead/pages/{page}").text
    asked_on = [a.mask_id for a in store.questions.on_pages([store.pages.numbered(page).key])]
    assert all(f"/lead/masks/{i}" in shown for i in asked_on) and "gold, known to be" in shown
    assert f"/lead/pages/{page}" in browser.get(f"/lead/masks/{mask}").text
    assert browser.get("/lead/pages/99999").status_code == 404


def test_masks_that_resemble_one_are_shown(browser, store):
    log_in(browser, store)
    mask = int(store.trees.mask_ids(1, 1)[3])
    text = browser.get(f"/lead/masks/{mask}/alike").text
    assert text.count("<img") == 1 + 3 * 30 and "In other classes" in text and "IoU 1.00" in text
    assert f"/lead/masks/{mask}/alike" in browser.get(f"/lead/masks/{mask}").text
    assert browser.get("/lead/masks/5/alike").status_code == 404


def test_tables_are_taken_as_csv(browser, store):
    assert browser.get("/lead/tables/decisions.csv").status_code == 302
    log_in(browser, store)
    store.values.add_people({7: "=HYPERLINK(1)@a.example"})
    counted = {
        "decisions": len(store.decisions.rows()), "answers": len(store.answers.rows()),
        "pages": len(store.pages.rows()), "annotators": 1, "clusters": 2, "log": len(store.events()),
    }  # fmt: skip
    for name, table in TABLES.items():
        taken = browser.get(f"/lead/tables/{name}.csv", buffered=True)
        assert taken.mimetype == "text/csv" and f"filename={name}.csv" in taken.headers["Content-Disposition"]
        rows = list(csv.reader(io.StringIO(taken.text)))
        assert tuple(rows[0]) == table.columns and {len(row) for row in rows} == {len(table.columns)}
        assert len(rows) - 1 == counted.get(name, len(rows) - 1)
    assert "'=HYPERLINK(1)@a.example" in browser.get("/lead/tables/annotators.csv", buffered=True).text
    assert browser.get("/lead/tables/secrets.csv").status_code == 404


def test_tables_are_read_in_portions_and_give_their_slot_back(browser, store, monkeypatch):
    log_in(browser, store)
    monkeypatch.setattr("campaign.web.lead.tables.PORTION", 3)
    for _ in range(MOST_DOWNLOADS + 1):
        taken = browser.get("/lead/tables/decisions.csv", buffered=True)
        rows = list(csv.reader(io.StringIO(taken.text)))[1:]
    named = {name: str(i) for i, name in store.classes().items()}
    every = [[str(d.class_id), str(d.cluster)] for d in store.decisions.rows()]
    assert sorted([named[row[1]], row[2]] for row in rows) == sorted(every)
    assert [a.id for a in store.answers.stream(4)] == [a.id for a in store.answers.rows()]


def test_what_moves_is_asked_for_by_its_mark(browser, store, monkeypatch):
    monkeypatch.setattr("campaign.web.lead.now.LOOKED", 1e12)
    log_in(browser, store)
    first = browser.get("/lead/now")
    tag = {"If-None-Match": first.headers["ETag"]}
    assert first.status_code == 200 and "Who waits for whom" in first.text and 'class="chart"' in first.text
    assert f"data-tag={first.headers['ETag']}" in browser.get("/lead/").text
    unchanged = browser.get("/lead/now", headers=tag)
    assert unchanged.status_code == 304 and not unchanged.data
    answer(store, next(p.key for p in store.pages.rows()), 9)
    assert browser.get("/lead/now", headers=tag).status_code == 200


def test_a_script_keeps_no_session_open_and_is_told_when_it_ended(browser):
    assert browser.get("/lead/now").status_code == 401
    clock = iter(range(0, 10**6, 3600))
    sessions = Sessions(now=lambda: next(clock))
    name = sessions.begin()  # two looks at the clock
    assert sessions.is_open(name) and all(sessions.is_open(name, used=False) for _ in range(7))
    assert not sessions.is_open(name, used=False)


def test_what_moves_waits_for_no_other_page(store, monkeypatch):
    app = create_app(StoreCrops(store), secret=store.secret("crop_key"))
    mount(app, store)
    browsers = [app.test_client() for _ in range(2)]
    for browser in browsers:
        log_in(browser, store)
    slow, goes_on = threading.Event(), threading.Event()

    def slowly(store):
        slow.set()
        goes_on.wait(20)
        return team(store)

    monkeypatch.setattr("campaign.web.lead.views.team", slowly)
    with ThreadPoolExecutor(1) as pool:
        page = pool.submit(browsers[0].get, "/lead/annotators/7")
        assert slow.wait(20)
        busy = browsers[1].get("/lead/now")
        goes_on.set()
        assert busy.status_code == 503 and busy.headers["Retry-After"] == "10"
        assert page.result().status_code == 200
    assert browsers[1].get("/lead/now").status_code == 200


def test_an_annotator_s_eye_is_drawn(browser, store):
    log_in(browser, store)
    eye = team(store).users[0].eye
    for path in ("/lead/", "/lead/annotators/7"):
        text = browser.get(path).text
        assert f"the eye cuts at {eye.eye.cut:.2f}" in text and "<polyline points=" in text
        assert len(re.findall('<circle cx="[0-9.]+" cy="[0-9.]+" r', text)) == len(eye.seen)
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


def test_a_form_from_before_new_masks_joined_is_refused_and_a_page_in_between_is_made_again(
    browser, store, monkeypatch
):
    log_in(browser, store)
    was = accepted(store)
    address = f"/lead/clusters/1/{was.class_id}/{was.cluster}"
    page = browser.get(f"{address}/change?kind=reject")

    def grow():
        with store.session() as session:
            row = session.get_one(ClassTree, (1, was.class_id))
            old = store.trees.folder(1, was.class_id, row.generation)
            shutil.copytree(old, store.trees.folder(1, was.class_id, row.generation + 1))
            row.generation += 1

    grow()
    form = {"kind": "reject", "token": token(page), "generation": "0"}
    refused = browser.post(f"{address}/change", data=form)
    assert refused.status_code == 400 and "from before new images joined; look again" in refused.text
    assert store.overrides.rows() == []
    looked = browser.get(f"{address}/change?kind=reject&generation=0")
    assert looked.status_code == 400 and "look again" in looked.text
    asked = store.decisions.of_clusters

    def slow(*args):
        monkeypatch.undo()
        grow()
        return asked(*args)

    monkeypatch.setattr(store.decisions, "of_clusters", slow)
    moved = browser.get(address)
    assert moved.status_code == 307 and moved.headers["Location"].startswith(address)
    assert 'name="generation" value="2"' in browser.get(f"{address}/change?kind=reject").text


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
