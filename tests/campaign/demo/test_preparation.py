from pathlib import Path

import pytest

from campaign.demo.preparation import BUILT_IN_BUDGET, DemoOptions, find_first_masks, open_store, scenes, settings_of
from campaign.demo.studio import environment, label_studio_command
from campaign.demo.summary import beforehand, summary
from campaign.records.stage import Stage
from campaign.settings import parse_settings
from ml_backend.errors import InputError


class Reserved:
    """A Label Studio that is yet to start."""

    def reserve(self) -> str:
        return "http://127.0.0.1:8099"


@pytest.mark.parametrize(
    ("options", "detector", "drawn"),
    [
        ({}, {"name": "drawn", "options": {"scenes": "data"}}, True),
        ({"train": True}, {"options": {"steps": 370, "minutes": None, "patience": None}}, False),
        ({"settings": {"detector": {"name": "pointrend"}}}, {"name": "pointrend"}, False),
        ({"train": True, "settings": {"detector": {"options": {"steps": 5}}}}, {"options": {"steps": 5}}, False),
        ({"data": Path("data")}, {}, False),
    ],
)
def test_which_detector_a_demo_uses(options, detector, drawn):
    options = DemoOptions(Path("out"), **options)
    values = settings_of(Path("data"), "http://127.0.0.1:1", options)
    assert options.is_drawn == drawn
    held = values["detector"]
    assert held.get("name") == detector.get("name")
    assert {k: held.get("options", {}).get(k) for k in detector.get("options", {})} == detector.get("options", {})
    assert (values.get("search", {}).get("budget_questions") == BUILT_IN_BUDGET) == (not drawn and options.data is None)
    parse_settings(values, "demo")


def test_what_was_asked_for_goes_before_what_a_demo_chooses():
    asked = {"name": "mine", "search": {"precision": 0.95}, "rounds": {"rounds": 3}, "page": {"public_url": "http://a"}}
    values = settings_of(Path("data"), "http://127.0.0.1:1", DemoOptions(Path("out"), human=True, settings=asked))
    assert [values["name"], values["search"], values["rounds"]] == ["mine", {"precision": 0.95}, {"rounds": 3}]
    assert values["page"]["public_url"] == "http://a"
    assert asked["search"] == {"precision": 0.95}, "the options were changed"


def test_a_demo_comes_to_its_first_question_without_label_studio(tmp_path):
    options = DemoOptions(tmp_path / "demo", images=8)
    seen = []
    data = scenes(options, lambda *step: seen.append(step))
    store = open_store(data, Reserved(), options)
    find_first_masks(store, lambda *step: seen.append(step))
    current = store.rounds.newest()
    assert current is not None and (current.number, current.stage) == (1, Stage.VERIFY)
    assert store.settings.label_studio.url == "http://127.0.0.1:8099"
    assert seen[0] == ("drawing pictures", 1, 80) and len({what for what, *_ in seen}) > 2
    store.set_label_studio("http://127.0.0.1:8100")
    # Begun again it goes on with what is there, and not with another detector.
    again = open_store(scenes(options, lambda *_: None), Reserved(), options)
    assert again.key == store.key and again.settings.label_studio.url == "http://127.0.0.1:8100"
    find_first_masks(again, lambda *_: None)
    with pytest.raises(InputError, match="expected its detector drawn, got one to train"):
        open_store(data, Reserved(), DemoOptions(tmp_path / "demo", train=True))


def test_it_says_beforehand_what_it_takes_and_where(tmp_path):
    for options, words in (
        ({}, ("322 pictures", "3 simulated annotators", "4 minutes", str(tmp_path))),
        ({"human": True}, ("you answer",)),
        ({"train": True}, ("176 pictures", "training")),
        ({"data": Path("nuclei")}, ("a detector trained",)),
    ):
        text = beforehand(DemoOptions(tmp_path, **options))
        assert all(word in text for word in words), text


FIGURES = {
    "rounds": 2, "minutes": 3.1, "questions": 640, "gold": 90, "draws": 240, "masks": 2900, "true_masks": 4100,
    "correct": 2600, "precision": 0.8966, "recall": 0.634, "recall_estimate": 0.66, "looked": 40, "drawn": True,
    "promise": "at least 85 % are correct", "report": "r.html", "export": "e.json", "card": "c.md", "campaign": "c",
    "lead": "http://127.0.0.1:1/lead/", "lead_user": "lead", "lead_password": "secret",
}  # fmt: skip


def test_the_summary_compares_with_drawing_and_says_what_was_not_shown():
    text = summary(FIGURES)
    figures = ("2,900 masks", "730 answers", "640 questions", "18 minutes", "57.8 hours", "89.7 %")
    for words in (*figures, "Not shown", "c.md", "secret"):
        assert words in text, words
    assert max(map(len, text.splitlines())) < 160
    assert "Not shown" not in summary(FIGURES | {"drawn": False})
    assert "Missing" not in summary(FIGURES | {"recall_estimate": None})
    assert "0 masks" in summary(FIGURES | {"masks": 0, "precision": None, "correct": 0})


def test_label_studio_is_not_installed_unasked(tmp_path, monkeypatch):
    monkeypatch.delenv("LABEL_STUDIO_COMMAND", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    asked = []

    def refuse(text: str) -> bool:
        asked.append(text)
        return False

    with pytest.raises(InputError, match=r"\[demo\].*or --yes, got none"):
        label_studio_command(tmp_path / "out", refuse, lambda *_: None)
    home = environment(tmp_path / "out")
    assert str(home) in asked[0] and "MB" in asked[0] and "minutes" in asked[0] and not home.exists()
    (home / "bin").mkdir(parents=True)
    (home / "complete").touch()
    assert label_studio_command(tmp_path / "out", refuse, lambda *_: None) == home / "bin" / "label-studio"
    assert len(asked) == 1


def test_one_version_of_label_studio():
    from campaign.demo.studio import VERSION

    makefile = (Path(__file__).parents[3] / "Makefile").read_text()
    assert f"LABEL_STUDIO_VERSION := {VERSION}\n" in makefile
