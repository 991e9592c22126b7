# SPDX-License-Identifier: Apache-2.0
"""HTTPS of real software at both ends, read at the functions of its TLS libraries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES
from tests.e2e.scenario import Scenario, serving
from tests.e2e.test_capture import url_of

pytestmark = pytest.mark.one_guest("debian-12")

HOME = "/tmp/tls"
PYTHON = "/opt/counterparts/bin/python"
FILES = Path(__file__).with_name("tls")
ASGI = Path(__file__).parent / "counterparts" / "asgi.py"
TEXT = "some text " * 300
CERTIFICATE, KEY = f"{HOME}/certificate.pem", f"{HOME}/key.pem"

NGINX, NGINX_HTTP2, NGINX_TLS12, HTTPD, HAPROXY, NODE, UVICORN, BLOCKING = range(9101, 9109)
TUNNEL, OPENSSL = 9109, 9110
SERVERS = {
    f"sudo nginx -c {HOME}/nginx.conf": (NGINX, NGINX_HTTP2, NGINX_TLS12),
    f"sudo apache2 -X -f {HOME}/httpd.conf": (HTTPD,),
    f"/usr/sbin/haproxy -db -f {HOME}/haproxy.cfg": (HAPROXY,),
    f"node {HOME}/server.js": (NODE,),
    f"{PYTHON} -m uvicorn --app-dir {HOME} --log-level warning --port {UVICORN} "
    f"--ssl-certfile {CERTIFICATE} --ssl-keyfile {KEY} asgi:app": (UVICORN,),
    f"python3 {HOME}/programs.py serve {BLOCKING}": (BLOCKING,),
    f"python3 {HOME}/programs.py tunnel {TUNNEL}": (TUNNEL,),
    f"cd {HOME}/files && openssl s_server -WWW -accept {OPENSSL} -cert {CERTIFICATE} -key {KEY}": (
        OPENSSL,
    ),
}
MEGABYTE = 1_000_000


def prepare(guest: Guest) -> None:
    """Make a certificate, the programs and the files that servers serve."""
    guest.exec(f"mkdir -p {HOME}/files")
    for path in (*FILES.iterdir(), ASGI):
        guest.push(path, f"{HOME}/{path.name}")
    guest.exec(f"cat > {HOME}/files/text", stdin=TEXT)
    guest.exec(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 "
        f"-subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout {KEY} "
        f"-out {CERTIFICATE} && cat {CERTIFICATE} {KEY} > {HOME}/pair.pem && "
        f"chmod 644 {HOME}/*.pem"
    )


@pytest.fixture(scope="module")
def servers(guest: Guest) -> Iterator[None]:
    prepare(guest)
    with serving(guest, SERVERS):
        yield


@pytest.fixture(scope="module", params=ROUTES)
def scenario(guest: Guest, servers: None, request: pytest.FixtureRequest) -> Iterator[Scenario]:
    with Capture(guest, "--tls", "--no-redact", "--route", request.param) as capture:
        yield Scenario(guest, capture, has_tls=True)
        said = capture.stop()
        # Nothing is lost, at sockets and in libraries, in both directions.
        assert said.rpartition("wrote ")[2].count("lost 0/0") == 4, said
        assert "not probed" not in said


def curl(options: str, port: int, url: str) -> str:
    return f"curl -sS -o /dev/null --cacert {CERTIFICATE} {options} 'https://127.0.0.1:{port}{url}'"


@pytest.mark.parametrize(("port", "version"), [(NGINX_TLS12, "1.2"), (HTTPD, "1.3")])
def test_servers_that_read_and_write_their_sockets(
    scenario: Scenario, token: str, port: int, version: str
) -> None:
    url = f"/text?{token}"
    request, response = scenario.exchange(curl("--http1.1", port, url), url, port)
    assert (request["method"], request["http_version"]) == ("GET", "1.1")
    for message in (request, response):
        assert message["tls"].pop("cipher").endswith(("_SHA256", "_SHA384"))
        assert message["tls"] == {"library": "openssl", "version": version, "alpn": "http/1.1"}
    assert (response["status_code"], response["body"]) == (200, TEXT)


def test_http2(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    command = (
        f"curl -sSk -o /dev/null --http2 --connect-to ::127.0.0.1:{NGINX_HTTP2} "
        f"'https://shop.example{url}'"
    )
    request, response = scenario.exchange(command, url, NGINX_HTTP2)
    assert (request["http_version"], request["headers"][":scheme"]) == ("2", "https")
    assert request["tls"]["alpn"] == response["tls"]["alpn"] == "h2"
    assert request["tls"]["sni"] == response["tls"]["sni"] == "shop.example"
    assert response["body"] == TEXT


@pytest.mark.parametrize("port", [NODE, BLOCKING])
def test_a_megabyte_each_way(scenario: Scenario, token: str, port: int) -> None:
    """Node encrypts in memory, and moves the ciphertext outside of the library."""
    url = f"/{token}"
    body = f"head -c {MEGABYTE} /dev/zero | tr '\\0' a | "
    send = curl("-H 'Expect:' -H 'Content-Type: text/plain' --data-binary @-", port, url)
    request, response = scenario.exchange(body + send, url, port)
    assert request["body"] == "a" * MEGABYTE
    assert response["body"].startswith("a" * MEGABYTE)


def test_gnutls(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    command = (
        f"wget -q -O /dev/null --ca-certificate={CERTIFICATE} 'https://127.0.0.1:{NGINX}{url}'"
    )
    request, response = scenario.exchange(command, url, NGINX)
    assert request["tls"]["library"] == "gnutls"
    assert response["body"] == TEXT


def test_both_ends_without_ssl_read(scenario: Scenario, token: str) -> None:
    """BIO_read() and BIO_write() of BIO_f_ssl(), one connection after the other."""
    scenario.guest.exec(f"cp {HOME}/files/text {HOME}/files/{token}")
    for number in range(1, 4):
        scenario.guest.exec(f"python3 {HOME}/programs.py call_bio {OPENSSL} /{token}")
        lines = scenario.capture.wait_for(lambda record: url_of(record) == f"/{token}", 4 * number)
    assert len(lines) == 12
    for kind in ("request", "response"):
        for role in ("client", "server"):
            those = [line for line in lines if (line["type"], line["role"]) == (kind, role)]
            assert len({(line["connection"], line["sequence"]) for line in those}) == 3
            assert all(line["tls"]["version"] == "1.3" for line in those)
            assert kind == "request" or all(line["body"] == TEXT for line in those)


def test_a_body_that_ends_with_close_notify(scenario: Scenario, token: str) -> None:
    """gnutls_record_recv returns 0, and the client does not read the end of the socket."""
    url = f"/{token}"
    scenario.guest.exec(f"cp {HOME}/files/text {HOME}/files{url}")
    command = (
        f"wget -q -O /dev/null --ca-certificate={CERTIFICATE} https://127.0.0.1:{OPENSSL}{url}"
    )
    _, response = scenario.exchange(command, url, OPENSSL)
    assert response["body"] == TEXT


def test_a_body_that_ends_with_the_socket(scenario: Scenario, token: str) -> None:
    """OpenSSL reads the end of the socket's stream within SSL_read_ex."""
    url = f"/{token}"
    call = f"python3 {HOME}/programs.py call_once https://127.0.0.1:{BLOCKING}{url}"
    _, response = scenario.exchange(call, url, BLOCKING)
    assert response["body"] == TEXT


