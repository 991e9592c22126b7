from __future__ import annotations

from profiler.ingest.exchange import Exchange, exchange_of
from profiler.ingest.http import Request
from profiler.ingest.wire import RECV, SEND
from tests.unit.messages import read, response
from tests.unit.wires import Wire

GET = b"GET /a HTTP/1.1\r\n\r\n"
POST = b"POST /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
MS = 1_000_000


def test_a_response_has_the_id_of_its_request_and_tells_of_it() -> None:
    wire = Wire(socket=77)
    asked, answered = read(
        wire.send(GET, time=1000 * MS),
        wire.recv(OK[:-1], time=1003 * MS),
        wire.recv(b"k", time=1004 * MS + 5),
    )
    assert exchange_of(asked) == Exchange("77-1", None, None, None)
    assert exchange_of(answered) == Exchange(
        "77-1", Request(1, "GET", "/a", 1000 * MS), 3.0, 4.000005
    )


def test_the_time_runs_from_the_first_byte_of_a_request_to_the_last_of_its_response() -> None:
    wire = Wire()
    _, answered = read(
        wire.send(POST[:3], time=1 * MS),
        wire.send(POST[3:], time=9 * MS),
        wire.recv(OK, time=10 * MS),
    )
    exchange = exchange_of(answered)
    assert exchange is not None
    assert (exchange.latency_ms, exchange.duration_ms) == (9.0, 9.0)


def test_pipelined_exchanges_are_paired_first_in_first_out() -> None:
    wire = Wire(socket=5)
    found = read(wire.recv(GET + POST), wire.send(OK), wire.send(OK))
    exchanges = [exchange_of(message) for message in found]
    assert [e and e.id for e in exchanges] == ["5-1", "5-2", "5-1", "5-2"]
    assert [e and e.request and e.request.method for e in exchanges] == [None, None, "GET", "POST"]


def test_a_response_that_completes_before_its_request() -> None:
    wire = Wire(socket=5)
    answered, asked = read(wire.send(POST[:-1]), wire.recv(OK), wire.send(POST[-1:]))
    assert [m.head.type for m in (answered, asked)] == ["response", "request"]
    first, second = exchange_of(answered), exchange_of(asked)
    assert first is not None
    assert second is not None
    assert first.id == second.id == "5-1"
    assert first.request is not None
    assert first.request.target == "/b"


def test_an_interim_response_belongs_to_the_exchange() -> None:
    wire = Wire(socket=5)
    found = read(wire.send(GET), wire.recv(b"HTTP/1.1 103 E\r\n\r\n"), wire.recv(OK))
    assert [getattr(exchange_of(m), "id", None) for m in found] == ["5-1"] * 3


def test_sockets_have_ids_of_their_own() -> None:
    client, server = Wire(socket=1), Wire(socket=2)
    found = read(client.send(GET), server.recv(GET), server.send(OK), client.recv(OK))
    assert [getattr(exchange_of(m), "id", None) for m in found] == ["1-1", "2-1", "2-1", "1-1"]


def test_a_response_without_its_request_has_no_exchange() -> None:
    assert exchange_of(response()) is None


def test_a_request_cut_off_by_the_close_has_one() -> None:
    wire = Wire(socket=5)
    (message,) = read(wire.send(POST[:-1]), wire.end(SEND), wire.end(RECV))
    assert message.incomplete == ("closed_early",)
    assert exchange_of(message) == Exchange("5-1", None, None, None)
