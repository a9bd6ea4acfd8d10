"""Exports that are made part by part, as by jobs: the files of one process, whatever was answered or lost meanwhile."""

import json
import shutil
from pathlib import Path
from threading import Event, Thread, current_thread

import numpy as np
import pytest

from campaign.dataset.choice import Choice, Parts
from campaign.steps import export_files, export_plan
from campaign.steps.export import export_campaign
from campaign.steps.export_files import Form, Format
from campaign.steps.export_plan import PlannedExport, make_parts, plans
from campaign.steps.rounds import run_step
from campaign.store import Store
from ml_backend.errors import InputError
from tests.benchmarks.exports import make
from tests.campaign.target_builders import Truth, answer, finish, target_store, turn

FORMS = {
    "coco-class": Form(parts=Parts()),
    "coco-images": Form(parts=Parts(3)),
    "polygons-images": Form(polygons=True, parts=Parts(3)),
    "parquet-class": Form(Format.PARQUET, parts=Parts()),
    "parquet-images": Form(Format.PARQUET, parts=Parts(3)),
}


@pytest.fixture(scope="module")
def campaigns(tmp_path_factory):
    """Folders of campaigns: with a promise, with a round under way, and with a round that has ended."""
    folder = tmp_path_factory.mktemp("campaigns")
    promised = target_store(folder / "a")
    finish(promised, Truth())
    running = target_store(folder / "b")
    for key in turn(running)[0]:
        answer(running, key, Truth())
    make(folder / "ended", 40, 3)
    for store in (promised, running):
        store.engine.dispose()
    return {"promised": promised.folder, "running": running.folder, "ended": folder / "ended"}


@pytest.fixture
def opened(campaigns, tmp_path):
    def open_copy(name):
        shutil.copytree(campaigns[name], tmp_path / name)
        return Store.open(tmp_path / name)

    return open_copy


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def make_all(store, planned):
    for job in planned.missing():
        make_parts(store, planned.plan.id, job)
    return planned.outcome()


@pytest.mark.parametrize(
    ("campaign", "form"),
    [
        *(("promised", form) for form in FORMS), ("running", "coco-class"), ("running", "parquet-images"),
        ("ended", "parquet-class"), ("ended", "coco-images"),
    ],
)  # fmt: skip
def test_jobs_write_what_one_process_writes(opened, tmp_path, monkeypatch, campaign, form):
    monkeypatch.setattr(export_files, "PIECE", 50)  # other pieces in each job than in one process
    store, form = opened(campaign), FORMS[form]
    for name in ("one", "many"):
        (tmp_path / name).mkdir()
    one = export_campaign(store, tmp_path / "one" / "e.x", form=form)
    planned = PlannedExport(store, tmp_path / "many" / "e.x", Choice(), form)
    assert len(planned.plan.jobs) == len(one.files) > 1
    many = make_all(store, planned)
    assert files_in(tmp_path / "many") == files_in(tmp_path / "one")
    assert [f.name for f in many.files] == [f.name for f in one.files] and many.parts == one.parts
    assert many.info == json.loads(json.dumps(one.info)) and many.left_out == one.left_out == 0
    assert np.array_equal(many.masks.mask_id, one.masks.mask_id) and many.loss == one.loss
    shapes = [e.tally.shapes(e.masks, len(e.images)) for e in (one, many)]
    assert {c: s.as_dict() for c, s in shapes[0].items()} == {c: s.as_dict() for c, s in shapes[1].items()}
    assert many.tally.sources == one.tally.sources
    planned.forget()
    assert plans(store) == []


def test_answers_that_come_meanwhile_change_no_part(opened, tmp_path):
    store = opened("running")
    export_campaign(store, tmp_path / "one.json", form=Form(parts=Parts(3)))
    planned = PlannedExport(store, tmp_path / "many.json", Choice(), Form(parts=Parts(3)))
    finish(store, Truth())
    assert PlannedExport(store, tmp_path / "later.json", Choice(), Form(parts=Parts(3))).plan.id != planned.plan.id
    make_all(store, planned)
    for name in ("00001", "00002", "00003"):
        assert (tmp_path / f"many-{name}.json").read_bytes() == (tmp_path / f"one-{name}.json").read_bytes()


