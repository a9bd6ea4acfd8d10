"""`demo`: a whole campaign to watch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from campaign.cli.arguments import Json, settings_from
from campaign.cli.output import Display, emit, table
from ml_backend.errors import InputError

if TYPE_CHECKING:
    from campaign.simulation.populations import ClassPopulation
    from campaign.simulation.study import SimulationOptions, SimulationResult
    from ml_backend.detector import Progress


def demo(
    out: Annotated[Path, typer.Option(help="Folder of everything the demo makes.")] = Path("demo-out"),
    data: Annotated[Path | None, typer.Option(help="Folder with images/ and COCO files; unset: drawn.")] = None,
    human: Annotated[bool, typer.Option("--human", help="You answer, instead of simulated annotators.")] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Train a detector on the pictures that are drawn; on --data it always is.")
    ] = False,
    images: Annotated[
        int | None, typer.Option(min=8, max=20_000, help="Pictures to fill that are drawn; unset: 250, to train 120.")
    ] = None,
    detector: Annotated[str | None, typer.Option(help="Detector to train.")] = None,
    users: Annotated[int, typer.Option(min=1, max=20, help="Simulated annotators.")] = 3,
    error: Annotated[float, typer.Option(min=0, max=0.5, help="Share of their answers that is wrong.")] = 0.0,
    eye_cut: Annotated[
        float | None,
        typer.Option(min=0.01, max=0.99, help="IoU from which they take a mask for correct; unset: k_iou."),
    ] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting.")] = None,
    stay: Annotated[
        bool, typer.Option("--stay", help="Afterwards keep Label Studio and the lead's page open, until Ctrl+C.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Install Label Studio without asking, where none is.")] = False,
    json: Json = False,
) -> None:
    """Run a campaign of two rounds on this machine, with a Label Studio of its own."""
    from campaign.demo.preparation import DemoOptions, make_folder
    from campaign.demo.studio import label_studio_command
    from campaign.demo.summary import beforehand, summary
    from campaign.demo.trial import run_demo
    from campaign.jobs.supervisor import exit_on_sigterm
    from ml_backend.detector import detector_names

    exit_on_sigterm()
    settings = settings_from(set_ or [])
    if detector is not None and detector not in detector_names():
        raise typer.BadParameter(f"--detector: expected one of {', '.join(detector_names())}, got {detector}")
    if detector is not None:
        settings.setdefault("detector", {})["name"] = detector
    options = DemoOptions(out, data, train, images, human, users, error, settings, eye_cut, stay)
    display = Display()
    make_folder(out)
    display.say(beforehand(options))
    with display.live():
        command = label_studio_command(out, lambda text: _agreed(text, yes, display), display.show)
        result = run_demo(options, command, display.say, display, display.show)
    emit(result, json, summary(result))


def _agreed(text: str, yes: bool, display: Display) -> bool:
    """Whether something may be installed: `yes`, or what a person at a terminal says. The text says what it takes."""
    display.say(text)
    return yes or (sys.stdin.isatty() and display.ask("Install it?"))


def simulate(
    policy: Annotated[
        str | None, typer.Option(help="target, adaptive, paper or curtailed; adaptive with --grid or --baselines.")
    ] = None,
    precision: Annotated[float, typer.Option(help="Share of correct masks to promise; policy target.")] = 0.9,
    confidence: Annotated[float, typer.Option(help="Confidence of the promise.")] = 0.95,
    precision_per_class: Annotated[
        float | None, typer.Option(help="Share of each class by itself to promise as well; unset: none.")
    ] = None,
    price: Annotated[float | None, typer.Option(help="Correct masks that a question must bring.")] = None,
    masks: Annotated[int, typer.Option(min=1, help="Masks of the simulated pool.")] = 100_000,
    classes: Annotated[int, typer.Option(min=1, help="Classes; their sizes are equal unless --skew.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    answer_error: Annotated[float, typer.Option(min=0, max=0.49, help="Share of wrong answers.")] = 0.0,
    unsure: Annotated[float, typer.Option(min=0, max=0.89, help="Share of unsure answers.")] = 0.0,
    eye_cut: Annotated[float | None, typer.Option(help="IoU at which annotators' eyes cut; unset: at --k-iou.")] = None,
    audit: Annotated[int, typer.Option(min=0, help="Questions of an audit at the end; policies without promise.")] = 0,
    looked: Annotated[int, typer.Option(min=0, help="Images looked through for missing objects; policy target.")] = 100,
    skew: Annotated[float, typer.Option(min=0, help="Class sizes fall off as rank to this power.")] = 0.0,
    order: Annotated[str, typer.Option(help="Of the search: score, bfs, dfs, dfs-score or oracle.")] = "score",
    n_s: Annotated[int, typer.Option(min=1, help="Masks sampled from a cluster.")] = 15,
    k_a: Annotated[float, typer.Option(help="Accept at this quality.")] = 0.85,
    k_iou: Annotated[float, typer.Option(help="Correct at this IoU.")] = 0.75,
    budget: Annotated[
        int | None, typer.Option(min=0, help="Questions, gold of the adaptive policy among them; unset: no limit.")
    ] = None,
    mixtures: Annotated[Path | None, typer.Option(help="A mixture's JSON file, or a folder of them.")] = None,
    campaign: Annotated[Path | None, typer.Option(help="A campaign whose masks to use, with --truth.")] = None,
    truth: Annotated[Path | None, typer.Option(help="COCO file of its pool; images/ lies beside it.")] = None,
    baselines: Annotated[bool, typer.Option("--baselines", help="Also run the baselines.")] = False,
    grid: Annotated[bool, typer.Option("--grid", help="Try settings and name the cheapest good one.")] = False,
    plots: Annotated[Path | None, typer.Option(help="Folder for the curves as PNG and JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(help="Precision and recall by questions, as PNG, SVG or PDF; policy target.")
    ] = None,
    json: Json = False,
) -> None:
    """Simulate a campaign's search and decisions, without Label Studio, on masks whose truth is known."""
    from campaign.cli.output import steps_progress
    from campaign.simulation import SimulationOptions
    from campaign.simulation import grid as run_grid
    from campaign.simulation import simulate as run_simulation
    from campaign.simulation.study import TARGET

    policy = _policy_of(policy, grid or baselines)
    if (campaign is None) != (truth is None):
        raise typer.BadParameter("--truth needs --campaign" if campaign is None else "--campaign needs --truth")
    if plots is not None:
        with_folder(plots)
    if plot is not None:
        _check_plot(plot, policy)
    options = SimulationOptions(
        policy=policy, masks=masks, classes=classes, seed=seed, answer_error=answer_error, unsure=unsure, skew=skew,
        order=order, n_s=n_s, k_a=k_a, k_iou=k_iou, budget=budget, mixtures=mixtures, baselines=baselines,
        precision=precision, confidence=confidence, price=price, eye_cut=eye_cut, audit=audit, looked=looked,
        precision_per_class=precision_per_class,
    )  # fmt: skip
    display = Display()
    if policy == TARGET:
        pictures = [path for path in (plot, plots and plots / "target.png") if path is not None]
        _simulate_target(options, campaign, truth, pictures, display, json)
        return
    with display.live():
        progress = steps_progress(display, "simulation")
        population = None if campaign is None else _population(campaign, truth, baselines, progress)
        if grid:
            result = run_grid(options, population, progress=progress)
            best = result["cheapest"]
            tables = {"Cheapest setting": best or {"none": f"no setting has an SQ of {result['least_sq']}"}}
        else:
            outcome = run_simulation(options, population, progress=progress)
            result = outcome.as_dict(courses=plots is not None)
            tables = {"Simulated campaign": outcome.summary, **outcome.baselines}
    if plots is not None:
        _draw(result, plots, None if grid else outcome)
    if json:
        emit(result, True)
        return
    for title, rows in tables.items():
        table(title, rows.items())


