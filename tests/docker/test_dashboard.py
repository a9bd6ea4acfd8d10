"""The dashboard shows what the server measures, all and nothing else; workers' figures outlive their processes."""

import json
import re
import runpy

import pytest
from redis import Redis

from campaign.jobs.measures import check_alive, measured
from campaign.web.serving import build_app
from ml_backend.errors import InputError
from tests.campaign.builders import verify_store
from tests.docker.compose import FILE

FOLDER = FILE.parent


def scraped(store) -> str:
    client = build_app(store.folder).test_client()
    return client.get("/metrics", auth=("campaign", store.secret("backend_password"))).text


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory):
    import subprocess
    import time

    from campaign.jobs.broker import embedded_server

    socket = tmp_path_factory.mktemp("r") / "s"
    server = subprocess.Popen([embedded_server(), "--port", "0", "--unixsocket", socket, "--save", ""], stdout=-3)
    connection = Redis(unix_socket_path=str(socket))
    for _ in range(100):
        if socket.exists():
            break
        time.sleep(0.05)
    yield f"unix://{socket}", connection
    server.terminate()
    server.wait(10)


@pytest.fixture
def store(tmp_path, redis_server, monkeypatch):
    store = verify_store(tmp_path / "a")
    content = json.loads((store.folder / "campaign.json").read_text())
    content["settings"]["jobs"]["redis_url"] = redis_server[0]
    (store.folder / "campaign.json").write_text(json.dumps(content))
    return type(store).open(store.folder)


def names(text: str) -> set[str]:
    """Names of metrics, as Prometheus stores them."""
    types = dict(re.findall(r"^# TYPE (campaign_\w+) (\w+)$", text, re.MULTILINE))
    types = {name: kind for name, kind in types.items() if not name.endswith("_created")}
    return {f"{name}_bucket" if kind == "histogram" else name for name, kind in types.items()}


@pytest.mark.redis
def test_the_dashboard_shows_every_metric_and_no_other(store):
    shown = json.loads((FOLDER / "grafana.json").read_text())
    assert shown == runpy.run_path(str(FOLDER / "dashboard.py"))["dashboard"](), "run python docker/dashboard.py"
    text = " ".join(target["expr"] for panel in shown["panels"] for target in panel["targets"])
    used, known = set(re.findall(r"campaign_\w+", text)), names(scraped(store))
    assert used - known == set() and known - used == set()


@pytest.mark.redis
def test_every_metric_is_documented(store):
    text = (FOLDER / "README.md").read_text() + (FOLDER.parent / "ml_backend" / "README.md").read_text()
    missing = {name for name in names(scraped(store)) if f"`{name.removesuffix('_bucket')}" not in text}
    assert missing == set()


@pytest.mark.redis
def test_what_workers_did_is_measured(store, redis_server):
    with measured(store, redis_server[1], "detect"):
        pass
    with pytest.raises(ValueError), measured(store, redis_server[1], "detect"):
        raise ValueError
    text = scraped(store)
    assert 'campaign_steps_total{outcome="done",step="detect"} 1.0' in text
    assert 'campaign_steps_total{outcome="failed",step="detect"} 1.0' in text
    assert 'campaign_stage{stage="verify"} 1.0' in text and "campaign_round 1.0" in text


@pytest.mark.redis
def test_a_machine_without_a_worker_says_so(store):
    with pytest.raises(InputError, match="none of 0"):
        check_alive(store)


def test_without_redis_the_rest_is_measured(tmp_path):
    text = scraped(verify_store(tmp_path / "a"))
    assert "campaign_redis_up 0.0" in text and "campaign_jobs_waiting" not in text and "campaign_round 1.0" in text