def test_an_export_that_was_broken_off_goes_on(opened, tmp_path):
    store, form, out = opened("promised"), Form(parts=Parts(3)), tmp_path / "e.json"
    first = PlannedExport(store, out, Choice(), form)
    assert first.missing() == [0, 1, 2]
    for job in (0, 1):
        run_step(store, "export", 0, first.plan.id, job)
    assert first.missing() == [2]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("e-*")}
    (tmp_path / "e-00002.json").write_text("cut short")
    again = PlannedExport(store, out, Choice(), form)
    assert again.plan.id == first.plan.id and again.missing() == [1, 2]
    make_all(store, again)
    make_parts(store, again.plan.id, 0)  # a late copy of a job that is done
    assert (tmp_path / "e-00001.json").stat().st_mtime_ns == before[tmp_path / "e-00001.json"]
    export_campaign(store, tmp_path / "one.json", form=form)
    assert (tmp_path / "e-00002.json").read_bytes() == (tmp_path / "one-00002.json").read_bytes()
    # Another export to the same place takes this one's; its jobs then do nothing.
    other = PlannedExport(store, tmp_path / "e.json", Choice(min_score=0.5), form)
    assert [plan.id for plan in plans(store)] == [other.plan.id] != [again.plan.id]
    make_parts(store, again.plan.id, 1)
    with pytest.raises(InputError, match="to be the only one to it, got another one since"):
        again.missing()


@pytest.mark.parametrize("place", ["{}/e.json", "memory://shared/e.json"])
def test_a_late_job_of_a_dropped_export_leaves_the_files_of_the_newer_one(opened, tmp_path, monkeypatch, place):
    store, form, place = opened("ended"), Form(parts=Parts(20)), place.format(tmp_path)
    before = PlannedExport(store, place, Choice(), form)
    late, add = Thread(target=make_parts, args=(Store.open(store.folder), before.plan.id, 0)), export_plan.Tally.add
    begun, go_on = Event(), Event()

    def wait(tally, masks):
        add(tally, masks)
        if current_thread() is late:  # its first file is about to be whole
            begun.set()
            assert go_on.wait(60)

    monkeypatch.setattr(export_plan.Tally, "add", wait)
    late.start()
    assert begun.wait(60)
    planned = PlannedExport(store, place, Choice(min_score=0.5), form)
    written = make_all(store, planned)
    go_on.set()
    late.join()
    sizes = {one["name"]: one["bytes"] for one in written.checksums}
    assert len(written.masks) < len(before.content.masks)
    assert {name: planned.plan.target.size(name) for name in sizes} == sizes


def test_a_plan_of_another_version_is_refused(opened, tmp_path):
    store = opened("ended")
    plan = store.folder / "exports" / f"{7:016x}" / "plan.json"
    plan.parent.mkdir(parents=True)
    plan.write_text('{"format": 2}')
    with pytest.raises(
        InputError, match=r"plan\.json: expected a plan of this version; remove its folder .*, got another"
    ):
        PlannedExport(store, tmp_path / "e.json", Choice(), Form(parts=Parts(20)))


def test_a_job_that_fails_leaves_nothing_and_is_made_later(opened, tmp_path, monkeypatch):
    store = opened("promised")
    (tmp_path / "out").mkdir()
    planned = PlannedExport(store, tmp_path / "out" / "e.json", Choice(), Form(parts=Parts(3)))

    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(export_plan.Tally, "add", killed)
        with pytest.raises(KeyboardInterrupt):
            make_parts(store, planned.plan.id, 0)
    assert planned.missing() == [0, 1, 2] and files_in(tmp_path / "out") == {}
    assert make_all(store, planned).parts.keys() == {"00001", "00002", "00003"}


def test_a_round_that_is_made_anew_ends_the_export(opened, tmp_path):
    store = opened("ended")
    planned = PlannedExport(store, tmp_path / "e.json", Choice(), Form(parts=Parts(3)))
    (masks,) = store.datasets.listed()
    store.datasets.save(1, masks.select(slice(1, None)))
    with pytest.raises(InputError, match=r"masks of round 1 of .*: expected those that were listed for an export, got"):
        make_all(store, planned)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        (Form(), "jobs: expected parts, without images, got one file"),
        (Form(parts=Parts(), copy_images=True), "jobs: expected parts, without images, got images to copy"),
        (Form(parts=Parts(3)), "expected no parts of another export beside these, got e-9-other.json"),
    ],
)
def test_what_cannot_be_planned_leaves_no_plan(opened, tmp_path, form, message):
    store = opened("ended")
    (tmp_path / "e-9-other.json").touch()
    with pytest.raises(InputError, match=message):
        PlannedExport(store, tmp_path / "e.json", Choice(), form)
    with pytest.raises(InputError, match=r"expected a folder, got none"):
        PlannedExport(store, tmp_path / "none" / "e.json", Choice(), Form(parts=Parts()))
    assert plans(store) == []


def test_a_url_names_a_file(opened):
    store = opened("ended")
    for url in ("s3://bucket", "s3://bucket/", "memory://e.json"):
        with pytest.raises(InputError, match=f"out: expected a URL that names a file, .*, got {url}"):
            PlannedExport(store, url, Choice(), Form(parts=Parts()))
    planned = PlannedExport(store, "memory://delivered/e.json", Choice(), Form(parts=Parts()))
    assert make_all(store, planned).files[0] == "memory://delivered/e-1-class-1.json"
