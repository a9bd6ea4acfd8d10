"""The machines of a run: real Redis and PostgreSQL, a stand-in for Label Studio, and the campaign's own processes.

The campaign's processes are forked from one that has everything imported, so that a run takes seconds. Marks in them
count down to a SIGKILL: at a commit, at a file, at a request, at a job put on a queue, before it or after it.
"""

from __future__ import annotations

import gc
import mmap
import os
import pwd
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.jobs import queues, supervisor, worker
from campaign.jobs.broker import embedded_server
from campaign.jobs.processes import die_with_parent
from campaign.label_studio import client
from campaign.records.stage import Stage
from campaign.store import Store
from campaign.store import sessions as store_sessions
from ml_backend import files
from tests.security.faults.label_studio import LabelStudio, control

MARKS = ("commit", "file", "request", "queue")
VICTIMS = ("step", "worker", "run")  # whose process a mark kills
SPEED = (0.02, 0.05, 0.1, 0.2)  # seconds between the attempts of a request: outages here last seconds, not hours


def free_port() -> int:
    """A port that nothing listens on."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def fork(work: Callable[[], Any], log: Path | None = None) -> int:
    """Runs `work` in a process of its own that ends with this one; its output goes to `log`. Returns its id."""
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        die_with_parent()
        _close_locks()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if log is not None:
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(out, 1)
            os.dup2(out, 2)
        work()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:  # its one line, as the command line prints it
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _close_locks() -> None:
    """A process that is started, as workers are, holds no lock of the one that starts it."""
    for path in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):
            if path.readlink().suffix == ".lock":
                os.close(int(path.name))


class Forked:
    """A forked process, with what `subprocess.Popen` offers of it."""

    def __init__(self, pid: int):
        self.pid, self.returncode = pid, None  # type: tuple[int, int | None]

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        if self.returncode is None:
            try:
                done, status = os.waitpid(self.pid, os.WNOHANG)
            except ChildProcessError:
                done, status = self.pid, 0
            if done:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end. Raises subprocess.TimeoutExpired."""
        until = time.monotonic() + (1e9 if timeout is None else timeout)
        while (code := self.poll()) is None:
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired("forked", timeout or 0)
            time.sleep(0.005)
        return code

    def send_signal(self, signum: int) -> None:
        """Sends it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Ends it."""
        self.send_signal(signal.SIGKILL)


class Switches:
    """What the processes of a run share: where to kill whom, whether the disk is full, how far the clock is off."""

    LAYOUT = struct.Struct("<qqqqqdd")  # mark, after, victim, count, disk, clock, when somebody was killed

    def __init__(self) -> None:
        self._driver = os.getpid()  # who steers the run passes the same marks, and is nobody's victim
        self._memory = mmap.mmap(-1, self.LAYOUT.size)
        self._set([-1, 0, 0, 0, 0, 0.0, 0.0])

    def _get(self) -> list:
        return list(self.LAYOUT.unpack(self._memory[: self.LAYOUT.size]))

    def _set(self, values: list) -> None:
        self._memory[: self.LAYOUT.size] = self.LAYOUT.pack(*values)

    def arm(self, mark: str, after: bool, victim: str, count: int) -> None:
        """Kills the victim when a mark is passed so many times more."""
        self._set([MARKS.index(mark), int(after), VICTIMS.index(victim), count, *self._get()[4:]])

    @property
    def is_armed(self) -> bool:
        """Whether somebody is still to be killed."""
        return self._get()[0] >= 0

    def disk(self, is_full: bool) -> None:
        """Lets no file grow, or lets all grow again."""
        self._set([*self._get()[:4], int(is_full), *self._get()[5:]])

    def clock(self, seconds: float) -> None:
        """Sets the clock of the campaign's machine off by so many seconds."""
        self._set([*self._get()[:5], seconds, self.killed_at])

    @property
    def killed_at(self) -> float:
        """When somebody was killed last, by the clock that is never set; 0 where nobody was."""
        return float(self._get()[6])

    @property
    def disk_is_full(self) -> bool:
        """Whether no file can grow."""
        return bool(self._get()[4])

    @property
    def offset(self) -> float:
        """Seconds that the clock is off."""
        return float(self._get()[5])

    def passed(self, mark: str, after: bool) -> None:
        """A process passes a mark."""
        values = self._get()
        if values[0] != MARKS.index(mark) or bool(values[1]) != after or os.getpid() == self._driver:
            return
        if os.environ.get("FAULTS_RUN") == str(os.getpid()) and "FAULTS_BEGUN" not in os.environ:
            return  # a run that is killed before it has begun anything leaves nothing that one could tell of
        values[3] -= 1
        if values[3] > 0:
            self._set(values)
            return
        values[0], values[6] = -1, time.monotonic()
        self._set(values)
        own, run = os.getpid(), int(os.environ.get("FAULTS_RUN", "0"))
        victim = {"step": own, "worker": int(os.environ.get("FAULTS_WORKER", own)), "run": run or own}
        os.kill(victim[VICTIMS[values[2]]], signal.SIGKILL)
        time.sleep(0.5)  # who is killed by its parent's death dies here


