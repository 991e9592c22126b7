# SPDX-License-Identifier: Apache-2.0
"""Probes that come and go, their targets, and what they leave: ``harm.py FUNCTION ARGUMENT...``.

Runs with the profiler's Python. What attaches runs as root.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CERTIFICATE, KEY = "/tmp/tls/certificate.pem", "/tmp/tls/key.pem"
# include/seccomp.h of libseccomp 2.x
KILL_PROCESS, ALLOW = 0x80000000, 0x7FFF0000
CALLS = (
    *("read", "write", "sendto", "recvfrom", "brk", "mmap", "munmap", "mremap", "madvise"),
    *("futex", "rt_sigreturn", "rt_sigprocmask", "getrandom", "exit_group"),
)


def changed(pid: int) -> int:
    """Return how many bytes of a process's code differ from the files that it has mapped."""
    process = Path(f"/proc/{pid}")
    number = 0
    with (process / "mem").open("rb", buffering=0) as memory:
        for line in (process / "maps").read_text().splitlines():
            area, permissions, offset, _, inode, *_ = line.split()
            if permissions != "r-xp" or inode == "0":
                continue
            start, stop = (int(address, 16) for address in area.split("-"))
            with (process / "map_files" / f"{start:x}-{stop:x}").open("rb") as file:
                file.seek(int(offset, 16))
                wanted = file.read(stop - start)
            memory.seek(start)
            # After the file's end a page has zeros.
            found = memory.read(len(wanted))
            number += sum(a != b for a, b in zip(wanted, found)) if wanted != found else 0
    return number


def breakpoints(*pids: str) -> None:
    """Print how many bytes of code are changed in each process."""
    print(json.dumps([changed(int(pid)) for pid in pids]))


def attach_repeatedly(count: str, *pids: str) -> None:
    """Attach the probe's programs to all libraries, and detach them, ``count`` times."""
    from profiler.ingest.probe import libraries
    from profiler.ingest.probe.bcc import BccEngine
    from profiler.ingest.probe.load import attach_to_file
    from profiler.ingest.settings import Settings

    points: list[tuple[int, int, int]] = []

    class Points(libraries.Probes):
        """Notes what would be attached where."""

        def _attach(self, identity, functions) -> bool:
            file = os.dup(self._opened[tuple(identity)])
            points.extend((program, file, offset) for program, offset in self._points(functions))
            return True

    libraries.Probes = Points
    during = []
    with BccEngine(Settings(tls=True)) as engine, ThreadPoolExecutor(64) as pool:
        engine.discover()
        for number in range(int(count)):
            attached = [attach_to_file(*point) for point in points]
            if number == 0:
                during = [changed(int(pid)) for pid in pids]
            # Each waits for all CPUs; side by side they wait once.
            list(pool.map(os.close, attached))
        after = [changed(int(pid)) for pid in pids]
    print(json.dumps({"points": len(points), "during": during, "after": after}))


def exchange_in_seccomp() -> None:
    """Exchange messages with itself until standard input ends, then print their number.

    Every system call that is not listed kills the process.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    sockets = socket.socketpair()
    for each in sockets:
        each.setblocking(False)
    server = context.wrap_socket(sockets[0], server_side=True, do_handshake_on_connect=False)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    trusting.check_hostname = False
    client = trusting.wrap_socket(sockets[1], do_handshake_on_connect=False)
    for _ in range(4):
        for each in (client, server):
            with contextlib.suppress(ssl.SSLWantReadError):
                each.do_handshake()
    os.set_blocking(0, False)
    message = b"GET /seccomp HTTP/1.1\r\nHost: here\r\n\r\n"
    number = 0
    print(os.getpid(), flush=True)
    _only(CALLS)
    while True:
        try:
            if not os.read(0, 1):
                break
        except BlockingIOError:
            pass
        client.write(message)
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                if server.read(100) != message:
                    os._exit(1)
                break
        number += 1
    os.write(1, b"%d\n" % number)
    os._exit(0)


def _only(names: tuple[str, ...]) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(KILL_PROCESS)))
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        library.seccomp_rule_add_array(context, ctypes.c_uint32(ALLOW), number, 0, None)
    if library.seccomp_load(context):
        raise SystemExit("the kernel refuses the filter")


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
