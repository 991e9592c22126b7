# SPDX-License-Identifier: Apache-2.0
"""Clients that wait for a line before they connect: ``waiting.py FUNCTION ARGUMENT...``.

What kills some in a call of their library runs as root, and where addresses are not random
(``setarch --addr-no-random``).
"""

from __future__ import annotations

import ctypes
import http.client
import ssl
import subprocess
import sys
from pathlib import Path

CERTIFICATE = "/tmp/tls/certificate.pem"
LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def connected(url: str) -> tuple[http.client.HTTPSConnection, str]:
    """Wait for a line of standard input, connect, and print the address of the session."""
    host, path = url.partition("//")[2].split("/", 1)
    context = ssl.create_default_context(cafile=CERTIFICATE)
    connection = http.client.HTTPSConnection(host, context=context)
    sys.stdin.readline()
    connection.connect()
    # PySSLSocket in CPython's Modules/_ssl.c: the object's head, a reference, then SSL *.
    print(ctypes.c_void_p.from_address(id(connection.sock._sslobj) + 24).value, flush=True)
    return connection, f"/{path}"


def exchange_within(url: str, depth: str) -> None:
    """Send a request and read the answer, with a stack that is ``depth`` calls deeper."""
    exchange_below(int(depth), url)


def exchange_below(depth: int, url: str) -> None:
    if depth:
        # A function of C calls the next one: Python's own calls do not use the stack of C.
        next(map(exchange_below, [depth - 1], [url]), None)
        return
    connection, path = connected(url)
    connection.request("POST", path, b"x")
    print("sent", flush=True)
    connection.getresponse().read()


def write_without_end(url: str) -> None:
    """Send a request whose body does not end; print a line with each 20 calls."""
    connection, path = connected(url)
    connection.putrequest("POST", path)
    connection.putheader("Content-Length", str(1 << 40))
    connection.endheaders()
    while True:
        for _ in range(20):
            connection.sock.send(b"x" * 100)
        print("sent", flush=True)


def kill_a_reader(waiting: str, answered: str) -> None:
    """Kill a client that waits for an answer; run one with its pid and its session's address."""
    first = _started("exchange_within", waiting, "0")
    session = _begun(first)
    first.stdout.readline()
    # It sleeps nowhere else.
    while Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        pass
    first.kill()
    first.wait()
    while True:
        LAST_PID.write_text(str(first.pid - 1))
        second = _started("exchange_within", answered, "9")
        if second.pid == first.pid:
            break
        second.kill()
        second.wait()
    if _begun(second) != session:
        sys.exit("the second session has another address")
    sys.exit(second.wait())


def kill_writers(*urls: str) -> None:
    """Kill clients while they send."""
    for url in urls:
        client = _started("write_without_end", url)
        _begun(client)
        client.stdout.readline()
        client.kill()
        client.wait()


def _started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)


def _begun(client: subprocess.Popen[str]) -> str:
    client.stdin.write("\n")
    client.stdin.flush()
    return client.stdout.readline()


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
