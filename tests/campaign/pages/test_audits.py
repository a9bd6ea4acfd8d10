"""The audit of a dataset: drawn once, asked as ordinary questions, certified from its own answers alone."""

import json

import pytest

from campaign.derived.dataset import final_masks, obtained
from campaign.pages.audits import begin_audit, finish_audit, open_audit
from campaign.steps.export import export_campaign
from ml_backend.errors import InputError
from tests.campaign.builders import answer, finish


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
