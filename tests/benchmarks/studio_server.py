"""A real Label Studio on a PostgreSQL of its own, or on SQLite, for `tests.benchmarks.studio`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import gunicorn
import psutil

from campaign.label_studio.server import HOST, LabelStudioServer
from tests.security.faults.machines import Postgres

NAME = "labelstudio"
FIRST_START = 600.0  # seconds that its migrations may take


class SeveralProcesses(LabelStudioServer):
    """Label Studio behind Gunicorn, with `processes` of four threads each; its own server makes the database before."""

    processes = 0

    def _command(self) -> list[str]:
        if not self.processes:
            return super()._command()
        python = self.command.with_name("python")
        found = subprocess.run(
            [str(python), "-c", "import label_studio; print(label_studio.__path__[0])"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        return [
            str(python), "-m", "gunicorn", "core.wsgi:application", "--chdir", found.stdout.strip(), "--preload",
            "--workers", str(self.processes), "--threads", "4", "--timeout", "600", "--bind", f"{HOST}:{self.port}",
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        # Of this environment Gunicorn alone: Label Studio's has other versions of what else is there.
        own = self.folder / "gunicorn"
        own.mkdir(exist_ok=True)
        if not (own / "gunicorn").exists():
            (own / "gunicorn").symlink_to(Path(gunicorn.__path__[0]))
        return super()._environment() | {"PYTHONPATH": str(own), "DJANGO_SETTINGS_MODULE": "core.settings.label_studio"}


class Studio:
    """A running Label Studio with its database."""

    def __init__(self, server: LabelStudioServer, postgres: Postgres | None):
        self.url, self.token, self.files = server.url, server.token, server.files
        self.server, self.postgres = server, postgres
        assert server.pid
        self._processes = [psutil.Process(server.pid)]
        if postgres is not None:
            pid = int((postgres.folder / "data" / "postmaster.pid").read_text().split()[0])
            self._processes.append(psutil.Process(pid))

    def processor_seconds(self) -> float:
        """What Label Studio and its database have taken so far, with the processes that they have ended."""
        return sum(taken(process) for process in self._processes)

    def database_bytes(self, project: int) -> dict[str, float]:
        """{table: bytes of a row with its indexes} of tasks and annotations; nothing on SQLite."""
        if self.postgres is None:
            return {}
        import psycopg

        address = f"host=127.0.0.1 port={self.postgres.port} user=campaign dbname={NAME}"
        sizes = {}
        with psycopg.connect(address) as connection:
            for table in ("task", "task_completion"):
                query = f"SELECT pg_total_relation_size('{table}'), (SELECT count(*) FROM {table})"
                row = connection.execute(query).fetchone()
                if row and row[1]:
                    sizes[table] = round(row[0] / row[1])
        return sizes


def taken(process: psutil.Process) -> float:
    """Processor seconds of a process, its children and those of them that have ended."""
    times = process.cpu_times()
    living = 0.0
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended since: its parent counts it the next time
            living += sum(child.cpu_times()[:4])
    return float(times.user + times.system + times.children_user + times.children_system + living)


@contextmanager
def running(folder: Path, database: str, processes: int) -> Iterator[Studio]:
    """Label Studio on a database of that kind, its data below `folder`; behind Gunicorn, or for 0 its own server."""
    files = folder / "files"
    files.mkdir()
    folder.chmod(0o755)
    postgres, settings = None, dict[str, str]()
    if database == "postgresql":
        (folder / "postgres").mkdir()
        postgres = Postgres(folder / "postgres", durable=True)
        postgres.database(NAME)
        settings = {
            "DJANGO_DB": "default", "POSTGRE_NAME": NAME, "POSTGRE_USER": "campaign", "POSTGRE_PASSWORD": "none",
            "POSTGRE_HOST": "127.0.0.1", "POSTGRE_PORT": str(postgres.port),
        }  # fmt: skip
    server = SeveralProcesses(folder / "label-studio", files=files, settings=settings)
    try:
        server.start(FIRST_START)
        if processes:
            server.stop()
            server.processes = processes
            server.start(FIRST_START)
        yield Studio(server, postgres)
    finally:
        server.stop()
        if postgres is not None:
            postgres.stop()
