"""Files that install the project and that nothing else runs here: Makefile, constraints, Docker."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_one_commit_of_detectron2():
    found = {
        file: set(re.findall(r"\b[0-9a-f]{40}\b", "\n".join(_lines(file, "detectron2"))))
        for file in ("Makefile", "README.md", "docker/Dockerfile")
    }
    commits = set.union(*found.values())
    assert len(commits) == 1, found
    assert all(commit == commits for commit in found.values()), found


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-label-studio.txt"])
def test_constraints_name_versions_only(file):
    lines = (ROOT / file).read_text().splitlines()
    assert lines
    bad = [line for line in lines if not re.fullmatch(r"[\w.-]+(\[[\w,-]+\])?==[\w.+]+( ; .+)?", line)]
    assert not bad


def test_every_dependency_of_the_tests_is_pinned():
    group = re.search(r"^test = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text(), re.MULTILINE | re.DOTALL)
    assert group is not None
    names = re.findall(r'"([\w.-]+)', group[1])
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    assert {"pytest", "pytest-xdist"} <= set(names) <= pinned


def test_the_image_is_given_what_it_copies():
    dockerfile = (ROOT / "docker" / "Dockerfile").read_text()
    ignore = (ROOT / "docker" / "Dockerfile.dockerignore").read_text().splitlines()
    copied = [
        source
        for line in re.findall(r"^COPY (?!--from)(.+)$", dockerfile, re.MULTILINE)
        for source in line.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignore, source


def _lines(file: str, word: str) -> list[str]:
    return [line for line in (ROOT / file).read_text().splitlines() if word in line.lower()]
