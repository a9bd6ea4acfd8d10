"""Simulated campaigns: repeatable, faithful to the published rule, and beside their baselines."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from campaign.cli import app
from campaign.simulation.populations import class_sizes, sample_population
from campaign.simulation.predictions import campaign_population
from campaign.simulation.study import SimulationOptions, compare_orders, grid, learn, run_policy, simulate
from ml_backend.errors import InputError
from tests.campaign.builders import gold_store

SMALL = SimulationOptions(masks=2400, classes=3, seed=4)


@pytest.fixture(scope="module")
def population():
    return sample_population(class_sizes(2400, 3, 0.0), 4, keep_features=True)


def figures(result):
    told = result.as_dict()
    told.pop("seconds")
    return told


def test_the_same_seed_gives_the_same_result_and_another_one_does_not():
    first = figures(simulate(SMALL))
    assert figures(simulate(SMALL)) == first
    assert figures(simulate(replace(SMALL, seed=5)))["masks"] != first["masks"]


@pytest.mark.parametrize("policy", ["adaptive", "paper", "curtailed"])
def test_the_summary_is_about_what_was_obtained(population, policy):
    result = simulate(replace(SMALL, policy=policy), population)
    told, (rows, run) = result.as_dict(), (result.classes, result.course)
    assert told["masks"] == sum(row["masks"] for row in rows) <= told["pool"] == 2400
    assert told["masks_asked"] <= told["questions"]
    assert told["hours"] == pytest.approx(told["questions"] * 2 / 3600, abs=1e-3)
    assert told["masks_per_question"] == pytest.approx(told["masks"] / told["questions"], abs=1e-3)
    assert 0.7 < told["precision"] <= 1 and 0.7 < told["sq"] <= 1
    assert (np.diff(run.questions) >= 0).all() and (np.diff(run.masks) >= 0).all()
    assert json.loads(json.dumps(told)) == told


def test_curtailed_decides_as_paper_with_fewer_questions(population):
    thresholds = learn(population, SMALL)
    runs = [run_policy(population, thresholds, replace(SMALL, policy=p)) for p in ("paper", "curtailed")]
    paper, curtailed = (
        {key: sorted((d.cluster, d.kind) for d in search.decisions) for key, search in run.searches.items()}
        for run in runs
    )
    assert paper == curtailed
    assert runs[1].course.questions[-1] < runs[0].course.questions[-1]


def test_a_budget_is_kept(population):
    for budget in (0, 1, 50):
        assert simulate(replace(SMALL, budget=budget), population).summary["questions"] <= budget
    result = simulate(replace(SMALL, policy="paper", budget=100), population)
    assert result.summary["masks_asked"] <= 100 < simulate(replace(SMALL, policy="paper"), population).summary["masks"]


def test_annotators_who_err_cost_precision_and_questions(population):
    right, wrong = (simulate(replace(SMALL, answer_error=error), population).summary for error in (0.0, 0.3))
    assert wrong["precision"] < right["precision"]


def test_baselines(population):
    told = simulate(replace(SMALL, baselines=True), population).as_dict()
    every = told["baselines"]["verify every mask"]
    assert every["questions"] == 2400 and every["precision"] == 1
    assert every["masks"] == sum(int((c.iou >= 0.75).sum()) for c in population)
    cascade = told["baselines"]["cascade"]
    assert cascade["questions"] <= 2400 and cascade["masks"] <= every["masks"] * 1.2
    assert told["baselines"]["universal threshold"]["questions"] > 0
    assert told["baselines"]["drawing"]["hours"] == pytest.approx(told["masks"] * 80 / 3600, abs=0.01)
    assert {"adaptive", "verify every mask", "cascade", "universal threshold"} == set(told["curves"])


def test_the_cascade_learns_from_answers_alone(population):
    """Wrong answers mislead it: it never sees the truth."""
    right = simulate(replace(SMALL, baselines=True), population).baselines["cascade"]
    wrong = simulate(replace(SMALL, baselines=True, answer_error=0.3), population).baselines["cascade"]
    assert wrong["precision"] < right["precision"]


def test_the_grid_names_the_cheapest_setting_that_is_good_enough(population):
    found = grid(replace(SMALL, policy="paper"), population, n_s=(5, 15), k_a=(0.75, 0.9), k_iou=(0.75,))
    assert len(found["rows"]) == 4
    good = [row for row in found["rows"] if row["sq"] >= 0.85]
    assert found["cheapest"] == max(good, key=lambda row: row["masks_per_question"])
    assert grid(SMALL, population, n_s=(5,), k_a=(0.9,), k_iou=(0.75,), least_sq=0.999)["cheapest"] is None


def test_orders_of_search_differ_in_their_course_and_the_oracle_is_first(population):
    courses = compare_orders(replace(SMALL, policy="paper"), population)
    assert {"score", "bfs", "dfs", "dfs-score", "oracle"} <= set(courses)

    def masks_after(name: str, questions: int) -> float:
        course = courses[name]
        return float(course.masks[np.searchsorted(course.questions, questions, side="right") - 1])

    assert masks_after("oracle", 60) >= masks_after("bfs", 60)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "best"}, "order: expected one of"),
        ({"policy": "adaptive", "order": "bfs"}, "order: expected score"),
        ({"policy": "guess"}, "policy: expected one of"),
        ({"seconds_per_answer": 0}, "seconds_per_answer: expected a positive number"),
        ({"k_iou": 1.0}, "k_iou: expected an IoU"),
        ({"gold": -1}, "gold: expected a whole number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError) as error:
        SimulationOptions(**options)
    assert str(error.value).startswith(message)


def test_a_campaigns_own_masks(tmp_path):
    store = gold_store(tmp_path / "a", {"gold_share": 0})
    truth = store.images.annotated("heldout")  # the pool shows what the held-out image does
    truth.images[0] = replace(truth.images[0], file_name="pool.png", path=tmp_path / "a" / "pool.png")
    truth.save(tmp_path / "a" / "truth.json")
    (tmp_path / "a" / "images").mkdir()
    (tmp_path / "a" / "pool.png").rename(tmp_path / "a" / "images" / "pool.png")
    found = campaign_population(store, tmp_path / "a" / "truth.json", tmp_path / "a" / "images", keep_features=True)
    assert [len(c) for c in found] == [80, 80]
    assert [int((c.iou >= 0.75).sum()) for c in found] == [40, 40]
    given = ["--campaign", str(store.folder), "--truth", str(tmp_path / "a" / "truth.json"), "--baselines", "--json"]
    done = CliRunner().invoke(app, ["simulate", *given, "--plots", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["pool"] == 160 and told["precision"] > 0.9
    assert {p.name for p in (tmp_path / "plots").iterdir()} >= {"growth.png", "quality.png", "clusters.png"}
