"""Trust in a running campaign: gold hidden on pages, answers withdrawn and asked again, tests before the work."""

from collections import Counter

import pytest

from campaign.derived.answers import counted_answers
from campaign.derived.dataset import obtained
from campaign.derived.gold import confirmed, gold_supply
from campaign.derived.live import live
from campaign.derived.showing import shown_pages
from campaign.derived.status import status
from campaign.derived.team import as_json, team
from campaign.label_studio.people import SUBMIT, invitation, invite
from campaign.label_studio.server import log_in, sign_up
from campaign.pages.gold import GoldPlan
from campaign.pages.qualification import begin_test, read_tests, results
from campaign.pages.watching import wanted_overlaps
from campaign.records.page import PageKind, Screen
from campaign.report import render_report, report_data
from campaign.steps.replay import replay
from campaign.steps.verify import turn as whole_turn
from ml_backend.errors import InputError
from tests.campaign.builders import add_page, answer, finish, gold_store, is_good, turn

CAREFUL, CARELESS = 7, 8
GOLD = {"gold_share": 0.1}


def decisions(store):
    return sorted((d.class_id, d.cluster, d.kind, d.asked, d.yes) for d in store.decisions.rows())


def test_gold_is_beyond_dispute_and_right(tmp_path):
    supply = gold_supply(gold_store(tmp_path / "a"))
    assert len(supply) == 160 and all(bool(g.truth) == is_good(g.mask_id) for g in supply)


def test_gold_changes_neither_decisions_nor_the_dataset_nor_the_count_of_questions(tmp_path):
    plain, hidden = gold_store(tmp_path / "a"), gold_store(tmp_path / "b", GOLD)
    finish(plain, CAREFUL)
    finish(hidden, CAREFUL)
    assert decisions(plain) == decisions(hidden)
    assert obtained(plain, 1).mask_id.tolist() == obtained(hidden, 1).mask_id.tolist()
    assert plain.questions.count() == hidden.questions.count()
    assert plain.questions.gold() == []
    gold = Counter(q.mask_id for q, _ in hidden.questions.gold())
    kinds = Counter(q.gold for q, _ in hidden.questions.gold())
    assert gold and max(gold.values()) == 1 and abs(kinds["yes"] - kinds["no"]) <= 2
    sizes = Counter(p.key for _, p in hidden.questions.rows(gold=True))
    assert max(sizes.values()) <= 15


def test_gold_is_told_apart_from_questions(tmp_path):
    store = gold_store(tmp_path / "a", GOLD)
    keys = turn(store)
    found = status(store)
    assert found["questions"] == store.questions.count() and found["gold"] == len(store.questions.gold()) > 0
    for key in keys:
        answer(store, key, CAREFUL)
    assert status(store)["answered"] == found["questions"]
    report = report_data(store)
    assert (report.questions, report.answers, report.gold) == (found["questions"],) * 2 + (found["gold"],)
    assert f"{found['gold']} gold masks besides" in render_report(report)


def test_a_page_of_gold_is_planned_twice_alike(tmp_path):
    first, second = (gold_store(tmp_path / name, GOLD) for name in "ab")
    for store in (first, second):
        turn(store)
    pages = [sorted((q.mask_id, q.gold) for q, _ in store.questions.rows(gold=True)) for store in (first, second)]
    assert pages[0] == pages[1]
    assert turn(first) == []


def test_answers_of_a_careless_user_are_withdrawn_and_asked_again_of_others(tmp_path):
    store, other = gold_store(tmp_path / "a", GOLD), gold_store(tmp_path / "b", GOLD)
    finish(other, CAREFUL)
    keys = turn(store)
    store.pages.mark_published({key: n for n, key in enumerate(keys, 1)})
    for key in keys:
        answer(store, key, CARELESS, wrong=True)
    assert list(live(store).trust.intervals) == [str(CARELESS)]
    assert counted_answers(store) == [] and store.answers.rows()
    assert turn(store) == [] and not store.decisions.rows(), "nothing rests on withdrawn answers"
    assert wanted_overlaps(store, 1, keys) == {key: (2, False) for key in keys}
    for key in keys:
        answer(store, key, CAREFUL)
    assert wanted_overlaps(store, 1, keys) == {key: (2, True) for key in keys}
    finish(store, CAREFUL)
    assert decisions(store) == decisions(other)
    assert obtained(store, 1).mask_id.tolist() == obtained(other, 1).mask_id.tolist()
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    assert replay(store)["changed"] == 0


