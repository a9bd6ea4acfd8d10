"""The compose file, read and played without an engine: its names, variables and commands work together."""

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import redis
import requests
from typer.main import get_command

from campaign.cli import app
from campaign.cli.deployment import write_deployment
from campaign.demo.shapes import draw_shapes
from campaign.jobs.broker import embedded_server
from campaign.store import Store
from tests.docker.compose import FILE, read

ROOT = FILE.parents[1]
OWN = {"init", "web", "web-gpu", "scheduler", "worker-cpu", "worker-gpu", "worker-default"}
POSTGRES = Path("/usr/lib/postgresql")


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    folder = tmp_path_factory.mktemp("deployment")
    new = write_deployment(folder)
    assert write_deployment(folder) == [] and len(new) == 9
    return folder


@pytest.fixture(scope="module")
def file(deployment):
    variables = dict(line.split("=", 1) for line in (deployment / ".env").read_text().splitlines())
    return read(variables)


@pytest.fixture
def services(file):
    return file[0]


def test_the_secrets_are_for_their_owner(deployment):
    assert stat.S_IMODE((deployment / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((deployment / ".env").stat().st_mode) == 0o600
    texts = [path.read_text() for path in (deployment / "secrets").iterdir()]
    assert len(set(texts)) == len(texts) and all(len(text) > 20 for text in texts)


def test_every_secret_has_its_file_and_its_user(file, deployment):
    services, whole = file
    files = {name: Path(entry["file"]) for name, entry in whole["secrets"].items()}
    assert all(path.is_file() and path.parent == deployment / "secrets" for path in files.values())
    assert set(files) == {path.name for path in (deployment / "secrets").iterdir()}
    assert set().union(*(service.secrets for service in services.values())) == set(files)
    for service in services.values():
        named = re.findall(r"/run/secrets/(\w+)", json.dumps(service.content))
        assert set(named) <= service.secrets, service.name


def test_no_secret_stands_in_the_file(file, deployment):
    secrets = [path.read_text().strip() for path in (deployment / "secrets").iterdir()]
    assert not any(secret in json.dumps(file[1]) for secret in secrets)
    assert not re.search(r"PASSWORD: \S*\$\{", FILE.read_text())


def test_label_studio_is_on_no_network_of_redis_and_the_database(file):
    services, whole = file
    for name in ("redis", "postgres"):
        assert not services[name].networks & (services["label-studio"].networks | services["proxy"].networks)
        assert services[name].networks == {"inner"} and "ports" not in services[name].content
    assert whole["networks"]["inner"]["internal"] and whole["networks"]["annotation-database"]["internal"]
    assert {"database_url", "redis_url"} & services["label-studio"].secrets == set()
    assert all({"inner", "annotation"} <= services[name].networks for name in OWN)


@pytest.mark.parametrize("name", sorted(read({"CAMPAIGN_SECRETS_FOLDER": "/x"})[0]))
def test_every_service_is_bounded(services, name):
    content = services[name].content
    assert content["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"} and content["pids_limit"]
    assert content["cap_drop"] == ["ALL"] and content["security_opt"] == ["no-new-privileges:true"]
    assert content.get("read_only") is (None if name == "label-studio" else True)
    assert "container_name" not in content  # which could not be scaled
    if name != "init":
        assert services[name].health and content["restart"] == "unless-stopped"
    for port in content.get("ports", []):
        assert port.startswith("127.0.0.1:") or name == "proxy"


@pytest.mark.parametrize("name", sorted(OWN))
def test_commands_are_those_of_the_command_line(services, name):
    for command in [services[name].command, *([services[name].health] if name != "init" else [])]:
        if command[0] != "campaign":
            continue
        known = get_command(app).commands[command[1]]
        assert str(known.make_context(command[1], list(command[2:])).params["folder"]) == "/data/campaign"
    assert services[name].content["build"]["target"] in re.findall(
        r"AS (\w+)", (ROOT / "docker/Dockerfile").read_text()
    )


def test_images_of_a_source_project_are_in_the_volume(services):
    # `campaign init FOLDER` keeps them in FOLDER.images.
    assert services["init"].command[2] == "/data/campaign" and services["init"].content["volumes"] == ["data:/data"]
    assert "VOLUME /data\n" in (ROOT / "docker/Dockerfile").read_text()


def test_the_proxy_keeps_what_is_between_machines():
    text = (ROOT / "docker" / "Caddyfile").read_text()
    assert re.search(r"@inner path (.+)", text)[1].split() == [
        "/metrics", "/setup", "/predict", "/is_training", "/openapi.json",
    ]  # fmt: skip
    assert "reverse_proxy web:9090" in text and "reverse_proxy label-studio:8080" in text


@pytest.mark.skipif(not shutil.which("docker"), reason="no container engine")
def test_an_engine_reads_it_too(deployment):
    command = ["docker", "compose", "--env-file", deployment / ".env", "-f", FILE, "--profile", "cpu", "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    if "unknown" in done.stderr:
        pytest.skip("an engine without compose")
    assert done.returncode == 0, done.stderr


class Host:
    """This machine in place of an engine: one folder for all volumes and secrets, loopback for all networks."""

    def __init__(self, folder: Path, deployment: Path, services: dict):
        self.folder, self.services = folder, services
        folder.chmod(0o755)
        shutil.copytree(deployment / "secrets", folder / "secrets")
        self.ports = {
            name: free_port() for name in ("postgres", "redis", "web", "label-studio-postgres", "label-studio")
        }
        (folder / "secrets").chmod(0o755)
        (folder / "data").mkdir()
        for name in ("database_url", "redis_url"):
            path = folder / "secrets" / name
            text = re.sub(r"@([\w-]+):\d+/", lambda m: f"@127.0.0.1:{self.ports[m[1]]}/", path.read_text())
            path.chmod(0o644)
            path.write_text(text)

    def here(self, text: str, name: str = "") -> str:
        """A path or an address of a container as it is on this machine."""
        text = text.replace("/run/secrets", str(self.folder / "secrets"))
        text = re.sub(r"(?<![\w/.])/data\b", str(self.folder / ("redis" if name == "redis" else "data")), text)
        return text.replace(":9090/health", f":{self.ports['web']}/health")

    def environment(self, name: str) -> dict[str, str]:
        """Of a service, and what a process on this machine needs beside it."""
        own = {key: self.here(value, name) for key, value in self.services[name].environment.items()}
        base = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "HOME", "LANG") if key in os.environ}
        path = f"{Path(sys.executable).parent}:{embedded_server().parent}:{binaries()}:{base['PATH']}"
        return {**base, "PATH": path, "TMPDIR": str(self.folder), **own}

    def command(self, name: str, words: list[str]) -> list[str]:
        """A command as it is on this machine."""
        return [self.here(word, name) for word in words]

    @contextmanager
    def running(self, name: str, words: list[str], **options):
        """The service as a process, with its log in a file, for the block."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                self.command(name, words), env=self.environment(name), stdout=log, stderr=log, cwd=self.folder,
                start_new_session=True, **options,
            )  # fmt: skip
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT if name.endswith("postgres") else signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def wait(self, name: str, words: list[str] | None = None, seconds: float = 240) -> None:
        """Returns once the service's own check says that it is well."""
        until = time.monotonic() + seconds
        while True:
            check = subprocess.run(
                self.command(name, words or self.services[name].health), env=self.environment(name),
                capture_output=True, text=True,
            )  # fmt: skip
            if check.returncode == 0:
                return
            log = (self.folder / f"{name}.log").read_text()[-2000:]
            assert time.monotonic() < until, f"{name}: {check.stdout}{check.stderr}\n{log}"
            time.sleep(0.5)

    def database(self, stack: ExitStack, name: str) -> None:
        """PostgreSQL as its image starts it: a cluster with the user, password and database of the variables."""
        environment, data = self.environment(name), self.folder / name
        data.mkdir(mode=0o700)
        as_user = {}
        if os.geteuid() == 0:  # it refuses to run as root, as in its image
            shutil.chown(data, "postgres")
            as_user = {"user": "postgres"}
        user = environment["POSTGRES_USER"]
        subprocess.run(
            ["initdb", "-D", data, "-U", user, f"--pwfile={environment['POSTGRES_PASSWORD_FILE']}", "--no-sync",
             *environment["POSTGRES_INITDB_ARGS"].split()],
            env=environment, check=True, capture_output=True, **as_user,
        )  # fmt: skip
        port = str(self.ports[name])
        words = ["postgres", "-D", str(data), "-p", port, "-h", "127.0.0.1", "-k", str(data), "-c", "fsync=off"]
        stack.enter_context(self.running(name, words, **as_user))
        self.wait(name, [*self.services[name].health[:-2], "--dbname", "postgres", "-h", "127.0.0.1", "-p", port])
        password = Path(environment["POSTGRES_PASSWORD_FILE"]).read_text()
        subprocess.run(
            ["createdb", "-h", "127.0.0.1", "-p", port, "-U", user, environment["POSTGRES_DB"]],
            env=environment | {"PGPASSWORD": password}, check=True,
        )  # fmt: skip


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def binaries() -> str:
    """Where PostgreSQL's own programs lie."""
    return next((str(path) for path in sorted(POSTGRES.glob("*/bin"), reverse=True)), "")


@pytest.fixture
def place():
    """A folder that the database's own user may pass to, which pytest's are not."""
    with tempfile.TemporaryDirectory(prefix="compose-") as folder:
        yield Path(folder)


@pytest.fixture
def label_studio():
    """The address of what takes the token of any member, and holds nothing."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self):
            known = {"/api/version": {"release": "1.23.2"}, "/api/current-user/whoami": {"id": 1, "email": "a@b.c"}}
            body = json.dumps(known.get(self.path.rstrip("/"), {})).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


needs_postgres = pytest.mark.skipif(not (binaries() or shutil.which("initdb")), reason="no PostgreSQL on this machine")


@pytest.mark.redis
@pytest.mark.slow
@needs_postgres
def test_the_services_work_together(place, deployment, services, label_studio):
    pytest.importorskip("psycopg")
    host = Host(place, deployment, services)
    data = draw_shapes(place / "shapes", labelled=2, pool=2, heldout=1)
    secrets = {path.name: path.read_text().strip() for path in (place / "secrets").iterdir()}
    with ExitStack() as stack:
        host.database(stack, "postgres")
        (place / "redis").mkdir()
        words = [*services["redis"].command, "--port", str(host.ports["redis"]), "--bind", "127.0.0.1"]
        stack.enter_context(host.running("redis", words))
        host.wait(
            "redis",
            ["sh", "-c", services["redis"].health[2].replace("redis-cli", f"redis-cli -p {host.ports['redis']}")],
        )
        check_redis(host, secrets)

        made = subprocess.run(
            host.command("init", [*services["init"].command, "--data", str(data), "--label-studio", label_studio]),
            env=host.environment("init"), capture_output=True, text=True,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        check_secrets(host, secrets)

        words = [
            word.replace("0.0.0.0", "127.0.0.1").replace("9090", str(host.ports["web"]))
            for word in services["web"].command
        ]
        for name in ("web", "scheduler", "worker-default", "worker-cpu"):
            stack.enter_context(host.running(name, words if name == "web" else services[name].command))
        for name in ("web", "worker-default", "worker-cpu"):
            host.wait(name)
        check_web(host)
        shown = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        assert not any(secret in shown for secret in secrets.values())
        logged = "".join(path.read_text() for path in place.glob("*.log"))
        assert not any(secret in logged for secret in secrets.values())


def check_redis(host, secrets):
    """It keeps what it was told, and asks for the password."""
    with pytest.raises(redis.exceptions.AuthenticationError):
        redis.Redis(port=host.ports["redis"]).ping()
    known = redis.Redis.from_url(secrets["redis_url"])
    assert known.config_get("appendonly") == {"appendonly": "yes"}
    assert known.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def check_secrets(host, secrets):
    """The campaign is in PostgreSQL, and its settings hold no password."""
    folder = host.folder / "data" / "campaign"
    assert not any(secret in (folder / "campaign.json").read_text() for secret in secrets.values())
    assert not (folder / "campaign.db").exists()
    assert json.loads((folder / "campaign.json").read_text())["settings"]["jobs"]["json_logs"]


def check_web(host):
    """It answers, knows its workers, and asks for the password."""
    url = f"http://127.0.0.1:{host.ports['web']}"
    password = json.loads((host.folder / "data/campaign/secrets.json").read_text())["backend_password"]
    assert requests.get(f"{url}/metrics", timeout=10).status_code == 401
    until = time.monotonic() + 240
    alive = r'campaign_workers{queue="(\w+)",state="(?!lost)[^"]+"} 1.0'
    while True:  # until the workers have come and the scheduler's first step is on its way
        text = requests.get(f"{url}/metrics", auth=("campaign", password), timeout=10).text
        if 'campaign_stage{stage="train"} 1.0' in text and set(re.findall(alive, text)) == {"gpu", "default"}:
            break
        assert time.monotonic() < until, re.findall("(?m)^campaign_.*", text)
        time.sleep(1)
    assert "campaign_redis_up 1.0" in text
    line = (host.folder / "worker-cpu.log").read_text().splitlines()
    assert all(json.loads(each)["campaign"] for each in line if each.startswith("{"))


@pytest.mark.label_studio
@pytest.mark.slow
@needs_postgres
def test_label_studio_starts_on_its_own_database(place, deployment, services):
    from campaign.label_studio.client import Client
    from campaign.label_studio.server import find_command

    host = Host(place, deployment, services)
    (place / "secrets" / "label_studio_token").chmod(0o644)
    service = services["label-studio"]
    with ExitStack() as stack:
        host.database(stack, "label-studio-postgres")
        script = service.command[-1].replace(
            "./deploy/docker-entrypoint.sh label-studio",
            f"{find_command()} start --no-browser --internal-host 127.0.0.1 -p {host.ports['label-studio']}",
        )
        service.environment.update(
            POSTGRE_HOST="127.0.0.1",
            POSTGRE_PORT=str(host.ports["label-studio-postgres"]),
            LABEL_STUDIO_BASE_DATA_DIR=str(place / "label-studio"),
        )
        stack.enter_context(host.running("label-studio", [*service.command[:-1], script]))
        health = [word.replace("8080", str(host.ports["label-studio"])) for word in service.health]
        host.wait("label-studio", health, seconds=500)
        token = (place / "secrets" / "label_studio_token").read_text()
        client = Client(f"http://127.0.0.1:{host.ports['label-studio']}", token)
        assert client.check().startswith("1.")


def test_a_deployment_opens_its_campaign_with_its_secrets(tmp_path, deployment, monkeypatch):
    data = draw_shapes(tmp_path / "shapes", labelled=2, pool=2, heldout=1)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "redis_url").write_text("redis://:pw@127.0.0.1:1/0\n")
    monkeypatch.setenv("CAMPAIGN_SECRETS", str(tmp_path / "secrets"))
    get_command(app).main(["init", str(tmp_path / "c"), "--data", str(data)], standalone_mode=False)
    store = Store.open(tmp_path / "c")
    assert store.address("redis_url") == "redis://:pw@127.0.0.1:1/0"
    assert store.settings.jobs.redis_url == "redis://127.0.0.1:1/0"
