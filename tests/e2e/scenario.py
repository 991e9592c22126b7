# SPDX-License-Identifier: Apache-2.0
"""Real software at both ends: starts servers in a guest, and compares the lines of both ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture
from tests.e2e.test_capture import url_of

# What both ends of a message have in common.
COMMON = ("raw_payload", "headers", "body", "connection", "sequence", "bytes")


@dataclass
class Scenario:
    """The servers are up, and the profiler is capturing."""

    guest: Guest
    capture: Capture
    has_tls: bool = False
    """Whether all that is sent is encrypted."""

    def lines(self, url: str, count: int = 4) -> dict[tuple[str, str], list[Record]]:
        """Wait for ``count`` lines about ``url``, all whole: (type, role) -> records."""
        lines = self.capture.wait_for(lambda record: url_of(record) == url, count)
        assert len(lines) == count
        found: dict[tuple[str, str], list[Record]] = {}
        for line in lines:
            assert ("tls" in line) == self.has_tls
            assert "incomplete" not in line, line
            found.setdefault((line["type"], line["role"]), []).append(line)
        return found

    def exchange(self, command: str, url: str, port: int) -> tuple[Record, Record]:
        """Run a client that sends one request to ``port`` of 127.0.0.1.

        Return request and response, which are equal at both ends.
        """
        self.guest.exec(command, timeout=120)
        records = self.lines(url)
        both = []
        for kind in ("request", "response"):
            (client,), (server,) = records[kind, "client"], records[kind, "server"]
            check_ends(client, server, port)
            both.append(client)
        return both[0], both[1]


def check_ends(client: Record, server: Record, port: int) -> None:
    """Both lines are of one message that a client and a server at ``port`` exchanged."""
    for key in COMMON:
        assert client[key] == server[key], key
    assert client["pid"] != server["pid"]
    assert client["socket"] != server["socket"]
    addresses = [f"{end}_{part}" for end in ("source", "dest") for part in ("ip", "port")]
    assert [client[key] for key in addresses] == [server[key] for key in addresses]
    end = "dest" if client["type"] == "request" else "source"
    assert (client[f"{end}_ip"], client[f"{end}_port"]) == ("127.0.0.1", port)


@contextmanager
def serving(guest: Guest, servers: Mapping[str, Sequence[int]]) -> Iterator[None]:
    """Run commands until the block ends; begin it when all their ports are open."""
    with ExitStack() as running:
        for command in servers:
            running.enter_context(guest.popen(command, stdout=None, stderr=None))
        ports = [port for each in servers.values() for port in each]
        opened = " && ".join(f"ss -Hltn sport = :{port} | grep -q ." for port in ports)
        guest.exec(f"timeout 120 sh -c 'until {opened}; do sleep 0.2; done'", timeout=150)
        yield
