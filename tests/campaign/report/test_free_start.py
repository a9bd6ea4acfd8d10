"""The free start: the pool's nearest neighbours of held-out masks that are known to be correct."""

from campaign.derived.dataset import obtained
from campaign.report import render_report, report_data
from tests.campaign.builders import CLASSES, finish, gold_store


def test_neighbours_of_good_masks_are_good_and_in_the_dataset(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0})
    before = report_data(store)
    assert [(f.nearest, f.obtained, f.refused) for f in before.free_start] == [(40, 0, 0)] * len(CLASSES)
    finish(store, 1)
    store.datasets.save(1, obtained(store, 1))
    data = report_data(store)
    assert [(f.class_id, f.nearest, f.obtained, f.refused) for f in data.free_start] == [
        (c, 40, 40, 0) for c in CLASSES
    ]
    assert all(f.crops and f.crops[0].jpeg.startswith(b"\xff\xd8") for f in data.free_start)
    page = render_report(data)
    assert "A free start" in page and "of the 40 nearest 40 are in the dataset, 0 were voted no" in page


def test_without_held_out_images_there_is_none(make_store):
    data = report_data(make_store())
    assert data.free_start == () and "A free start" not in render_report(data)