def test_a_proxy_with_tls_on_both_sides(scenario: Scenario, token: str) -> None:
    url = f"/text?{token}"
    scenario.guest.exec(curl("", HAPROXY, url))
    records = scenario.lines(url, 8)
    halves: dict[tuple[str, int, str], set[tuple[str, str]]] = {}
    for lines in records.values():
        for line in lines:
            key = line["connection"], line["sequence"], line["type"]
            halves.setdefault(key, set()).add((line["role"], line["comm"]))
    assert sorted(map(sorted, halves.values())) == [
        *[[("client", "curl"), ("server", "haproxy")]] * 2,
        *[[("client", "haproxy"), ("server", "nginx")]] * 2,
    ]


def test_a_tunnel_through_a_proxy(scenario: Scenario, token: str) -> None:
    """The client's socket carries the CONNECT request first, then TLS."""
    url = f"/text?{token}"
    command = curl(f"-x http://127.0.0.1:{TUNNEL}", NGINX, url)
    scenario.guest.exec(command, timeout=120)
    records = scenario.lines(url)
    (sent,), (received,) = records["request", "client"], records["request", "server"]
    # The client's connection leads to the proxy, the server's comes from it.
    assert (sent["dest_port"], received["dest_port"]) == (TUNNEL, NGINX)
    assert sent["connection"] != received["connection"]
    assert records["response", "client"][0]["body"] == TEXT


