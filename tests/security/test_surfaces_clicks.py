"""A short run of the seeded attacks on what answers clicks."""

from random import Random

from ml_backend.interactive.protocol import MASK_ID
from tests.security.surfaces_clicks import SURFACES, ask

CASES = 400


def test_no_case_breaks_the_answers_to_clicks():
    for seed in range(CASES):
        try:
            SURFACES["prompts"](Random(f"prompts {seed}"))
        except Exception as error:
            raise AssertionError(f"case {seed}") from error


def test_what_one_annotator_said_shows_in_no_answer_to_another():
    point = {"id": "a", "from_name": "click", "type": "keypoint", "value": {"x": 10, "y": 10}}
    first = ask({"result": [point]}, {"id": 1})
    # The points of the one, forged into the other's task, are clicks there and bring nothing of the first picture.
    ask({"result": [r for r in first if r["type"] == "keypoint"]}, {"id": 2})
    fresh = [r["value"]["rle"] for r in ask({"result": []}, {"id": 1}) if r["id"] == MASK_ID]
    assert fresh != [r["value"]["rle"] for r in first if r["id"] == MASK_ID]
