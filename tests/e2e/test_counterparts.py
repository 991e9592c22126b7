# SPDX-License-Identifier: Apache-2.0
"""Real software at both ends: the profiler captures what either side sends and receives."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES
from tests.e2e.scenario import Scenario, serving

pytestmark = pytest.mark.one_guest("debian-13")

HOME = "/tmp/counterparts"
PYTHON = "/opt/counterparts/bin/python"
FILES = Path(__file__).with_name("counterparts")
TEXT = "some text " * 300

NGINX, NGINX_HTTP2, HTTPD, HAPROXY, NODE, UVICORN, GRPC, WEBSOCKET = range(9001, 9009)
SERVERS = {
    f"sudo nginx -c {HOME}/nginx.conf": (NGINX, NGINX_HTTP2),
    f"sudo apache2 -X -f {HOME}/httpd.conf": (HTTPD,),
    f"/usr/sbin/haproxy -db -f {HOME}/haproxy.cfg": (HAPROXY,),
    f"node {HOME}/server.js": (NODE,),
    f"{PYTHON} -m uvicorn --app-dir {HOME} --log-level warning --port {UVICORN} asgi:app": (
        UVICORN,
    ),
    f"{PYTHON} {HOME}/pairs.py serve_grpc": (GRPC,),
    f"{PYTHON} {HOME}/pairs.py serve_websocket": (WEBSOCKET,),
}


@pytest.fixture(scope="module")
def servers(guest: Guest) -> Iterator[None]:
    guest.exec(f"mkdir -p {HOME}/files")
    for path in FILES.iterdir():
        guest.push(path, f"{HOME}/{path.name}")
    guest.exec(f"cat > {HOME}/files/text", stdin=TEXT)
    with serving(guest, SERVERS):
        yield


@pytest.fixture(scope="module", params=ROUTES)
def scenario(guest: Guest, servers: None, request: pytest.FixtureRequest) -> Iterator[Scenario]:
    with Capture(guest, "--route", request.param) as capture:
        yield Scenario(guest, capture)
        said = capture.stop()
        assert said.count("lost 0/0") == 2, said


def curl(options: str, port: int, url: str) -> str:
    return f"curl -sS -o /dev/null {options} 'http://127.0.0.1:{port}{url}'"


@pytest.mark.parametrize(("option", "version"), [("--http1.0", "1.0"), ("--http1.1", "1.1")])
def test_curl_and_nginx(scenario: Scenario, token: str, option: str, version: str) -> None:
    url = f"/text?{token}"
    request, response = scenario.exchange(curl(option, NGINX, url), url, NGINX)
    assert (request["method"], request["http_version"]) == ("GET", version)
    assert response["status_code"] == 200
    assert response["headers"]["server"].startswith("nginx")
    assert response["body"] == TEXT


def test_compressed(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    _, response = scenario.exchange(curl("--compressed", NGINX, url), url, NGINX)
    assert response["headers"]["content-encoding"] == "gzip"
    assert response["body"] == TEXT
    assert response["bytes"] < len(TEXT)


def test_http2_with_prior_knowledge(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    command = curl("--http2-prior-knowledge", NGINX_HTTP2, url)
    request, response = scenario.exchange(command, url, NGINX_HTTP2)
    assert (request["http_version"], request["method"]) == ("2", "GET")
    assert request["headers"][":authority"] == f"127.0.0.1:{NGINX_HTTP2}"
    assert (response["http_version"], response["status_code"]) == ("2", 200)
    assert response["body"] == TEXT
    assert request["stream"] == response["stream"] == 1


def test_http2_by_upgrade(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    scenario.guest.exec(curl("--http2", HTTPD, url))
    records = scenario.lines(url, 6)
    for role in ("client", "server"):
        (request,), (switching, answer) = records["request", role], records["response", role]
        assert request["http_version"] == "1.1"
        assert (switching["status_code"], switching["upgrade"]) == (101, "h2c")
        assert (answer["http_version"], answer["status_code"]) == ("2", 200)
        assert answer["body"] == TEXT
        assert request["exchange"] == switching["exchange"] == answer["exchange"]


def test_upload_with_expect(scenario: Scenario, token: str) -> None:
    url = f"/{token}"
    scenario.guest.exec(curl("-H 'Expect: 100-continue' -d hello", NODE, url))
    records = scenario.lines(url, 6)
    for role in ("client", "server"):
        (request,), (interim, answer) = records["request", role], records["response", role]
        assert request["body"] == "hello"
        assert interim["status_code"] == 100
        assert answer["body"] == f"helloPOST {url}"
        assert answer["trailers"] == {"x-parts": "said"}
        assert request["exchange"] == interim["exchange"] == answer["exchange"]


def test_through_haproxy(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    scenario.guest.exec(curl("", HAPROXY, url))
    records = scenario.lines(url, 8)
    for kind, role in records:
        processes = {line["comm"] for line in records[kind, role]}
        assert processes == ({"curl", "haproxy"} if role == "client" else {"haproxy", "nginx"})
    halves: dict[tuple[str, int, str], set[str]] = {}
    for lines in records.values():
        for line in lines:
            halves.setdefault((line["connection"], line["sequence"], line["type"]), set()).add(
                line["role"]
            )
    assert len(halves) == 4
    assert all(roles == {"client", "server"} for roles in halves.values())


def test_wget_and_httpd(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    command = f"wget -q -O /dev/null 'http://127.0.0.1:{HTTPD}{url}'"
    request, response = scenario.exchange(command, url, HTTPD)
    assert request["headers"]["user-agent"].startswith("Wget")
    assert response["headers"]["server"].startswith("Apache")
    assert response["body"] == TEXT


def test_requests_and_uvicorn(scenario: Scenario, token: str) -> None:
    url = f"/{token}"
    scenario.guest.exec(f"{PYTHON} {HOME}/pairs.py call_requests http://127.0.0.1:{UVICORN}{url}")
    records = scenario.lines(url, 8)
    for role in ("client", "server"):
        assert [line["body"] for line in records["request", role]] == ["one", "two"]
        assert [line["body"] for line in records["response", role]] == ["asgi one", "asgi two"]
        assert {line["status_code"] for line in records["response", role]} == {201}
        assert len({line["socket"] for line in records["request", role]}) == 1


def test_aiohttp_and_node(scenario: Scenario, token: str) -> None:
    url = f"/{token}"
    command = f"{PYTHON} {HOME}/pairs.py call_aiohttp http://127.0.0.1:{NODE}{url}"
    request, response = scenario.exchange(command, url, NODE)
    assert request["headers"]["transfer-encoding"] == "chunked"
    assert request["body"] == "onetwo"
    assert response["body"] == f"onetwoPOST {url}"


@pytest.mark.parametrize(("method", "status"), [("Say", "0"), ("Fail", "5")])
def test_grpc(scenario: Scenario, token: str, method: str, status: str) -> None:
    scenario.guest.exec(f"{PYTHON} {HOME}/pairs.py call_grpc {method} {token}", timeout=120)
    (asked,) = scenario.capture.wait_for(
        lambda r: r["headers"].get("x-token") == token and r["role"] == "server"
    )
    answers = scenario.capture.wait_for(
        lambda r: r.get("exchange") == asked["exchange"] and r["type"] == "response"
    )
    assert (asked["url"], asked["method"]) == (f"/echo.Echo/{method}", "POST")
    assert base64.b64decode(asked["body"]) == b"\0\0\0\0\5hello"
    (answer,) = answers
    told = {**answer["headers"], **answer.get("trailers", {})}
    assert told["grpc-status"] == status
    if method == "Say":
        assert base64.b64decode(answer["body"]) == b"\0\0\0\0\5hello"
        assert answer["trailers"]["grpc-status"] == "0"


def test_websocket(scenario: Scenario, token: str) -> None:
    url = f"/{token}"
    command = f"{PYTHON} {HOME}/pairs.py call_websocket {url}"
    request, response = scenario.exchange(command, url, WEBSOCKET)
    assert request["headers"]["upgrade"] == "websocket"
    assert (response["status_code"], response["upgrade"]) == (101, "websocket")
