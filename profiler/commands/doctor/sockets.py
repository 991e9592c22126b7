# SPDX-License-Identifier: Apache-2.0
"""The kinds of sockets, and of processes that hold them, each a case with two exchanges.

The calls are plain ones. The cases differ in the process that holds the socket, and in how it got
it.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from functools import partial
from typing import Callable

from profiler.commands.doctor import linux
from profiler.commands.doctor.scenario import (
    CASE_SECONDS,
    CanaryError,
    Scenario,
    child,
    end_of,
    listening,
    receive_bytes,
    send_bytes,
    tcp_pair,
    thread,
)
from profiler.commands.doctor.script import End

Pair = tuple[socket.socket, socket.socket]

NUMBERS = (1, 2)

# Sends requests over an inherited descriptor. Arguments: pairs of a request in hexadecimal and the
# # response's size.
_ASKER = """
import os, sys
fd = int(sys.argv[1])
for request, size in zip(sys.argv[2::2], sys.argv[3::2]):
    os.write(fd, bytes.fromhex(request))
    left = int(size)
    while left:
        left -= len(os.read(fd, left)) or sys.exit(1)
"""


def over(make: Callable[[], Pair]) -> Callable[[Scenario], None]:
    """Two exchanges over a pair of sockets."""

    def play(scenario: Scenario) -> None:
        client, server = make()
        with client, server:
            for number in NUMBERS:
                scenario.exchange(number, client, server)

    return play


ipv4 = over(tcp_pair)
ipv6 = over(partial(tcp_pair, "::1", socket.AF_INET6))
mapped = over(partial(tcp_pair, "::ffff:127.0.0.1", socket.AF_INET6))
unix_pair = over(socket.socketpair)


def _unix(name: str | bytes) -> Pair:
    with listening(name, socket.AF_UNIX) as listener:
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(name)
        return client, listener.accept()[0]


def unix_path(scenario: Scenario) -> None:
    """Bound to a path in the file system."""
    with tempfile.TemporaryDirectory(prefix="http-profiler-") as directory:
        over(partial(_unix, f"{directory}/canary"))(scenario)


def unix_abstract(scenario: Scenario) -> None:
    """Bound to a name in the abstract namespace (unix(7))."""
    over(partial(_unix, f"\0canary-{scenario.token}".encode()))(scenario)


def open_idle(scenario: Scenario) -> Pair:
    """Open a connection, before the profiler starts, that carries one exchange and then waits."""
    client, server = tcp_pair()
    for source, target, data in (
        (client, server, scenario.request(0)),
        (server, client, scenario.response(0)),
    ):
        send_bytes(source, data)
        receive_bytes(target, data)
    return client, server


def before_idle(scenario: Scenario) -> None:
    """Opened before the profiler started, both ends idle."""
    client, server = scenario.prepared
    with client, server:
        for number in NUMBERS:
            scenario.exchange(number, client, server)


def open_waiting(scenario: Scenario) -> tuple[socket.socket, socket.socket, ExitStack]:
    """Open a connection, before the profiler starts, whose server waits in recv."""
    client, server = tcp_pair()

    def serve() -> None:
        for number in NUMBERS:
            scenario.answer(number, server)

    serving = ExitStack()
    serving.enter_context(thread(serve))
    return client, server, serving


def before_waiting(scenario: Scenario) -> None:
    """Opened before the profiler started, the server waiting in recv since then."""
    client, server, serving = scenario.prepared
    with client, server, serving:
        for number in NUMBERS:
            scenario.note(number, end_of(client), end_of(server))
            scenario.ask(number, client)


def _ask_all(scenario: Scenario, client: socket.socket) -> None:
    for number in NUMBERS:
        scenario.ask(number, client)


def _answer_all(scenario: Scenario, client: End, server: socket.socket) -> None:
    for number in NUMBERS:
        scenario.note(number, client, end_of(server))
        scenario.answer(number, server)


def fork(scenario: Scenario) -> None:
    """The client's descriptor is inherited over fork."""
    client, server = tcp_pair()
    with client, server, child(partial(_ask_all, scenario, client)) as pid:
        _answer_all(scenario, end_of(client, pid), server)


def fork_exec(scenario: Scenario) -> None:
    """The client's descriptor is inherited over fork and exec."""
    client, server = tcp_pair()
    words = [
        word
        for number in NUMBERS
        for word in (scenario.request(number).hex(), str(len(scenario.response(number))))
    ]
    with client, server:
        fd = client.fileno()
        command = [sys.executable, "-I", "-S", "-c", _ASKER, str(fd), *words]
        with subprocess.Popen(command, pass_fds=[fd]) as client_process:
            try:
                _answer_all(scenario, end_of(client, client_process.pid), server)
                if client_process.wait(CASE_SECONDS):
                    raise CanaryError("the program that sends the requests failed")
            except BaseException:
                client_process.kill()
                raise


def dup(scenario: Scenario) -> None:
    """The second exchange uses duplicates, after the originals were closed."""
    client, server = tcp_pair()
    with client, server:
        scenario.exchange(1, client, server)
        with client.dup() as other_client, server.dup() as other_server:
            client.close()
            server.close()
            scenario.exchange(2, other_client, other_server)


def passed(scenario: Scenario) -> None:
    """The client's descriptor is passed to another process (SCM_RIGHTS, unix(7))."""
    here, there = socket.socketpair()

    def receive_and_ask() -> None:
        _, descriptors, _, _ = socket.recv_fds(there, 1, 1)
        with socket.socket(fileno=descriptors[0]) as client:
            _ask_all(scenario, client)

    # Forked before the connection exists, so it cannot inherit it.
    with here, there, child(receive_and_ask) as pid:
        client, server = tcp_pair()
        with client, server:
            socket.send_fds(here, [b"x"], [client.fileno()])
            _answer_all(scenario, end_of(client, pid), server)


def reused(scenario: Scenario) -> None:
    """The second exchange uses another connection, with the descriptor numbers of the first."""
    ends, others = tcp_pair(), tcp_pair()
    with ends[0], ends[1], others[0], others[1]:
        scenario.exchange(1, *ends)
        for end, other in zip(ends, others):
            # dup2(2) closes the first connection and gives its number to the second.
            os.dup2(other.fileno(), end.fileno(), inheritable=False)
            other.close()
        scenario.exchange(2, *ends)


def netns(scenario: Scenario) -> None:
    """A process in another network namespace."""
    with linux.namespace(linux.CLONE_NEWNET, "net"):
        linux.raise_loopback()
        ipv4(scenario)


def pidns(scenario: Scenario) -> None:
    """The client is process 1 of another pid namespace."""
    client, server = tcp_pair()
    asking = partial(_ask_all, scenario, client)
    with client, server, linux.namespace(linux.CLONE_NEWPID, "pid"), child(asking) as pid:
        _answer_all(scenario, end_of(client, pid), server)


def gone(scenario: Scenario) -> None:
    """A process that connects, sends requests and ends, all before its lines are written."""
    source, target = os.pipe()
    with (
        listening() as listener,
        os.fdopen(source, "rb") as facts,
        os.fdopen(target, "wb") as report,
    ):

        def connect_and_ask() -> None:
            with socket.create_connection(listener.getsockname()) as client:
                report.write(json.dumps(vars(end_of(client))).encode() + b"\n")
                report.flush()
                _ask_all(scenario, client)

        with child(connect_and_ask) as pid, listener.accept()[0] as server:
            client = End(**{**json.loads(facts.readline()), "pid": pid})
            _answer_all(scenario, client, server)
