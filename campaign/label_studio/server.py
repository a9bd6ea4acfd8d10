"""A real Label Studio on this machine, started unattended: for the demo and for tests."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import requests

from ml_backend.errors import InputError

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
ADMIN = "admin@example.com"
# Label Studio reads its settings under these prefixes; what the caller's shell holds must not leak in.
FOREIGN_SETTINGS = ("LABEL_STUDIO_", "HEARTEX_", "POSTGRE_", "DJANGO_", "REDIS_", "SENTRY_", "FRONTEND_SENTRY_")
FOREIGN_NAMES = ("HOST", "PORT", "USERNAME", "PASSWORD", "DATABASE_NAME", "DEBUG", "EDITOR_KEYMAP")
# A page that an annotator left open is handed to others after this many seconds (a day by default).
TASK_LOCK_SECONDS = 1800


def find_command(command: str | Path | None = None) -> Path:
    """The label-studio executable: `command`, $LABEL_STUDIO_COMMAND, beside this interpreter, or on PATH.

    Raises InputError where there is none.
    """
    beside = Path(sys.prefix)
    asked = command or os.environ.get("LABEL_STUDIO_COMMAND")
    if asked:
        path = shutil.which(str(asked))
        if not path:
            raise InputError("label-studio command", "an executable", asked)
        return Path(path)
    for candidate in (beside / "label-studio/bin/label-studio", beside / "bin/label-studio"):
        if os.access(candidate, os.X_OK):
            return candidate
    path = shutil.which("label-studio")
    if not path:
        raise InputError("label-studio command", "Label Studio on PATH or in $LABEL_STUDIO_COMMAND", "none")
    return Path(path)


class LabelStudioServer:
    """Label Studio with its data under `folder`, on 127.0.0.1, with a random admin password and token.

    A context manager. Started again on the same folder it has the same data, users, password and token; a server
    that a killed process left running there is ended first. `files` is a folder that projects may read as local
    files. `settings` are further environment variables.

    >>> with LabelStudioServer(folder) as server:          # doctest: +SKIP
    ...     client = Client(server.url, server.token)
    """

    def __init__(
        self,
        folder: str | Path,
        port: int | None = None,
        command: str | Path | None = None,
        *,
        files: str | Path | None = None,
        settings: dict[str, str] | None = None,
    ):
        self.folder = Path(folder).resolve()
        self.command = find_command(command)
        self.files = Path(files).resolve() if files else None
        self.settings = settings or {}
        self._asked_port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._session: requests.Session | None = None
        self.folder.mkdir(parents=True, exist_ok=True)
        self._state_path = self.folder / "server.json"
        state = self._read_state()
        self.user: str = state.setdefault("user", ADMIN)
        self.password: str = state.setdefault("password", secrets.token_urlsafe(12))
        self.token: str = state.setdefault("token", secrets.token_hex(20))
        self.port: int | None = port or state.get("port")
        self._state = state
        self._write_state()

    @property
    def url(self) -> str:
        """The address, once started."""
        if self.port is None:
            raise InputError("Label Studio server", "a started server", "one not started")
        return f"http://{HOST}:{self.port}"

    def reserve(self) -> str:
        """The address that it will have once started, but for a port that is taken meanwhile."""
        self.port = self.port or free_port()
        return self.url

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self._process.pid if self._process and self._process.poll() is None else None

    @property
    def log(self) -> Path:
        """What the server has printed."""
        return self.folder / "label-studio.log"

    def __enter__(self) -> LabelStudioServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, timeout: float = 180.0, progress: Callable[[str], None] | None = None) -> LabelStudioServer:
        """Starts the server and returns once it answers. The very first start on a machine takes about 50 s.

        `progress` is called with what is being waited for. Raises InputError where the port asked for is taken,
        and RuntimeError with the end of the log where the server ends or is not up within `timeout` seconds.
        """
        if self.pid:
            return self
        self._end_leftover()
        if self._asked_port and not _is_free(self._asked_port):
            raise InputError(f"port {self._asked_port}", "a free port for Label Studio", "one in use")
        if not self._database.exists():
            if progress:
                progress("preparing Label Studio's database")
            self._database.parent.mkdir(parents=True, exist_ok=True)
            template = prepare_database(self.command, timeout)
            if template:
                shutil.copyfile(template, self._database)
        if progress:
            progress("starting Label Studio")
        wanted = self._asked_port or (self.port if self.port and _is_free(self.port) else None)
        for attempt in range(3):
            self.port = wanted or free_port()
            self._launch()
            # Where the port was taken meanwhile, Label Studio silently takes another: then all is tried again.
            if self._wait(time.monotonic() + timeout):
                self._allow_token()
                return self
            self.stop()
            if self._asked_port:
                raise InputError(f"port {self._asked_port}", "a free port for Label Studio", "one taken meanwhile")
            wanted = None
            logger.info("Label Studio moved to another port, attempt %d", attempt + 1)
        raise RuntimeError("Label Studio: expected a free port, got three that were taken meanwhile")

    def stop(self) -> None:
        """Ends the server and its children; what it had stored stays."""
        if self._session:
            self._session.close()
            self._session = None
        if self._process:
            _end(self._process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)
            self._process = None
        self._state.pop("pid", None)
        self._write_state()

    def invite_token(self) -> str:
        """The token with which anyone may sign up."""
        return str(self._api("GET", "api/invite")["token"])

    def add_user(self, email: str, password: str) -> None:
        """Adds an annotator through the sign-up form, as a person invited would do it.

        A user who is already there is left as is. Raises InputError where the form does not take them.
        """
        sign_up(self.url, self.invite_token(), email, password)

    @property
    def _database(self) -> Path:
        return self.folder / "data" / "label_studio.sqlite3"

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            # A session of its own: a Ctrl+C at the terminal reaches the campaign first, which then ends it in order.
            self._process = subprocess.Popen(
                self._command(),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=self.folder,
            )
        self._state.update(pid=self._process.pid, born=psutil.Process(self._process.pid).create_time(), port=self.port)
        self._write_state()

    def _command(self) -> list[str]:
        return [str(self.command), "start", "--no-browser", "--internal-host", HOST, "-p", str(self.port)]

    def _environment(self) -> dict[str, str]:
        environment = _clean_environment()
        environment.update(
            LABEL_STUDIO_BASE_DATA_DIR=str(self.folder / "data"),
            LABEL_STUDIO_USERNAME=self.user,
            LABEL_STUDIO_PASSWORD=self.password,
            LABEL_STUDIO_USER_TOKEN=self.token,
            LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN="true",
            LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK="true",
            # Both are needed before it talks to a backend or a webhook receiver on this machine.
            LABEL_STUDIO_ML_BLOCK_LOCAL_IP="false",
            LABEL_STUDIO_SSRF_PROTECTION_ENABLED="false",
            LABEL_STUDIO_TASK_LOCK_TTL=str(TASK_LOCK_SECONDS),
            # SQLite's write-ahead log: reading goes on while an annotation is written.
            LABEL_STUDIO_AZURE_MOUNT_FIX="true",
            LABEL_STUDIO_HOST=f"http://{HOST}:{self.port}",
            EDITOR_KEYMAP=json.dumps({"annotation:submit": {"key": "space", "description": "Submit"}}),
        )
        if self.files:
            environment.update(
                LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED="true",
                LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT=str(self.files),
            )
        environment.update(self.settings)
        return environment

    def _wait(self, until: float) -> bool:
        """True once our own process answers on our port; False where it listens on another one."""
        assert self._process
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise RuntimeError(
                    f"Label Studio: expected it to start, got exit status {self._process.returncode}: {self._tail()}"
                )
            ports = _listening(self._process.pid)
            if ports and self.port not in ports:
                return False
            if ports:
                with contextlib.suppress(requests.RequestException):
                    if self._http().get(f"{self.url}/health", timeout=5).ok:
                        return True
            time.sleep(0.1)
        tail = self._tail()
        self.stop()
        raise RuntimeError(f"Label Studio: expected it to be up in time, got no answer: {tail}")

    def _allow_token(self) -> None:
        """The setting that allows legacy tokens acts only at the birth of an organisation: mend it where it did not."""
        if self._http().get(f"{self.url}/api/current-user/whoami", headers=self._header, timeout=30).status_code != 401:
            return
        session = log_in(self.url, self.user, self.password)
        answer = session.post(f"{self.url}/api/jwt/settings", json={"legacy_api_tokens_enabled": True}, timeout=30)
        self.token = session.get(f"{self.url}/api/current-user/token", timeout=30).json().get("token", self.token)
        if not answer.ok or not self._http().get(f"{self.url}/api/version", headers=self._header, timeout=30).ok:
            raise RuntimeError(f"Label Studio: expected it to take its token, got {answer.status_code}")
        self._state["token"] = self.token
        self._write_state()

    def _api(self, method: str, path: str) -> Any:
        answer = self._http().request(method, f"{self.url}/{path}", headers=self._header, timeout=30)
        answer.raise_for_status()
        return answer.json()

    @property
    def _header(self) -> dict[str, str]:
        return {"Authorization": f"Token {self.token}"}

    def _http(self) -> requests.Session:
        if self._session is None:
            self._session = requests.Session()
            self._session.trust_env = False
        return self._session

    def _tail(self) -> str:
        """The last lines of the log, on one line."""
        try:
            lines = self.log.read_text(errors="replace").strip().splitlines()[-3:]
        except OSError:
            return "no log"
        return " | ".join(line.strip() for line in lines)[-400:]

    def _end_leftover(self) -> None:
        """Ends the server that a killed process left on this folder: two on one SQLite file would not end well."""
        pid, born = self._state.get("pid"), self._state.get("born")
        if not pid:
            return
        with contextlib.suppress(psutil.Error):
            # The process id may belong to another process by now, but not with the same time of birth.
            if abs(psutil.Process(pid).create_time() - born) < 1:
                logger.warning("ending the Label Studio (process %d) that was left running on %s", pid, self.folder)
                _end(pid)

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_path.read_text())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise InputError(self._state_path, "the state of a Label Studio server", error) from None
        if not isinstance(state, dict):
            raise InputError(self._state_path, "the state of a Label Studio server", "another file")
        return state

    def _write_state(self) -> None:
        """It holds the password: nobody else may read it, not even for a moment."""
        partial = self._state_path.with_suffix(".tmp")
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(self._state, file)
        partial.replace(self._state_path)


def log_in(url: str, email: str, password: str) -> requests.Session:
    """A session logged in through the form, as a browser's. Raises InputError where it is refused."""
    return _submit_form(f"{url}/user/login/", email, password)


