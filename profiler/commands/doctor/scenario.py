# SPDX-License-Identifier: Apache-2.0
"""One case while it is played: both ends of a connection, and a list of what was sent.

An exchange ends before the next one begins, and the bytes received are compared
with those sent. So a case that does not work raises an error itself, and a line
that is missing afterwards is the profiler's fault.
"""

from __future__ import annotations

import ipaddress
import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

from profiler.commands.doctor.script import BODY_SIZE, REQUEST, RESPONSE, End, Sent, message

Send = Callable[[socket.socket, bytes], None]
"""Sends all of the bytes, in its own way."""

Receive = Callable[[socket.socket, bytes], None]
"""Receives exactly the expected bytes, in its own way."""

CASE_SECONDS = 30
"""The time limit of a case, in an emulated machine under other load."""

# More might not fit into the buffers of both ends, and one process plays both.
_AT_ONCE = 16 * 1024


class CanaryError(Exception):
    """A case could not be played; the text has the reason."""


def send_bytes(sock: socket.socket, data: bytes) -> None:
    """Send with one plain call."""
    sock.sendall(data)


def receive_with(call: Callable[[socket.socket, int], bytes]) -> Receive:
    """Return a way to receive: ``call(sock, n)`` returns up to ``n`` bytes."""

    def receive_bytes(sock: socket.socket, data: bytes) -> None:
        got = b""
        while len(got) < len(data):
            part = call(sock, len(data) - len(got))
            if not part:
                raise CanaryError(f"the connection ended after {len(got)} of {len(data)} bytes")
            got += part
        if got != data:
            raise CanaryError("the bytes received differ from those sent")

    return receive_bytes


receive_bytes = receive_with(socket.socket.recv)
"""Receive with plain calls."""


@dataclass
class Scenario:
    """Plays the exchanges of one case and lists their messages in ``sent``."""

    token: str
    case: str
    directory: Path
    """For the files of a case; the doctor removes it."""

    prepared: Any = None
    """What the case opened before the profiler started."""

    pids: list[int] = field(default_factory=list)
    """The processes that the case started before the profiler."""

    sent: list[Sent] = field(default_factory=list)

    def request(self, number: int, size: int = BODY_SIZE) -> bytes:
        """Return the bytes of a request."""
        return message(self.token, self.case, REQUEST, number, size)

    def response(self, number: int, size: int = BODY_SIZE) -> bytes:
        """Return the bytes of a response."""
        return message(self.token, self.case, RESPONSE, number, size)

    def exchange(
        self,
        number: int,
        client: socket.socket,
        server: socket.socket,
        send: Send = send_bytes,
        receive: Receive = receive_bytes,
        size: int = BODY_SIZE,
    ) -> None:
        """Play a request and its response between two sockets of this process."""
        self.note(number, end_of(client), end_of(server), size)
        transfer(client, server, self.request(number, size), send, receive)
        transfer(server, client, self.response(number, size), send, receive)

    def ask(self, number: int, client: socket.socket) -> None:
        """Play the client's half of an exchange, if the server is another process."""
        send_bytes(client, self.request(number))
        receive_bytes(client, self.response(number))

    def answer(self, number: int, server: socket.socket) -> None:
        """Play the server's half."""
        receive_bytes(server, self.request(number))
        send_bytes(server, self.response(number))

    def note(self, number: int, client: End, server: End, size: int = BODY_SIZE) -> None:
        """Add an exchange that is about to be played to the list."""
        self.sent.append(Sent(REQUEST, number, size, client, server))
        self.sent.append(Sent(RESPONSE, number, size, server, client))


def transfer(
    source: socket.socket, target: socket.socket, data: bytes, send: Send, receive: Receive
) -> None:
    """Send and receive ``data``: one after the other, or concurrently if it is large."""
    if len(data) <= _AT_ONCE:
        send(source, data)
        receive(target, data)
        return
    with thread(lambda: send(source, data)):
        receive(target, data)


@contextmanager
def thread(work: Callable[[], None]) -> Iterator[None]:
    """Run ``work`` in a thread during the ``with`` block; the thread has ended after it."""
    errors: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:
            errors.append(error)

    running = threading.Thread(target=run, daemon=True)
    running.start()
    yield
    running.join()
    if errors:
        raise errors[0]


@contextmanager
def child(work: Callable[[], None]) -> Iterator[int]:
    """Run ``work`` in a forked process and yield its id; it has ended after the ``with`` block."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(CASE_SECONDS)
            work()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    _, status = os.waitpid(pid, 0)
    if status:
        raise CanaryError(f"its child process ended with status {status}")


def tcp_pair(
    address: str = "127.0.0.1", family: int = socket.AF_INET, protocol: int = 0
) -> tuple[socket.socket, socket.socket]:
    """Return the client's and the server's end of a new connection over loopback."""
    with listening(address, family, protocol) as listener:
        client = socket.socket(family, socket.SOCK_STREAM, protocol)
        client.connect(listener.getsockname())
        return client, listener.accept()[0]


def listening(
    address: Any = "127.0.0.1", family: int = socket.AF_INET, protocol: int = 0
) -> socket.socket:
    """Return a listening socket: on any port of an address, or on the name of a Unix socket."""
    listener = socket.socket(family, socket.SOCK_STREAM, protocol)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(address if family == socket.AF_UNIX else (address, 0))
    listener.listen()
    return listener


def wait_for(sock: socket.socket, event: int) -> None:
    """Wait for an event of poll(2), such as ``select.POLLIN``."""
    poll = select.poll()
    poll.register(sock, event)
    if not poll.poll(CASE_SECONDS * 1000):
        raise CanaryError(f"nothing happened within {CASE_SECONDS} s")


def end_of(sock: socket.socket, pid: int = 0) -> End:
    """Return what the profiler should report about a socket of ``pid``; 0 is the canary."""
    inode = os.fstat(sock.fileno()).st_ino
    netns = Path("/proc/self/ns/net").stat().st_ino
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        path = f"@{name[1:].decode()}" if isinstance(name, bytes) and name else name
        return End(pid, inode, netns, path=path or None)
    ip = ipaddress.ip_address(name[0])
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return End(pid, inode, netns, ip=str(mapped or ip), port=name[1])
