from dataclasses import replace

import numpy as np
import pytest

from campaign.derived.dataset import final_masks
from campaign.derived.pace import campaign_pace
from campaign.report import report_data
from campaign.report.records import KINDS
from ml_backend.learning.evaluation import true_iou


@pytest.fixture(scope="module")
def data(campaign):
    return report_data(campaign[0])


def test_key_figures_are_those_of_the_store(campaign, data):
    store, _ = campaign
    masks = final_masks(store)
    assert data.masks == len(masks) > 100
    assert data.voted == masks.voted.sum() > 0
    assert data.questions == store.questions.count("verify") == data.answers > 30
    assert data.annotators == 3
    assert data.pace == campaign_pace(store) and data.pace.answers == data.answers
    assert data.pace.seconds == pytest.approx(1.2 * data.answers)
    assert data.labelled_masks == len(store.images.annotated("labelled").annotations)
    assert data.images == {"labelled": 3, "pool": 24}
    assert [r.number for r in data.rounds] == [1, 2]
    assert all(0 < r.ap["ap"] < r.ap["ap50"] <= 1 for r in data.rounds)


def test_figures_add_up(data, campaign):
    store, _ = campaign
    assert sum(f.masks for f in data.figures) == data.masks
    assert sum(sum(f.questions.values()) for f in data.figures) == data.questions
    decisions = store.decisions.rows()
    for kind in KINDS:
        assert sum(f.clusters[kind] for f in data.figures) == sum(d.kind == kind for d in decisions)
    for f in data.figures:
        masks = store.masks.predictions(f.round, "pool", f.class_id)
        assert f.predictions == len(masks)
        assert sum(f.decided.values()) <= f.predictions - f.known
    assert any(f.known for f in data.figures if f.round == 2)
    assert not any(f.known for f in data.figures if f.round == 1)


def test_progress_ends_at_the_totals(data):
    progress = data.progress
    assert progress.questions.sum() == data.answers
    assert progress.masks.sum() == data.masks
    assert (np.diff(progress.seconds) >= 0).all()
    assert progress.seconds[0] == 0
    assert progress.correct.sum() / data.masks == pytest.approx(data.precision.value)


def test_estimated_precision_is_near_the_true_one(campaign, data):
    store, truth = campaign
    true = (true_iou(final_masks(store), truth) >= 0.75).mean()
    assert abs(data.precision.value - true) < 0.1
    assert data.precision.low < data.precision.value < data.precision.high


def test_examples_are_of_every_kind_with_verdicts(data):
    assert {e.kind for e in data.examples} == set(KINDS)
    for example in data.examples:
        assert 1 <= len(example.crops) <= 10
        assert len(example.crops) == min(example.size, 10)
        assert all(crop.jpeg.startswith(b"\xff\xd8") for crop in example.crops)
        assert {crop.verdict for crop in example.crops} <= {"yes", "no", "unsure", None}
    accepted = next(e for e in data.examples if e.kind == "accept")
    assert {c.verdict for c in accepted.crops} >= {"yes", None}


def test_settings_hide_addresses_that_may_hold_a_password(data):
    assert data.settings["search.n_s"] == "8"
    assert data.settings["rounds.rounds"] == "2"
    assert not {"jobs.redis_url", "jobs.database_url"} & set(data.settings)


def test_images_that_are_gone_cost_their_crops_only(campaign, data):
    store, _ = campaign
    folder = store.images.records("pool")[0].path.parent
    folder.rename(folder.with_name("elsewhere"))
    try:
        fewer = report_data(store)
    finally:
        folder.with_name("elsewhere").rename(folder)
    assert fewer.examples == ()
    assert fewer.masks == data.masks


def test_campaign_that_only_began(tmp_path, campaign):
    from campaign.settings import CampaignSettings
    from campaign.store import Store
    from ml_backend.masks.coco import CocoDataset

    store, _ = campaign
    pool = CocoDataset([replace(i) for i in store.images.records("pool")], store.classes())
    fresh = report_data(Store.create(tmp_path / "fresh", CampaignSettings(name="new"), {"pool": pool}))
    assert (fresh.masks, fresh.questions, fresh.precision, fresh.pace.per_answer) == (0, 0, None, None)
    assert len(fresh.progress.seconds) == 0