def sign_up(url: str, invite_token: str, email: str, password: str) -> None:
    """Signs a user up through the invitation's form; one who is already there with this password is left as is.

    Raises InputError where the form does not take them.
    """
    try:
        _submit_form(f"{url}/user/signup/?token={invite_token}", email, password)
    except InputError as refused:
        try:
            log_in(url, email, password)
        except InputError:
            raise refused from None


def _submit_form(url: str, email: str, password: str) -> requests.Session:
    session = requests.Session()
    session.trust_env = False
    try:
        session.get(url, timeout=30).raise_for_status()
        form = {"email": email, "password": password, "csrfmiddlewaretoken": session.cookies.get("csrftoken", "")}
        answer = session.post(url, data=form, headers={"Referer": url}, timeout=30, allow_redirects=False)
    except requests.RequestException as error:
        raise InputError(url.partition("?")[0], "a running Label Studio", type(error).__name__) from None
    # A form that was taken sends on to the projects; one that was not is shown again with what is wrong.
    if answer.status_code not in (301, 302):
        lists = re.findall(r'class="field_errors">(.*?)</ul>|class="error">(.*?)</p>', answer.text, re.DOTALL)
        reasons = [" ".join(re.sub("<[^>]*>", " ", "".join(parts)).split()) for parts in lists]
        raise InputError(f"Label Studio user {email}", "a form that is taken", "; ".join(reasons) or answer.status_code)
    return session


