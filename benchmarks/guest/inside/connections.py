# SPDX-License-Identifier: Apache-2.0
"""Opens connections, sends one request on each, prints ``open``, and keeps them until stdin ends.

``python3 -m benchmarks.guest.inside.connections PORT NUMBER``
"""

from __future__ import annotations

import resource
import socket
import sys

REQUEST = b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n"


def main() -> None:
    """Open them one after the other."""
    port, number = map(int, sys.argv[1:])
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    kept = []
    for _ in range(number):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(REQUEST)
        if not connection.recv(4096).startswith(b"HTTP/1.1 200 "):
            sys.exit("connections: no answer")
        kept.append(connection)
    print("open", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
