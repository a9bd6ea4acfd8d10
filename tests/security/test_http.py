"""The web server under attack: who is let in, odd headers and addresses, sessions, slow clients."""

import http.client
import re
import socket
import subprocess
import sys
import time
from contextlib import closing

import pytest

from campaign.web.gateway import is_whole
from campaign.web.lead.login import lead_password
from campaign.web.lead.sessions import IDLE_SECONDS, LONGEST_SECONDS, Sessions, Throttle
from campaign.web.serving import build_app
from ml_backend.server.app import Access, create_app
from tests.campaign.builders import gold_store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return gold_store(tmp_path_factory.mktemp("http") / "a")


@pytest.fixture
def browser(store):
    return build_app(store.folder).test_client()


def log_in(browser, password, then=""):
    token = re.search(r'name="token" value="([^"]+)"', browser.get("/lead/login").text)[1]
    form = {"token": token, "user": "lead", "password": password, "then": then}
    return browser.post("/lead/login", data=form)


@pytest.mark.parametrize(("method", "path"), [("GET", "/metrics"), ("POST", "/predict"), ("POST", "/setup")])
def test_a_proxy_that_says_nothing_of_its_clients_lets_nobody_in(browser, method, path):
    # As nginx does by default: the peer is this machine, and so is the host that it asks for.
    answer = browser.open(path, method=method, headers={"Host": "127.0.0.1:9090"}, json={"tasks": []})
    assert answer.status_code == 401


def test_who_is_refused_is_told_of_and_what_they_sent_is_not(browser, caplog):
    browser.post("/webhook", json={"action": "x"}, headers={"X-Campaign-Secret": "guessed"})
    assert "POST /webhook from 127.0.0.1 was refused" in caplog.text and "nothing is to be done" in caplog.text
    assert "guessed" not in caplog.text


@pytest.mark.parametrize(
    "name", ["X-Forwarded-Host", "X-Forwarded-Proto", "Via", "True-Client-IP", "CF-Connecting-IP", "X-Client-IP"]
)
def test_a_waiver_is_for_no_proxy_that_shows_itself(name):
    client = create_app(access=Access(this_machine=True)).test_client()
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={name: "1.2.3.4"}).status_code == 401


@pytest.mark.parametrize(
    "given", ["Basic é", "Basic \xff\xfe", "Basic =", "Basic " + "A" * 5000, "é", "", "Basic w6k6w6k="]
)
def test_an_odd_authorization_is_refused(browser, given):
    assert browser.get("/metrics", headers={"Authorization": given}).status_code == 401


@pytest.mark.parametrize(
    "number", ["9223372036854775808", "9" * 19, "9" * 4400, "١", "²", "1²", "-1", "1_0", "+1", "０"]
)
def test_a_number_that_is_none_is_no_page(browser, store, number):
    log_in(browser, lead_password(store))
    for path in (f"trees/{number}/1", f"trees/1/{number}", f"clusters/1/1/{number}", f"masks/{number}"):
        assert browser.get(f"/lead/{path}").status_code == 404, path
    assert browser.get(f"/lead/clusters/1/1/{number}/change?kind=accept").status_code == 404


def test_a_number_that_no_database_holds_is_no_page(browser, store):
    log_in(browser, lead_password(store))
    for number in (2**63 - 1, 2**62, 2**50):
        for path in (f"trees/{number}/1", f"trees/1/{number}", f"clusters/1/1/{number}", f"masks/{number}"):
            assert browser.get(f"/lead/{path}").status_code == 404, path
        for path in (f"clusters/{number}/1/0", f"clusters/1/{number}/0", "clusters/1/77/0", "clusters/0/1/0"):
            assert browser.get(f"/lead/{path}/change?kind=accept").status_code == 404, path


@pytest.mark.parametrize(
    "then", ["/lead/\r\nSet-Cookie: a=b", "/lead/\n", "/lead/\t", "http://[", "/lead/\x00", "/lead/\u2028"]
)
def test_a_redirect_holds_one_line(browser, store, then):
    answer = log_in(browser, lead_password(store), then)
    assert answer.status_code == 302 and answer.headers["Location"] == "/lead/"


def test_a_logout_ends_the_session_for_a_copied_cookie_too(browser, store):
    log_in(browser, lead_password(store))
    cookie = browser.get_cookie(f"campaign_{store.key}", path="/lead").value
    token = re.search(r'name="token" value="([^"]+)"', browser.get("/lead/").text)[1]
    browser.post("/lead/logout", data={"token": token})
    browser.set_cookie(f"campaign_{store.key}", cookie, path="/lead")
    assert browser.get("/lead/").status_code == 302


def test_a_session_ends_by_itself():
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    idle, busy = sessions.begin(), sessions.begin()
    while now[0] < LONGEST_SECONDS - IDLE_SECONDS:
        now[0] += IDLE_SECONDS / 2
        assert sessions.is_open(busy)
    assert not sessions.is_open(idle) and not sessions.is_open(None) and not sessions.is_open(["x"])
    now[0] = LONGEST_SECONDS
    assert not sessions.is_open(busy)


def test_who_tries_passwords_has_to_wait(browser, store):
    answers = [log_in(browser, "wrong").status_code for _ in range(20)]
    assert answers[:10] == [401] * 10 and set(answers[10:]) == {429}
    assert log_in(browser, lead_password(store)).status_code == 429
    assert browser.get("/health").status_code == 200


def test_a_peer_may_try_again_after_a_minute():
    now = [0.0]
    throttle = Throttle(tries=2, seconds=60, now=lambda: now[0])
    throttle.failed("a")
    now[0] = 30
    throttle.failed("a")
    assert throttle.wait("a") == 30 and throttle.wait("b") == 0
    now[0] = 60
    assert throttle.wait("a") == 0


@pytest.mark.parametrize(
    ("data", "whole"),
    [
        (b"", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcd", False),
        (b"POST / HTTP/1.1\r\ncontent-LENGTH:5\r\n\r\nabcde", True),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999\r\n\r\n", True),
        (b"x" * (64 << 10), True),
    ],
)
def test_a_request_is_handed_on_when_it_is_whole(data, whole):
    assert is_whole(data) == whole


def test_slow_clients_do_not_starve_health(store):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve = "import sys; from pathlib import Path; from campaign.web.serving import serve; "
    serve += "serve(Path(sys.argv[1]), port=int(sys.argv[2]), threads=2)"
    server = subprocess.Popen([sys.executable, "-c", serve, store.folder, str(port)])
    slow = []
    try:
        until = time.monotonic() + 300
        while time.monotonic() < until and server.poll() is None:
            with closing(socket.socket()) as attempt:
                if attempt.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        for head in (
            b"GET /health HTTP/1.1\r\nHost: a\r\n",
            b"POST /lead/login HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\na",
            b"",
        ):
            for _ in range(8):
                slow.append(socket.create_connection(("127.0.0.1", port)))
                slow[-1].sendall(head)
        time.sleep(0.3)
        for _ in range(3):
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            asked.request("GET", "/health")
            assert asked.getresponse().status == 200
            asked.close()
        # Who sends the rest in time is answered.
        late = socket.create_connection(("127.0.0.1", port), timeout=30)
        slow.append(late)
        late.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\n")
        time.sleep(0.1)
        late.sendall(b"\r\n")
        assert late.recv(15) == b"HTTP/1.1 200 OK"
    finally:
        for each in slow:
            each.close()
        server.terminate()
        server.wait(120)
