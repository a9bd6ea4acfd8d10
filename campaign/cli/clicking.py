"""`train-interactive`, `simulate-clicks`: what answers corrective clicks, trained and tried."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from campaign.cli.arguments import Json
from campaign.cli.output import Display, emit, steps_progress, table
from campaign.cli.trial import with_folder

Option = Annotated[list[str] | None, typer.Option("--option", metavar="NAME=VALUE", help="An option of the model.")]
Model = Annotated[str, typer.Option(help="click, published or sam2, or a segmenter from elsewhere.")]


def train_interactive(
    folder: Annotated[str | None, typer.Argument(help="The campaign folder or URL; unset: --train and --out.")] = None,
    train: Annotated[Path | None, typer.Option(help="COCO file to learn from; images/ lies beside it.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the checkpoint, with --train.")] = None,
    model: Model = "click",
    option: Option = None,
    json: Json = False,
) -> None:
    """Train the model that answers corrective clicks; a killed run goes on when it is started again."""
    if (folder is None) == (train is None) or (train is None) != (out is None):
        raise typer.BadParameter("expected a campaign folder, or --train with --out")
    options = _options(option)
    display = Display()
    with display.live():
        progress = steps_progress(display, f"training {model}")
        if folder is not None:
            from campaign.steps.interactive import train_interactive as train_for
            from campaign.store import Store

            done = train_for(Store.open(folder), model, options, progress)
            ranker = None if done.ranker is None else str(done.ranker)
            result = vars(done) | {"checkpoint": str(done.checkpoint), "ranker": ranker}
        else:
            from ml_backend.interactive.segmenter import load_segmenter_class
            from ml_backend.masks.coco import CocoDataset

            assert train is not None and out is not None
            kind = load_segmenter_class(model)
            data = CocoDataset.load(train, train.parent / "images")
            checkpoint = kind.train(data, None, out, options=options, progress=progress)
            result = {"checkpoint": str(checkpoint), "version": kind.load(checkpoint).version}
            result |= {"images": len(data.images), "masks": len(data.annotations)}
    emit(result, json, f"{result['version']}, trained on {result['masks']} masks: {result['checkpoint']}")


def simulate_clicks(
    data: Annotated[Path, typer.Option(help="Folder with images/ and COCO files.")],
    train: Annotated[str, typer.Option(help="COCO file in it that the model learns from.")] = "labelled.json",
    test: Annotated[str, typer.Option(help="COCO file in it whose objects are segmented.")] = "heldout.json",
    model: Model = "click",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = 0,
    objects: Annotated[int, typer.Option(min=1, help="Most objects of the test file, drawn by chance.")] = 150,
    out: Annotated[Path, typer.Option(help="Folder of the models, kept for another run.")] = Path("clicks-out"),
    checkpoint: Annotated[Path | None, typer.Option(help="A trained model, instead of training one.")] = None,
    detector: Annotated[
        Path | None, typer.Option(help="Checkpoint of a torchvision detector, whose masks are corrected.")
    ] = None,
    detections: Annotated[Path | None, typer.Option(help="COCO results whose masks are corrected.")] = None,
    studies: Annotated[bool, typer.Option("--studies", help="Also other annotators, rounds and encodings.")] = False,
    campaign: Annotated[
        Path | None,
        typer.Option(help="A campaign that has predictions, to be verified first and then corrected by clicks."),
    ] = None,
    truth: Annotated[str, typer.Option(help="COCO file in --data with the true masks of its pool.")] = "pool.json",
    plot: Annotated[
        Path | None, typer.Option(help="Mean IoU by clicks and the best masks, as PNG, SVG or PDF.")
    ] = None,
    option: Option = None,
    json: Json = False,
) -> None:
    """Simulate annotators who begin and correct masks by clicks, on masks whose truth is known."""
    from campaign.simulation.clickstudy import ClickStudy
    from campaign.simulation.clickstudy import simulate_clicks as run_study

    if detector is not None and detections is not None:
        raise typer.BadParameter("expected --detector or --detections, got both")
    if plot is not None:
        if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
            raise typer.BadParameter(f"--plot: expected a file .png, .svg or .pdf, got {plot.name}")
        with_folder(plot.parent)
    study = ClickStudy(
        data=data, train=train, test=test, out=out, model=model, seed=seed, objects=objects, checkpoint=checkpoint,
        detector=detector, detections=detections, studies=studies, training=_options(option),
        campaign=campaign, truth=truth,
    )  # fmt: skip
    display = Display()
    with display.live():
        result = run_study(study, steps_progress(display, "clicks"))
    if plot is not None:
        from campaign.simulation.clickplots import draw_study

        draw_study(result, plot)
    if json:
        emit(result, True)
    else:
        table("Simulated clicks", result.items())


def _options(pairs: list[str] | None) -> dict[str, Any]:
    """Options of a model from NAME=VALUE; values are JSON where they can be, else text."""
    from campaign.cli.arguments import settings_from

    return settings_from(pairs or [], "--option")


COMMANDS = (train_interactive, simulate_clicks)
