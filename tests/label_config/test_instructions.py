"""Instructions: three levels of Markdown, the campaign's own before the package's."""

import pytest

from label_config import Instructions
from label_config.instructions import examples_html, to_html


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "classes").mkdir()
    (tmp_path / "rules.md").write_text("Rules of this campaign.")
    (tmp_path / "classes" / "pellet.md").write_text("Pellets are round.")
    (tmp_path / "classes" / "rocks.md").write_text("classes: Coke, sinter\n\nRocks have edges.")
    return tmp_path


@pytest.mark.parametrize(
    ("class_name", "own"),
    [("pellet", "Pellets are round."), ("coke", "Rocks have edges."), ("Sinter", "Rocks have edges."), ("nut", "")],
)
def test_a_class_has_its_own_rules_first(folder, class_name, own):
    html = Instructions(folder).class_html(class_name)
    assert "Rules of this campaign." in html
    assert own in html and html.index(own) <= html.index("Rules of this campaign.")
    assert "classes:" not in html


def test_what_the_campaign_does_not_write_comes_from_the_package(folder):
    html = Instructions(folder).project_html()
    assert "How it works" in html and "Rules of this campaign." in html and "Rocks have edges." in html
    assert "When is a mask correct?" in Instructions().class_html("anything")


def test_the_package_tells_every_key_of_the_page():
    text = Instructions().task
    assert all(f"`{key}`" in text for key in "UJHOI") and "Shift" in text


def test_raw_html_is_shown_and_not_run():
    assert "<script>" not in to_html("<script>alert(1)</script>\n\n**bold**")
    assert "javascript:" not in to_html("[a](javascript:alert(1))").replace("(javascript", "")


def test_crops_of_masks_become_pictures():
    html = to_html("![good](crop:12) and ![bad](crop:13)", lambda mask: f"http://h/{mask}.jpg")
    assert '<img src="http://h/12.jpg" alt="good" />' in html and "http://h/13.jpg" in html


def test_examples_are_two_rows():
    assert examples_html(["a"], ["b", "c"]).count("<img") == 3
    assert "Wrong" not in examples_html(["a"], [])
