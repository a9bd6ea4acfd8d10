"""Languages: every text of annotators has a translation, and no answer depends on it."""

import re
from typing import get_args

import pytest

from campaign.settings import PageSettings
from label_config import Crop, Instructions, hotkeys, language, languages, load, names, page_data, single_data
from label_config.configs import shown_texts
from label_config.extraction import messages, missing, read_catalogue, update
from label_config.languages import CATALOGUES
from tests.label_config.test_configs import labels_of

OTHERS = [code for code in languages() if code != "en"]


def test_there_are_two_languages_and_a_campaign_may_choose_any():
    assert {"en", "de"} <= set(languages())
    assert sorted(get_args(PageSettings.model_fields["language"].annotation)) == languages()


def test_texts_are_found_where_annotators_read_them():
    found = {text for _, _, text in messages()}
    assert {"Rules", "Verify", "outline only", "Press Y, N or U first", "## When is a mask correct?"} <= found


@pytest.mark.parametrize("code", OTHERS)
def test_a_language_is_complete_and_has_nothing_too_much(code):
    assert missing(read_catalogue(CATALOGUES / f"{code}.po")) == []


@pytest.mark.parametrize("code", OTHERS)
def test_what_is_missing_is_told(tmp_path, code):
    path = tmp_path / f"{code}.po"
    text = (CATALOGUES / path.name).read_text(encoding="utf-8")
    path.write_text(text.replace('msgid "Rules"', 'msgid "Laws"'), encoding="utf-8")
    assert [line.partition(":")[2] for line in missing(read_catalogue(path))] == [
        " no translation of 'Rules'",
        " 'Laws'",
    ]
    update(path)
    assert [line.partition(":")[2] for line in missing(read_catalogue(path))] == [" no translation of 'Rules'"]


@pytest.mark.parametrize("code", OTHERS)
def test_translations_keep_names_keys_and_markup(code):
    for message in read_catalogue(CATALOGUES / f"{code}.po"):
        if not message.id or message.context:
            continue
        for pattern in (r"\{\w+\}", r"^\|", r"^- ", r"^#+ ", r"`[A-Z\[\]1-9]`"):
            own, other = (sorted(re.findall(pattern, text, re.MULTILINE)) for text in (message.id, message.string))
            assert own == other, message.id


@pytest.mark.parametrize("code", OTHERS)
def test_a_catalogue_is_as_its_tool_writes_it(tmp_path, code):
    path = tmp_path / f"{code}.po"
    path.write_bytes((CATALOGUES / path.name).read_bytes())
    update(path)
    assert path.read_text(encoding="utf-8") == (CATALOGUES / path.name).read_text(encoding="utf-8")


@pytest.mark.parametrize("code", OTHERS)
@pytest.mark.parametrize("name", names())
def test_answers_are_the_same_in_every_language(name, code):
    english, other = load(name, labels_of(name)), load(name, labels_of(name), code)
    assert other.choices == english.choices and other.controls == english.controls
    assert other.data_keys == english.data_keys
    for text in shown_texts(english.xml):
        shown = language(code).gettext(text)
        assert shown != text and shown in other.xml


@pytest.mark.parametrize("code", OTHERS)
def test_pages_of_another_language_ask_about_the_same_masks(code):
    crops = [Crop(str(i), f"http://h/{i}.jpg") for i in range(15)]
    english, other = page_data("k", "cell", crops), page_data("k", "cell", crops, code=code)
    assert [c["value"] for c in other["crops"]] == [c["value"] for c in english["crops"]]
    assert "".join(c["hotkey"] for c in other["crops"]) == hotkeys(code)
    assert english["title"] != other["title"] and english["rules"] != other["rules"]
    assert single_data("k", "cell", "u", code=code)["title"] != single_data("k", "cell", "u")["title"]


@pytest.mark.parametrize("code", languages())
def test_keys_of_crops_are_letters_that_the_page_does_not_use(code):
    keys = hotkeys(code)
    assert len(set(keys)) == 15 and keys.isalpha() and not set(keys) & set("hoiju")


def test_the_lead_s_own_texts_are_shown_as_they_are(tmp_path):
    (tmp_path / "rules.md").write_text("## When is a mask correct?")
    texts = Instructions(tmp_path, "de")
    assert texts.rules == "## When is a mask correct?"
    assert "So geht" in texts.project_html() and "Wann ist" not in texts.project_html()
    assert "Wann ist" in Instructions(None, "de").project_html()


def test_an_unknown_language_is_told():
    with pytest.raises(ValueError, match="expected one of de, en, got 'xx'"):
        language("xx")
