"""Simulated campaigns: repeatable, faithful to the published rule, and beside their baselines."""

import json
from dataclasses import replace

import numpy as np
import pytest
from typer.testing import CliRunner

from campaign.cli import app
from campaign.search.policies import ORDERS
from campaign.simulation.populations import class_sizes, sample_population
from campaign.simulation.predictions import campaign_population
from campaign.simulation.study import SimulationOptions, grid, learn, run_policy, simulate
from ml_backend.errors import InputError
from tests.campaign.builders import gold_store

SMALL = SimulationOptions(masks=2400, classes=3, seed=4)


@pytest.fixture(scope="module")
def population():
    return sample_population(class_sizes(2400, 3, 0.0), 4, keep_features=True)


def figures(result):
    result = result.as_dict()
    result.pop("seconds")
    return result


def test_the_same_seed_gives_the_same_result_and_another_one_does_not():
    first = figures(simulate(SMALL))
    assert figures(simulate(SMALL)) == first
    assert figures(simulate(replace(SMALL, seed=5)))["masks"] != first["masks"]


@pytest.mark.parametrize("policy", ["adaptive", "paper", "curtailed"])
def test_the_summary_is_about_what_was_obtained(population, policy):
    result = simulate(replace(SMALL, policy=policy), population)
    summary, (rows, run) = result.as_dict(), (result.classes, result.course)
    assert summary["masks"] == sum(row["masks"] for row in rows) <= summary["pool"] == 2400
    assert summary["masks_asked"] <= summary["questions"]
    assert summary["hours"] == pytest.approx(summary["questions"] * 2 / 3600, abs=1e-3)
    assert summary["masks_per_question"] == pytest.approx(summary["masks"] / summary["questions"], abs=1e-3)
    assert 0.7 < summary["precision"] <= 1 and 0.7 < summary["sq"] <= 1
    assert (np.diff(run.questions) >= 0).all() and (np.diff(run.masks) >= 0).all()
    assert json.loads(json.dumps(summary)) == summary


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
    result = simulate(replace(SMALL, baselines=True), population).as_dict()
    every = result["baselines"]["verify every mask"]
    assert every["questions"] == 2400 and every["precision"] == 1
    assert every["masks"] == sum(int((c.iou >= 0.75).sum()) for c in population)
    cascade = result["baselines"]["cascade"]
    assert cascade["questions"] <= 2400 and cascade["masks"] <= every["masks"] * 1.2
    assert result["baselines"]["universal threshold"]["questions"] > 0
    assert result["baselines"]["drawing"]["hours"] == pytest.approx(result["masks"] * 80 / 3600, abs=0.01)
    assert {"adaptive", "verify every mask", "cascade", "universal threshold"} == set(result["curves"])


def test_the_cascade_learns_from_answers_alone(population):
    """Wrong answers mislead it: it never sees the truth."""
    right = simulate(replace(SMALL, baselines=True), population).baselines["cascade"]
    wrong = simulate(replace(SMALL, baselines=True, answer_error=0.3), population).baselines["cascade"]
    assert wrong["precision"] < right["precision"]


def test_the_grid_names_the_cheapest_setting_that_is_good_enough(population):
    result = grid(replace(SMALL, policy="paper"), population, n_s=(5, 15), k_a=(0.75, 0.9), k_iou=(0.75,))
    assert len(result["rows"]) == 4
    good = [row for row in result["rows"] if row["sq"] >= 0.85]
    assert result["cheapest"] == max(good, key=lambda row: row["masks_per_question"])
    assert grid(SMALL, population, n_s=(5,), k_a=(0.9,), k_iou=(0.75,), least_sq=0.999)["cheapest"] is None


def test_orders_of_search_differ_in_their_course_and_the_oracle_is_first(population):
    paper = replace(SMALL, policy="paper")
    thresholds = learn(population, paper)
    orders = (*ORDERS, "oracle")
    courses = {order: run_policy(population, thresholds, replace(paper, order=order)).course for order in orders}
    assert len({tuple(course.masks) for course in courses.values()}) > 3

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
    population = campaign_population(
        store, tmp_path / "a" / "truth.json", tmp_path / "a" / "images", keep_features=True
    )
    assert [len(c) for c in population] == [80, 80]
    assert [int((c.iou >= 0.75).sum()) for c in population] == [40, 40]
    given = ["--campaign", str(store.folder), "--truth", str(tmp_path / "a" / "truth.json"), "--baselines", "--json"]
    done = CliRunner().invoke(app, ["simulate", *given, "--plots", str(tmp_path / "plots")])
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["pool"] == 160 and result["precision"] > 0.9
    assert {p.name for p in (tmp_path / "plots").iterdir()} >= {"growth.png", "quality.png", "clusters.png"}
