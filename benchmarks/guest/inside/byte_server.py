# SPDX-License-Identifier: Apache-2.0
"""An HTTP server that receives one byte at a time.

``python3 -m benchmarks.guest.inside.byte_server PORT``
"""

from __future__ import annotations

import socket
import sys

BODY = b'{"received":"one byte at a time"}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: keep-alive\r\n"
    b"Content-Length: %d\r\n\r\n%b" % (len(BODY), BODY)
)


def serve(connection: socket.socket) -> None:
    """Answer requests without a body until the client closes."""
    head = bytearray()
    while byte := connection.recv(1):
        head += byte
        if head.endswith(b"\r\n\r\n"):
            connection.sendall(ANSWER)
            head.clear()


def main() -> None:
    """Serve one connection after the other."""
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        while True:
            with listener.accept()[0] as connection:
                serve(connection)


if __name__ == "__main__":
    main()
