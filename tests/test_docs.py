"""What the code offers is documented: the registries themselves are gone through, so that nothing can be forgotten.

A failure shows the lines that a README lacks, as they are to stand there.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import label_config
from campaign.cli import app
from campaign.settings import documented_settings
from campaign.web.serving import build_app
from ml_backend.detectors.coco_results import CocoResults
from ml_backend.detectors.pointrend.config import PointRendOptions
from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.interactive.options import ClickOptions, PublishedOptions, Sam2Options
from tests.campaign.builders import verify_store

ROOT = Path(__file__).parent.parent
SOURCES = ("campaign", "ml_backend", "label_config")
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [
        *ROOT.glob("*.md"),
        *(p for folder in (*SOURCES, "docker", "tests") for p in (ROOT / folder).rglob("README.md")),
    ]
}
READMES = "\n".join(text for name, text in TEXTS.items() if name.endswith("README.md"))
REFERENCE = TEXTS["campaign/cli/README.md"]
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def missing(lines: list[str], text: str) -> str:
    """The lines that a text lacks, as one text."""
    known = set(text.splitlines())
    return "\n".join(line for line in lines if line not in known)


def shown(value: Any) -> str:
    """A default as tables show it."""
    if value is None:
        return "unset"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def section(title: str) -> str:
    """What stands in the reference under a heading of the third level."""
    return REFERENCE.partition(f"\n### {title}\n")[2].partition("\n### ")[0].partition("\n## ")[0]


def command_rows(name: str) -> list[str]:
    """A command's sentence, and a row of each of its arguments and options."""
    command = COMMANDS[name]
    rows = [str(command.help).splitlines()[0]]
    for parameter in command.params:
        names = parameter.opts if parameter.param_type_name == "option" else [f"{parameter.name}".upper()]
        default = "required" if parameter.required else shown(parameter.default)
        both = ", ".join(f"`{text}`" for text in [*names, *parameter.secondary_opts])
        rows.append(f"| {both} | {default} | {parameter.help} |")
    return rows


def option_rows(options: type[DetectorOptions]) -> list[str]:
    """A row of each option; of those that a detector shares with the base none."""
    rows = []
    for name, field in options.model_fields.items():
        base = DetectorOptions.model_fields.get(name)
        if options is DetectorOptions or base is None or (base.default, base.description) != (
            field.default, field.description,
        ):  # fmt: skip
            rows.append(f"| `{name}` | {shown(field.default)} | {field.description} |")
    return rows


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_documented(name):
    assert not missing(command_rows(name), section(f"`campaign {name}`"))
    assert f"`campaign {name}`" in TEXTS["README.md"]


def test_no_command_is_documented_that_is_gone():
    assert set(re.findall(r"^### `campaign ([\w-]+)`$", REFERENCE, re.MULTILINE)) == set(COMMANDS)


def test_every_setting_is_documented():
    rows = documented_settings()
    assert all(meaning for _, _, meaning in rows), "a setting has no description"
    assert not missing([f"| `{name}` | {default} | {meaning} |" for name, default, meaning in rows], REFERENCE)


@pytest.mark.parametrize(
    ("options", "title"), [(DetectorOptions, "Options of `torchvision`"), (PointRendOptions, "Options of `pointrend`")]
)
def test_every_option_of_a_trained_detector_is_documented(options, title):
    assert all(field.description for field in options.model_fields.values())
    assert not missing(option_rows(options), section(title))


@pytest.mark.parametrize(
    ("options", "title"),
    [
        (ClickOptions, "Options of `click`"),
        (PublishedOptions, "Options of `published`"),
        (Sam2Options, "Options of `sam2`"),
    ],
)
def test_every_option_of_a_segmenter_is_documented(options, title):
    rows = []
    for name, field in options.model_fields.items():
        default = field.default.value if isinstance(field.default, Enum) else field.default
        rows.append(f"| `{name}` | {shown(default)} | {field.description} |")
    assert not missing(rows, section(title))


def test_every_option_of_read_predictions_is_documented():
    for name in inspect.signature(CocoResults).parameters.keys() - {"path"} | {"results"}:
        assert f"| `{name}` |" in section("Options of `coco-results`")


def test_every_route_of_the_web_server_is_documented(tmp_path):
    routes = [
        f"`{method} {re.sub(r'<[a-z]+:', '<', rule.rule)}`"
        for rule in build_app(verify_store(tmp_path / "a").folder).url_map.iter_rules()
        if rule.endpoint != "static"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    ]
    assert len(routes) > 15
    assert [route for route in routes if f"| {route} |" not in TEXTS["docker/README.md"]] == []


def environment_names(root: Path) -> Iterator[str]:
    """The environment variables that the code reads or sets by name; a name that is no constant is shown as code."""
    trees = {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for folder in SOURCES
        for path in (root / folder).rglob("*.py")
    }
    constants = {
        target.id: node.value.value
        for tree in trees.values()
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for tree in trees.values():
        for node in ast.walk(tree):
            key: ast.expr | None = None
            if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "os.environ":
                key = node.slice
            elif isinstance(node, ast.Compare) and ast.unparse(node.comparators[0]) == "os.environ":
                key = node.left
            elif isinstance(node, ast.Call) and re.fullmatch(
                r"os\.(getenv|environ\.(get|pop|setdefault))", ast.unparse(node.func)
            ):
                key = node.args[0]
            if isinstance(key, ast.Constant):
                yield str(key.value)
            elif key is not None:
                yield str(constants.get(getattr(key, "id", ""), ast.unparse(key)))


def test_every_environment_variable_is_documented():
    names = sorted(set(environment_names(ROOT)))
    assert len(names) > 10
    assert [name for name in names if f"`{name}`" not in READMES] == []


def test_every_variable_of_compose_and_make_is_documented():
    compose = set(re.findall(r"\$\{(\w+)", (ROOT / "docker" / "compose.yaml").read_text()))
    assert [name for name in sorted(compose) if f"`{name}`" not in TEXTS["docker/README.md"]] == []
    make = set(re.findall(r"\$\(if \$\((\w+)\)", (ROOT / "Makefile").read_text()))
    assert [name for name in sorted(make) if f"`{name}=" not in TEXTS["README.md"]] == []


@pytest.mark.parametrize("name", label_config.names())
def test_every_key_of_a_screen_is_documented(name):
    text = TEXTS["label_config/README.md"].partition(f"\n### {name.title()}: ")[2].partition("\n##")[0]
    assert text
    keys = re.findall(r'hotkey="(\w)"', (label_config.configs.FOLDER / f"{name}.xml").read_text())
    assert [key for key in keys if f"`{key.upper()}`" not in text] == []


def test_every_marker_of_tests_is_documented(pytestconfig):
    own = (ROOT / "pyproject.toml").read_text().partition("markers = [")[2].partition("]")[0]
    names = re.findall(r'"(\w+):', own)
    assert names and all(any(line.startswith(f"{name}:") for line in pytestconfig.getini("markers")) for name in names)
    assert [name for name in names if f"`{name}`" not in TEXTS["tests/README.md"]] == []


@pytest.mark.parametrize("name", TEXTS)
def test_links_lead_somewhere(name):
    text = re.sub(r"```.*?```", "", TEXTS[name], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, target


def test_the_changelog_begins_with_this_version():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    first = re.search(r"^## (\S+) \(\d{4}-\d{2}-\d{2}\)$", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert version and first and version[1] == first[1]
