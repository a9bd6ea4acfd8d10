"""What others named themselves is shown as it is; what they sent does not fill the log."""

import io
import json
import logging

import pytest

from campaign.cli.output import Display, table
from ml_backend.errors import InputError
from ml_backend.logs import configure_logs, log_about

EMAILS = [
    "[/]@example.com",
    "[bold]x[/red]@example.com",
    "[link=http://evil]a@b.c",
    "a\x1b]0;title\x07@b.c",
    "a\rb@c.d",
]


@pytest.fixture
def lines():
    root = logging.getLogger()
    before = root.handlers[:], root.level
    out = io.StringIO()

    def configure(**options):
        configure_logs(out=out, **options)
        return out

    yield configure
    root.handlers[:], root.level = before


@pytest.mark.parametrize("email", EMAILS)
def test_an_email_is_no_markup(email, capsys):
    table(f"{email}: annotators", [(email, email)])
    Display().say(email)
    Display().show(email, 1, 2)
    printed = "".join(capsys.readouterr())
    assert "\x1b]" not in printed and "\x07" not in printed
    assert email.partition("]")[0].partition("\x1b")[0].partition("\r")[0] in printed


@pytest.mark.parametrize("as_json", [False, True])
def test_a_huge_result_is_a_short_line(lines, as_json):
    out = lines(as_json=as_json)
    log = logging.getLogger("somewhere")
    try:
        raise InputError("answer", "one that is short", "x" * 10**7)
    except InputError as error:
        log.exception("%s", error)
    try:
        raise ValueError("y" * 10**7)
    except ValueError as error:
        log.exception("it failed: %s", error)
    assert len(out.getvalue()) < 30_000


def test_many_lines_of_one_place_are_few(lines):
    out = lines()
    for n in range(10_000):
        logging.getLogger("somewhere").warning("task %d gets an empty prediction", n)
    logging.getLogger("somewhere").warning("something else")
    assert len(out.getvalue().splitlines()) < 50 and "something else" in out.getvalue()


def test_a_line_cannot_be_forged(lines):
    out = lines()
    logging.getLogger("a").warning("user %s", "x\n2026-01-01 00:00:00,000 ERROR all is lost\x1b[2J")
    assert len(out.getvalue().splitlines()) == 1 and "\x1b" not in out.getvalue()


def test_a_line_says_what_it_is_about_and_no_password(lines):
    out = lines(as_json=True)
    with log_about(campaign="c", round=2, step="train", job="j-1"):
        logging.getLogger("a").warning("%s away", "redis://:s3cr3t@h/0")
    line = json.loads(out.getvalue())
    assert {"campaign": "c", "round": 2, "step": "train", "job": "j-1"}.items() <= line.items()
    assert "s3cr3t" not in out.getvalue() and line["level"] == "WARNING"
