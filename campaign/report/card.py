"""The data card of an export: what it holds, how it was made, what is certain of it, and what it looks like."""

from __future__ import annotations

import hashlib
import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as mask_util

from campaign.dataset.statistics import Shapes, often_of, shapes_of
from campaign.derived.answers import gold_count
from campaign.derived.duplicates import duplicates_line
from campaign.derived.pace import campaign_pace
from campaign.steps.export import Exported, checksum
from campaign.store import Store
from ml_backend.detector import learns
from ml_backend.files import feed, whole_file, write_whole
from ml_backend.masks.rle import areas

DRAWN = 6  # classes in the plot, the largest first
METHOD = (
    "{detecting}; rounds: {rounds}. {asking} Annotators saw pages of look-alike masks and said of each whether its IoU "
    "with its object is {k_iou:g} or more; masks of known verdict (gold) were hidden among them. {propagation}"
)
LEARNED = "A detector ({detector}) learned from {labelled} labelled images and predicted masks on {pool} images"
GIVEN = (
    "The masks on {pool} images come from a detector ({detector}) that learns nothing; {labelled} labelled images were "
    "there besides"
)
ASKING = {
    "target": "A verifier that learns from held-out truth and from every answer estimated how likely each mask is "
    "correct, and the masks were asked about whose answers change most of what is delivered.",
}
CLUSTERS = (
    "The masks of a class were clustered by feature and score (complete linkage), the tree was searched from the best "
    "cluster down, and samples of clusters were asked about (Papadopoulos, Weber and Torralba)."
)
DELIVERY = {
    "target": "Delivered are the likeliest masks without those voted down; masks drawn from them by chance were asked "
    "about to prove the promise.",
}
PROPAGATION = "An accepted cluster's label went to all its masks, without those voted down."


def write_card(store: Store, exported: Exported, path: Path) -> list[Path]:
    """Writes the card as JSON, as Markdown and with a plot beside the export at `path`; returns the three files.

    In a folder they are `card.json`, `README.md` and `card.png`; beside a file its name stands before them. Raises
    InputError where a file cannot be written.
    """
    files = [_place(path, name) for name in ("card.json", "README.md", "card.png")]
    ours, theirs = _export_shapes(exported), _labelled_shapes(store)
    card = card_data(store, exported, ours, theirs)
    write_whole(files[2], lambda partial: _draw(partial, store.classes(), ours, theirs))
    with whole_file(files[0]) as file:
        json.dump(card, file, indent=2, allow_nan=False)
    with whole_file(files[1]) as file:
        file.write(_markdown(card, files[2].name))
    return files


def card_data(
    store: Store, exported: Exported, ours: dict[int, Shapes], theirs: dict[int, Shapes]
) -> dict[str, Any]:  # fmt: skip
    """Everything on the card, as plain values."""
    classes, info, masks = store.classes(), exported.info, exported.masks
    pace, gold, fields = campaign_pace(store), gold_count(store), store.images.fields()
    hours, wage = pace.total / 3600, store.settings.quality.wage_per_hour
    chosen = classes if exported.classes is None else exported.classes
    split = {"parts": exported.parts} if len(exported.parts) > 1 else {}
    return {
        "name": store.settings.name,
        "made": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "files": exported.checksums or [_checksum(Path(file)) for file in exported.files],
        "masks": len(masks),
        "images": len(exported.images),
        **split,
        "chosen": info.get("chosen"),
        "classes": {
            name: {
                "masks": int((masks.class_id == number).sum()),
                "sources": dict(exported.tally.sources[number]),
                "statistics": ours[number].as_dict() if number in ours else None,
                "labelled_statistics": theirs[number].as_dict() if number in theirs else None,
            }
            for number, name in chosen.items()
        },
        "method": _method(store),
        "precision": info.get("promise") or exported.certificate,
        "recall": info.get("recall"),
        "painted_reference": info.get("painted_reference"),
        "polygons": exported.loss.as_dict() if exported.loss else None,
        "gold": {"answers": gold.yes + gold.no, "right": gold.yes_right + gold.no_right},
        "work": {
            "questions": info["questions"],
            "annotators": len(store.answers.annotators()),
            "hours": round(hours, 3),
            "cost": round(hours * wage, 2) if wage is not None else None,
        },
        "models": {str(r.number): r.model_version for r in store.rounds.all()},
        "detector": store.settings.detector.name,
        "licenses": fields.licenses,
        "source": fields.info,
        "duplicates": info.get("duplicates"),
        "masks_digest": info["masks_digest"],
    }


