# SPDX-License-Identifier: Apache-2.0
"""A request in the early data of a resumed session (RFC 8446, 2.3), with nginx and OpenSSL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES
from tests.e2e.test_capture import url_of

pytestmark = pytest.mark.one_guest("debian-12")

HOME, PORT = "/tmp/early", 9120
CONFIGURATION = f"""
daemon off;
pid {HOME}/pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    ssl_certificate {HOME}/certificate.pem;
    ssl_certificate_key {HOME}/key.pem;
    ssl_protocols TLSv1.3;
    ssl_early_data on;
    server {{
        listen {PORT} ssl;
        location / {{ return 200 "early $ssl_early_data"; }}
    }}
}}
"""
CONNECT = f"openssl s_client -quiet -connect 127.0.0.1:{PORT}"


@pytest.fixture(scope="module")
def nginx(guest: Guest) -> Iterator[None]:
    guest.exec(
        f"mkdir -p {HOME} && openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=localhost "
        f"-keyout {HOME}/key.pem -out {HOME}/certificate.pem && cat > {HOME}/nginx.conf",
        stdin=CONFIGURATION,
    )
    with guest.popen(f"sudo nginx -c {HOME}/nginx.conf", stdout=None, stderr=None):
        opened = f"ss -Hltn sport = :{PORT} | grep -q ."
        guest.exec(f"timeout 60 sh -c 'until {opened}; do sleep 0.2; done'", timeout=90)
        yield


def request(url: str) -> str:
    return f"printf 'GET {url} HTTP/1.1\\r\\nHost: a\\r\\nConnection: close\\r\\n\\r\\n'"


@pytest.mark.parametrize("route", ROUTES)
def test_early_data(guest: Guest, nginx: None, token: str, route: str) -> None:
    session, early = f"{HOME}/session", f"{HOME}/request"
    with Capture(guest, "--tls", "--no-redact", "--route", route) as capture:
        guest.exec(f"{request(f'/{token}/full')} | {CONNECT} -sess_out {session}", timeout=60)
        guest.exec(f"{request(f'/{token}/early')} > {early}")
        printed = guest.exec(f"{CONNECT} -sess_in {session} -early_data {early}", timeout=60)
        assert "early 1" in printed.stdout
        lines = capture.wait_for(lambda record: token in url_of(record), 8)
    for url in (f"/{token}/full", f"/{token}/early"):
        found = [line for line in lines if url_of(line) == url]
        assert sorted((line["type"], line["role"], line["comm"]) for line in found) == [
            ("request", "client", "openssl"),
            ("request", "server", "nginx"),
            ("response", "client", "openssl"),
            ("response", "server", "nginx"),
        ]
        assert not [line for line in found if "incomplete" in line]
        assert len({line["connection"] for line in found}) == 1
