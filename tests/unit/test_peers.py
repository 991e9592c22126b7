# SPDX-License-Identifier: Apache-2.0
"""The process at the other end of a connection."""

from __future__ import annotations

from typing import Any

import pytest

from profiler.ingest import peers as module
from profiler.ingest.containers import Workload
from profiler.ingest.peers import Peers
from profiler.ingest.process import Identity
from profiler.ingest.wire import AF_UNIX, RECV, SEND, TLS_STREAM, Chunk
from tests.unit.wires import chunk

SHOP: Any = {"container": {"id": "a"}, "pod": {"uid": "b"}, "service": "shop"}
CLIENT, SERVER = 1, 2
ASKING, ANSWERING = 1000, 2000


def origin(socket: int, direction: int, sequence: int, **more: Any) -> Chunk:
    return chunk(socket=socket, direction=direction, pid=socket * 10, sequence=sequence, **more)


class Talk:
    """Messages of both ends of connections, and what each learns of the other."""

    def __init__(self) -> None:
        self.peers = Peers()

    def move(
        self, moved: Chunk, is_client: bool, connection: str | None = "1:a", workload: Any = None
    ) -> Any:
        process = Identity(None, 0, None, Workload(workload) if workload else None)
        if not self.peers.has_met(moved):
            self.peers.meet(moved, connection, is_client, "comm", process)
        other = self.peers.other(moved.socket)
        return other.fields if other else None

    def ask(self, sequence: int = ASKING, **more: Any) -> tuple[Any, Any]:
        return (
            self.move(origin(CLIENT, SEND, sequence), True, **more),
            self.move(origin(SERVER, RECV, sequence), False, workload=SHOP, **more),
        )

    def answer(self, **more: Any) -> tuple[Any, Any]:
        return (
            self.move(origin(SERVER, SEND, ANSWERING), False, **more),
            self.move(origin(CLIENT, RECV, ANSWERING), True, **more),
        )


OF_CLIENT = {"process": {"pid": 10, "comm": "comm"}}
OF_SERVER = {**SHOP, "process": {"pid": 20, "comm": "comm"}}


def test_only_the_first_request_as_its_client_sent_it_has_no_peer() -> None:
    talk = Talk()
    assert talk.ask() == (None, OF_CLIENT)
    assert talk.answer() == (OF_CLIENT, OF_SERVER)
    assert talk.ask() == (OF_SERVER, OF_CLIENT)


def test_a_connection_that_is_joined_at_its_answer() -> None:
    talk = Talk()
    talk.move(origin(CLIENT, SEND, 5), True)  # The server's end was seen from another byte on.
    assert talk.move(origin(SERVER, RECV, 6), False) is None
    assert talk.answer() == (None, {"process": {"pid": 20, "comm": "comm"}})


def test_a_socket_is_not_its_own_peer() -> None:
    talk = Talk()
    assert talk.move(origin(CLIENT, SEND, 5), True) is None
    assert talk.move(origin(CLIENT, RECV, 5), True) is None


def test_equal_addresses_in_two_network_namespaces() -> None:
    talk = Talk()
    talk.ask()
    others = origin(3, SEND, 3000), origin(4, RECV, 3000)
    assert talk.move(others[0], True) is None
    assert talk.move(others[1], False) == {"process": {"pid": 30, "comm": "comm"}}


@pytest.mark.parametrize(
    ("sequence", "connection"), [(0, "1:a"), (ASKING, None)], ids=["sequence", "connection"]
)
def test_what_does_not_identify_a_direction(sequence: int, connection: str | None) -> None:
    assert Talk().ask(sequence, connection=connection) == (None, None)


def of_tls(socket: int, direction: int) -> Chunk:
    """What has no sequence number."""
    return chunk(socket=TLS_STREAM | socket, direction=direction, pid=socket * 10, sequence=0)


def test_tls_in_a_library() -> None:
    talk = Talk()
    assert talk.move(of_tls(CLIENT, SEND), True) is None
    assert talk.move(of_tls(SERVER, RECV), False) == OF_CLIENT
    assert talk.move(of_tls(CLIENT, RECV), True) == {"process": {"pid": 20, "comm": "comm"}}


def test_tls_without_evidence_of_the_addresses() -> None:
    talk = Talk()
    assert talk.move(of_tls(CLIENT, SEND), True, connection=None) is None
    assert talk.move(of_tls(SERVER, RECV), False, connection=None) is None


def test_a_client_that_uses_a_port_again_is_not_its_own_peer() -> None:
    talk = Talk()
    # The server is on another machine.
    assert talk.move(of_tls(CLIENT, SEND), True) is None
    assert talk.move(of_tls(3, SEND), True) is None
    # And then on this one.
    assert talk.move(of_tls(SERVER, RECV), False) == {"process": {"pid": 30, "comm": "comm"}}
    assert talk.peers.other(TLS_STREAM | CLIENT) is None


def test_a_unix_socket() -> None:
    talk = Talk()
    asked = (
        talk.move(origin(CLIENT, SEND, 0, family=AF_UNIX), True, "unix:1"),
        talk.move(origin(SERVER, RECV, 0, family=AF_UNIX), False, "unix:1"),
    )
    assert asked == (None, OF_CLIENT)
    assert talk.move(origin(3, RECV, 0, family=AF_UNIX), False, "unix:9") is None


def test_nothing_is_learnt_at_the_end() -> None:
    talk = Talk()
    talk.ask()
    talk.peers.freeze()
    assert talk.answer() == (OF_CLIENT, OF_SERVER)
    assert talk.move(origin(3, SEND, 7), True) is None
    assert talk.move(origin(4, RECV, 7), False) is None


def test_a_forgotten_socket_is_not_its_own_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    talk = Talk()
    talk.move(origin(CLIENT, SEND, ASKING), True)
    for socket in (3, 4):
        talk.move(origin(socket, SEND, 0), True)
    assert talk.move(origin(CLIENT, SEND, ASKING), True) is None
    assert talk.ask() == (None, OF_CLIENT)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 10)
    talk = Talk()
    talk.ask()
    for socket in range(100, 109):
        talk.move(origin(socket, SEND, socket), True)
    assert talk.ask() == (None, OF_CLIENT)
    for socket in range(200, 300):
        talk.move(origin(socket, SEND, socket), True)
    assert len(talk.peers._sockets) == len(talk.peers._waiting) == 10