def _place(path: Path, name: str) -> Path:
    return path / name if path.is_dir() else path.with_name(f"{path.stem}.{name}")


def _method(store: Store) -> str:
    search, detector = store.settings.search, store.settings.detector.name
    detecting = (LEARNED if learns(detector) else GIVEN).format(
        detector=detector, labelled=store.images.count("labelled"), pool=store.images.count("pool")
    )
    return METHOD.format(
        detecting=detecting,
        rounds=len(store.rounds.all()),
        k_iou=search.k_iou,
        asking=ASKING.get(search.policy, CLUSTERS),
        propagation=DELIVERY.get(search.policy, PROPAGATION),
    )


def _checksum(path: Path) -> dict[str, Any]:
    """Name, bytes and SHA-256 of a file; of a folder those of its labels, names and contents together."""
    if not path.is_dir():
        return checksum(path)
    digest, size = hashlib.sha256(), 0
    for file in sorted((path / "labels").rglob("*.txt")):
        digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        feed(digest, file)
        size += file.stat().st_size
    return {"name": path.name, "bytes": size, "sha256": digest.hexdigest()}


def _export_shapes(exported: Exported) -> dict[int, Shapes]:
    return exported.tally.shapes(exported.masks, len(exported.images))


def _labelled_shapes(store: Store) -> dict[int, Shapes]:
    data = store.images.annotated("labelled")
    true = [a for a in data.annotations if not a.iscrowd]
    found = {}
    for number in sorted({a.class_id for a in true}):
        own = [a for a in true if a.class_id == number]
        rles = [a.rle for a in own]
        often = often_of(np.array([a.image_id for a in own]), len(data.images))
        extent = np.array([rle["size"][::-1] for rle in rles])
        found[number] = shapes_of(often, mask_util.toBbox(rles), areas(rles), extent)
    return found


# The text


def _markdown(card: dict[str, Any], picture: str) -> str:
    lines = [f"# {card['name']}: data card", "", card["method"], "", f"Made {card['made']}.", ""]
    lines += [f"- {sentence}" for sentence in _sentences(card)]
    lines += ["", "## Classes", "", *_class_table(card), "", "## Density and position", ""]
    lines += [
        "Instances per image, size (root of a mask's share of its image), aspect (width over height of its box) and "
        "the middle of its box; medians of this set, and of the labelled set after a stroke.", "",
        *_shape_table(card), "", f"![Density and position, against the labelled set]({picture})", "", "## Files", "",
        "| file | bytes | SHA-256 |", "| --- | --- | --- |",
        *(f"| {f['name']} | {f['bytes']:,} | `{f['sha256']}` |" for f in card["files"]), "",
    ]  # fmt: skip
    lines += _licences(card)
    return "\n".join(lines)


def _sentences(card: dict[str, Any]) -> list[str]:
    work, gold = card["work"], card["gold"]
    precision, recall = card["precision"], card["recall"]
    said = [f"{card['masks']:,} masks on {card['images']:,} images."]
    if card["chosen"]:
        said.append(f"{card['chosen']['note'].capitalize()} ({card['chosen']['of']:,} masks).")
    elif precision and precision.get("sentence"):
        missing = f" Missing to the target: {precision['missing']}." if precision.get("missing") else ""
        said.append(f"Precision: {precision['sentence']}.{missing}")
    else:
        said.append("Precision was not certified.")
    if recall and recall.get("bound") is not None:
        said.append(
            f"Recall: {recall['bound']:.3f} or more with {recall['confidence']:.0%} confidence, "
            f"estimated {recall['estimate']:.3f}."
        )
    elif recall and recall.get("estimate") is not None:
        said.append(f"Recall: estimated {recall['estimate']:.3f}, without a bound.")
    else:
        said.append("Recall was not estimated.")
    if card["duplicates"]:
        said.append(f"Images: {duplicates_line(card['duplicates'])}. Masks on copies are left out.")
    if gold["answers"]:
        said.append(f"Gold: {gold['right']:,} of {gold['answers']:,} answers on masks of known verdict were right.")
    cost = "" if work["cost"] is None else f", at a cost of {work['cost']:,.2f}"
    said.append(
        f"Work: {work['questions']:,} questions, {work['annotators']} annotator(s), {work['hours']:.2f} hours{cost}."
    )
    if polygons := card["polygons"]:
        if polygons["polygons"]:
            said.append(f"Polygons have a mean IoU of {polygons['mean_iou']:.4f} with their masks.")
        if polygons["no_polygon"]:
            said.append(f"No polygon stands for {len(polygons['no_polygon'])} masks, which card.json names.")
    versions = ", ".join(f"round {n} `{version}`" for n, version in card["models"].items())
    return [*said, f"Models: {card['detector']}; {versions or 'none yet'}."]