def test_answers_of_a_round_that_was_over_stay(tmp_path):
    store = gold_store(tmp_path / "a", GOLD)
    keys = turn(store)
    for key in keys:
        answer(store, key, CARELESS, wrong=True)
    assert counted_answers(store) == []
    store.rounds.end(1, {}, follow=False)
    store.rounds.update(1, ended_at=store.rounds.all()[0].started_at.replace(year=2020))
    assert len(counted_answers(store)) == store.questions.count()


def test_some_pages_are_put_to_two_users(tmp_path):
    store = gold_store(tmp_path / "a", {"overlap_share": 1.0})
    keys = turn(store)
    store.pages.mark_published({key: n for n, key in enumerate(keys, 1)})
    assert wanted_overlaps(store, 1, keys) == {key: (2, False) for key in keys}
    for key in keys:
        answer(store, key, CAREFUL)
        answer(store, key, CARELESS)
    assert {state for state in wanted_overlaps(store, 1, keys).values()} == {(2, True)}
    found = team(store)
    assert found.kappa == 1.0 and {u.agreement.kappa for u in found.users} == {1.0}


def test_annotators_are_estimated_from_each_other_without_gold(tmp_path):
    pytest.importorskip("crowdkit")
    store = gold_store(tmp_path / "a", search={"n_s": 40})
    for key in turn(store):
        for user in (1, 2, 3, CARELESS):
            answer(store, key, user, wrong=user == CARELESS)
    found = {u.user: u.estimated for u in team(store).users}
    assert found[str(CARELESS)] == (pytest.approx(0, abs=0.1), pytest.approx(0, abs=0.1))
    assert found["1"] == (pytest.approx(1, abs=0.1), pytest.approx(1, abs=0.1))


def test_masks_that_several_users_confirmed_become_gold_for_others(tmp_path):
    store = gold_store(tmp_path / "a", {"overlap_share": 1.0})
    for key in turn(store):
        answer(store, key, CAREFUL)
        answer(store, key, 9)
    found = confirmed(store)
    assert found and all(bool(g.truth) == is_good(g.mask_id) for g in found)
    plan = GoldPlan(store, wanted=True)
    plan._free.clear()
    drawn = plan.take(1, 6)
    assert drawn and set(drawn) <= {g.mask_id for g in found}
    add_page(store, "later", list(drawn), "verify", drawn)
    for user in (CAREFUL, CARELESS):
        answer(store, "later", user, wrong=user == CARELESS)
    trust = live(store).trust
    assert len(trust.gold_answers(str(CARELESS))) == len(drawn)
    assert trust.gold_answers(str(CAREFUL)) == [], "who confirmed them may remember"


def test_without_gold_left_its_quota_is_none(tmp_path):
    store = gold_store(tmp_path / "a", GOLD)
    plan = GoldPlan(store)
    assert plan.quota(15, 1) > 0
    plan._free.clear()
    assert plan.quota(15, 1) == 0


def test_the_team_shows_who_is_careless(tmp_path):
    store = gold_store(tmp_path / "a", GOLD)
    for n, key in enumerate(turn(store)):
        answer(store, key, CARELESS, wrong=True, lead_time=0.5 + n)
    for key in turn(store):
        answer(store, key, CAREFUL)
    store.values.add_people({CARELESS: "careless@example.com"})
    (bad,) = [u for u in team(store).users if u.user == str(CARELESS)]
    assert bad.name == "careless@example.com" and not bad.trusted and bad.withdrawn == bad.answers > 0
    assert bad.gold.sensitivity.value == bad.gold.specificity.value == 0 and len(bad.gold_wrong) == bad.gold.asked
    told = as_json(team(store))
    assert told["users"][0]["sensitivity"]["value"] == 0 and told["published_seconds_per_drawn_mask"] == 80
    assert sum(c["answers"] for c in told["classes"]) == bad.pace.answers


def test_only_those_who_passed_the_test_count_where_that_is_set(tmp_path):
    store = gold_store(tmp_path / "a", {"qualification": True})
    gold = {int(g.mask_id): g.truth.name.lower() for g in gold_supply(store)[:6]}
    add_page(store, f"{store.key}-q1-001", list(gold), PageKind.QUALIFY, gold)
    key = turn(store)[0]
    answer(store, f"{store.key}-q1-001", CAREFUL)
    answer(store, f"{store.key}-q1-001", CARELESS, wrong=True)
    answer(store, key, CARELESS)
    assert live(store).trust.qualified == {str(CAREFUL)} and counted_answers(store) == [] and turn(store) == []
    answer(store, key, CAREFUL)
    assert {a.annotator for a in counted_answers(store)} == {str(CAREFUL)}
    scores = {r.user: (r.answered, r.right, r.passed) for r in results(store)}
    assert scores == {str(CAREFUL): (6, 6, True), str(CARELESS): (6, 0, False)}


