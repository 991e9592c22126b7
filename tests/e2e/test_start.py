# SPDX-License-Identifier: Apache-2.0
"""What a start caches for the next one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, traffic
from tests.e2e.test_capture import url_of

KEPT = "/var/cache/http-profiler"


@pytest.mark.one_guest("debian-12")
def test_the_second_start_does_not_load_the_compiler(guest: Guest, token: str) -> None:
    peaks = []
    with without_what_was_kept(guest), background(guest, "serve") as (_, server):
        # Not even with different options of the same kind.
        for number, address in enumerate(("127.0.0.0/8", "127.0.0.1")):
            url = f"/{token}/{number}"
            with Capture(guest, "--address", address) as capture:
                traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:{url}")
                assert len(capture.wait_for(lambda r, url=url: url_of(r) == url, 4)) == 4
                said = capture.stop()
            peaks.append(int(re.findall(r"peak resident memory (\d+) MiB", said)[0]))
        assert guest.exec(f"stat -c '%U %a' {KEPT}").stdout == "root 755\n"
    # LLVM takes more memory than everything else.
    assert peaks[1] < peaks[0] / 2


@contextmanager
def without_what_was_kept(guest: Guest) -> Iterator[None]:
    """Hide the cache, so that the next start finds nothing; restore it for other tests."""
    guest.exec(f"sudo mkdir -p {KEPT} && sudo mv {KEPT} {KEPT}.aside")
    try:
        yield
    finally:
        guest.exec(f"sudo rm -rf {KEPT} && sudo mv {KEPT}.aside {KEPT}")


# One connection per request, ten per second, for as long as the profiler may take to notice.
TLS_OF_THE_KERNEL = """
import sys, time
from profiler.commands.doctor.linux import start_tls
from profiler.commands.doctor.scenario import tcp_pair
for number in range(30):
    client, server = tcp_pair()
    with client, server:
        for end in (client, server):
            start_tls(end)
        client.sendall(f"GET /{sys.argv[1]}/{number} HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n".encode())
        server.recv(1000)
        time.sleep(0.1)
"""


@pytest.mark.one_guest("debian-12")
def test_kernel_tls_that_is_first_used_while_capturing(guest: Guest, token: str) -> None:
    """Functions that only kernel TLS uses are not hooked before kernel TLS exists."""
    if guest.exec("sudo modprobe -n tls", check=False).returncode:
        # Debian 11's cloud kernel lacks it; the doctor reports that too.
        assert "CONFIG_TLS is not set" in guest.exec("cat /boot/config-$(uname -r)").stdout
        return
    guest.exec("sudo modprobe -r tls")
    with Capture(guest, "--route", "socket") as capture:
        python = "/opt/http-profiler/bin/python"
        guest.exec(["sudo", python, "-c", TLS_OF_THE_KERNEL, token], timeout=120)
        capture.wait_for(lambda r: r.get("url") == f"/{token}/29", 2)
        lines = [r for r in capture.records() if r.get("url", "").startswith(f"/{token}/")]
    directions = [line["direction"] for line in lines]
    # Received data was hooked all the time; sent data, once the profiler noticed.
    assert directions.count("recv") == 30
    assert directions.count("send") >= 15
