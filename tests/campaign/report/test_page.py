import html.parser
import re
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from campaign.quality.work import Pace
from campaign.report import ReportData, render_report, report_data, write_report
from campaign.report.page import COLORS, duration
from campaign.report.records import ClassFigures, Progress
from ml_backend.errors import InputError
from tests.campaign.target_builders import Truth, finish, target_store

EMPTY = ReportData(
    name="A <b>bold</b> name",
    made=datetime(2026, 11, 20, 9, 0),
    started=None,
    detector="torchvision",
    classes={1: "nut"},
    images={"labelled": 2, "pool": 10},
    labelled_masks=30,
    masks=0,
    voted=0,
    questions=0,
    answers=0,
    annotators=0,
    pace=Pace(0, 0.0, 0.0),
    precision=None,
    basis="",
    by_cluster=True,
    rounds=(),
    figures=(),
    progress=Progress(*(np.zeros(0) for _ in range(6))),
    examples=(),
    settings={"seed": "0"},
)


class Reader(html.parser.HTMLParser):
    """Collects what a browser would load, and checks that every element is closed."""

    void = {"meta", "img", "link", "br", "input"}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.open, self.loaded, self.seen = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.loaded += [v for k, v in attrs if k in ("src", "href", "data", "srcset", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def data(campaign):
    return report_data(campaign[0], truth={"precision": 0.91})


def test_page_needs_no_network_and_no_script(data):
    page = render_report(data)
    reader = read(page)
    assert all(address.startswith("data:image/jpeg;base64,") for address in reader.loaded)
    assert len(reader.loaded) == sum(len(e.crops) for e in (*data.examples, *data.free_start))
    assert "script" not in reader.seen
    assert not re.search(r"url\(|@import", page)


def test_page_shows_what_a_lead_asks_for(data):
    page = render_report(data)
    for text in (
        f"{data.masks:,}",
        f"{data.precision.value * 100:.1f} %",
        "95 % interval",
        "masks per question",
        "mask AP75",
        "K_pa",
        "Accepted",
        "Rejected",
        "80 s per mask",
        "1.5 s per answer",
        "Against ground truth",
        "search.k_a",
        "prefers-color-scheme: dark",
        "@media print",
    ):
        assert text in page, text


def test_a_target_shows_nothing_of_clusters(tmp_path):
    store = target_store(tmp_path / "a")
    finish(store, Truth())
    data = report_data(store)
    assert data.masks and data.questions and data.course and data.precision is None
    page = render_report(data)
    read(page)
    assert "precision by questions: expected, 90 % interval" in page and "questions over time" in page
    for text in (
        "stimated precision",
        "95 % interval",
        ">accepted<",
        "Where the questions",
        "K_pr",
        "masks by",
        "masks over",
    ):
        assert text not in page, text


def test_same_data_same_page(data):
    assert render_report(data) == render_report(data)


def test_time_is_shared_by_all_answers_gold_among_them():
    page = render_report(replace(EMPTY, questions=80, answers=80, gold=20, masks=50, pace=Pace(100, 150.0, 50.0)))
    assert "2.00 s per answer</div>" in page and "2.00 s per answer, measured" in page and "gold among them" in page
    assert '<td class="n">4 s</td>' in page


def test_campaign_that_only_began():
    page = render_report(EMPTY)
    read(page)
    assert "No question has been answered yet." in page


def test_names_are_escaped():
    page = render_report(replace(EMPTY, classes={1: "<script>"}, detector="<img src=x>"))
    assert "script" not in read(page).seen and "img" not in read(page).seen
    assert "A &lt;b&gt;bold&lt;/b&gt; name" in page


def test_more_classes_than_colours_share_a_line():
    n = COLORS + 5
    figures = tuple(
        ClassFigures(1, c, 10, 0, c, {"accept": 1}, {"accept": 10}, {"accept": 5}, 0, None, 0.0, 0.7) for c in range(n)
    )
    ones = np.ones(n)
    progress = Progress(np.arange(n) * 60.0, np.arange(n), 5 * ones, ones, 0.9 * ones, 0.1 * ones)
    classes = {c: f"class {c}" for c in range(n)}
    page = render_report(replace(EMPTY, classes=classes, figures=figures, progress=progress, masks=n, questions=5 * n))
    assert read(page) and "5 other classes" in page


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.42, "0.42 s"), (45, "45 s"), (600, "10 min"), (5400, "1.5 h"), (3.6e8, "100,000 h")]
)
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_written_whole_or_not_at_all(tmp_path):
    write_report(tmp_path / "report.html", EMPTY)
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render_report(EMPTY)
    with pytest.raises(InputError, match="expected a file that can be written"):
        write_report(tmp_path / "none" / "report.html", EMPTY)