def prepare_database(command: str | Path | None = None, timeout: float = 180.0) -> Path | None:
    """An empty database with all of Label Studio's migrations applied, made once per version and user of the machine.

    Applying them takes 40 s, copying the outcome none. None where the version is not known: then the server
    applies them itself, as it also does where the copy is behind.
    """
    executable = find_command(command)
    version = _version(executable)
    if version is None:
        return None
    from platformdirs import user_cache_path

    folder = user_cache_path("label-studio-cluster-verification")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.info("no database is kept for the next start: %s", error)
        return None
    template = folder / f"label-studio-{version}.sqlite3"
    with _locked(folder / f"label-studio-{version}.lock"):
        if template.exists():
            return template
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            environment = _clean_environment() | {"LABEL_STUDIO_BASE_DATA_DIR": scratch}
            # Any command applies the migrations first; this one then only prints.
            done = subprocess.run(
                [str(executable), "version"], env=environment, capture_output=True, timeout=timeout, cwd=scratch
            )
            made = Path(scratch) / "label_studio.sqlite3"
            if done.returncode or not made.exists():
                logger.info("no database is kept for the next start: label-studio ended with %d", done.returncode)
                return None
            made.replace(template)
    return template


def _version(executable: Path) -> str | None:
    """The installed version, asked of the interpreter in the executable's first line: 30 ms instead of 5 s."""
    with contextlib.suppress(OSError, UnicodeDecodeError, subprocess.SubprocessError):
        with executable.open("rb") as file:
            interpreter = file.readline(1024).decode().strip().removeprefix("#!")
        question = "import importlib.metadata as m; print(m.version('label-studio'))"
        answer = subprocess.run([interpreter, "-c", question], capture_output=True, text=True, timeout=30)
        if answer.returncode == 0 and re.fullmatch(r"[0-9A-Za-z.+-]+", answer.stdout.strip()):
            return answer.stdout.strip()
    return None


def _clean_environment() -> dict[str, str]:
    """This process's environment without settings of another Label Studio, and with nothing sent home."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(FOREIGN_SETTINGS) and name not in FOREIGN_NAMES
    }
    environment.update(
        LABEL_STUDIO_COLLECT_ANALYTICS="false",
        LABEL_STUDIO_LATEST_VERSION_CHECK="false",
        LABEL_STUDIO_FEATURE_FLAGS_OFFLINE="true",
        SENTRY_DSN="",
        FRONTEND_SENTRY_DSN="",
    )
    return environment


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _is_free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A port of this machine that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return int(listener.getsockname()[1])


def _listening(pid: int) -> set[int]:
    """The ports on which a process or a child of it listens."""
    ports: set[int] = set()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            ports |= {c.laddr.port for c in one.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return ports


def _end(pid: int) -> None:
    """Ends a process and its children: politely, and after ten seconds for good."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
    except psutil.Error:
        return
    for one in family:
        with contextlib.suppress(psutil.Error):
            one.terminate()
    _, alive = psutil.wait_procs(family, timeout=10)
    for one in alive:
        with contextlib.suppress(psutil.Error):
            one.kill()
    psutil.wait_procs(alive, timeout=5)
