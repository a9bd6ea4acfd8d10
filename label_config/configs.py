"""Labeling configs for Label Studio: one XML file per kind of page, loaded and checked by name."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree
from xml.sax.saxutils import escape, quoteattr, unescape

from label_config.documents import ConfigError, parse_xml
from label_config.languages import ENGLISH, Language, language

FOLDER = Path(__file__).parent / "xml"
# Told apart under the three kinds of colour blindness (Okabe and Ito), repeated where there are more classes.
PALETTE = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
_OBJECTS = {"Image", "Text", "HyperText", "Header"}
_LABELS = re.compile(r"<!--labels(, the first chosen)?-->")
_STYLES = re.compile(r"<!--style (\w+)-->")
_PARTS = {"Choice", "Label", "Style", "View"}
# What annotators read of a screen: its fixed choices, and what they are told to press first.
_CHOICE = re.compile(r'(<Choice value=)"([^"]*)"')
_REQUIRED = re.compile(r'(requiredMessage=)"([^"]*)"')


@dataclass(frozen=True)
class LabelingConfig:
    """One labeling config.

    xml: as Label Studio takes it. controls: {name: tag} of what an annotator answers with. objects: {name: tag} of
    what is shown. data_keys: the keys that a task's data must hold. choices: {control: its fixed choices or labels}.
    """

    name: str
    xml: str
    controls: dict[str, str]
    objects: dict[str, str]
    data_keys: tuple[str, ...]
    choices: dict[str, tuple[str, ...]]


def names() -> list[str]:
    """Names of the labeling configs there are, sorted."""
    return sorted(path.stem for path in FOLDER.glob("*.xml"))


def load(name: str, labels: Sequence[str] = (), code: str = ENGLISH) -> LabelingConfig:
    """The labeling config called `name` in the language `code`; `labels` are the class names where it paints masks.

    Its choices have the same values in every language; what is shown of them differs. Raises ConfigError for an unknown
    name, for labels that are missing, doubled or not wanted, and for a file that Label Studio would refuse.
    """
    if name not in names():
        raise ConfigError(f"labeling config: expected one of {', '.join(names())}, got {name!r}")
    text = (FOLDER / f"{name}.xml").read_text(encoding="utf-8")
    text = _STYLES.sub(lambda match: (FOLDER / f"{match[1]}.css").read_text(encoding="utf-8"), text)
    if bool(_LABELS.search(text)) != bool(labels):
        want = "no labels" if labels else "at least one label"
        raise ConfigError(f"labeling config {name}: expected {want}, got {list(labels)}")
    if len(set(labels)) != len(labels) or not all(str(label).strip() for label in labels):
        raise ConfigError(f"labeling config {name}: expected labels that differ and are not empty, got {list(labels)}")
    tags = "\n".join(
        f"<Label value={quoteattr(str(label))} background={quoteattr(PALETTE[i % len(PALETTE)])}/>"
        for i, label in enumerate(labels)
    )
    first = tags.replace("<Label ", '<Label selected="true" ', 1)
    return parse(name, _LABELS.sub(lambda match: first if match[1] else tags, _translated(text, language(code))))


def shown_texts(xml: str) -> list[str]:
    """What annotators read of a labeling config, in English."""
    found = [*_CHOICE.findall(xml), *_REQUIRED.findall(xml)]
    return list(dict.fromkeys(unescape(text) for _, text in found))


def _translated(xml: str, words: Language) -> str:
    """A labeling config that shows its choices in another language; Label Studio shows `html` in place of the value."""

    def choice(match: re.Match[str]) -> str:
        shown = words.gettext(unescape(match[2]))
        return match[0] if shown == match[2] else f"{match[0]} html={quoteattr(escape(shown))}"

    xml = _CHOICE.sub(choice, xml)
    return _REQUIRED.sub(lambda match: match[1] + quoteattr(words.gettext(unescape(match[2]))), xml)


def parse(name: str, xml: str) -> LabelingConfig:
    """`xml` as a LabelingConfig. Raises ConfigError where Label Studio would refuse it or hotkeys clash."""
    try:
        root = parse_xml(xml)
    except ConfigError as error:
        raise ConfigError(f"labeling config {name}: {error}") from None
    objects = {e.get("name", ""): e.tag for e in root.iter() if e.tag in _OBJECTS}
    controls = {e.get("name", ""): e for e in root.iter() if e.tag not in _OBJECTS | _PARTS and "toName" in e.attrib}
    _check_hotkeys(name, root)
    # Label Studio counts every name="…" in the text, styles included, so that is what is counted here.
    named = re.findall(r'\sname="([^"]*)"', xml) + re.findall(r'\[name="([^"]*)"', xml)
    doubled = sorted(n for n, times in Counter(named).items() if times > 1)
    if doubled:
        raise ConfigError(f"labeling config {name}: expected names that differ, got {', '.join(doubled)} twice")
    for element in root.iter():
        if "toName" in element.attrib and element.get("toName") not in objects:
            raise ConfigError(
                f"labeling config {name}: expected toName to be one of {', '.join(sorted(objects))}, "
                f"got {element.get('toName')}"
            )
    if not controls:
        raise ConfigError(f"labeling config {name}: expected a control that takes an answer, got none")
    data_keys = [key for e in root.iter() for value in e.attrib.values() for key in re.findall(r"\$(\w+)", value)]
    choices = {key: tuple(c.get("value", "") for c in e.iter() if c is not e) for key, e in controls.items()}
    tags = {key: e.tag for key, e in controls.items()}
    return LabelingConfig(name, xml, tags, objects, tuple(dict.fromkeys(data_keys)), choices)


def _check_hotkeys(name: str, root: ElementTree.Element) -> None:
    hotkeys: dict[str, str] = {}
    for element in root.iter():
        if "hotkey" in element.attrib:
            value = element.get("value", element.tag)
            other = hotkeys.setdefault(element.attrib["hotkey"], value)
            if other != value:
                raise ConfigError(
                    f"labeling config {name}: expected hotkeys that differ, got {other} and {value} alike"
                )
