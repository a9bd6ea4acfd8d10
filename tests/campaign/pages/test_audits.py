"""The audit of a dataset: drawn once, asked as ordinary questions, certified from its own answers alone."""

import json
import shutil

import pytest

from campaign.derived.answers import gold_count
from campaign.derived.certificates import standing_certificate
from campaign.derived.dataset import final_masks, obtained
from campaign.derived.live import live
from campaign.pages.audits import add_audit_pages, begin_audit, finish_audit, open_audit
from campaign.pages.gold import GoldPlan
from campaign.records.page import NewPage
from campaign.steps.export import export_campaign
from campaign.steps.replay import replay
from campaign.store import Store
from ml_backend.errors import InputError
from tests.campaign.builders import answer, finish, gold_store, spread_iou


@pytest.fixture
def finished(make_store):
    store = make_store()
    finish(store)
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    return store


def test_an_audit_certifies_what_it_saw(finished, tmp_path):
    running = begin_audit(finished, draws=40)
    asked = {q.mask_id for q, p in finished.questions.rows(kind=running.kind)}
    assert asked == {int(running.mask_ids[row]) for row in running.audit.rows}
    assert finish_audit(finished) == len(asked)
    with pytest.raises(InputError, match="still open"):
        begin_audit(finished, draws=40)
    for key in {p.key for _, p in finished.questions.rows(kind=running.kind)}:
        answer(finished, key)
    certificate = finish_audit(finished)
    assert not isinstance(certificate, int)
    assert certificate.overall.precision == 1 and 0.85 < certificate.overall.lower_bound < 1
    export_campaign(finished, tmp_path / "export.json")
    told = json.loads((tmp_path / "export.json").read_text())["info"]["certificate"]
    assert told["sentence"] == certificate.sentence()


def test_wrong_masks_lower_the_bound_and_leave_the_export(finished):
    before = set(final_masks(finished).mask_id.tolist())
    running = begin_audit(finished, draws=40)
    keys = sorted({p.key for _, p in finished.questions.rows(kind=running.kind)})
    voted = answer(finished, keys[0], wrong=True)
    for key in keys[1:]:
        answer(finished, key)
    certificate = finish_audit(finished)
    assert certificate.overall.lower_bound < certificate.overall.precision < 1
    assert set(final_masks(finished).mask_id.tolist()) == before - set(voted)


def test_the_same_audit_is_drawn_again_after_a_crash(finished):
    first = begin_audit(finished, draws=30)
    again = open_audit(finished)
    assert again.audit == first.audit and again.mask_ids.tolist() == first.mask_ids.tolist()


def test_an_empty_dataset_cannot_be_audited(make_store):
    with pytest.raises(InputError, match="at least one mask"):
        begin_audit(make_store(), draws=10)
    with pytest.raises(InputError, match="one that was opened"):
        finish_audit(make_store("b"))


def test_a_certificate_does_not_speak_of_masks_that_came_later(finished, tmp_path):
    running = begin_audit(finished, draws=20)
    for key in {p.key for _, p in finished.questions.rows(kind=running.kind)}:
        answer(finished, key)
    finish_audit(finished)
    masks = final_masks(finished)
    finished.datasets.save(1, masks.select(slice(0, 0)))
    finished.rounds.start(2, "done")
    from dataclasses import replace

    finished.datasets.save(2, replace(masks, mask_id=masks.mask_id + 1000))
    export_campaign(finished, tmp_path / "export.json")
    assert "certificate" not in json.loads((tmp_path / "export.json").read_text())["info"]


@pytest.fixture
def with_gold(tmp_path):
    store = gold_store(tmp_path / "gold", {"gold_share": 0.1}, iou=spread_iou)
    finish(store, 7)
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    return store


def audit_pages(store, running):
    return {
        page.key: {
            q.mask_id: q.gold for q, p in store.questions.rows(kind=running.kind, gold=True) if p.key == page.key
        }
        for page in store.pages.rows(kind=running.kind)
    }


def test_one_mask_in_ten_on_the_pages_of_an_audit_is_gold(with_gold):
    running = begin_audit(with_gold, draws=60)
    pages = audit_pages(with_gold, running)
    gold = [i for shown in pages.values() for i, verdict in shown.items() if verdict]
    asked = [i for shown in pages.values() for i, verdict in shown.items() if not verdict]
    assert sorted(asked) == sorted(running.mask_ids[list(running.audit.rows)].tolist())
    assert len(set(gold)) == len(gold) and len(pages) <= len(gold) <= 2 * len(pages)
    assert max(map(len, pages.values())) <= 15
    before = len(with_gold.pages.rows())
    add_audit_pages(with_gold, running)
    assert len(with_gold.pages.rows()) == before


def test_the_pages_of_an_audit_are_the_same_whatever_gold_is_on_them(with_gold, tmp_path):
    shutil.copytree(with_gold.folder, tmp_path / "other")
    other = Store.open(tmp_path / "other")
    drained = GoldPlan(other)
    hidden = {c: drained.take(c, 1000) for c in other.classes()}
    for class_id, gold in hidden.items():  # all of it was used elsewhere
        other.pages.add([NewPage(f"used-{class_id}", 1, class_id, tuple((i, None) for i in gold), "verify", gold)])
    first, second = audit_pages(with_gold, begin_audit(with_gold, 60)), audit_pages(other, begin_audit(other, 60))
    assert first.keys() == second.keys()
    assert not any(v for shown in second.values() for v in shown.values()) and first != second


def test_gold_of_an_audit_counts_for_users_and_for_no_round(with_gold):
    running = begin_audit(with_gold, draws=60)
    quality, count = live(with_gold).trust.annotator_quality(1), gold_count(with_gold)
    for key in audit_pages(with_gold, running):
        answer(with_gold, key, 8, wrong=True)
    trust = live(with_gold).trust
    known = len(trust.gold_answers("8", near=True))
    assert known == sum(v is not None for shown in audit_pages(with_gold, running).values() for v in shown.values())
    assert trust.annotator_quality(1) == quality, "what was decided stays decided"
    assert "8" in trust.intervals or gold_count(with_gold).yes > count.yes
    assert replay(with_gold)["changed"] == 0


def test_masks_that_have_a_page_each_have_gold_among_them(with_gold):
    with_gold.settings.page.single_audits = True
    pages = audit_pages(with_gold, running := begin_audit(with_gold, draws=40))
    alone = [verdict for shown in pages.values() for verdict in shown.values()]
    assert all(len(shown) == 1 for shown in pages.values()) and sum(v is not None for v in alone) >= 3
    for key in pages:
        answer(with_gold, key, 7)
    assert finish_audit(with_gold).overall.audited >= len(running.audit.rows)


def test_a_certificate_reckons_with_what_was_removed_since(finished):
    running = begin_audit(finished, draws=40)
    for key in {p.key for _, p in finished.questions.rows(kind=running.kind)}:
        answer(finished, key)
    certificate, masks = finish_audit(finished), final_masks(finished)
    before = standing_certificate(finished, masks)
    assert before["overall"]["masks"] == len(masks) and "removed" not in before
    after = standing_certificate(finished, masks.select(slice(8, None)))
    assert after["overall"]["masks"] == len(masks) - 8 and after["removed"] == 8
    wrong = (1 - certificate.overall.lower_bound) * len(masks)
    assert after["overall"]["lower_bound"] == pytest.approx(1 - wrong / (len(masks) - 8))
    assert "8 masks removed since" in after["sentence"] and after["classes"] == {}
