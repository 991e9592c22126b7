# SPDX-License-Identifier: Apache-2.0
"""Encrypted traffic that --tls cannot show: the summary names the process, and why."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES

pytestmark = pytest.mark.one_guest("debian-12")

# A hello without a library (RFC 8446, 4.1.2), between two sockets of the process.
HANDSHAKE = """
import socket, sys
for module in sys.argv[1:]:
    __import__(module)
with socket.create_server(("127.0.0.1", 0)) as listener:
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    client.sendall(bytes.fromhex("1603010200 010001fc 0303") + bytes(506))
    server.recv(1000)
"""
# Connected, and with an address for each datagram (RFC 9000, 17.2: a long header).
DATAGRAMS = """
import socket, sys
family = socket.AF_INET6 if sys.argv[1] == "::1" else socket.AF_INET
with socket.socket(family, socket.SOCK_DGRAM) as client:
    if sys.argv[2] == "connected":
        client.connect((sys.argv[1], int(sys.argv[3])))
        client.send(b"\\xc0" + bytes(99))
    else:
        client.sendto(b"\\xc0" + bytes(99), (sys.argv[1], int(sys.argv[3])))
"""
END = "/tmp/uncaptured.end"
WAIT = f"""
import pathlib, time
while not pathlib.Path("{END}").exists():
    time.sleep(0.1)
"""
# Calls the library until the end.
CALLING = f"""
import pathlib, ssl, time
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
session = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
while not pathlib.Path("{END}").exists():
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        time.sleep(0.1)
"""
# prctl(2): PR_SET_NAME
NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'{}')\n"
NO_LIBRARY = "it has no known TLS library with symbols"
NOT_CALLED = r"it did not call /\S+/libssl\.so\.\d\S*, which is probed"
LATE = "its library was found by its first handshake"
QUIC = r"it uses UDP port 443 \(QUIC, HTTP/3\)"


def uncaptured(said: str) -> dict[str, list[str]]:
    """Return the lines of the summary: reason -> processes."""
    lines = re.findall(r"TLS not captured: (.+? \(pid \d+\)(?: and \d+ more)?): (.*)", said)
    return {reason: re.findall(r"(\S+) \(pid", processes) for processes, reason in lines}


def wait_for(capture: Capture, *reasons: str) -> dict[str, list[str]]:
    """Return the processes of each reason, once all reasons are in the account."""
    deadline = time.monotonic() + 120
    while True:
        found = uncaptured(capture.account())
        by_pattern = {
            pattern: names
            for pattern in reasons
            for reason, names in found.items()
            if re.match(pattern, reason)
        }
        if len(by_pattern) == len(reasons):
            assert len(found) == len(reasons), found
            return by_pattern
        assert time.monotonic() < deadline, found
        time.sleep(0.3)


@contextmanager
def running(guest: Guest, *programs: tuple[str, ...]) -> Iterator[None]:
    """Run programs, which wait at their end, so that their files can be examined."""
    with ExitStack() as stack:
        guest.exec(f"rm -f {END}")
        for program in programs:
            stack.enter_context(guest.popen(["python3", "-c", *program], stdout=None, stderr=None))
        try:
            yield
        finally:
            guest.exec(["touch", END])


@pytest.mark.parametrize("route", ROUTES)
def test_processes_whose_tls_is_not_captured_are_named(guest: Guest, route: str) -> None:
    with Capture(guest, "--tls", "--route", route) as capture:
        for name, *arguments in (
            ("quic4", "127.0.0.1", "connected", "443"),
            ("quic6", "::1", "connected", "443"),
            ("quicto", "127.0.0.1", "unconnected", "443"),
            ("dns", "127.0.0.1", "unconnected", "53"),
        ):
            guest.exec(["python3", "-c", NAMED.format(name) + DATAGRAMS, *arguments])
        bare, silent = (NAMED.format(name) + HANDSHAKE + WAIT for name in ("bare", "silent"))
        with running(guest, (bare,), (silent, "ssl")):
            found = wait_for(capture, NO_LIBRARY, NOT_CALLED, QUIC)
    assert found == {
        NO_LIBRARY: ["bare"],
        NOT_CALLED: ["silent"],
        QUIC: ["quic4", "quic6", "quicto"],
    }


def test_a_process_that_the_filters_exclude_is_not_named(guest: Guest) -> None:
    with Capture(guest, "--tls", "--comm", "someone") as capture:
        guest.exec(["python3", "-c", HANDSHAKE])
        guest.exec(["python3", "-c", DATAGRAMS, "127.0.0.1", "connected", "443"])
        said = capture.stop()
    assert not uncaptured(said)


def test_a_library_that_is_found_by_its_first_handshake(guest: Guest) -> None:
    """A copy where nothing looks for it in advance."""
    copy = "/tmp/late"
    path = "$(/sbin/ldconfig -p | grep -om1 '/.*libssl.so.3$')"
    guest.exec(f"rm -rf {copy}; mkdir {copy}; cp {path} {copy}")
    start = f"import os; os.environ['LD_LIBRARY_PATH'] = '{copy}'; os.execvp('python3', {{}})"
    command = ["python3", "-c", HANDSHAKE + CALLING, "ssl"]
    with Capture(guest, "--tls") as capture, running(guest, (start.format(command),)):
        assert wait_for(capture, LATE) == {LATE: ["python3"]}
