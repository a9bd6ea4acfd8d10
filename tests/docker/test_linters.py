"""The files for Docker as linters see them: hadolint, which has shellcheck inside, and compose-lint."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(program: str, *arguments: str) -> subprocess.CompletedProcess:
    found = shutil.which(program, path=Path(sys.executable).parent)
    if found is None:
        pytest.skip(f"needs {program} (the group test)")
    return subprocess.run([found, *arguments], cwd=ROOT, capture_output=True, text=True)


def lint_compose(path: str) -> subprocess.CompletedProcess:
    settings = ("--config", "docker/compose-lint.yml", "--strict-config", "--no-env", "--skip-suppressed")
    return lint("compose-lint", "check", *settings, "--fail-on", "low", path)


def test_the_dockerfile_has_nothing_to_be_mended():
    done = lint("hadolint", "docker/Dockerfile")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_compose_file_has_nothing_to_be_mended():
    done = lint_compose("docker/compose.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_service_that_is_let_do_too_much_is_seen(tmp_path):
    content = (ROOT / "docker/compose.yaml").read_text()
    looser = content.replace("  cap_drop: [ALL]\n", "  privileged: true\n", 1)
    assert looser != content
    path = tmp_path / "compose.yaml"
    path.write_text(looser)
    done = lint_compose(str(path))
    assert done.returncode == 1 and "privileged" in done.stdout.lower()
