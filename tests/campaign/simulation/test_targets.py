"""Simulated campaigns with a target: what they promise is true, and the same seed says the same."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from campaign.cli import app
from campaign.simulation.missing import simulated_recall
from campaign.simulation.study import SimulationOptions
from campaign.simulation.targets import Pool, run_target, sampled_pool, simulate_target
from ml_backend.errors import InputError

SMALL = SimulationOptions(policy="target", masks=3000, classes=2, seed=3, looked=40)
KEYS = {"questions", "masks", "correct", "precision", "promised", "recall", "recall_promised", "gold", "draws", "met"}


@pytest.fixture(scope="module")
def pool() -> Pool:
    return sampled_pool(SMALL)


def test_a_campaign_says_what_it_cost_brought_and_promises_and_the_same_seed_says_the_same(pool):
    first = simulate_target(SMALL, pool)
    assert set(first) >= KEYS
    assert json.loads(json.dumps(first)) == json.loads(json.dumps(simulate_target(SMALL, pool)))
    assert first["questions"] >= first["gold"] + first["draws"] * 0.5 > 0
    assert first["correct"] <= first["masks"] <= 3000
    assert first["met"] and first["precision"] >= first["promised"] >= 0.9
    assert first["recall_promised"] <= first["recall"]


def test_a_higher_target_delivers_fewer_and_better_masks(pool):
    low, high = (run_target(pool, replace(SMALL, precision=target)) for target in (0.75, 0.95))
    assert low.masks > high.masks and low.precision < high.precision


def test_each_class_may_have_a_target_of_its_own(pool):
    result = simulate_target(replace(SMALL, precision_per_class=0.85), pool)
    assert set(result["classes"]) == {0, 1} and result["options"]["precision_per_class"] == 0.85
    assert sum(one["masks"] for one in result["classes"].values()) == result["masks"]
    assert any(one["met"] for one in result["classes"].values())
    for one in result["classes"].values():
        assert one["promised"] == (0.85 if one["met"] else None)
        assert not one["met"] or one["precision"] >= 0.85


def test_a_lower_price_asks_more_and_obtains_more(pool):
    dear, cheap = (run_target(pool, replace(SMALL, price=price)) for price in (2.0, 0.3))
    assert cheap.questions > dear.questions and cheap.correct > dear.correct


def test_a_budget_is_kept(pool):
    run = run_target(pool, replace(SMALL, budget=300))
    assert run.questions <= 300 + 80  # a last page or two, with their gold


def test_eyes_that_cut_elsewhere_are_found_by_gold(pool):
    """Where people pass what lies between 0.65 and 0.75, votes alone would promise too much."""
    run = run_target(pool, replace(SMALL, eye_cut=0.65, precision=0.8))
    blind = run_target(pool, replace(SMALL, eye_cut=0.65, precision=0.8), gold=False)
    assert run.precision >= run.promise.bound
    assert run.promise.passed > blind.promise.passed == 0


@pytest.mark.parametrize("correct", [True, False])
def test_pools_in_which_all_or_no_mask_is_correct_end(pool, correct):
    iou = np.full(len(pool), 0.9 if correct else 0.3)
    own = replace(
        pool, iou=iou, correct=np.full(len(pool), correct), heldout_iou=np.full(len(pool.heldout_iou), iou[0]),
        heldout_correct=np.full(len(pool.heldout_iou), correct),
    )  # fmt: skip
    run = run_target(own, replace(SMALL, masks=500))
    assert run.correct == (run.masks if correct else 0)
    assert run.masks == (len(pool) if correct else 0)


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(InputError, match=r"precision: expected a share of at least 0\.5 and below 1, got 1\.2"):
        SimulationOptions(policy="target", precision=1.2)
    with pytest.raises(InputError, match=r"precision_per_class: expected a share of at least 0\.5 and below 1, got 1"):
        SimulationOptions(policy="target", precision_per_class=1)


def test_recall_is_bounded_by_what_people_find():
    rng = np.random.default_rng(1)
    image = np.repeat(np.arange(200), 10)
    inside = rng.random(2000) < 0.8
    objects = dict.fromkeys(range(200), 10)
    found = simulated_recall(image, inside, np.full(2000, 0.9), objects, 10, 100, 1.0, 0.025, 0.95, 0.0, 1)
    assert found is not None
    assert found.overall.bound <= inside.mean() == pytest.approx(found.overall.estimate, abs=0.1)
    assert simulated_recall(image, inside, np.full(2000, 0.9), objects, 10, 0, 1.0, 0.025, 0.95, 0.0, 1) is None


def test_the_course_says_what_was_expected_and_promised_beside_the_truth(pool):
    points = run_target(pool, SMALL).course
    before = [p for p in points if p.attempt is None]
    after = points[len(before) :]
    assert before and before[0].questions == 0 and all(p.promised is None for p in before)
    assert after and all(p.attempt == 1 and p.promised is not None for p in after)
    assert [p.questions for p in points] == sorted(p.questions for p in points)
    for point in points:
        assert point.precision.low <= point.precision.value <= point.precision.high
        assert abs(point.precision.value - point.true_precision) < 0.1
        assert point.seconds == point.questions * SMALL.seconds_per_answer
    assert points[-1].looked == 40 and points[-1].recall_promised <= points[-1].true_recall
    shown = simulate_target(SMALL, pool)["course"]
    assert [p["questions"] for p in shown] == [p.questions for p in points]
    assert {"true_precision", "true_recall", "hours", "promised", "precision"} <= set(shown[0])


SIMULATED = ["simulate", "--masks", "600", "--classes", "1", "--looked", "10"]


def test_the_picture_is_drawn_and_the_numbers_are_printed(tmp_path):
    given = ["--plot", str(tmp_path / "new" / "course.svg"), "--plots", str(tmp_path / "plots"), "--json"]
    done = CliRunner().invoke(app, [*SIMULATED, *given])
    assert done.exit_code == 0, done.output
    assert "svg" in (tmp_path / "new" / "course.svg").read_text()[:300]
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"target.png", "simulation.json"}
    result = json.loads(done.stdout)
    assert result["course"][-1]["questions"] == result["questions"]
    assert json.loads((tmp_path / "plots" / "simulation.json").read_text()) == result


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--plot", "course.jpeg"], r"expected a file \.png, \.svg or \.pdf, got course\.jpeg"),
        (["--plot", "course.png", "--policy", "paper"], r"expected policy target, got paper"),
    ],
)
def test_pictures_that_cannot_be_drawn_are_refused_before_the_work(given, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*SIMULATED, *given], env={"COLUMNS": "200", "TERM": "dumb"})
    assert done.exit_code == 2 and not list(tmp_path.iterdir())
    assert re.search(message, " ".join(done.output.replace("│", " ").split()))
