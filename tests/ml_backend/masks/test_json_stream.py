"""JSON as a stream: what is read is what `json` reads, wherever the window ends."""

import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ml_backend.masks import json_stream
from ml_backend.masks.json_stream import JsonStream

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(params=[1, 7, 1 << 20], ids=lambda size: f"window of {size}")
def window(request, monkeypatch):
    monkeypatch.setattr(json_stream, "WINDOW", request.param)
    monkeypatch.setattr(json_stream, "NEAR", 64)


def stream(text):
    return JsonStream(io.StringIO(text))


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(VALUES, max_size=5), indent=st.sampled_from([None, 1]), size=st.sampled_from([1, 5, 1 << 20]))
def test_items_values_and_members_are_those_of_json(rows, indent, size):
    before, json_stream.WINDOW = json_stream.WINDOW, size
    try:
        assert list(stream(json.dumps(rows, indent=indent)).items()) == rows
        assert list(stream("\n".join(map(json.dumps, rows))).values()) == rows
        whole = {"a": rows, "b": {"c": rows}, "d": 1}
        want = [*(("a", row, True) for row in rows), ("b", {"c": rows}, False), ("d", 1, False)]
        assert list(stream(json.dumps(whole, indent=indent)).members()) == want
    finally:
        json_stream.WINDOW = before


@pytest.mark.parametrize(
    "text", ["", "[", "[1", "[1 2]", "[1,]", "[1] 2", "[tru]", '["a', "[{]", '[{"a" 1}]', "{}", "[1.e]", "[-]"]
)
def test_what_is_no_list_is_an_error(text, window):
    with pytest.raises(ValueError):
        list(stream(text).items())


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a"', '{"a": ', '{"a": 1', "{1: 2}", '{"a": [1}', '{"a": 1} 2'])
def test_what_is_no_object_is_an_error(text, window):
    with pytest.raises(ValueError):
        list(stream(text).members())


def test_an_error_is_found_where_it_is_and_not_at_the_end_of_the_file(monkeypatch):
    monkeypatch.setattr(json_stream, "WINDOW", 1000)
    file = io.StringIO("[1, nothing, " + "2, " * 100_000 + "3]")
    with pytest.raises(ValueError, match="Expecting value"):
        list(JsonStream(file).items())
    assert file.tell() <= 2000


def test_an_item_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(json_stream, "WINDOW", 10)
    monkeypatch.setattr(json_stream, "MOST_ITEM", 1000)
    with pytest.raises(ValueError, match="at most 1000 characters"):
        list(stream('["' + "a" * 5000 + '"]').items())
