"""Labeling configs, which whoever may edit a project writes."""

from __future__ import annotations

import random
from xml.sax.saxutils import quoteattr

from campaign.label_studio.controls import mask_controls
from label_config.configs import parse
from label_config.documents import ConfigError
from ml_backend.errors import InputError
from ml_backend.masks.regions import LabelMap
from tests.security.mutation import TEXTS, mutated_bytes

TAGS = [
    "View",
    "Image",
    "BrushLabels",
    "PolygonLabels",
    "RectangleLabels",
    "Labels",
    "Brush",
    "Label",
    "Choices",
    "Choice",
]
NAMES = ["i", "b", "c", "d", "$image", "$", "image"]
ATTRIBUTES = ["name", "toName", "value", "alias", "predicted_values", "hotkey", "model_score_threshold"]


def element(rng: random.Random, depth: int) -> str:
    """Some tag with what is in it."""
    tag = rng.choice(TAGS)
    values = {key: rng.choice([*NAMES, *NAMES, *TEXTS[:-1]]) for key in rng.sample(ATTRIBUTES, rng.randrange(5))}
    attributes = " ".join(f"{key}={quoteattr(value)}" for key, value in values.items())
    inner = "".join(element(rng, depth - 1) for _ in range(rng.randrange(4))) if depth else ""
    return f"<{tag} {attributes}>{inner}</{tag}>"


def good(rng: random.Random, labels: int) -> str:
    """A config that a detector answers."""
    tag = rng.choice(["BrushLabels", "PolygonLabels", "RectangleLabels"])
    inner = "".join(f'<Label value="l{n}" hotkey="{n}"/>' for n in range(labels))
    return f'<View><Image name="i" value="$image"/><{tag} name="b" toName="i">{inner}</{tag}></View>'


def large(rng: random.Random) -> str:
    """Up to some hundred thousand characters of one thing, which costs too much where a loop is in a loop."""
    count = rng.choice([100, 3000, 8000])
    kind = rng.randrange(8)
    if kind == 0:
        return "<View>" * count + "</View>" * count
    if kind == 1:
        opened = '<BrushLabels name="b" toName="i"><Label value="x"/>' * count
        return f'<View><Image name="i" value="$image"/>{opened}{"</BrushLabels>" * count}</View>'
    if kind == 2:
        inner = "".join(f'<Image name="i{n}" value="$v{n}"/><Labels name="n{n}" toName="i{n}"/>' for n in range(count))
        return f"<View>{inner}</View>"
    if kind == 3:
        return good(rng, count)
    if kind == 4:
        entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10 if n else "x"}">' for n in range(30))
        return f"<!DOCTYPE a [{entities}]><View>&e29;</View>"
    if kind == 5:
        return f'<View><Image name="i" value="{"$" * count}"/></View>'
    if kind == 6:
        return '<View a="' + '&quot; name="' * count
    label = f'<Label value="{"a," * count}" predicted_values="{"a," * count}"/>'
    return f'<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i">{label}</BrushLabels></View>'


def config(rng: random.Random) -> None:
    """One config, to all three that read them."""
    kind = rng.randrange(10)
    xml = large(rng) if kind == 0 else good(rng, rng.randrange(4)) if kind < 4 else element(rng, 4)
    if rng.random() < 0.4:
        xml = mutated_bytes(rng, xml.encode("utf-8", "surrogatepass"), 4).decode("utf-8", "surrogateescape")
    for read in (LabelMap.parse, mask_controls, lambda text: parse("a", text)):
        try:
            found = read(xml)
        except (InputError, ConfigError) as error:
            assert len(str(error)) < 100_000
            continue
        if isinstance(found, LabelMap):
            assert found.data_key


SURFACES = {"config": config}
