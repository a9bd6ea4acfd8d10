"""How reliable answers are taken to be: by gold, of users while they are trusted, and never by what came later."""

import pytest

from campaign.derived.answers import gold_count
from campaign.derived.dataset import obtained
from campaign.derived.live import live
from campaign.pages.audits import begin_audit, finish_audit
from campaign.search.policies import AnnotatorQuality
from tests.campaign.builders import add_page, answer, finish, gold_store, turn

CAREFUL, CARELESS = 7, 8


@pytest.fixture
def store(tmp_path):
    return gold_store(tmp_path / "a", {"gold_share": 0.3})


def test_without_gold_annotators_are_believed(tmp_path):
    plain = gold_store(tmp_path / "a", {"gold_share": 0})
    finish(plain, CAREFUL)
    assert live(plain).trust.annotator_quality(1) == AnnotatorQuality(0.99, 0.99)
    count = gold_count(plain)
    assert (count.yes, count.no) == (0, 0)


def test_gold_answered_rightly_raises_belief(store):
    finish(store, CAREFUL)
    count = gold_count(store)
    assert count.yes == count.yes_right > 0 and count.no == count.no_right > 0
    assert count.yes + count.no == len(store.questions.gold("verify"))
    quality = live(store).trust.annotator_quality(1)
    assert quality.sensitivity >= 0.99 and quality.specificity >= 0.99


def test_gold_answered_wrongly_lowers_belief_until_the_user_is_found_out(store):
    keys = turn(store)
    answer(store, keys[0], CARELESS, wrong=True)
    asked = sum(q.page_key == keys[0] for q, _ in store.questions.gold())
    count = gold_count(store)
    if live(store).trust.intervals:
        assert count.yes + count.no == 0
    else:
        assert (count.yes_right, count.no_right, count.yes + count.no) == (0, 0, asked)
        assert live(store).trust.annotator_quality(1).sensitivity < 0.99
    for key in keys[1:]:
        answer(store, key, CARELESS, wrong=True)
    for key in turn(store):
        answer(store, key, CARELESS, wrong=True)
    assert live(store).trust.intervals.keys() == {str(CARELESS)}
    assert (gold_count(store).yes, gold_count(store).no) == (0, 0)
    assert live(store).trust.annotator_quality(1) == AnnotatorQuality(0.99, 0.99)


def test_gold_of_later_rounds_and_of_tests_does_not_count(store):
    finish(store, CAREFUL)
    before = live(store).trust.annotator_quality(1)
    gold = {store.masks.predictions(1, "heldout").mask_id[0].item(): "yes"}
    for kind, number in (("verify", 2), ("qualify", 1)):
        add_page(store, f"late-{kind}", list(gold), kind, gold, number)
        answer(store, f"late-{kind}", CAREFUL, wrong=True)
    assert live(store).trust.annotator_quality(1) == before
    assert gold_count(store).yes == gold_count(store).yes_right + 1  # the later round's, in certificates


def test_a_certificate_reckons_with_the_gold(store):
    finish(store, CAREFUL)
    store.datasets.save(1, obtained(store, 1))
    store.rounds.end(1, {}, follow=False)
    running = begin_audit(store, draws=40)
    for key in {p.key for _, p in store.questions.rows(kind=running.kind)}:
        answer(store, key, CAREFUL)
    certificate = finish_audit(store)
    assert not isinstance(certificate, int)
    assert certificate.gold == gold_count(store) and certificate.note == ""


def test_withdrawn_answers_do_not_certify(store):
    finish(store, CAREFUL)
    store.datasets.save(1, obtained(store, 1))
    running = begin_audit(store, draws=20)
    keys = {p.key for _, p in store.questions.rows(kind=running.kind)}
    for key in keys:
        answer(store, key, CAREFUL)
    bad = [p.key for p in store.pages.rows() if p.kind == "verify"]
    for key in bad:
        answer(store, key, CARELESS, wrong=True)
    for key in keys:
        answer(store, key, CARELESS, wrong=True)
    assert str(CARELESS) in live(store).trust.intervals
    certificate = finish_audit(store)
    assert not isinstance(certificate, int) and certificate.overall.precision == 1