def _class_table(card: dict[str, Any]) -> list[str]:
    rows = ["| class | masks | voted yes | edited | propagated |", "| --- | --- | --- | --- | --- |"]
    for name, own in card["classes"].items():
        counts = [own["sources"].get(kind, 0) for kind in ("voted yes", "edited", "propagated")]
        rows.append(f"| {_cell(name)} | {own['masks']:,} | " + " | ".join(f"{n:,}" for n in counts) + " |")
    return rows


def _shape_table(card: dict[str, Any]) -> list[str]:
    rows = ["| class | instances per image, mean | size | aspect | centre x, y |", "| --- | --- | --- | --- | --- |"]
    for name, own in card["classes"].items():
        both = [own["statistics"], own["labelled_statistics"]]
        cells = [
            " / ".join(_figure(s, key, which) for s in both)
            for key, which in (("instances_per_image", "mean"), ("side_share", "median"), ("aspect", "median"))
        ]
        centre = " / ".join(_figure(s, "centre", "mean") for s in both)
        rows.append(f"| {_cell(name)} | " + " | ".join([*cells, centre]) + " |")
    return rows


def _figure(statistics: dict[str, Any] | None, key: str, which: str) -> str:
    values = (statistics or {}).get(key)
    if not values or (key == "centre" and values["mean"] is None):
        return "–"
    if key == "centre":
        return ", ".join(f"{v:.2f}" for v in values["mean"])
    return f"{values['mean'] if which == 'mean' else values['quantiles'][2]:.3g}"


def _licences(card: dict[str, Any]) -> list[str]:
    if not card["licenses"]:
        return ["## Licences", "", "The pool's file names none.", ""]
    rows = [f"- {row.get('name', row.get('id'))}" + (f": {row['url']}" if row.get("url") else "")
            for row in card["licenses"]]  # fmt: skip
    return ["## Licences", "", "Of the images, as the pool's file names them:", "", *rows, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# The plot


def _draw(path: Path, classes: dict[int, str], ours: dict[int, Shapes], theirs: dict[int, Shapes]) -> None:
    """Each class a row: instances per image, size, aspect, and where the masks lie, against the labelled set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = sorted(ours.keys() | theirs.keys(), key=lambda c: (-ours[c].masks if c in ours else 0, c))[:DRAWN]
    rows = max(len(shown), 1)
    figure = Figure(figsize=(13, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 4, squeeze=False)
    for row, number in zip(grid, shown, strict=False):
        mine, labelled = ours.get(number), theirs.get(number)
        for axis, name, title in zip(
            row, ("per_image", "side", "aspect"), ("instances per image", "size", "aspect"), strict=False
        ):
            values = [getattr(s, name) if s is not None else np.zeros(0) for s in (mine, labelled)]
            _histogram(axis, values, log=name == "aspect")
            axis.set(title=f"{classes.get(number, number)}: {title}", yticks=[])
        _centres(row[3], mine, labelled)
        row[3].set(title=f"{classes.get(number, number)}: centres")
    if grid[0][0].get_legend_handles_labels()[0]:
        grid[0][0].legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=80, format="png", metadata={"Software": None})


def _histogram(axis: Any, values: list[np.ndarray], log: bool) -> None:
    both = np.concatenate(values).astype(float)
    if not len(both):
        return
    low, high = (float(v) for v in np.quantile(both, (0.0, 0.995)))
    if high - low < 0.1 * abs(high):  # all alike
        low, high = 0.8 * low, 1.2 * max(high, 1e-3)
    edges = np.geomspace(max(low, 1e-3), max(high, 2e-3), 31) if log else np.linspace(low, high, 31)
    for own, label, color in zip(values, ("this set", "labelled"), ("C0", "C1"), strict=True):
        if len(own):
            weights = np.full(len(own), 1 / len(own))
            axis.hist(own, bins=edges, weights=weights, histtype="step", color=color, label=label, lw=1.5)
    if log:
        axis.set_xscale("log")


def _centres(axis: Any, mine: Shapes | None, labelled: Shapes | None) -> None:
    if mine is not None and len(mine.centre):
        axis.hist2d(*mine.centre.T, bins=24, range=((0, 1), (0, 1)), cmap="Blues")
    if labelled is not None and len(labelled.centre):
        some = labelled.centre[:: max(1, len(labelled.centre) // 300)]
        axis.plot(*some.T, ".", color="C1", ms=3, alpha=0.7)
    axis.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
