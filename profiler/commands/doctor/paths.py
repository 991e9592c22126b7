# SPDX-License-Identifier: Apache-2.0
"""The ways bytes get into a socket and out of it, each a case over loopback TCP.

Most are a pair of calls, used for two exchanges on one connection. The others use their special way
for the first exchange and plain calls for the second one, which shows whether the stream is still
in step.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import socket
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Callable

from profiler.commands.doctor import linux, uring
from profiler.commands.doctor.scenario import (
    CanaryError,
    Receive,
    Scenario,
    Send,
    end_of,
    receive_bytes,
    receive_with,
    send_bytes,
    tcp_pair,
    thread,
    transfer,
    wait_for,
)
from profiler.commands.doctor.script import BODY_SIZE

LARGE_BODY = 100 * 1024
MANY_SEGMENTS = 100  # more than the 64 that a probe may walk
WRITERS = 4

Play = Callable[[Scenario], None]


def calls(send: Send, receive: Receive, protocol: int = 0) -> Play:
    """Two exchanges through a pair of calls."""

    def play(scenario: Scenario) -> None:
        client, server = tcp_pair(protocol=protocol)
        with client, server:
            scenario.exchange(1, client, server, send, receive)
            scenario.exchange(2, client, server, send, receive)

    return play


def first(send: Send = send_bytes, receive: Receive = receive_bytes, size: int = BODY_SIZE) -> Play:
    """One exchange with the given calls, and a plain one after it."""

    def play(scenario: Scenario) -> None:
        client, server = tcp_pair()
        with client, server:
            scenario.exchange(1, client, server, send, receive, size)
            scenario.exchange(2, client, server)

    return play


def split(data: bytes) -> tuple[bytes, bytes]:
    """Return head and body of a message."""
    head, blank, body = data.partition(b"\r\n\r\n")
    return head + blank, body


def _all_of(call: Callable[[socket.socket, bytes], int]) -> Send:
    def send(sock: socket.socket, data: bytes) -> None:
        while data:
            data = data[call(sock, data) :]

    return send


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def _into(
    segments: Callable[[int], Sequence[int]], call: Callable[[socket.socket, list[bytearray]], int]
) -> Receive:
    """Receive into several buffers; ``segments`` returns their sizes for a number of bytes."""

    def receive(sock: socket.socket, size: int) -> bytes:
        buffers = [bytearray(length) for length in segments(size)]
        count = call(sock, buffers)
        return b"".join(buffers)[:count]

    return receive_with(receive)


def _two(size: int) -> Sequence[int]:
    return 10, size


read_write = calls(
    _all_of(lambda sock, data: os.write(sock.fileno(), data)),
    receive_with(lambda sock, size: os.read(sock.fileno(), size)),
)
readv_writev = calls(
    _all_of(lambda sock, data: os.writev(sock.fileno(), _pieces(data, 20))),
    _into(_two, lambda sock, buffers: os.readv(sock.fileno(), buffers)),
)
# Offset -1: at the stream's own position (preadv2(2), Linux 4.6).
preadv2_pwritev2 = calls(
    _all_of(lambda sock, data: os.pwritev(sock.fileno(), _pieces(data, 20), -1)),
    _into(_two, lambda sock, buffers: os.preadv(sock.fileno(), buffers, -1)),
)
recvfrom_sendto = calls(send_bytes, receive_bytes)
recvmsg_sendmsg = calls(
    _all_of(lambda sock, data: sock.sendmsg(_pieces(data, 20))),
    _into(_two, lambda sock, buffers: sock.recvmsg_into(buffers)[0]),
)
recvmmsg_sendmmsg = calls(
    _all_of(lambda sock, data: linux.sendmmsg(sock, _pieces(data, 50))),
    receive_with(lambda sock, size: linux.recvmmsg(sock, [50, size])),
)
mptcp = calls(send_bytes, receive_bytes, linux.IPPROTO_MPTCP)


def _sendfile(sock: socket.socket, data: bytes) -> None:
    head, body = split(data)
    sock.sendall(head)
    file = os.memfd_create("canary")
    try:
        os.write(file, body)
        sent = 0
        while sent < len(body):
            sent += os.sendfile(sock.fileno(), file, sent, len(body) - sent)
    finally:
        os.close(file)


def _splice_in(sock: socket.socket, data: bytes) -> None:
    head, body = split(data)
    sock.sendall(head)
    with _pipe() as (source, target):
        left = os.write(target, body)
        while left:
            left -= linux.splice(source, sock.fileno(), left)


def _splice_out(sock: socket.socket, data: bytes) -> None:
    head, body = split(data)
    receive_bytes(sock, head)
    with _pipe() as (source, target):
        got = b""
        while len(got) < len(body):
            count = linux.splice(sock.fileno(), target, len(body) - len(got))
            if not count:
                raise CanaryError("splice reached the end of the connection")
            got += os.read(source, count)
    if got != body:
        raise CanaryError("other bytes arrived than were sent")


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[int, int]]:
    source, target = os.pipe()
    try:
        yield source, target
    finally:
        os.close(source)
        os.close(target)


sendfile = first(send=_sendfile)
splice_to_socket = first(send=_splice_in)
splice_from_socket = first(receive=_splice_out)


def io_uring(send: int, receive: int) -> Play:
    """The first exchange's receivers wait for data, the second one's find it there."""

    def play(scenario: Scenario) -> None:
        client, server = tcp_pair()
        with client, server, uring.Ring() as ring:
            scenario.note(1, end_of(client), end_of(server))
            for source, target, data in (
                (client, server, scenario.request(1)),
                (server, client, scenario.response(1)),
            ):
                buffer = ctypes.create_string_buffer(len(data))
                ring.submit(receive, target.fileno(), buffer)
                send_bytes(source, data)
                if buffer.raw[: ring.wait()] != data:
                    raise CanaryError("io_uring received different bytes from those sent")

            def send_all(sock: socket.socket, data: bytes) -> None:
                while data:
                    data = data[ring.send(send, sock.fileno(), data) :]

            def receive_some(sock: socket.socket, size: int) -> bytes:
                buffer = ctypes.create_string_buffer(size)
                ring.submit(receive, sock.fileno(), buffer)
                return buffer.raw[: ring.wait()]

            scenario.exchange(2, client, server, send_all, receive_with(receive_some))

    return play


io_uring_send_recv = io_uring(uring.SEND, uring.RECV)
io_uring_read_write = io_uring(uring.WRITE, uring.READ)


def _peek(sock: socket.socket, data: bytes) -> None:
    for _ in range(3):
        if not data.startswith(sock.recv(len(data), socket.MSG_PEEK)):
            raise CanaryError("MSG_PEEK returned different bytes from those sent")
    receive_bytes(sock, data)


def _discard(sock: socket.socket, data: bytes) -> None:
    head, body = split(data)
    seen = len(body) // 2
    receive_bytes(sock, head + body[:seen])
    left = len(body) - seen
    while left:
        # tcp(7): with MSG_TRUNC the bytes are discarded, not put into the buffer.
        left -= len(sock.recv(left, socket.MSG_TRUNC))


def _without_waiting(sock: socket.socket, data: bytes) -> None:
    sock.setblocking(False)
    try:
        for _ in range(2):
            with contextlib.suppress(BlockingIOError):
                sock.recv(len(data))
                raise CanaryError("there was unexpected data on an idle connection")
    finally:
        sock.setblocking(True)


peek = first(receive=_peek)
discard = first(receive=_discard)


def oob(scenario: Scenario) -> None:
    """A byte out of band before each message; it is not part of the stream (tcp(7))."""
    client, server = tcp_pair()
    with client, server:
        for number in (1, 2):
            for source, target in ((client, server), (server, client)):
                source.send(b"!", socket.MSG_OOB)
                wait_for(target, select.POLLPRI)
                if target.recv(1, socket.MSG_OOB) != b"!":
                    raise CanaryError("MSG_OOB returned a different byte from the one sent")
            scenario.exchange(number, client, server)


def eagain(scenario: Scenario) -> None:
    """Both ends read before there is data, and get EAGAIN."""
    client, server = tcp_pair()
    with client, server:
        for number in (1, 2):
            for end in (client, server):
                _without_waiting(end, b" " * 4096)
            scenario.exchange(number, client, server)


def _in_parts(sock: socket.socket, data: bytes) -> None:
    sock.setblocking(False)
    parts = 0
    try:
        while data:
            try:
                data = data[sock.send(data) :]
                parts += 1
            except BlockingIOError:
                wait_for(sock, select.POLLOUT)
    finally:
        sock.setblocking(True)
    if parts < 2:
        raise CanaryError("no write was partial: the socket's buffer took everything at once")


def partial_writes(scenario: Scenario) -> None:
    """Non-blocking calls that take a part of what they were given, or nothing."""
    client, server = tcp_pair()
    with client, server:
        for end in (client, server):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        scenario.exchange(1, client, server, send=_in_parts, size=LARGE_BODY)
        scenario.exchange(2, client, server)


def _with_empty_segments(sock: socket.socket, data: bytes) -> None:
    head, body = split(data)
    os.writev(sock.fileno(), [b"", b"", head[:3], b"", head[3:], b"", b"", body, b""])


empty_segments = calls(
    _with_empty_segments,
    _into(
        lambda size: (0, 0, 5, 0, size, 0),
        lambda sock, buffers: os.readv(sock.fileno(), buffers),
    ),
)


def _many_segments(sock: socket.socket, data: bytes) -> None:
    head, body = split(data)
    os.writev(sock.fileno(), [head, *_pieces(body, len(body) // MANY_SEGMENTS)])


many_segments = first(
    _many_segments,
    _into(
        lambda size: [200] + [10] * MANY_SEGMENTS,  # a head, and its body
        lambda sock, buffers: os.readv(sock.fileno(), buffers),
    ),
    size=10 * MANY_SEGMENTS,
)


def threads(scenario: Scenario) -> None:
    """Requests written by several threads at once to one socket, each in one call."""
    numbers = range(1, WRITERS + 1)
    client, server = tcp_pair()
    with client, server:
        for number in numbers:
            scenario.note(number, end_of(client), end_of(server))
        barrier = threading.Barrier(WRITERS, timeout=10)

        def write(data: bytes) -> None:
            barrier.wait()
            client.sendall(data)

        with contextlib.ExitStack() as writers:
            for number in numbers:
                writers.enter_context(thread(partial(write, scenario.request(number))))
        expected = {scenario.request(number): number for number in numbers}
        size = len(scenario.request(1))
        for _ in numbers:
            got = server.recv(size, socket.MSG_WAITALL)
            number = expected.pop(got, 0)
            if not number:
                raise CanaryError("the requests of several threads were mixed up on the wire")
            transfer(server, client, scenario.response(number), send_bytes, receive_bytes)
        scenario.exchange(WRITERS + 1, client, server)


def _zerocopy(sock: socket.socket, data: bytes) -> None:
    sock.setsockopt(socket.SOL_SOCKET, linux.SO_ZEROCOPY, 1)
    left = data
    while left:
        left = left[sock.send(left, linux.MSG_ZEROCOPY) :]


def zerocopy(scenario: Scenario) -> None:
    """Sent from the caller's own pages; the kernel reports completion on the error queue."""
    client, server = tcp_pair()
    with client, server:
        for number in (1, 2):
            scenario.exchange(number, client, server, send=_zerocopy, size=8192)
            for end in (client, server):
                wait_for(end, select.POLLERR)
                end.recvmsg(1, 256, socket.MSG_ERRQUEUE)


def load_tls(scenario: Scenario) -> None:
    """Make the kernel load its TLS module, which the profiler checks for ten times a second."""
    client, server = tcp_pair()
    with client, server:
        linux.start_tls(client)


def ktls(scenario: Scenario) -> None:
    """TLS in the kernel: the calls move plain text."""
    client, server = tcp_pair()
    with client, server:
        for end in (client, server):
            linux.start_tls(end)
        for number in (1, 2):
            scenario.exchange(number, client, server)


def bytewise(scenario: Scenario) -> None:
    """Sent and received one byte at a time."""
    client, server = tcp_pair()
    with client, server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        scenario.exchange(
            1, client, server, _byte_by_byte, receive_with(lambda sock, _: sock.recv(1))
        )
        scenario.exchange(2, client, server)


def _byte_by_byte(sock: socket.socket, data: bytes) -> None:
    for i in range(len(data)):
        sock.send(data[i : i + 1])


large_body = first(size=LARGE_BODY)
