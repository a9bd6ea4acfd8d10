"""Labeling configs: every one loads, and what Label Studio would refuse is named in one line."""

import pytest

from label_config import ConfigError, load, names
from label_config.configs import parse

LABELS = ("nucleus", 'a "quoted" <name>')


def labels_of(name: str) -> tuple[str, ...]:
    return LABELS if name in ("complete", "correct", "edit", "paint") else ()


@pytest.mark.parametrize("name", names())
def test_every_config_loads(name):
    config = load(name, labels_of(name))
    assert config.name == name and config.controls and config.objects and config.data_keys
    assert "title" in config.data_keys and "rules" in config.data_keys


def test_there_is_a_config_for_every_kind_of_page():
    assert names() == ["complete", "correct", "edit", "paint", "practice", "single", "verification"]


def test_the_verification_page_takes_its_answers():
    config = load("verification")
    assert {"status", "wrong", "doubt"} <= set(config.controls)
    assert config.choices["status"] == ("reviewed", "unsure")
    assert set(config.data_keys) == {"title", "crops", "doubts", "rules"}


def test_class_names_become_labels():
    assert load("paint", LABELS).choices["mask"] == LABELS


def test_the_first_class_is_chosen_where_every_click_needs_one():
    config = load("complete", LABELS)
    assert config.choices["class"] == LABELS and config.xml.count('selected="true"') == 1
    assert "selected" not in load("paint", LABELS).xml
    assert config.choices["verdict"] == ("complete", "cannot tell")


@pytest.mark.parametrize(
    ("name", "labels", "message"),
    [
        (
            "nothing",
            (),
            "expected one of complete, correct, edit, paint, practice, single, verification, got 'nothing'",
        ),
        ("edit", (), "expected at least one label"),
        ("verification", ("nucleus",), "expected no labels"),
        ("paint", ("a", "a"), "expected labels that differ"),
        ("paint", ("a", " "), "expected labels that differ and are not empty"),
    ],
)
def test_a_wrong_call_is_told(name, labels, message):
    with pytest.raises(ConfigError, match=message):
        load(name, labels)


CHOICE = '<Choices name="a" toName="t"><Choice value="x" hotkey="q"/></Choices>'


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        ("<View>", "expected XML"),
        ('<View><Text name="t" value="$t"/></View>', "expected a control"),
        (f'<View><Text name="u" value="$t"/>{CHOICE}</View>', "expected toName to be one of u, got t"),
        (f'<View><Text name="t" value="$t"/><Text name="t" value="$u"/>{CHOICE}</View>', "names that differ, got t"),
        (
            f'<View><Style>input[name="t"] {{}}</Style><Text name="t" value="$t"/>{CHOICE}</View>',
            "names that differ, got t",
        ),
        (
            f'<View><Text name="t" value="$t"/>{CHOICE}'
            '<Choices name="b" toName="t"><Choice value="y" hotkey="q"/></Choices></View>',
            "hotkeys that differ, got x and y",
        ),
    ],
)
def test_what_label_studio_would_refuse_is_told(xml, message):
    with pytest.raises(ConfigError, match=message) as caught:
        parse("own", xml)
    assert "\n" not in str(caught.value)
