"""`campaign run`: keeps Redis, workers and the web server alive and the due steps on the queues, until the end."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from urllib.parse import urlparse

from redis import Redis
from redis.exceptions import RedisError

from campaign.jobs.broker import broker, mend_embedded
from campaign.jobs.health import Watch, gone_workers, release_scheduled
from campaign.jobs.processes import die_with_parent, log_file
from campaign.jobs.queues import clear_failures, enqueue_due, recover, running
from campaign.jobs.releases import note_release
from campaign.jobs.trouble import advice, pause_before
from campaign.records.stage import Stage
from campaign.steps.rounds import StepName, progress_of
from campaign.store import Store
from ml_backend.errors import InputError, Unavailable

logger = logging.getLogger(__name__)

RESTARTS = 20  # a worker that dies more often than this in an hour has a reason that a restart does not mend
GRACE = 25.0  # seconds that processes have to end, all together; a step leaves off before, at a safe point
CLOCK_MOVED = 60.0  # seconds by which a clock is off after one step, which no time service does as it goes
REMINDER = 600.0  # seconds after which a trouble that lasts is said again


class Clock:
    """Whether the clock of this machine was set: it has gone another way than the time that never is."""

    def __init__(self) -> None:
        self._apart = time.time() - time.monotonic()

    def moved(self) -> float:
        """Seconds by which it was set since this was last asked."""
        before, self._apart = self._apart, time.time() - time.monotonic()
        return self._apart - before


@dataclass
class Child:
    """A process that is started again when it dies."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen | None = None
    deaths: list[float] = field(default_factory=list)
    due_at: float = 0.0  # when it may be started again

    def start(self) -> None:
        """Starts it; what it prints goes to its log."""
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                self.command, stdout=out, stderr=out, env={**os.environ, **self.environment}, preexec_fn=die_with_parent
            )

    @property
    def is_dead(self) -> bool:
        """Whether it was started and is over."""
        return self.process is not None and self.process.poll() is not None

    def bury(self) -> str:
        """Notes its death, and when it may be started again; returns what became of it, in words.

        Raises InputError where it died too often to be started again.
        """
        assert self.process is not None
        code, now = self.process.returncode, time.monotonic()
        how = f"was ended by signal {-code}" if code < 0 else f"ended with exit status {code}"
        self.deaths = [at for at in self.deaths if now - at < 3600] + [now]
        if len(self.deaths) > RESTARTS:
            raise InputError(f"{self.name} process", "one that stays alive", f"exit {code}, see {self.log}")
        self.process = None
        recent = sum(now - at < 60 for at in self.deaths)
        self.due_at = now if recent < 2 else now + min(pause_before(recent - 2, 1.0), 60)
        return how

    @property
    def worker_name(self) -> str:
        """The name under which RQ knows the process."""
        return f"{self.name}-{self.process.pid}" if self.process else ""

    def ask_to_end(self) -> None:
        """Asks it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def end(self, until: float) -> None:
        """Waits until it has ended, and ends it at that time (of the monotonic clock) where it has not."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def stop(self, grace: float = 10) -> None:
        """Asks it to end, and ends it after `grace` seconds."""
        self.ask_to_end()
        self.end(time.monotonic() + grace)


