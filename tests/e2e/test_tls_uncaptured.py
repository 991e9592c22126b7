# SPDX-License-Identifier: Apache-2.0
"""Encrypted traffic that --tls cannot show: the summary names the process, and why."""

from __future__ import annotations

import re
import time

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
# Calls the library until a file exists.
CALLING = f"""{HANDSHAKE.replace("sys.argv[1:]", '["ssl"]')}
import pathlib, ssl, time
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
session = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
while not pathlib.Path(sys.argv[1]).exists():
    try:
        session.do_handshake()
    except ssl.SSLWantReadError:
        time.sleep(0.1)
"""
# prctl(2): PR_SET_NAME
NAMED = "import ctypes; ctypes.CDLL(None).prctl(15, b'{}')\n"
NO_LIBRARY = "it has no known TLS library with symbols"
NOT_CALLED = r"it did not call /\S+/libssl\.so\.\d\S*, which is probed"
QUIC = r"it uses UDP port 443 \(QUIC, HTTP/3\)"


def uncaptured(said: str) -> dict[str, list[str]]:
    """Return the lines of the summary: reason -> processes."""
    lines = re.findall(r"TLS not captured: (.+? \(pid \d+\)(?: and \d+ more)?): (.*)", said)
    return {reason: re.findall(r"(\S+) \(pid", processes) for processes, reason in lines}


@pytest.mark.parametrize("route", ROUTES)
def test_processes_whose_tls_is_not_captured_are_named(guest: Guest, route: str) -> None:
    with Capture(guest, "--tls", "--route", route) as capture:
        for name, program, *arguments in (
            ("bare", HANDSHAKE),
            ("silent", HANDSHAKE, "ssl"),
            ("quic4", DATAGRAMS, "127.0.0.1", "connected", "443"),
            ("quic6", DATAGRAMS, "::1", "connected", "443"),
            ("quicto", DATAGRAMS, "127.0.0.1", "unconnected", "443"),
            ("dns", DATAGRAMS, "127.0.0.1", "unconnected", "53"),
        ):
            guest.exec(["python3", "-c", f"{NAMED.format(name)}{program}", *arguments])
        said = capture.stop()
    found = uncaptured(said)
    expected = {NO_LIBRARY: ["bare"], NOT_CALLED: ["silent"], QUIC: ["quic4", "quic6", "quicto"]}
    for pattern, names in expected.items():
        (reason,) = (reason for reason in found if re.match(pattern, reason))
        assert found.pop(reason) == names
    assert not found


def test_a_process_that_the_filters_exclude_is_not_named(guest: Guest) -> None:
    with Capture(guest, "--tls", "--comm", "someone") as capture:
        guest.exec(["python3", "-c", HANDSHAKE])
        guest.exec(["python3", "-c", DATAGRAMS, "127.0.0.1", "connected", "443"])
        said = capture.stop()
    assert not uncaptured(said)


def test_a_library_that_is_found_by_its_first_handshake(guest: Guest) -> None:
    """A copy where nothing looks for it in advance."""
    copy, end = "/tmp/late", "/tmp/late/end"
    guest.exec(f"rm -rf {copy}; mkdir {copy}; cp $(ldconfig -p | grep -o '/.*libssl.so.3$') {copy}")
    with (
        Capture(guest, "--tls") as capture,
        guest.popen(
            ["env", f"LD_LIBRARY_PATH={copy}", "python3", "-c", CALLING, end],
            stdout=None,
            stderr=None,
        ),
    ):
        try:
            deadline = time.monotonic() + 120
            while not any(
                "found by its first" in reason for reason in uncaptured(capture.account())
            ):
                assert time.monotonic() < deadline, capture.account()
                time.sleep(0.3)
        finally:
            guest.exec(["touch", end])
