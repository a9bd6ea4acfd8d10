"""Which controls of a source project's labeling config hold masks, and of which classes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

from ml_backend.errors import InputError, brief
from ml_backend.masks.regions import config_root

# Tags whose regions are masks. Labels gives its class to regions that a plain tag drew.
LABELS = {"brushlabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels"}
PLAIN = {"brush", "polygon", "rectangle", "ellipse"}


@dataclass(frozen=True)
class MaskControls:
    """The image of a labeling config and the controls that put masks on it.

    `image_name` is the Image tag's name, `data_key` the key of a task's data that holds its address. `controls` is
    {name: lower-case tag}, `labels` {name: its classes}; `classes` are all of them, in the config's order.
    """

    image_name: str
    data_key: str
    controls: dict[str, str]
    labels: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]

    def brush(self, class_name: str) -> str:
        """The name of the BrushLabels control that has this class. Raises InputError where there is none."""
        name = self._brushes.get(class_name, self._brushes.get(None))
        if name is None:
            raise InputError("labeling config", f"a BrushLabels control with the label {class_name}", "none")
        return name

    @cached_property
    def _brushes(self) -> dict[str | None, str]:
        """The first BrushLabels control of each class; under None that of the classes it does not name."""
        brushes: dict[str | None, str] = {}
        for name, tag in self.controls.items():
            if tag == "brushlabels" and None not in brushes:
                for label in self.labels[name] or (None,):
                    brushes.setdefault(label, name)
        return brushes


def mask_controls(xml: str) -> MaskControls:
    """The controls in a labeling config. Raises InputError where it shows no image or takes no masks."""
    root = config_root(xml)
    images = {
        element.get("name", ""): element.get("value", "")
        for element in root.iter()
        if element.tag.lower() == "image" and element.get("value", "").startswith("$")
    }
    masks: dict[str, tuple[str, str, tuple[str, ...]]] = {}
    for element in root.iter():
        tag, to_name = element.tag.lower(), element.get("toName", "")
        if tag in LABELS | PLAIN and to_name in images:
            labels = tuple(
                # Annotations hold the alias where a label has one.
                label.get("alias", label.get("value", ""))
                for label in element.iter()
                if label.tag.lower() == "label"
            )
            masks[element.get("name", "")] = (tag, to_name, labels)
    if not masks:
        raise InputError(
            "labeling config",
            "an Image with BrushLabels, PolygonLabels or RectangleLabels",
            f"<{brief(root.tag)[1:-1]}> without",
        )
    # A config may show several images; the one that most controls are about is the one.
    targets = Counter(to_name for _, to_name, _ in masks.values())
    image = max(targets, key=lambda name: targets[name])
    chosen = {name: (tag, labels) for name, (tag, to_name, labels) in masks.items() if to_name == image}
    return MaskControls(
        image_name=image,
        data_key=images[image][1:],
        controls={name: tag for name, (tag, _) in chosen.items()},
        labels={name: labels for name, (_, labels) in chosen.items()},
        classes=tuple(dict.fromkeys(label for _, labels in chosen.values() for label in labels)),
    )
