# SPDX-License-Identifier: Apache-2.0
"""A response and its request: the id they share, and the time between them."""

from __future__ import annotations

from typing import Any

from profiler.ingest.record import record_of
from profiler.ingest.wire import Chunk, End
from tests.unit.messages import read
from tests.unit.wires import Wire

GET = b"GET /a HTTP/1.1\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MS = 1_000_000
PARTS = "exchange", "request", "latency_ms", "duration_ms"


def exchanges(*items: Chunk | End) -> list[dict[str, Any]]:
    """Return the exchange fields of the records of ``items``."""
    lines = [record_of(message, None, None, 0, 1000, {}) for message in read(*items)]
    return [{name: line[name] for name in PARTS if name in line} for line in lines]


def test_a_response_refers_to_its_request() -> None:
    wire = Wire(socket=77)
    assert exchanges(
        wire.send(GET, time=1000 * MS),
        wire.recv(OK[:-1], time=1003 * MS),
        wire.recv(b"k", time=1004 * MS + 5),
    ) == [
        {"exchange": "77-1"},
        {
            "exchange": "77-1",
            "request": {"method": "GET", "url": "/a"},
            "latency_ms": 3.0,
            "duration_ms": 4.000005,
        },
    ]


def test_the_time_runs_from_the_first_byte_of_a_request_to_the_last_of_its_response() -> None:
    wire = Wire()
    _, answered = exchanges(
        wire.send(POST[:3], time=1 * MS),
        wire.send(POST[3:], time=9 * MS),
        wire.recv(OK, time=10 * MS),
    )
    assert (answered["latency_ms"], answered["duration_ms"]) == (9.0, 9.0)


def test_pipelined_exchanges_are_paired_first_in_first_out() -> None:
    wire = Wire(socket=5)
    found = exchanges(wire.recv(GET + POST), wire.send(OK), wire.send(OK))
    assert [each["exchange"] for each in found] == ["5-1", "5-2", "5-1", "5-2"]
    assert [each["request"]["method"] for each in found[2:]] == ["GET", "POST"]


def test_a_response_that_completes_before_its_request() -> None:
    wire = Wire(socket=5)
    answered, asked = exchanges(wire.send(POST[:-1]), wire.recv(OK), wire.send(POST[-1:]))
    assert asked == {"exchange": "5-1"}
    assert (answered["exchange"], answered["request"]["url"]) == ("5-1", "/b")


def test_an_interim_response_belongs_to_the_exchange() -> None:
    wire = Wire(socket=5)
    found = exchanges(wire.send(GET), wire.recv(b"HTTP/1.1 103 E\r\n\r\n"), wire.recv(OK))
    assert [each["exchange"] for each in found] == ["5-1"] * 3


def test_sockets_have_ids_of_their_own() -> None:
    client, server = Wire(socket=1), Wire(socket=2)
    found = exchanges(client.send(GET), server.recv(GET), server.send(OK), client.recv(OK))
    assert [each["exchange"] for each in found] == ["1-1", "2-1", "2-1", "1-1"]


def test_a_response_without_its_request_has_no_exchange() -> None:
    assert exchanges(Wire().recv(OK)) == [{}]


def test_a_request_cut_off_by_the_end_of_the_capture_has_one() -> None:
    assert exchanges(Wire(socket=5).send(POST[:-1])) == [{"exchange": "5-1"}]
