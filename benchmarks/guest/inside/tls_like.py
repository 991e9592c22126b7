# SPDX-License-Identifier: Apache-2.0
"""Traffic that looks like TLS: records of a type, a version, a length, and noise.

``python3 -m benchmarks.guest.inside.tls_like server PORT``, ``... client PORT EXCHANGES``.
"""

from __future__ import annotations

import random
import socket
import struct
import sys

APPLICATION_DATA, TLS_1_2 = 23, 0x0303  # RFC 8446, section 5.1
REQUEST, RESPONSE = 1024, 4096
HEADER = struct.Struct("!BHH")


def record(length: int) -> bytes:
    """Return a record with ``length`` bytes of noise, the same each time."""
    return HEADER.pack(APPLICATION_DATA, TLS_1_2, length) + random.Random(1).randbytes(length)


def receive(connection: socket.socket, size: int) -> bool:
    """Receive that many bytes; return whether they arrived."""
    while size:
        received = len(connection.recv(size))
        if not received:
            return False
        size -= received
    return True


def serve(port: int) -> None:
    """Answer a record with a record, one connection after the other."""
    answer = record(RESPONSE)
    with socket.create_server(("127.0.0.1", port)) as listener:
        while True:
            with listener.accept()[0] as connection:
                while receive(connection, HEADER.size + REQUEST):
                    connection.sendall(answer)


def ask(port: int, exchanges: int) -> None:
    """Send a record and wait for the answer, that many times."""
    question = record(REQUEST)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(exchanges):
            connection.sendall(question)
            if not receive(connection, HEADER.size + RESPONSE):
                sys.exit("tls_like: the server closed")


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[2:]]
    {"server": serve, "client": ask}[sys.argv[1]](*numbers)
