# SPDX-License-Identifier: Apache-2.0
"""Traffic that fills the probe's table of connections, or its ring; runs in the guest.

``python3 table_traffic.py SCENARIO TOKEN [NUMBER ...]``. The process is both ends of all
connections, so nothing is left of them when it ends.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import sys

NOISE = b"\x16\x03\x01\0"


class Ends:
    """Makes connected pairs of sockets."""

    def __init__(self, family, address):
        self.listener = socket.socket(family, socket.SOCK_STREAM)
        self.listener.bind(address)
        self.listener.listen(64)

    def pair(self):
        client = socket.socket(self.listener.family, socket.SOCK_STREAM)
        client.connect(self.listener.getsockname())
        return client, self.listener.accept()[0]


def close(ends):
    """Close both ends. TCP resets, so that no port remains in use."""
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()


def move(sender, receiver, data):
    sender.sendall(data)
    left = len(data)
    while left:
        left -= len(receiver.recv(left))


def noise(client, server):
    """Move bytes in both directions that are not HTTP."""
    move(client, server, NOISE)
    move(server, client, NOISE)


def ask(client, server, path):
    move(client, server, b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path)


def answer(client, server, path):
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(path)
    move(server, client, head + path)


def exchange(client, server, path):
    ask(client, server, path)
    answer(client, server, path)


def fill(places):
    """Return open sockets of another protocol that together have all places of their own."""
    # Each processor counts inodes separately, in batches.
    os.sched_setaffinity(0, {0})
    taken, opened = set(), []
    while len(taken) < places and len(opened) < 2 * places:
        ends = socket.socketpair()
        noise(*ends)
        opened += ends
        taken |= {os.fstat(end.fileno()).st_ino % places for end in ends}
    return opened


def table(token, places, waiting, staying, passing, every):
    """Let connections wait for their second answer while others come.

    ``places`` sockets stay open, so that all the others need a place elsewhere. Then
    ``staying`` pairs of another protocol are opened. ``passing`` connections follow, one after
    the other; every ``every``-th carries an exchange.
    """
    opened = fill(places)
    tcp = Ends(socket.AF_INET, ("127.0.0.1", 0))
    unix = Ends(socket.AF_UNIX, f"\0{token}")
    kept = [(unix if number % 2 else tcp).pair() for number in range(waiting)]
    for number, ends in enumerate(kept):
        exchange(*ends, b"/%s/before/%d" % (token.encode(), number))
        ask(*ends, b"/%s/waiting/%d" % (token.encode(), number))
    for _ in range(staying):
        opened += socket.socketpair()
        noise(*opened[-2:])
    for number in range(passing):
        ends = tcp.pair()
        if number % every:
            noise(*ends)
        else:
            exchange(*ends, b"/%s/passing/%d" % (token.encode(), number))
        close(ends)
    for number, ends in enumerate(kept):
        answer(*ends, b"/%s/waiting/%d" % (token.encode(), number))
    return opened


def share(token, kind, exchanges, floods):
    """Make exchanges, each on its own connection, while ``floods`` others are flooded."""
    tcp = Ends(socket.AF_INET, ("127.0.0.1", 0))
    flooded = [tcp.pair() for _ in range(floods)]
    begun, begin = os.pipe()
    processes = []
    for send in (True, False):
        process = os.fork()
        if not process:
            try:
                flood(flooded, kind, send, begin)
            finally:
                os._exit(0)
        processes.append(process)
    os.read(begun, 1)
    try:
        for number in range(exchanges):
            ends = tcp.pair()
            exchange(*ends, b"/%s/%d" % (token.encode(), number))
            close(ends)
    finally:
        for process in processes:
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)


# Records that overflow a small ring, and a bound in case nobody ends the flood.
FILLING, FLOOD_MAX = 20_000, 5_000_000


def flood(flooded, kind, send, begin):
    """Send one small piece after the other on each connection in turn, or receive them."""
    turns = range(FLOOD_MAX // len(flooded))
    if not send:
        for number in turns:
            for _, server in flooded:
                server.recv(1 if kind == "bytes" else 100)
            if number == FILLING // len(flooded):
                os.write(begin, b".")
        return
    for client, _ in flooded:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if kind == "bytes":
            client.sendall(
                b"POST /flood HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n"
            )
        else:
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0))
    for number in turns:
        if kind == "bytes":
            piece = b"x"
        else:
            # RFC 7541, appendix A: GET, http, /; then the authority x.
            opening = frame(1, 5, 2 * number + 1, b"\x82\x86\x84\x41\x01x")
            piece = opening + frame(3, 0, 2 * number + 1, struct.pack(">I", 8))
        for client, _ in flooded:
            client.send(piece)


def frame(kind, flags, stream, payload=b""):
    """RFC 9113, 4.1."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    scenario, token, *arguments = sys.argv[1:]
    if scenario == "table":
        table(token, *map(int, arguments))
    else:
        share(token, arguments[0], *map(int, arguments[1:]))
