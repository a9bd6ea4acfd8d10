"""The wheel holds all that the packages read at run time, and nothing of the tests."""

import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("campaign", "ml_backend", "label_config")
# Pictures in READMEs are for who reads them.
FOR_READERS = {".png", ".webp"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Iterator[zipfile.ZipFile]:
    """A wheel that is built from the files of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in (*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    build = "import sys; from setuptools.build_meta import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", build, str(folder)], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(folder / done.stdout.strip().splitlines()[-1]) as opened:
        yield opened


@pytest.fixture(scope="module")
def names(wheel) -> set[str]:
    """The files in it."""
    return set(wheel.namelist())


def test_every_file_of_the_packages_is_in_the_wheel(names):
    files = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix not in FOR_READERS
    }
    for kind in (".py", ".xml", ".md", ".html", ".css", ".mako", "py.typed"):
        assert any(name.endswith(kind) for name in files), kind
    assert any("migrations/versions/" in name for name in files)
    assert sorted(files - names) == []


def test_nothing_else_is_in_the_wheel(names):
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_what_its_entry_points_name_is_in_it(wheel, names):
    [file] = [name for name in names if name.endswith(".dist-info/entry_points.txt")]
    text = wheel.read(file).decode()
    named = re.findall(r"^[\w-]+ = ([\w.]+):(\w+)$", text, re.MULTILINE)
    assert {"[console_scripts]", "[campaign.detectors]"} <= set(text.splitlines()) and len(named) >= 5
    for module, attribute in named:
        path = module.replace(".", "/")
        [own] = names & {f"{path}.py", f"{path}/__init__.py"}
        assert re.search(rf"^(def|class) {attribute}\b", wheel.read(own).decode(), re.MULTILINE), (module, attribute)
