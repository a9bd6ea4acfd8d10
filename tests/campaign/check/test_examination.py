"""`campaign check` without Label Studio: the machine, the services, the addresses."""

import json
import socket

import pytest

from campaign.check import machine as machine_room
from campaign.check.examination import Subject, examine
from campaign.check.lines import State
from campaign.check.machine import machine
from campaign.check.pictures import kind_of_address
from campaign.check.services import services
from campaign.settings import DetectorSettings
from tests.campaign.cli.builders import campaign


def states(lines):
    return {line.thing: line for line in lines}


@pytest.fixture
def free_url():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize(
    ("detector", "gpu", "detectron2"),
    [
        (None, State.OK, State.OK),
        (DetectorSettings(name="torchvision", options={"preset": "tiny"}), State.OK, State.OK),
        (DetectorSettings(name="torchvision", options={"preset": "resnet50"}), State.WRONG, State.OK),
        (DetectorSettings(name="pointrend", options={"preset": "r50"}), State.WRONG, State.WRONG),
    ],
)
def test_what_a_detector_needs_is_asked_for(monkeypatch, tmp_path, detector, gpu, detectron2):
    import torch

    def missing(name):
        raise ModuleNotFoundError(name, name=name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(machine_room, "import_module", missing)
    seen = states(machine(tmp_path / "not" / "yet", detector))
    assert (seen["GPU"].state, seen["detectron2"].state) == (gpu, detectron2)
    assert seen["disk"].text.endswith(str(tmp_path))


def test_detectron2_built_for_another_torch_is_named(monkeypatch, tmp_path):
    def broken(name):
        raise ImportError("undefined symbol: _ZN3c10")

    monkeypatch.setattr(machine_room, "import_module", broken)
    line = states(machine(tmp_path, DetectorSettings(name="pointrend")))["detectron2"]
    assert line.state == State.WRONG and "undefined symbol" in line.text and "make pointrend" in line.mend


def test_little_room_and_memory_are_wrong(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_room, "LEAST_DISK", 1 << 60)
    monkeypatch.setattr(machine_room, "LEAST_MEMORY", 1 << 60)
    seen = states(machine(tmp_path, None))
    assert seen["disk"].state == seen["memory"].state == State.WRONG


def test_services_of_a_campaign(make_store):
    store = make_store()
    seen = states(services(store.folder, store))
    assert seen["database"].state == seen["Redis"].state == State.OK
    assert seen["database"].text.startswith("SQLite")


@pytest.mark.parametrize(
    ("variable", "url", "thing"),
    [
        ("CAMPAIGN_REDIS_URL", "redis://:s3cret@127.0.0.1:9/0", "Redis"),
        ("CAMPAIGN_DATABASE_URL", "postgresql+psycopg://me:s3cret@127.0.0.1:9/x", "database"),
    ],
)
def test_services_that_are_away_are_named_without_their_passwords(monkeypatch, tmp_path, variable, url, thing):
    pytest.importorskip("psycopg")
    monkeypatch.setenv(variable, url)
    line = states(services(tmp_path, None))[thing]
    assert line.state == State.WRONG and "s3cret" not in str(line) and "127.0.0.1" in str(line)


def test_the_database_is_postgresql(monkeypatch, tmp_path, postgres_server):
    monkeypatch.setenv("CAMPAIGN_DATABASE_URL", postgres_server.database("checked"))
    line = states(services(tmp_path, None))["database"]
    assert line.state == State.OK and line.text.endswith("schema none yet, tested")


@pytest.mark.parametrize(
    ("url", "public_url", "state"),
    [
        ("http://127.0.0.1:9", "http://127.0.0.1:9191", State.OK),
        ("https://labels.example.com", "http://127.0.0.1:9191", State.WRONG),
        ("https://labels.example.com", "http://crops.example.com", State.WRONG),
        ("https://labels.example.com", "https://crops.example.com", State.OK),
    ],
)
def test_browsers_must_reach_the_crops(monkeypatch, tmp_path, url, public_url, state):
    from campaign.check import examination, reach

    monkeypatch.setattr(examination, "label_studio", lambda url, token: iter(()))
    line = reach._for_browsers(public_url, url)
    assert line.state == state and (line.mend is None) == (state == State.OK)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("/data/upload/1/a.png", "uploads"),
        ("/labels/data/upload/1/a.png", "uploads"),
        ("https://host/labels/data/local-files/?d=x/a.png", "local files"),
        ("http://localhost:8080/data/local-files/?d=x/a.png", "local files"),
        ("gs://bucket/a.png", "Google Cloud"),
        ("azure-blob://box/a.png", "Azure"),
        ("https://elsewhere.example.com/data/upload/a.png", "web"),
    ],
)
def test_kinds_of_addresses(address, kind):
    assert kind_of_address(address, "https://host/labels") == kind


def test_without_label_studio_the_rest_is_checked(free_url):
    seen = states(examine(Subject(public_url=free_url)))
    assert seen["Label Studio"].state == seen["webhooks"].state == seen["images"].state == State.UNKNOWN
    assert seen["crops"].state == State.OK and "for the time of this check" in seen["crops"].text


def test_exit_status_and_lines(tmp_path, free_url):
    asked = ["check", tmp_path / "none", "--label-studio", "http://127.0.0.1:9", "--public-url", free_url]
    done = campaign(*asked)
    assert done.returncode == 1 and done.stderr == ""
    assert "wrong   campaign: " in done.stdout and "wrong   Label Studio: " in done.stdout
    assert all(line.startswith(("ok ", "wrong ", "unknown ")) for line in done.stdout.splitlines()[:-1])


def test_for_programs(monkeypatch, capsys):
    from campaign.check import examination
    from campaign.check.lines import ok, wrong
    from campaign.cli.checking import check

    for lines, status in (([ok("disk", "much")], 0), ([ok("disk", "much"), wrong("token", "bad", "another")], 1)):
        monkeypatch.setattr(examination, "examine", lambda subject, lines=lines: iter(lines))
        assert check(json=True) == status
        said = json.loads(capsys.readouterr().out)
        assert said["ok"] == (status == 0) and said["checks"] == [line.as_dict() for line in lines]
