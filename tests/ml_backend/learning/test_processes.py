"""Several processes of a run; what they run is in this module, which imports little."""

import threading

import pytest
import torch

from ml_backend.errors import InputError
from ml_backend.learning.processes import barrier, rank, spread, world


def work(what, report):
    """Adds up a number of each process, reports it, and fails as it is told to."""
    total = torch.tensor([rank() + 1.0])
    torch.distributed.all_reduce(total)
    barrier()
    if what == "input" and rank() == 1:
        raise InputError("image", "pixels", "none")
    for step in range(1 if what == "well" else 200):
        report("train", step, int(total))
    barrier()


def test_processes_work_together_and_report():
    seen = []
    threads = set(threading.enumerate())
    spread(work, "well", 2, lambda *step: seen.append(step))
    assert seen == [("train", 0, 3)] * 2
    assert set(threading.enumerate()) <= threads
    assert (rank(), world()) == (0, 1)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("what", ["input", "progress"])
def test_errors_of_several_processes_are_those_of_one(what):
    def progress(*step):
        if what == "progress":
            raise KilledError

    kind, message = (InputError, "image: expected pixels, got none") if what == "input" else (KilledError, None)
    threads = set(threading.enumerate())
    with pytest.raises(kind, match=message):
        spread(work, what, 2, progress)
    assert set(threading.enumerate()) <= threads
