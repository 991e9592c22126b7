# SPDX-License-Identifier: Apache-2.0
"""OpenSSL with kernel TLS: SSL_sendfile() sends a file that never was in the process's memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES
from tests.e2e.scenario import serving
from tests.e2e.test_capture import url_of
from tests.e2e.test_tls import CERTIFICATE, HOME, KEY, TEXT, curl, prepare

pytestmark = pytest.mark.one_guest("debian-12")

PORT = 9140
CONFIGURATION = f"""
daemon off;
pid {HOME}/kernel.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    sendfile on;
    default_type text/plain;
    ssl_certificate {CERTIFICATE};
    ssl_certificate_key {KEY};
    ssl_conf_command Options KTLS;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
    server {{
        listen 127.0.0.1:{PORT} ssl;
        root {HOME}/files;
    }}
}}
"""


@pytest.fixture(scope="module")
def nginx(guest: Guest) -> Iterator[None]:
    if guest.exec("sudo modprobe tls", check=False).returncode:
        pytest.skip("this kernel has no TLS")
    prepare(guest)
    guest.exec(f"cat > {HOME}/kernel.conf", stdin=CONFIGURATION)
    with serving(guest, {f"sudo nginx -c {HOME}/kernel.conf": (PORT,)}):
        yield


@pytest.mark.parametrize("route", ROUTES)
def test_files_that_the_kernel_encrypts(guest: Guest, nginx: None, token: str, route: str) -> None:
    """The server's bodies are reported as lost; the messages that follow them are right."""
    urls = [f"/text?{token}-{number}" for number in range(3)]
    with Capture(guest, "--tls", "--no-redact", "--route", route) as capture:
        calls = " --next ".join(curl("", PORT, url).partition(" ")[2] for url in urls)
        guest.exec(f"curl {calls}", timeout=60)
        lines = capture.wait_for(lambda record: url_of(record) in urls, 12)
        said = capture.stop()
    assert len(lines) == 12
    for line in lines:
        assert line["dest_port" if line["type"] == "request" else "source_port"] == PORT
        is_from_file = (line["type"], line["role"]) == ("response", "server")
        assert line.get("incomplete") == (["lost"] if is_from_file else None)
        if line["type"] == "response":
            assert line["status_code"] == 200
            assert line["headers"]["content-length"] == str(len(TEXT))
            assert line["body"] == ("" if is_from_file else TEXT)
    assert f"unreadable 3/{3 * len(TEXT)})" in said.partition("TLS send")[2]