def install(switches: Switches) -> None:
    """Puts the marks into this process and those forked from it, and makes its clock the run's."""
    _mark(store_sessions.Sessions, "__call__", "commit", switches, is_context=True)
    _mark(files, "partial_file", "file", switches, is_context=True)
    _mark(client.Client, "request", "request", switches)
    _mark(queues, "enqueue", "queue", switches)
    client.RETRY_DELAYS = SPEED
    client.Client.__init__.__kwdefaults__["retry_delays"] = SPEED  # type: ignore[index]
    real = time.time
    time.time = lambda: real() + switches.offset  # type: ignore[assignment]
    from datetime import timedelta

    import rq.utils

    plain = rq.utils.now

    def now() -> Any:
        return plain() + timedelta(seconds=switches.offset)

    for name, module in list(sys.modules.items()):
        if name.startswith("rq.") and getattr(module, "now", None) is plain:
            module.now = now  # type: ignore[attr-defined]
    from campaign.store import models

    stored = models.now
    models.now = lambda: stored() + timedelta(seconds=switches.offset)
    work = worker.CampaignWorker.main_work_horse

    def horse(self: Any, *args: Any, **kwargs: Any) -> None:
        _limit(switches)
        work(self, *args, **kwargs)

    worker.CampaignWorker.main_work_horse = horse  # type: ignore[method-assign]


def _limit(switches: Switches) -> None:
    """A full disk: no file of this process grows beyond a few pages."""
    if switches.disk_is_full:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))


def _mark(owner: Any, name: str, mark: str, switches: Switches, is_context: bool = False) -> None:
    plain = getattr(owner, name)
    if is_context:

        @contextmanager
        def marked(*args: Any, **kwargs: Any) -> Iterator[Any]:
            switches.passed(mark, False)
            with plain(*args, **kwargs) as value:
                yield value
            switches.passed(mark, True)

    else:

        def marked(*args: Any, **kwargs: Any) -> Any:  # type: ignore[misc]
            switches.passed(mark, False)
            value = plain(*args, **kwargs)
            switches.passed(mark, True)
            return value

    for module in list(sys.modules.values()):
        if getattr(module, name, None) is plain and module is not owner:
            setattr(module, name, marked)
    setattr(owner, name, marked)


class ForkedChild(supervisor.Child):
    """A worker of the campaign, forked instead of started."""

    def start(self) -> None:
        """Forks it; its name is the last of its command."""
        folder, queue, name = self.command[-3:]

        def work() -> None:
            # Workers of the queue for GPUs load this one ahead, and torch with it; the campaigns here have another.
            sys.modules.setdefault("ml_backend.detectors.torchvision.detector", sys.modules[__name__])
            os.environ["FAULTS_WORKER"] = str(os.getpid())
            worker.work(Path(folder), [queue], name=f"{name}-{os.getpid()}")

        self.process = Forked(fork(work, self.log))  # type: ignore[assignment]


def run_campaign(folder: Path) -> None:
    """`campaign run`, with a worker for answers and decisions, and one for detection where that is still to be done."""
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    os.environ["FAULTS_RUN"] = str(os.getpid())
    plain = supervisor._worker

    def forked(*args: Any) -> supervisor.Child:
        child = plain(*args)
        return ForkedChild(child.name, child.command, child.log, child.environment)

    supervisor._worker = forked  # type: ignore[assignment]
    begins = supervisor.broker

    def begun(store: Store) -> AbstractContextManager:
        os.environ["FAULTS_BEGUN"] = "1"
        return begins(store)

    supervisor.broker = begun  # type: ignore[assignment]
    supervisor.exit_on_sigterm()
    store = Store.open(folder)
    current = store.rounds.newest()
    needs_gpu = int(current is None or current.stage in (Stage.TRAIN, Stage.DETECT, Stage.CLUSTER))
    with supervisor.Supervisor.started(store, gpu_workers=needs_gpu, default_workers=1, serve=False) as run:
        run.until_done()


class Redis:
    """A real Redis that keeps its data on disk."""

    def __init__(self, folder: Path):
        self.folder, self.socket = folder, folder / "redis.sock"
        self.process: subprocess.Popen | None = None
        folder.mkdir()

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Starts it on the data that it has."""
        command = [
            str(embedded_server()), "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)

    def stop(self, empty: bool = False) -> None:
        """Kills it; with `empty` its data are gone too."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        if empty:
            for path in self.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()