# In a real Label Studio


class Person:
    """A user at the labeling screen's own addresses."""

    def __init__(self, store, server, client, name):
        self.store = store
        token = client.request("GET", "api/invite")["token"]
        email = f"{name}-{server.port}@example.com"
        sign_up(server.url, token, email, "Secret-123-xyz")
        self.url, self.session = server.url, log_in(server.url, email, "Secret-123-xyz")
        self.id = next(i for i, known in client.users().items() if known == email)

    def answer_all(self, project, wrong=False):
        """Answers whatever is served, all right or all wrong; gives the keys of the pages."""
        header = {"X-CSRFToken": self.session.cookies.get("csrftoken", ""), "Referer": self.url}
        keys = []
        while True:
            served = self.session.post(
                f"{self.url}/api/dm/actions", params={"id": "next_task", "project": project}, json={}, headers=header
            )
            if served.status_code == 404:
                return keys
            task = served.json()
            masks = shown_pages(self.store, [task["id"]])[task["id"]].masks
            no = [c["value"] for c in task["data"]["crops"] if is_good(masks[c["value"]]) == wrong]
            marks = {"status": ["reviewed"]} | ({"wrong": no} if no else {})
            result = [
                {"from_name": name, "to_name": "title", "type": "choices", "value": {"choices": chosen}}
                for name, chosen in marks.items()
            ]
            self.session.post(
                f"{self.url}/api/tasks/{task['id']}/annotations/", params={"project": project}, headers=header,
                json={"result": result, "lead_time": 20.0},
            ).raise_for_status()  # fmt: skip
            keys.append(task["data"]["key"])


@pytest.fixture
def live_store(tmp_path, label_studio):
    def make(**quality):
        store = gold_store(tmp_path / "a", quality, url=label_studio.url)
        store.save_secrets({"label_studio_token": label_studio.token})
        return store

    return make


@pytest.mark.label_studio
def test_withdrawn_questions_are_served_to_others_and_the_log_tells(live_store, label_studio, label_studio_client):
    store = live_store(gold_share=0.1)
    bad, good = (Person(store, label_studio, label_studio_client, name) for name in ("bad", "good"))
    whole_turn(store, label_studio_client)
    project = store.values.project(Screen.VERIFICATION)
    first = bad.answer_all(project, wrong=True)
    assert len(first) > 1 and good.answer_all(project) == [], "Label Studio takes them for answered"
    whole_turn(store, label_studio_client)
    assert any("bad-" in e.text and "withdrawn" in e.text for e in store.events())
    assert sorted(good.answer_all(project)) == sorted(first), "asked again of others"
    for _ in range(40):
        if whole_turn(store, label_studio_client).done:
            break
        good.answer_all(project)
    masks = obtained(store, 1).mask_id.tolist()
    assert len(masks) == 80 and all(is_good(i) for i in masks)
    assert sum("withdrawn" in e.text for e in store.events()) == 1


@pytest.mark.label_studio
def test_a_qualification_test_and_its_retake_show_different_masks(live_store, label_studio, label_studio_client):
    store = live_store(qualification=True)
    able = Person(store, label_studio, label_studio_client, "able")
    first = begin_test(store, label_studio_client, pages=2)
    assert len(able.answer_all(first)) == 2
    read_tests(store, label_studio_client)
    assert [(r.user, r.passed) for r in results(store)] == [(str(able.id), True)]
    assert begin_test(store, label_studio_client, pages=2) != first
    seen = Counter(q.mask_id for q, _ in store.questions.gold(PageKind.QUALIFY))
    assert len(seen) == 60 and max(seen.values()) == 1
    assert store.questions.count() == 0


@pytest.mark.label_studio
def test_invited_users_submit_with_one_key(label_studio, label_studio_client):
    assert invitation(label_studio_client).startswith(f"{label_studio.url}/user/signup/?token=")
    account = invite(label_studio_client, f"invited-{label_studio.port}@example.com", "space")
    session = log_in(label_studio.url, account.email, account.password)
    keys = session.get(f"{label_studio.url}/api/current-user/hotkeys/", timeout=30).json()["custom_hotkeys"]
    assert keys[SUBMIT]["key"] == "space"
    with pytest.raises(InputError):
        invite(label_studio_client, account.email, "space")
