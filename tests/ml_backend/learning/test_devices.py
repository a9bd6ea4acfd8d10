import pytest
import torch

from ml_backend.detectors.shared.options import DetectorOptions
from ml_backend.errors import InputError
from ml_backend.learning.devices import bfloat16_where_fast, chosen_device, training_processes


def test_the_chosen_device_has_a_number_if_it_is_a_gpu(device):
    chosen = chosen_device(DetectorOptions(device=device))
    assert chosen.type == device
    assert (chosen.index is None) == (device == "cpu")


@pytest.mark.parametrize(
    ("capability", "option", "expected"),
    [((7, 5), None, False), ((8, 0), None, True), ((9, 0), None, True), ((9, 0), False, False), ((7, 5), True, True)],
)
def test_bfloat16_is_not_emulated(capability, option, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    second = torch.device("cuda", 1)
    assert bfloat16_where_fast(DetectorOptions(bfloat16=option), second) is expected
    assert asked == ([second] if option is None else [])


@pytest.mark.parametrize(
    ("gpus", "options", "expected"),
    [
        (0, {"processes": None}, 1),
        (4, {"processes": None}, 4),
        (4, {"processes": None, "device": "cuda:1"}, 1),
        (4, {"processes": 2}, 2),
        (0, {"processes": 2}, 2),
        (4, {}, 1),
    ],
)
def test_processes(gpus, options, expected, monkeypatch):
    """The torchvision detector takes one unless it is told to take more."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert training_processes(DetectorOptions(**options)) == expected


def test_no_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="detector option processes: expected at most 1, one per GPU, got 2"):
        training_processes(DetectorOptions(processes=2))