@dataclass
class Supervisor:
    """A running campaign: `with Supervisor.started(store) as run: run.until_done(...)`."""

    store: Store
    connection: Redis
    children: list[Child] = field(default_factory=list)
    _polled: float = 0.0
    _lost: list[str] = field(default_factory=list)  # names of workers that died with what they ran
    _watch: Watch = field(default_factory=Watch)
    _trouble: tuple[str, float] | None = None
    _attempts: int = 0
    _begun: bool = False
    _clock: Clock = field(default_factory=Clock)

    @classmethod
    @contextmanager
    def started(
        cls, store: Store, gpu_workers: int = 1, default_workers: int = 1, serve: bool = True
    ) -> Iterator[Supervisor]:
        """Starts Redis (where embedded), workers and the web server, and ends them with the block.

        Where another run has the folder it waits for that one to end. Raises InputError where Redis does not answer.
        """

        def waits(holder: str) -> None:
            logger.warning("%s runs this campaign already; waiting until it ends, to go on in its place", holder)

        def killed(holder: str) -> None:
            logger.warning("%s ran this campaign and was killed; what it had begun is done again, none is lost", holder)

        with store.run_locked(waits, killed), broker(store) as connection:
            note_release(store)
            run = cls(store, connection)
            if serve:
                run.children.append(_server(store))
            for number in range(gpu_workers):
                run.children.append(_worker(store, "gpu", number, _own_gpu_first(number) if gpu_workers > 1 else {}))
            for number in range(default_workers):
                run.children.append(_worker(store, "default", number, {}))
            try:
                with suppress(RedisError):  # that went away since it answered: the first tick after it is back does it
                    run._begin()
                for child in run.children:
                    child.start()
                yield run
            finally:
                for child in run.children:
                    child.ask_to_end()
                until = time.monotonic() + GRACE
                for child in run.children:
                    child.end(until)

    def _begin(self) -> None:
        """Takes up what a run that was killed had begun, and what had failed for good."""
        recover(self.store, self.connection, gone_workers(self.connection))
        clear_failures(self.store, self.connection)
        self._begun = True

    def tick(self) -> None:
        """Starts dead processes again, puts what they left and what is due on the queues.

        Where Redis, the database or room on the disk is away it says so, and waits longer each time. Raises InputError
        where a step failed for good or a process keeps dying.
        """
        if abs(moved := self._clock.moved()) >= CLOCK_MOVED:
            logger.warning(
                "the clock of this machine was set %s by %.0f s; pauses are reckoned anew, nothing is to be done but "
                "to see to the machine's time service", "back" if moved < 0 else "forward", abs(moved),
            )  # fmt: skip
        try:
            self._tick()
        except (RedisError, Unavailable) as error:
            self._wait(error)
            return
        if self._trouble is not None:
            logger.warning("it is over, and the campaign goes on: %s", self._trouble[0])
            self._trouble, self._attempts = None, 0

    @property
    def pause(self) -> float:
        """Seconds until the next tick: short, or longer the longer something is away."""
        usual = min(1.0, self.store.settings.jobs.poll_seconds)
        return usual if not self._attempts else min(usual * 1.5**self._attempts, 30.0)

    def _wait(self, error: Exception) -> None:
        """Says what is away, once and then every ten minutes."""
        self._attempts = min(self._attempts + 1, 30)
        if isinstance(error, RedisError):
            what = f"Redis: expected an answer, got {error}"
            hint = "is it up? what was on its queues is planned anew from the database, no answer is lost"
        else:
            what, hint = str(error), advice(error, self.store.place)
        now = time.monotonic()
        if self._trouble is None or self._trouble[0] != what or now - self._trouble[1] > REMINDER:
            self._trouble = what, now
            logger.warning("%s; waiting, %s", what, hint)

    def _bury(self) -> None:
        """Takes note of processes that have died."""
        for child in self.children:
            if child.is_dead:
                self._lost.append(child.worker_name)
                how = child.bury()
                logger.warning("%s %s; it is started again, and what it ran is done again", child.name, how)

    def _tick(self) -> None:
        if mend_embedded(self.store):
            logger.warning("the embedded Redis died and was started again; the jobs are planned anew")
        self._bury()
        self.connection.ping()  # a worker without Redis would die again
        if not self._begun:
            self._begin()
        for child in self.children:
            if child.process is None and time.monotonic() >= child.due_at:
                child.start()
        if self._lost:
            recover(self.store, self.connection, self._lost)
            self._lost = []
        release_scheduled(self.store, self.connection)
        for job, why in self._watch.unstick(self.store, self.connection):
            logger.warning("step %s was stuck: %s; it is planned anew", job, why)
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
        while True:
            with suppress(Unavailable, RedisError):  # the tick says what is away
                progress = progress_of(self.store)
                if show:
                    show(self)
                if (progress and progress.stage == Stage.DONE) or (until and until()):
                    return
            self.tick()
            time.sleep(self.pause)

    def jobs(self) -> list[tuple[str, list]]:
        """Running jobs with their progress."""
        return running(self.store, self.connection)


def _worker(store: Store, queue: str, number: int, environment: dict[str, str]) -> Child:
    # A worker of the default queue also takes nothing else: a training must not keep annotators waiting.
    name = f"{store.key}-{queue}-{number}"
    command = [sys.executable, "-m", "campaign.jobs.worker", store.place, queue, name]
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
    command = [sys.executable, "-m", "campaign.web.serving", store.place, "--port", str(port)]
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