def _policy_of(name: str | None, compared: bool) -> str:
    """The policy to simulate. Raises BadParameter for an unknown one, or one that cannot be `compared`."""
    from campaign.search.policies import POLICIES
    from campaign.simulation.study import TARGET

    name = name or ("adaptive" if compared else TARGET)
    if name not in (TARGET, *POLICIES):
        raise typer.BadParameter(f"--policy: expected one of {', '.join((TARGET, *POLICIES))}, got {name}")
    if name == TARGET and compared:
        raise typer.BadParameter(f"--policy: {TARGET} goes with neither --grid nor --baselines")
    return name


def _simulate_target(
    options: SimulationOptions, campaign: Path | None, truth: Path | None, pictures: list[Path], display: Display,
    json: bool,
) -> None:  # fmt: skip
    """Simulates the policy with a target, draws its course, and prints what came of it.

    A picture `target.png` has the result as JSON beside it.
    """
    from campaign.cli.output import steps_progress
    from campaign.simulation.plots import draw_target
    from campaign.simulation.targets import as_result, campaign_pool, run_target, sampled_pool
    from campaign.store import Store

    with display.live():
        if campaign is None or truth is None:
            pool = sampled_pool(options)
        else:
            pool = campaign_pool(Store.open(campaign), truth, truth.parent / "images", options.k_iou)
        run = run_target(pool, options, steps_progress(display, "simulation"))
    result = as_result(run, pool, options)
    for path in pictures:
        draw_target(run.course, path)
        if path.name == "target.png":
            _write_result(result, path.parent)
    if json:
        emit(result, True)
    else:
        shown = ((name, value) for name, value in result.items() if name not in ("options", "course"))
        table("Simulated campaign", shown)


def _check_plot(path: Path, policy: str) -> None:
    """Raises BadParameter where that policy has no such picture, or no such file can be drawn; makes its folder."""
    from campaign.simulation.study import TARGET

    if policy != TARGET:
        raise typer.BadParameter(f"--plot: expected policy {TARGET}, got {policy}; --plots draws the others")
    if path.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise typer.BadParameter(f"--plot: expected a file .png, .svg or .pdf, got {path.name}")
    with_folder(path.parent)


def _write_result(result: dict[str, Any], folder: Path) -> None:
    import json

    from ml_backend.files import write_whole

    write_whole(folder / "simulation.json", lambda p: p.write_text(json.dumps(result)))


def _population(campaign: Path, truth: Path | None, keep_features: bool, progress: Progress) -> list[ClassPopulation]:
    """The masks of a campaign, with what the COCO file of its pool says of each."""
    from campaign.simulation.predictions import campaign_population
    from campaign.store import Store

    assert truth is not None
    images = truth.parent / "images"
    return campaign_population(Store.open(campaign), truth, images, keep_features=keep_features, progress=progress)


def _draw(result: dict[str, Any], plots: Path, outcome: SimulationResult | None) -> None:
    """Writes the curves as PNG and the result as JSON, then takes the curves out of it; a grid has no outcome."""
    from campaign.simulation.plots import draw_courses, draw_grid, draw_thresholds

    if outcome is None:
        draw_grid(result, plots / "grid.png")
    else:
        draw_courses({outcome.options.policy: outcome.course} | outcome.courses, plots)
        draw_thresholds(outcome.thresholds, plots / "thresholds.png")
    _write_result(result, plots)
    result.pop("curves", None)


def with_folder(path: Path) -> None:
    """Makes a folder before the work that fills it. Raises InputError where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(path, "a folder to write to", error.strerror or str(error)) from None


COMMANDS = (demo, simulate)
