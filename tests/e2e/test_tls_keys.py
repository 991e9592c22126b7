# SPDX-License-Identifier: Apache-2.0
"""HTTPS of a command, decrypted with the key log that it writes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from profiler.ingest.session import replay
from profiler.ingest.settings import Settings
from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.conftest import ROUTES
from tests.e2e.test_tls import (
    BLOCKING,
    CERTIFICATE,
    FILES,
    HOME,
    KEY,
    NGINX,
    NGINX_HTTP2,
    NGINX_TLS12,
    NODE,
    PYTHON,
    TEXT,
    curl,
)
from tests.records import read_records

pytestmark = pytest.mark.one_guest("debian-12")

SERVERS = {
    f"sudo nginx -c {HOME}/nginx.conf": (NGINX, NGINX_HTTP2, NGINX_TLS12),
    f"node {HOME}/server.js": (NODE,),
}
SERVE = f"python3 {HOME}/programs.py serve {BLOCKING}"
MEGABYTE = 1_000_000
FETCH = """
const https = require("https"), fs = require("fs");
const options = {method: "POST", ca: fs.readFileSync("%s")};
https.request(process.argv[2], options, (answer) => answer.resume()).end("from node");
"""


@pytest.fixture(scope="module")
def servers(guest: Guest) -> Iterator[None]:
    with ExitStack() as running:
        guest.exec(f"mkdir -p {HOME}/files")
        for path in FILES.iterdir():
            guest.push(path, f"{HOME}/{path.name}")
        guest.exec(f"cat > {HOME}/files/text", stdin=TEXT)
        guest.exec(f"cat > {HOME}/fetch.js", stdin=FETCH % CERTIFICATE)
        guest.exec(
            "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 9 "
            f"-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1 -keyout {KEY} "
            f"-out {CERTIFICATE} && chmod 644 {HOME}/*.pem"
        )
        for command in SERVERS:
            running.enter_context(guest.popen(command, stdout=None, stderr=None))
        for port in (port for ports in SERVERS.values() for port in ports):
            _wait_for(guest, port)
        yield
        # No key remains on the machine.
        assert guest.exec("ls /run | grep http-profiler-keys || true").stdout == ""


def _opened(port: int) -> str:
    return f"until ss -Hltn sport = :{port} | grep -q .; do sleep 0.1; done"


def _wait_for(guest: Guest, port: int) -> None:
    guest.exec(["timeout", "120", "sh", "-c", _opened(port)], timeout=150)


def traced(
    guest: Guest, token: str, script: str, *options: str, before: str = ""
) -> tuple[list[Record], str]:
    """Trace a shell script; return its records and what the profiler printed."""
    lines = f"/tmp/{token}.jsonl"
    profiler = ["sudo", "http-profiler", *before.split(), "run", "--tls-keys", "--no-redact"]
    done = guest.exec(
        [*profiler, "--output", lines, *options, "--", "sh", "-ec", script], timeout=300
    )
    assert done.stderr.count(" + lost 0/0") == 2, done.stderr
    return read_records(guest.exec(["sudo", "cat", lines]).stdout), done.stderr


@pytest.mark.parametrize("route", ROUTES)
def test_clients(guest: Guest, servers: None, token: str, route: str) -> None:
    """Each client is its own process: keys, connections and versions of TLS and HTTP differ."""
    url = f"/text?{token}"
    script = [
        curl("--http1.1", NGINX, url),
        curl("--http1.1", NGINX_TLS12, url),
        curl("--http2", NGINX_HTTP2, url),
        f"wget -q -O /dev/null --ca-certificate={CERTIFICATE} 'https://127.0.0.1:{NGINX}{url}'",
        f"{PYTHON} {HOME}/programs.py call_requests https://127.0.0.1:{NODE}{url} one two",
        f'node --tls-keylog="$SSLKEYLOGFILE" {HOME}/fetch.js https://127.0.0.1:{NODE}{url}',
    ]
    records, said = traced(guest, token, "\n".join(script), "--route", route)
    assert "not decrypted" not in said
    assert "--tls-keys shows what the command encrypts" in said
    requests = [record for record in records if record["type"] == "request"]
    responses = [record for record in records if record["type"] == "response"]
    assert [record["comm"] for record in requests] == [
        *("curl", "curl", "curl", "wget", "python", "python", "node")
    ]
    versions = {record["dest_port"]: record["tls"]["version"] for record in requests}
    assert (versions[NGINX_TLS12], versions[NODE]) == ("1.2", "1.3")
    assert [record["http_version"] for record in requests[:3]] == ["1.1", "1.1", "2"]
    assert requests[2]["tls"]["alpn"] == "h2"
    assert [record["dest_port"] for record in requests] == [
        *(NGINX, NGINX_TLS12, NGINX_HTTP2, NGINX, NODE, NODE, NODE)
    ]
    assert {record["tls"]["library"] for record in records} == {"keys"}
    assert not any("incomplete" in record for record in records)
    assert [record["body"] for record in responses[:4]] == [TEXT] * 4
    assert [record["body"] for record in requests[4:]] == ["one", "two", "from node"]
    assert requests[4]["connection"] == requests[5]["connection"]


def test_both_ends_and_a_megabyte(guest: Guest, servers: None, token: str) -> None:
    """The server writes no key log: its connection has the keys of its client."""
    url = f"/{token}"
    body = hashlib.shake_128(token.encode()).hexdigest(MEGABYTE // 2)
    guest.exec(f"cat > /tmp/{token}.body", stdin=body)
    send = curl(f"-H 'Expect:' --data-binary @/tmp/{token}.body", BLOCKING, url)
    script = f"{SERVE} & {_opened(BLOCKING)}; {send}; kill $!"
    records, said = traced(guest, token, script)
    assert "not decrypted" not in said
    assert sorted((record["type"], record["role"]) for record in records) == [
        (kind, role) for kind in ("request", "response") for role in ("client", "server")
    ]
    digest = hashlib.sha256(body.encode()).digest()
    for record in records:
        assert hashlib.sha256(record["body"].encode()).digest() == digest
        assert "incomplete" not in record
    assert len({record["connection"] for record in records}) == 1
    assert len({(record["type"], record["sequence"]) for record in records}) == 2
    assert len({record["socket"] for record in records}) == 2


def test_a_command_of_another_user(guest: Guest, servers: None, token: str) -> None:
    user = guest.exec("id -un").stdout.strip()
    look = "if ls /run/http-profiler-keys-*/; then exit 1; fi"
    script = f'test -w "$SSLKEYLOGFILE"; {look}; {curl("", NGINX, "/text")}'
    records, _ = traced(guest, token, script, "--as", user)
    assert [record["type"] for record in records] == ["request", "response"]


def test_a_client_without_a_key_log(guest: Guest, servers: None, token: str) -> None:
    script = f"env -u SSLKEYLOGFILE {curl('', NGINX, '/text')}"
    records, said = traced(guest, token, script)
    assert records == []
    assert "not decrypted: 1 TLS connections: its key is not in the key log" in said


def test_a_recording_is_replayed_with_its_keys(
    guest: Guest, servers: None, token: str, tmp_path
) -> None:
    recording = f"/tmp/{token}.capture"
    script = "\n".join([curl("--http2", NGINX_HTTP2, "/text"), curl("", NGINX_TLS12, "/text")])
    records, _ = traced(guest, token, script, before=f"--record {recording}")
    guest.exec(f"sudo chmod 644 {recording}")
    guest.pull(recording, tmp_path / "capture")
    replay(tmp_path / "capture", Settings(output=tmp_path / "lines"))
    assert read_records((tmp_path / "lines").read_text()) == records
    assert len(records) == 4
