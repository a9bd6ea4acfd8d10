"""Several processes of one training run, whose progress and errors come back to the one that started them."""

from __future__ import annotations

import multiprocessing
import tempfile
import threading
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing import start_processes

from ml_backend.detector import Progress
from ml_backend.errors import InputError

# The others wait so long for the first process, which measures and saves alone.
_PATIENCE = timedelta(hours=2)

Work = Callable[[Any, Progress], None]


def rank() -> int:
    """The number of this process in its run, from 0; 0 where it is alone."""
    return distributed.get_rank() if _is_one_of_several() else 0


def world() -> int:
    """How many processes the run of this process has; 1 where it is alone."""
    return distributed.get_world_size() if _is_one_of_several() else 1


def barrier() -> None:
    """Returns once all processes of the run came here."""
    if world() == 1:
        return
    if distributed.get_backend() == "nccl":
        distributed.barrier(device_ids=[torch.cuda.current_device()])
    else:
        distributed.barrier()


def agreed(value: int) -> int:
    """What the first process says, in all of them; each must come here."""
    if world() == 1:
        return value
    device = torch.device("cuda", torch.cuda.current_device()) if distributed.get_backend() == "nccl" else "cpu"
    said = torch.tensor([value], device=device)
    distributed.broadcast(said, 0)
    return int(said.item())


def _is_one_of_several() -> bool:
    return distributed.is_available() and distributed.is_initialized()


def spread(work: Work, what: Any, processes: int, progress: Progress | None) -> None:
    """Runs `work(what, report)` in each of `processes` new ones and waits; what one reports goes to `progress`.

    An InputError of any of them is raised here as it was there. An error of `progress` is raised too, and ends the
    process that reported next. Each process has a GPU of its own where there are any.

    Args:
        work: a function of a module.
        what: anything that can be sent to a process; tensors in it would take a file descriptor each.
        processes: how many.
        progress: called in a thread of this process.
    """
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(processes)]
    errors: list[BaseException] = []
    receivers, senders = [p[0] for p in pipes], [p[1] for p in pipes]
    listener = threading.Thread(target=_listen, args=(receivers, progress, errors), daemon=True)
    listener.start()
    failure: Exception | None = None
    try:
        _run(work, what, senders)
    except Exception as error:
        failure = error
    finally:
        for sender in senders:
            sender.close()
        listener.join()
    if errors:
        raise errors[0] from failure
    if failure is not None:
        raise failure


def _run(work: Work, what: Any, senders: list[Connection]) -> None:
    """Starts the processes, which meet through a file of their own, and waits for their end."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = (Path(folder) / "meeting").as_uri()
        started = start_processes(_begin, (work, what, senders, meeting), nprocs=len(senders), join=False)
        assert started is not None
        try:
            while not started.join():
                pass
        finally:
            for process in started.processes:
                if process.is_alive():
                    process.terminate()
                process.join()


def _begin(number: int, work: Work, what: Any, senders: list[Connection], meeting: str) -> None:
    """What each process runs, with a pipe of its own: one killed with a shared lock in hand would leave it locked."""
    sender = senders[number]
    for other in senders:
        if other is not sender:
            other.close()
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(number)
    distributed.init_process_group(
        "nccl" if gpu else "gloo", init_method=meeting, world_size=len(senders), rank=number, timeout=_PATIENCE
    )
    try:
        work(what, lambda *step: sender.send(step))
    except InputError as error:
        sender.send(error)
        raise
    distributed.destroy_process_group()


def _listen(receivers: list[Connection], progress: Progress | None, errors: list[BaseException]) -> None:
    """Passes on what comes until the other end of every pipe is closed."""
    left = list(receivers)
    try:
        while left:
            for receiver in wait(left):
                assert isinstance(receiver, Connection)
                try:
                    message = receiver.recv()
                except EOFError:
                    left.remove(receiver)
                    continue
                if isinstance(message, InputError):
                    errors.append(message)
                elif progress:
                    progress(*message)
    except BaseException as error:
        errors.append(error)
    finally:
        for receiver in receivers:
            receiver.close()