@pytest.mark.parametrize("port", [NODE, BLOCKING])
def test_messages_that_follow_on_one_connection(scenario: Scenario, token: str, port: int) -> None:
    url = f"/{token}"
    call = f"{PYTHON} {HOME}/programs.py call_requests https://127.0.0.1:{port}{url}"
    scenario.guest.exec(f"{call} one two three", timeout=120)
    records = scenario.lines(url, 12)
    for role in ("client", "server"):
        assert [line["body"] for line in records["request", role]] == ["one", "two", "three"]
        assert len({line["connection"] for line in records["response", role]}) == 1
        assert len({line["exchange"] for line in records["response", role]}) == 3


def test_a_library_that_appears_during_the_capture(scenario: Scenario, token: str) -> None:
    """It is found by its handshake, so its first messages may be missing."""
    guest, url, end = scenario.guest, f"/{token}", f"{HOME}/{token}"
    copy = f"mkdir {end}.d && cp /usr/lib/*/libssl.so.3 /usr/lib/*/libcrypto.so.3 {end}.d"
    call = f"python3 {HOME}/programs.py call_until https://127.0.0.1:{BLOCKING}{url} {end}"
    with guest.popen(f"{copy} && LD_LIBRARY_PATH={end}.d {call}", stdout=None, stderr=None):
        lines = scenario.capture.wait_for(
            lambda record: url_of(record) == url and record["role"] == "client", 4
        )
        guest.exec(f"touch {end}")
    ends = {(line["connection"], line["socket"]) for line in lines}
    assert len(ends) == 1
    # The handshake was not seen, so the positions of both ends differ.
    assert all("sequence" not in line for line in lines)


@pytest.mark.parametrize(("port", "answer"), [(UVICORN, "asgi {body}"), (NODE, "{body}POST {url}")])
def test_connections_at_once_are_not_mixed_up(
    scenario: Scenario, token: str, port: int, answer: str
) -> None:
    """In one process and one thread, with ciphertext in memory at both ends."""
    number = 20
    url = f"/{token}"
    call = f"{PYTHON} {HOME}/programs.py call_aiohttp https://127.0.0.1:{port}{url} {number}"
    scenario.guest.exec(call, timeout=240)
    names = {f"{url}-{n}": f"number {n} " * 100 for n in range(number)}
    lines = scenario.capture.wait_for(lambda record: url_of(record) in names, 4 * number)
    assert len(lines) == 4 * number
    ends: dict[str, set[tuple[str, int]]] = {}
    for line in lines:
        name = url_of(line)
        body = names[name]
        if line["type"] == "response":
            body = answer.format(body=body, url=name)
        assert line["body"] == body
        ports = line["source_port"], line["dest_port"]
        ends.setdefault(name, set()).add((line["connection"], max(ports)))
    # Both ends of each exchange have the same connection, and no other exchange has it.
    assert all(len(connections) == 1 for connections in ends.values())
    assert len(set.union(*ends.values())) == number
