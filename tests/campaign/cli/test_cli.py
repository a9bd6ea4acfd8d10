"""The command line: exit statuses, one-line errors, JSON, and a quick start."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
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
        (["status"], 2, "Missing argument FOLDER: the campaign folder"),
        (["convert"], 2, "Missing option --label-studio: address of Label Studio"),
        (["status", "x", "--bogus"], 2, "--bogus: expected an option of `campaign status` (see campaign status"),
        (["status", "x", "--jsn"], 2, "(the nearest is --json)"),
        (["status", "x", "y"], 2, "unexpected extra argument"),
        (["status", "x", "--every", "0"], 2, "--every: expected a number of at least 0.5, got 0"),
        (["init", "/tmp/never-made", "--source-project", "x"], 2, "--source-project: expected a whole number, got x"),
        (["init", "/tmp/never-made", "--set"], 2, "--set"),
        (["nosuch"], 2, "nosuch"),
        (["stat"], 2, "Did you mean 'status'?"),
        (["status", "/nonexistent"], 1, "expected a campaign folder"),
        (["init", "/tmp/never-made", "--data", "/nonexistent"], 1, "expected a COCO file, got no such file"),
        (["init", "/tmp/never-made"], 2, "expected --data"),
        (["init", "/tmp/never-made", "--data", "x", "--set", "search"], 2, "expected NAME=VALUE"),
        (["worker", "x", "--queue", "fast"], 2, "expected gpu or default"),
        (["simulate", "--policy", "papr"], 2, "expected one of target, adaptive, paper, curtailed"),
        (["demo", "--out", "/tmp/never-made", "--detector", "yolo"], 2, "expected one of coco-results"),
        (["demo", "--out", __file__], 1, "expected a folder that can be made"),
        (["demo", "--out", f"{__file__}/x"], 1, "expected a folder that can be made"),
        (["serve", "x", "--port", "99999"], 2, "--port: expected"),
        (["check-detector", "torchvision", "--option", "bad"], 2, "--option: expected NAME=VALUE, got bad"),
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
        ("serch.kiou=0.5", "expected a known setting (the nearest is search.k_iou)"),
        ("page.public_url=labels.example.com", "expected an address that begins with http:// or https://, got 'labels"),
        ("label_studio.url=labels:8080", "expected an address that begins with http:// or https://"),
        ("detector.options.stepz=5", "; the nearest is steps, got stepz"),
        ("detector.options.steps=0", "detector option steps: expected a number of at least 1, got 0"),
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
    address, sources = ["--label-studio", "http://127.0.0.1:9"], (["--source-project", "1"], ["--data", data])
    # Each tries for some seconds before it gives up, so side by side.
    with ThreadPoolExecutor() as pool:
        made = pool.map(lambda n: campaign("init", tmp_path / str(n), *address, *sources[n], **token), range(2))
    for done in made:
        assert done.returncode == 1 and "127.0.0.1:9" in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "0").exists() and not (tmp_path / "1").exists()


def test_a_label_studio_that_went_away_is_named(data, tmp_path):
    folder = tmp_path / "c"
    campaign("init", folder, "--data", data, "--set", "label_studio.url=http://127.0.0.1:9")
    # Each tries for some seconds before it gives up, so side by side.
    commands = (["sync", folder], ["verify", folder, "--json"], ["check", folder, "--json"])
    with ThreadPoolExecutor() as pool:
        sync, verify, check = pool.map(lambda args: campaign(*args, LABEL_STUDIO_API_KEY="0" * 40), commands)
    assert sync.returncode == 1 and "127.0.0.1:9" in sync.stderr and len(sync.stderr.splitlines()) == 1
    said = json.loads(verify.stdout)
    assert verify.returncode == 1 and said["findings"] == [] and not said["fits"] and "127.0.0.1:9" in said["unknown"]
    assert "Label Studio does not answer" in check.stdout and "give --label-studio" not in check.stdout


def test_a_token_is_needed_and_never_shown(data, tmp_path):
    done = campaign("init", tmp_path / "c", "--data", data, "--label-studio", "http://127.0.0.1:9")
    assert done.returncode == 1 and "LABEL_STUDIO_API_KEY" in done.stderr


@pytest.mark.parametrize("also", ["campaign.steps.rounds", "campaign.steps.verify"])
def test_torch_is_not_loaded_for_the_command_line_and_for_a_turn(also):
    code = (
        f"import sys, campaign.cli, campaign.derived.status, campaign.store, {also}\n"
        "print([m for m in ('torch', 'pyarrow', 'sklearn', 'alembic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout


def test_openblas_hears_of_its_processor_before_numpy_is_loaded():
    code = "import sys, campaign.cli; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_version_is_printed():
    from importlib.metadata import version

    assert campaign("--version").stdout.strip() == version("label-studio-cluster-verification")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete_commands(shell):
    script = campaign(_CAMPAIGN_COMPLETE=f"source_{shell}").stdout
    assert "_CAMPAIGN_COMPLETE=complete_" + shell in script
    asked = {"COMP_WORDS": "campaign stat", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "campaign stat"}
    done = campaign(_CAMPAIGN_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", **asked)
    assert "status" in done.stdout and "verify" not in done.stdout
