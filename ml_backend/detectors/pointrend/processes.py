"""Several processes of one training run, whose progress and errors come back to the one that started them."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from typing import Any

from detectron2.engine import launch
from detectron2.utils import comm

from ml_backend.detector import Progress
from ml_backend.errors import InputError

# The others wait so long for the first process, which measures and saves alone.
_PATIENCE = timedelta(hours=2)


def spread(work: Callable[[Any, Progress], None], what: Any, processes: int, progress: Progress | None) -> None:
    """Runs `work(what, report)` in each of `processes` new ones and waits; what one reports goes to `progress`.

    An InputError of any of them is raised here as it was there. An error of `progress` is raised too, and ends the
    process that reported next.

    Args:
        work: a function of a module.
        what: anything that can be sent to a process; tensors in it would take a file descriptor each.
    """
    pipes = [multiprocessing.Pipe(duplex=False) for _ in range(processes)]
    ended = threading.Event()
    errors: list[BaseException] = []
    receivers, senders = [p[0] for p in pipes], [p[1] for p in pipes]
    listener = threading.Thread(target=_listen, args=(receivers, ended, progress, errors), daemon=True)
    listener.start()
    failure: Exception | None = None
    try:
        launch(_process, processes, dist_url="auto", args=(work, what, senders), timeout=_PATIENCE)
    except Exception as error:
        failure = error
    finally:
        ended.set()
        listener.join()
        for sender in senders:
            sender.close()
    if errors:
        raise errors[0] from failure
    if failure is not None:
        raise failure


def _process(work: Callable[[Any, Progress], None], what: Any, senders: list[Connection]) -> None:
    # Each has a pipe of its own: one that is ended while it holds a shared lock would leave it locked.
    sender = senders[comm.get_local_rank()]
    try:
        work(what, lambda *step: sender.send(step))
    except InputError as error:
        sender.send(error)
        raise


def _listen(
    receivers: list[Connection], ended: threading.Event, progress: Progress | None, errors: list[BaseException]
) -> None:
    try:
        while True:
            last = ended.is_set()
            ready: list[Any] = wait(receivers, 0 if last else 0.2)
            for receiver in ready:
                message = receiver.recv()
                if isinstance(message, InputError):
                    errors.append(message)
                elif progress:
                    progress(*message)
            if last and not ready:
                return
    except BaseException as error:
        errors.append(error)
    finally:
        for receiver in receivers:
            receiver.close()
