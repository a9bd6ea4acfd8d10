"""Which versions are tested, and what is said of others."""

import re
from pathlib import Path

import pytest

from campaign.check.lines import State
from campaign.check.versions import TESTED, judged

DOCS = (Path(__file__).parents[3] / "docker" / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "version", "state"),
    [
        ("Label Studio", "1.20.0", State.OK),
        ("Label Studio", "1.22.3", State.OK),
        ("Label Studio", "1.23.2.post0", State.OK),
        ("Label Studio", "1.19.9", State.WRONG),
        ("Label Studio", "1.99.0", State.UNKNOWN),
        ("Python", "3.12.1", State.OK),
        ("Python", "3.15.0", State.UNKNOWN),
        ("PostgreSQL", "15.4 (Debian 15.4-1)", State.OK),
        ("PostgreSQL", "13.2", State.UNKNOWN),
        ("Redis", "7.0.15", State.OK),
        ("Redis", "strange", State.UNKNOWN),
    ],
)
def test_versions_are_judged_by_what_was_tested(name, version, state):
    line = judged(name, version)
    assert line.state == state and version in line.text
    assert (line.mend is None) == (state == State.OK)


@pytest.mark.parametrize("name", TESTED)
def test_the_table_of_versions_says_the_same(name):
    assert re.search(rf"^\| {re.escape(name)} \| {re.escape(str(TESTED[name]))} \|", DOCS, re.MULTILINE)
