import pytest
import torch

from ml_backend.errors import InputError
from ml_backend.learning.checkpoints import Unfinished, digest, fingerprint, save
from tests.ml_backend.builders import squares


def test_saving_where_it_cannot_be(tmp_path):
    target = tmp_path / "folder.pt"
    target.mkdir()
    with pytest.raises(InputError, match="expected a file that can be written"):
        save(target, {"a": 1})
    assert [p.name for p in tmp_path.iterdir()] == ["folder.pt"]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"a": torch.ones(2)}, {"a": torch.ones(2)}, True),
        ({"a": torch.ones(2)}, {"a": torch.zeros(2)}, False),
        ({"a": torch.ones(2)}, {"b": torch.ones(2)}, False),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, True),
        (b"x", b"y", False),
    ],
)
def test_digest(one, other, same):
    assert (digest(one) == digest(other)) is same


def test_a_run_is_named_as_before():
    """The name was made by an earlier version, whose unfinished runs go on."""
    assert fingerprint({"steps": 7}, squares(16, 20), None, None) == "466fccdb84a9539c"


@pytest.mark.parametrize("content", [None, b"half a file"])
def test_no_state(tmp_path, content):
    if content:
        (tmp_path / "state.pt").write_bytes(content)
    assert Unfinished(tmp_path / "state.pt", "a").load() is None


def test_a_state_is_of_one_run(tmp_path):
    Unfinished(tmp_path / "state.pt", "a").save({"step": 3})
    assert Unfinished(tmp_path / "state.pt", "a").load() == {"fingerprint": "a", "step": 3}
    assert Unfinished(tmp_path / "state.pt", "b").load() is None
    assert [p.name for p in tmp_path.iterdir()] == ["state.pt"]
