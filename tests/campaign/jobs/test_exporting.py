"""An export that the workers of a campaign share."""

import pytest
from rq.job import JobStatus

from campaign.dataset.choice import Choice, Parts
from campaign.jobs import exporting
from campaign.jobs.broker import broker
from campaign.jobs.exporting import shared_export
from campaign.jobs.queues import fetch_job
from campaign.steps.export_files import Form
from campaign.steps.export_plan import make_parts, plans
from campaign.steps.rounds import Step
from campaign.store import Store
from ml_backend.errors import InputError
from tests.benchmarks.exports import make
from tests.campaign.jobs.apart import result_of
from tests.security.faults.machines import Postgres

pytestmark = [pytest.mark.redis]


@pytest.mark.skipif(Postgres.reason_without() is not None, reason="needs PostgreSQL and psycopg")
def test_workers_that_share_no_disk_make_the_files_of_one_process():
    result = result_of("shared_exports")
    parts = {name: digest for name, digest in result["files"].items() if name.startswith("e-")}
    assert parts == result["one"] and len(parts) == 5
    said, card = result["said"], result["card"]
    assert said["masks"] == card["masks"] == sum(said["parts"].values()) > 300
    assert said["files"] == [f"s3://bucket/delivered/{name}" for name in sorted(parts)]
    assert said["card"] == [f"s3://bucket/delivered/e.{name}" for name in ("card.json", "README.md", "card.png")]
    assert {file["name"]: file["sha256"] for file in card["files"]} == parts
    assert result["files"].keys() - parts.keys() == {"e.card.json", "e.README.md", "e.card.png"}
    # The one that was killed had begun a part, which another made; each other part was made once.
    assert result["made"][result["killed"]] >= 1 and sum(result["made"]) <= 6
    assert sum(count > 0 for count in result["made"]) >= 2 and result["left"] == []


class EnoughError(Exception):
    """Ends waiting."""


def test_what_nobody_works_on_is_said_and_a_job_that_failed_too(tmp_path, monkeypatch, caplog):
    make(tmp_path / "c", 6, 2)
    store, form, looks = Store.open(tmp_path / "c"), Form(parts=Parts(3)), list[tuple[int, int]]()

    def ask(most: int) -> None:
        def look(done: int, total: int) -> None:
            looks.append((done, total))
            if len(looks) >= most:
                raise EnoughError

        with shared_export(store, tmp_path / "e.json", Choice(), form, look):
            raise AssertionError("expected no files")

    monkeypatch.setattr(exporting, "PAUSE", 0.01)
    with pytest.raises(InputError, match=r"embedded Redis: expected `campaign run .*` to be running, got no Redis"):
        ask(1)
    with broker(store) as connection:
        with pytest.raises(EnoughError):
            ask(3)
        assert len(set(looks)) == 1 and looks[0][0] == 0 and caplog.text.count("nobody works on the queue gpu") == 1
        (plan,) = plans(store)
        jobs = [fetch_job(Step("export", "gpu", 0, (plan.id, n)).job_id(store.key), connection) for n in (0, 1)]
        assert [job.get_status() for job in jobs] == [JobStatus.QUEUED] * 2
        make_parts(store, plan.id, 0)
        jobs[1].set_status(JobStatus.FAILED)
        looks.clear()
        with pytest.raises(EnoughError):  # asked anew, it is tried anew
            ask(1)
        assert looks == [(plan.jobs[0][2], plan.masks)]
        fetch_job(jobs[1].id, connection).set_status(JobStatus.FAILED)
        monkeypatch.setattr(exporting, "clear_failures", lambda *_: None)
        with pytest.raises(InputError, match="export, job 1: expected to succeed, got"):
            ask(9)
