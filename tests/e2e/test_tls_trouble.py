# SPDX-License-Identifier: Apache-2.0
"""Trouble with TLS libraries and their processes: one line each, and the capture continues."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture
from tests.e2e.scenario import serving
from tests.e2e.test_capture import url_of
from tests.e2e.test_tls import BLOCKING, HOME, prepare

pytestmark = pytest.mark.one_guest("debian-12")

PROGRAMS = f"python3 {HOME}/programs.py"


@pytest.fixture(scope="module", autouse=True)
def server(guest: Guest) -> Iterator[None]:
    prepare(guest)
    with serving(guest, {f"{PROGRAMS} serve {BLOCKING}": (BLOCKING,)}):
        yield


@pytest.fixture
def library(guest: Guest, token: str) -> str:
    """The path of a copy of OpenSSL, in a directory of its own."""
    directory = f"{HOME}/{token}"
    guest.exec(f"mkdir {directory} && cp /usr/lib/*/libssl.so.3 {directory}")
    return f"{directory}/libssl.so.3"


@contextmanager
def calling(guest: Guest, library: str, url: str) -> Iterator[int]:
    """Send requests on one connection until the block ends; yield the pid.

    The process has mapped the library then.
    """
    directory, end = library.rpartition("/")[0], f"{HOME}/{url.replace('/', '-')}.end"
    call = f"{PROGRAMS} call_until https://127.0.0.1:{BLOCKING}{url} {end}"
    with guest.popen(f"LD_LIBRARY_PATH={directory} exec {call}", stderr=None) as client:
        started = f"pid=$(pgrep -f '^{call}') && grep -q {library} /proc/$pid/maps"
        waiting = f"until {started}; do sleep 0.1; done; echo $pid"
        yield int(guest.exec(waiting, timeout=60).stdout)
        guest.exec(["touch", end])
        assert client.wait(60) == 0


def check_new_exchanges(capture: Capture, url: str) -> None:
    """Wait for four new lines of a client; they and the server's have one connection."""

    def is_of_client(record: Record) -> bool:
        return url_of(record) == url and record["role"] == "client"

    known = sum(map(is_of_client, capture.records()))
    capture.wait_for(is_of_client, known + 4)
    lines = [line for line in capture.records() if url_of(line) == url]
    assert {line["role"] for line in lines} == {"client", "server"}
    assert len({line["connection"] for line in lines}) == 1
    for line in lines:
        assert "incomplete" not in line
        assert line["dest_port" if line["type"] == "request" else "source_port"] == BLOCKING


def maps(guest: Guest, pid: int, library: str) -> str:
    """Return how the process has mapped the library: the last words of each mapping."""
    return guest.exec(f"grep -o '{library}.*' /proc/{pid}/maps").stdout


def test_a_library_that_is_replaced_while_it_is_used(
    guest: Guest, token: str, library: str
) -> None:
    """As an update does. Its processes keep the old file, and new ones get another inode."""
    old, new = f"/{token}/old", f"/{token}/new"
    with Capture(guest, "--tls", "--no-redact") as capture, calling(guest, library, old) as first:
        check_new_exchanges(capture, old)
        guest.exec(f"cp {library} {library}.new && mv {library}.new {library}")
        with calling(guest, library, new) as second:
            assert "(deleted)" in maps(guest, first, library)
            assert "(deleted)" not in maps(guest, second, library)
            check_new_exchanges(capture, new)
            check_new_exchanges(capture, old)
        said = capture.stop()
    assert "not probed" not in said


def test_a_library_that_was_deleted(guest: Guest, token: str, library: str) -> None:
    url = f"/{token}"
    with calling(guest, library, url) as pid:
        guest.exec(["rm", library])
        assert "(deleted)" in maps(guest, pid, library)
        with Capture(guest, "--tls", "--no-redact") as capture:
            check_new_exchanges(capture, url)
            said = capture.stop()
    assert "not probed" not in said