class Postgres:
    """A scratch server of PostgreSQL, run by another user where this one is root.

    Only a `durable` one waits until the disk has what it is told.
    """

    def __init__(self, folder: Path, durable: bool = False):
        self.folder, self.port, self.durable = folder, free_port(), durable
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin")) or [Path(shutil.which("postgres") or "/").parent]
        self.bin = programs[-1]
        self.user = None
        if os.getuid() == 0:
            self.user = next((u.pw_name for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody")), None)
        if self.user:
            shutil.chown(folder, self.user)
        self._call(
            "initdb",
            "-D",
            str(folder / "data"),
            "-U",
            "campaign",
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        )
        self.start()

    @staticmethod
    def reason_without() -> str | None:
        """Why there can be none here, None where there can."""
        from importlib.util import find_spec

        if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")) and shutil.which("initdb") is None:
            return "needs PostgreSQL on the machine"
        return None if find_spec("psycopg") else "needs psycopg (the extra postgresql)"

    def _call(self, program: str, *arguments: str, check: bool = True) -> None:
        subprocess.run(
            [str(self.bin / program), *arguments], user=self.user, check=check, cwd="/", timeout=60,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PATH": os.environ["PATH"], "HOME": "/tmp"},
        )  # fmt: skip

    def start(self) -> None:
        """Starts it and waits until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories=''"
        options += "" if self.durable else " -c fsync=off"
        log = str(self.folder / "log")
        self._call("pg_ctl", "-D", str(self.folder / "data"), "-o", options, "-l", log, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        """Stops it as `pg_ctl stop` does."""
        self._call("pg_ctl", "-D", str(self.folder / "data"), "-m", mode, "-w", "stop", check=False)

    def database(self, name: str) -> str:
        """The address of a new database."""
        import psycopg

        base = f"host=127.0.0.1 port={self.port} user=campaign"
        with psycopg.connect(f"{base} dbname=postgres", autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            connection.execute(f'CREATE DATABASE "{name}"')
        return f"postgresql+psycopg://campaign@127.0.0.1:{self.port}/{name}"


@dataclass
class Scene:
    """The machines of one run and its campaign's folder."""

    folder: Path
    label_studio: Forked
    port: int
    redis: Redis | None
    switches: Switches
    postgres: Postgres | None
    run: Forked | None = None
    web: Forked | None = None
    web_port: int = 0
    starts: int = 0  # of the run
    ended_at: float = 0.0  # when the run had done all

    @property
    def log(self) -> Path:
        """What the run says."""
        return self.folder.parent / "run.log"

    def start_run(self) -> None:
        """`campaign run`, in a process of its own."""
        self.starts += 1
        self.run = Forked(fork(lambda: run_campaign(self.folder), self.log))

    def start_web(self) -> None:
        """`campaign serve`, for webhooks."""

        def serve() -> None:
            from werkzeug.serving import make_server

            from campaign.web.serving import build_app

            make_server("127.0.0.1", self.web_port, build_app(self.folder), threaded=True).serve_forever()

        self.web = Forked(fork(serve, self.folder.parent / "web.log"))

    def control(self, what: str, **body: Any) -> Any:
        """See `tests.security.faults.label_studio.control`."""
        return control(self.port, what, **body)

    def lines(self) -> str:
        """Everything that the run, its workers and its web server wrote, and the campaign's log."""
        paths = [self.log, self.folder.parent / "web.log", *sorted((self.folder / "logs").glob("*.log"))]
        return "\n".join(path.read_text(errors="replace") for path in paths if path.exists())

    def end(self) -> None:
        """Ends all processes."""
        for process in (self.run, self.web, self.label_studio):
            if process is not None:
                process.kill()
                process.wait(10)
        if self.redis is not None:
            self.redis.stop()


@contextmanager
def scene(folder: Path, switches: Switches, embedded: bool, postgres: Postgres | None) -> Iterator[Scene]:
    """The machines of a run, around a campaign in `folder`/campaign whose settings are still to name them."""
    port = free_port()
    server = Forked(fork(lambda: LabelStudio(port).serve(), folder / "label_studio.log"))
    redis = None if embedded else Redis(Path(tempfile.mkdtemp(prefix="faults-redis-")) / "r")
    made = Scene(folder / "campaign", server, port, redis, switches, postgres, web_port=free_port())
    try:
        if redis is not None:
            redis.start()
        yield made
    finally:
        made.end()
        if redis is not None:
            shutil.rmtree(redis.folder.parent, ignore_errors=True)
