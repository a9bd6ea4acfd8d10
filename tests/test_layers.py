"""No import cycle between files. The order of the layers is a contract in pyproject.toml, see `lint-imports`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("campaign", "ml_backend", "label_config")


def sources(root: Path) -> dict[str, Path]:
    """{module: file} of all packages."""
    return {
        ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (root / package).rglob("*.py")
    }


def imported(module: str, path: Path, modules: dict[str, Path]) -> Iterator[str]:
    """The modules that a file imports, inside functions too; what is imported for types alone is left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = (n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.dump(n.test))
    for_types = {node for guard in guarded for statement in guard.body for node in ast.walk(statement)}
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                name = f"{origin}.{alias.name}"
                yield name if name in modules else origin


def import_graph(root: Path) -> dict[str, set[str]]:
    """{module: the modules that it imports}. A package's own __init__ is run before its modules and is no import."""
    modules = sources(root)
    return {
        module: {
            other
            for other in imported(module, path, modules)
            if other in modules and other != module and not module.startswith(f"{other}.")
        }
        for module, path in modules.items()
    }


def cycles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The modules that reach themselves, each list with those that it shares its cycles with."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        ahead = [start]
        while ahead:
            for other in graph[ahead.pop()] - seen:
                seen.add(other)
                ahead.append(other)
        return seen

    reach = {module: reached(module) for module in graph}
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return sorted(map(list, groups))


def test_no_file_imports_itself_over_others():
    assert cycles(import_graph(ROOT)) == []


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"a": "from campaign import b", "b": "import campaign.c", "c": ""}, []),
        ({"a": "def f():\n    from campaign.b import x", "b": "from . import a"}, [["campaign.a", "campaign.b"]]),
        ({"a": "if TYPE_CHECKING:\n    from campaign.b import x", "b": "from campaign.a import y"}, []),
    ],
)
def test_cycles_are_seen_wherever_the_import_stands(tmp_path, files, expected):
    (tmp_path / "campaign").mkdir()
    for name, text in files.items():
        (tmp_path / "campaign" / f"{name}.py").write_text(text)
    assert cycles(import_graph(tmp_path)) == expected
