"""`campaign run`: keeps Redis, workers and the web server alive and the due steps on the queues, until the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlparse

from redis import Redis

from campaign.jobs.broker import broker
from campaign.jobs.processes import die_with_parent, log_file
from campaign.jobs.queues import clear_failures, enqueue_due, recover, running
from campaign.records.stage import Stage
from campaign.steps.rounds import StepName, progress_of
from campaign.store import Store
from campaign.store.locks import file_lock
from ml_backend.errors import InputError

RESTARTS = 20  # a worker that dies more often than this in one run has a reason that a restart does not mend


@dataclass
class Child:
    """A process that is started again when it dies."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None
    starts: int = 0

    def start(self) -> None:
        """Starts it; what it prints goes to its log."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=out, env={**os.environ, **self.environment}, preexec_fn=die_with_parent
            )
        self.starts += 1

    @property
    def worker_name(self) -> str:
        """The name under which RQ knows the process."""
        return f"{self.name}-{self.process.pid}" if self.process else ""

    def stop(self, grace: float = 10) -> None:
        """Asks it to end, and ends it after `grace` seconds."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Supervisor:
    """A running campaign: `with Supervisor.started(store) as run: run.until_done(...)`."""

    store: Store
    connection: Redis
    children: list[Child] = field(default_factory=list)
    _polled: float = 0.0

    @classmethod
    @contextmanager
    def started(
        cls, store: Store, gpu_workers: int = 1, default_workers: int = 1, serve: bool = True
    ) -> Iterator[Supervisor]:
        """Starts Redis (where embedded), workers and the web server, and ends them with the block.

        Raises InputError where another run holds the folder, or the web server's port is taken.
        """
        with file_lock(store.folder / "run.lock", wait=False, thing=str(store.folder)), broker(store) as connection:
            run = cls(store, connection)
            if serve:
                run.children.append(_server(store))
            for number in range(gpu_workers):
                run.children.append(_worker(store, "gpu", number, _own_gpu_first(number) if gpu_workers > 1 else {}))
            for number in range(default_workers):
                run.children.append(_worker(store, "default", number, {}))
            try:
                for child in run.children:
                    child.start()
                clear_failures(store, connection)
                yield run
            finally:
                for child in run.children:
                    child.stop()

    def tick(self) -> None:
        """Starts dead processes again, puts what they left and what is due on the queues.

        Raises InputError where a step failed for good or a process keeps dying.
        """
        for child in self.children:
            if child.process is None or child.process.poll() is None:
                continue
            dead = child.worker_name
            if child.starts > RESTARTS:
                raise InputError(
                    f"{child.name} process", "one that stays alive", f"exit {child.process.returncode}, see {child.log}"
                )
            child.start()
            recover(self.store, self.connection, [dead])
        # Webhooks wake the reader; the poll is for those that were lost.
        poll = time.monotonic() - self._polled >= self.store.settings.jobs.poll_seconds
        if poll:
            self._polled = time.monotonic()
        for failure in enqueue_due(self.store, self.connection, leave_out=() if poll else (StepName.SYNC,)):
            raise InputError(
                f"step {failure.step.name} of round {failure.step.round_number}", "to succeed", _message(failure.reason)
            )

    def until_done(
        self, show: Callable[[Supervisor], None] | None = None, until: Callable[[], bool] | None = None
    ) -> None:
        """Runs until the campaign has ended, or `until()` says so."""
        pause = min(1.0, self.store.settings.jobs.poll_seconds)
        while True:
            progress = progress_of(self.store)
            if show:
                show(self)
            if (progress and progress.stage == Stage.DONE) or (until and until()):
                return
            self.tick()
            time.sleep(pause)

    def jobs(self) -> list[tuple[str, list]]:
        """Running jobs with their progress."""
        return running(self.store, self.connection)


def _worker(store: Store, queue: str, number: int, environment: dict[str, str]) -> Child:
    # A worker of the default queue also takes nothing else: a training must not keep annotators waiting.
    name = f"{store.key}-{queue}-{number}"
    command = [sys.executable, "-m", "campaign.jobs.worker", str(store.folder), queue, name]
    return Child(name, command, log_file(store, f"worker-{queue}-{number}"), environment)


def _own_gpu_first(number: int) -> dict[str, str]:
    """Environment in which a GPU worker's first device is its own. It sees the others too: a training spans all."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(n) for n in range(_gpus())] if named is None else named.split(",")
    if len(devices) < 2:
        return {}
    own = number % len(devices)
    return {"CUDA_VISIBLE_DEVICES": ",".join(devices[own:] + devices[:own])}


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _server(store: Store) -> Child:
    port = urlparse(store.settings.page.public_url).port or 80
    command = [sys.executable, "-m", "campaign.web.serving", str(store.folder), "--port", str(port)]
    return Child(f"{store.key}-server", command, log_file(store, "server"))


def _message(reason: str) -> str:
    """The message of an exception's last line, without its class."""
    name, _, text = reason.partition(": ")
    return text if (text and name.isidentifier()) or ("." in name and text) else reason


def exit_on_sigterm() -> None:
    """Makes SIGTERM end the run as Ctrl+C does, so that children are ended in order."""

    def leave(_signum: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, leave)
