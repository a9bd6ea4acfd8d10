"""The command line: exit statuses, one-line errors, JSON, and a quick start."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from campaign.demo.shapes import draw_shapes
from tests.campaign.cli.builders import campaign


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return draw_shapes(tmp_path_factory.mktemp("shapes"), labelled=2, pool=2, heldout=1)


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["status"], 2, "Missing argument"),
        (["status", "x", "--bogus"], 2, "--bogus"),
        (["nosuch"], 2, "nosuch"),
        (["status", "/nonexistent"], 1, "expected a campaign folder"),
        (["init", "/tmp/never-made", "--data", "/nonexistent"], 1, "expected a COCO file, got no such file"),
        (["init", "/tmp/never-made"], 2, "expected --data"),
        (["init", "/tmp/never-made", "--data", "x", "--set", "search"], 2, "expected NAME=VALUE"),
        (["worker", "x", "--queue", "fast"], 2, "expected gpu or default"),
        (["simulate", "--policy", "papr"], 2, "expected one of target, adaptive, paper, curtailed"),
        (["demo", "--out", "/tmp/never-made", "--detector", "yolo"], 2, "expected one of coco-results"),
    ],
)
def test_errors_are_one_line_with_the_right_status(args, code, message):
    done = campaign(*args)
    assert done.returncode == code
    assert message in done.stderr and len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    assert not Path("/tmp/never-made").exists()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("search.k_a=2", "search.k_a"),
        ("search.nosuch=2", "search.nosuch"),
        ("detector.name=yolo", "one of coco-results"),
    ],
)
def test_bad_settings_are_named_and_leave_nothing(data, tmp_path, setting, message):
    done = campaign("init", tmp_path / "c", "--data", data, "--set", setting)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_a_truncated_image_is_found_at_the_start(data, tmp_path):
    copy = tmp_path / "data"
    subprocess.run(["cp", "-r", data, copy], check=True)
    bad = sorted((copy / "images").iterdir())[0]
    bad.write_bytes(bad.read_bytes()[: bad.stat().st_size // 2])
    done = campaign("init", tmp_path / "c", "--data", copy)
    assert done.returncode == 1 and bad.name in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_init_and_status_speak_json(data, tmp_path):
    folder = tmp_path / "c"
    done = campaign("init", folder, "--data", data, "--json", "--set", "search.k_a=0.9")
    assert json.loads(done.stdout)["images"] == {"labelled": 2, "pool": 2, "heldout": 1}
    state = json.loads(campaign("status", folder, "--json").stdout)
    assert state["stage"] == "new" and state["questions"] == 0
    assert json.loads((folder / "campaign.json").read_text())["settings"]["search"]["k_a"] == 0.9
    again = campaign("init", folder, "--data", data)
    assert again.returncode == 1 and "holds a campaign already" in again.stderr


def test_a_share_of_the_labelled_images_is_kept_out(data, tmp_path):
    images = ["--images", data / "images", "--labelled", data / "labelled.json", "--pool", data / "pool.json"]
    done = campaign("init", tmp_path / "c", *images, "--heldout-share", "0.5", "--json")
    assert json.loads(done.stdout)["images"] == {"labelled": 1, "pool": 2, "heldout": 1}


@pytest.mark.parametrize("command", ["run", "sync", "publish"])
def test_without_label_studio_one_line_says_so(data, tmp_path, command):
    campaign("init", tmp_path / "c", "--data", data)
    done = campaign(command, tmp_path / "c")
    assert done.returncode == 1 and "label_studio.url" in done.stderr and len(done.stderr.splitlines()) == 1


def test_an_unreachable_label_studio_is_named(data, tmp_path):
    token = {"LABEL_STUDIO_API_KEY": "0" * 40}
    address = ["--label-studio", "http://127.0.0.1:9"]
    done = campaign("init", tmp_path / "c", *address, "--source-project", "1", **token)
    assert done.returncode == 1 and "127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1
    done = campaign("init", tmp_path / "c", "--data", data, *address, **token)
    assert done.returncode == 1 and "127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "c").exists()


def test_a_label_studio_that_went_away_is_named(data, tmp_path):
    folder = tmp_path / "c"
    campaign("init", folder, "--data", data, "--set", "label_studio.url=http://127.0.0.1:9")
    done = campaign("sync", folder, LABEL_STUDIO_API_KEY="0" * 40)
    assert done.returncode == 1 and "127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_token_is_needed_and_never_shown(data, tmp_path):
    done = campaign("init", tmp_path / "c", "--data", data, "--label-studio", "http://127.0.0.1:9")
    assert done.returncode == 1 and "LABEL_STUDIO_API_KEY" in done.stderr


def test_torch_is_not_loaded_for_the_command_line():
    code = (
        "import sys, campaign.cli, campaign.derived.status, campaign.store, campaign.steps.rounds\n"
        "print([m for m in ('torch', 'pyarrow', 'sklearn', 'alembic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout


def test_openblas_hears_of_its_processor_before_numpy_is_loaded():
    code = "import sys, campaign.cli; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
