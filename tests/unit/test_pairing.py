# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import random
import tracemalloc
from pathlib import Path
from typing import Any

import orjson
import pytest

from profiler.exchanges import pair
from profiler.exchanges.pair import (
    GRACE,
    HELD_MAX,
    OPEN_MAX,
    PATIENCE,
    UPLOAD,
    Exchanges,
    Paired,
    Pairing,
    Sides,
    size_of,
)
from tests import sample_capture

DEMO = Path(__file__).parents[1] / "replay" / "cases" / "demo" / "expected.jsonl"
BEGIN = 1_767_225_600_000_000_000  # 2026-01-01


def message(kind: str, role: str, at: float = 1.0, **more: Any) -> dict[str, Any]:
    """A message of the first exchange of a connection between two hosts."""
    own = {"client": 7, "server": 8}[role]
    record = {
        "timestamp": f"2026-01-01T00:00:{at:012.9f}Z",
        "type": kind,
        "role": role,
        "exchange": f"{own}-1",
        "netns": own,
        "connection": "1:x",
        "sequence": 100 if kind == "request" else 900,
        "source_ip": "192.0.2.1",
        "dest_ip": "192.0.2.2",
        "method" if kind == "request" else "status_code": "GET" if kind == "request" else 200,
    }
    return {**record, **more}


def states(told: list[Paired]) -> list[str]:
    return [one.state for one in told]


def test_both_ends_are_one() -> None:
    pairing = Pairing(0)
    for kind, role in (("request", "client"), ("request", "server"), ("response", "server")):
        assert pairing.add(message(kind, role)) == []
    [told] = pairing.add(message("response", "client", latency_ms=3))
    assert told.state == "over"
    assert told.exchange.client and told.exchange.client.response
    assert told.exchange.server and told.exchange.server.response
    assert pairing.finish() == []


@pytest.mark.parametrize("role", ["client", "server"])
def test_a_single_end_is_emitted_at_once(role: str) -> None:
    pairing = Pairing(0)
    pairing.add(message("request", role))
    assert states(pairing.add(message("response", role))) == ["over"]


def test_with_one_address_the_other_end_may_follow() -> None:
    pairing = Pairing(0)
    here = {"source_ip": "192.0.2.1", "dest_ip": "192.0.2.1"}
    pairing.add(message("request", "server", **here))
    assert pairing.add(message("response", "server", **here)) == []
    assert pairing.expire(pairing.now + GRACE - 1) == []
    [told] = pairing.expire(pairing.now + 1)
    assert told.exchange.client is None
    # A late message belongs to the same exchange.
    assert pairing.add(message("request", "client", 2, **here)) == []
    assert pairing.add(message("response", "client", 2, **here)) == []
    assert pairing.finish() == []


def test_the_wait_for_the_client_is_short() -> None:
    pairing = Pairing(0)
    for kind, role in (("request", "client"), ("request", "server"), ("response", "server")):
        assert pairing.add(message(kind, role)) == []
    [told] = pairing.expire(pairing.now + GRACE)
    assert told.exchange.response and told.exchange.client
    assert pairing.add(message("response", "client", 9)) == []


def test_without_sequence_the_number_joins() -> None:
    pairing = Pairing(0)
    for kind, role in (("request", "client"), ("request", "server"), ("response", "server")):
        record = message(kind, role, url="/")
        del record["sequence"]
        pairing.add(record)
    record = message("response", "client")
    del record["sequence"]
    [told] = pairing.add(record)
    assert told.exchange.client and told.exchange.server


def unnumbered(kind: str, role: str, at: float) -> dict[str, Any]:
    record = message(kind, role, at, url="/")
    del record["sequence"]
    return record


# The client's request at 1, its response at 3, the server's request at this time.
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (0, 2, 1)])
@pytest.mark.parametrize(("at", "ends"), [(0.5, 1), (1, 2), (2, 2), (3, 2), (4, 1)])
def test_without_sequence_the_server_must_receive_it_while_the_client_waits(
    order: tuple[int, ...], at: float, ends: int
) -> None:
    records = [
        unnumbered("request", "client", 1),
        unnumbered("response", "client", 3),
        unnumbered("request", "server", at),
    ]
    exchanges = Exchanges(records[index] for index in order)
    found = list(exchanges)
    assert max(len(one.sides) for one in found) == ends
    assert len(exchanges) == len(found) == 3 - ends


@pytest.mark.parametrize(("at", "ends"), [(0.5, 1), (9, 2)])
def test_without_sequence_a_client_may_still_wait(at: float, ends: int) -> None:
    records = [unnumbered("request", "server", at), unnumbered("request", "client", 1)]
    for order in (records, records[::-1]):
        assert [len(one.sides) for one in Exchanges(order)] == [ends] * (3 - ends)


def test_a_pending_request_is_emitted_once_and_again_when_complete() -> None:
    pairing = Pairing(0)
    pairing.add(message("request", "client"))
    pairing.add(message("request", "server"))
    assert pairing.expire(pairing.now + PATIENCE - 1) == []
    assert states(pairing.expire(pairing.now + 1)) == ["waiting"]
    assert pairing.expire(pairing.now + 10 * PATIENCE) == []
    assert pairing.add(message("response", "server", 20)) == []
    assert states(pairing.add(message("response", "client", 20))) == ["over"]


def test_an_aborted_request_gets_no_response() -> None:
    pairing = Pairing(0)
    assert pairing.add(message("request", "client", incomplete=["reset"])) == []
    [told] = pairing.expire(pairing.now + GRACE)
    assert told.state == "over" and told.exchange.response is None
    assert told.exchange.incomplete == ("reset",)


def test_the_end_of_the_capture_emits_open_exchanges() -> None:
    pairing = Pairing(0)
    pairing.add(message("request", "client"))
    pairing.add(message("request", "server"))
    [told] = pairing.finish()
    assert told.state == "over" and told.exchange.client and told.exchange.server


def test_interim_and_early_responses() -> None:
    pairing = Pairing(0)
    request = {"request": {"method": "POST", "url": "/"}}
    assert pairing.add(message("response", "client", status_code=100, **request)) == []
    assert pairing.add(message("response", "client", status_code=413, **request)) == []
    [told] = pairing.add(message("request", "client", method="POST"))
    assert told.exchange.client and len(told.exchange.client.interim) == 1
    assert told.exchange.response and told.exchange.response["status_code"] == 413


def test_a_response_without_any_request() -> None:
    record = message("response", "client")
    del record["exchange"]
    [told] = Pairing(0).add(record)
    assert told.state == "over" and told.exchange.asked == {}


@pytest.mark.parametrize(("first", "late"), [("server", "client"), ("client", "server")])
def test_late_messages_are_emitted_if_incomplete(first: str, late: str) -> None:
    pairing = Pairing(0)
    pairing.add(message("request", first))
    pairing.add(message("response", first))
    assert pairing.add(message("request", late)) == []
    [told] = pairing.add(message("response", late, incomplete=["lost"]))
    assert told.state == "late" and told.exchange.incomplete == ("lost",)
    assert getattr(told.exchange, late) and getattr(told.exchange, first) is None


@pytest.mark.parametrize(("first", "late"), [("server", "client"), ("client", "server")])
def test_a_late_request_is_emitted_if_incomplete(first: str, late: str) -> None:
    pairing = Pairing(0)
    pairing.add(message("request", first))
    pairing.add(message("response", first))
    [told] = pairing.add(message("request", late, incomplete=["lost"]))
    assert told.state == "late" and told.exchange.request
    assert getattr(told.exchange, late) and getattr(told.exchange, first) is None


def test_a_reused_number_is_another_exchange() -> None:
    pairing = Pairing(0)
    for at in (1, 2):
        pairing.add(message("request", "client", at, sequence=at))
        assert states(pairing.add(message("response", "client", at))) == ["over"]
    pairing.add(message("request", "client", 3, sequence=3))
    assert states(pairing.add(message("request", "client", 4, sequence=4))) == ["over"]


def test_bodies_are_truncated() -> None:
    pairing = Pairing(5)
    text = message("request", "client", body="0123456789", raw_payload="x", connection="2")
    coded = message("request", "server", body="0123456789", body_encoding="base64")
    pairing.add(text)
    pairing.add(coded)
    kept = [one.exchange.side.request for one in pairing.finish()]
    assert [(one["body"], one["body_length"]) for one in kept if one] == [
        ("01234", 10),
        ("0123", 10),
    ]
    assert not any("raw_payload" in one for one in kept if one)
    assert text["raw_payload"] == "x" and text["body"] == "0123456789"  # a copy


def test_memory_is_bounded_by_number_and_by_size() -> None:
    pairing = Pairing(1 << 30)
    told = []
    for number in range(OPEN_MAX + 100):
        told += pairing.add(
            message("request", "client", exchange=f"1-{number}", connection=f"1:{number}")
        )
    assert states(told) == ["over"] * 100
    for number in range(100):
        told += pairing.add(
            message(
                "request",
                "client",
                exchange=f"2-{number}",
                connection=f"2:{number}",
                body="x" * (HELD_MAX // 10),
            )
        )
    assert pairing.held <= HELD_MAX
    told += pairing.finish()
    assert len(told) == OPEN_MAX + 200
    assert pairing.held == 0
    assert pairing.finish() == []


def test_the_demo_is_paired_as_in_a_report() -> None:
    records = [json.loads(line) for line in DEMO.read_text().splitlines()]
    pairing = Pairing(0)
    told = [one for record in records for one in pairing.add(record)] + pairing.finish()
    assert len(told) == len(records) / 4
    assert all(one.exchange.client and one.exchange.server for one in told)


@pytest.mark.parametrize("seed", range(5))
def test_a_capture_is_paired_as_in_a_report(seed: int) -> None:
    records = sorted(sample_capture.records(500, seed), key=lambda record: record["timestamp"])
    # The ends, and threads, arrive in another order than they communicated.
    chance = random.Random(seed)
    for at in range(0, len(records) - 4, 4):
        part = records[at : at + 4]
        chance.shuffle(part)
        records[at : at + 4] = part
    pairing = Pairing(0)
    told = [one for record in records for one in pairing.add(record)] + pairing.finish()
    report = Exchanges(records)

    def names(exchanges: Any) -> list[tuple[Any, ...]]:
        return sorted(
            tuple(side.records[0]["exchange"] if side else "" for side in (one.client, one.server))
            for one in exchanges
        )

    assert names(one.exchange for one in told if one.state == "over") == names(report)


def test_the_counted_bytes_of_a_record_are_the_real_ones() -> None:
    """The count is within a quarter of the bytes that Python really takes."""
    lines = (Path(__file__).parents[1] / "replay/cases/demo/expected.jsonl").read_bytes()
    line = lines.splitlines()[0]
    tracemalloc.start()
    records = [orjson.loads(line) for _ in range(1000)]
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    counted = sum(map(size_of, records))
    assert 0.75 * taken <= counted <= 1.25 * taken


@pytest.mark.parametrize("is_live", [True, False])
def test_a_switch_to_http2_is_three_exchanges(is_live: bool) -> None:
    case = Path(__file__).parents[1] / "cases/http2-upgrade/expected.jsonl"
    records = [{"netns": 1, **json.loads(line)} for line in case.read_text().splitlines()]
    if is_live:
        pairing = Pairing(0)
        paired = [one for record in records for one in pairing.add(record)] + pairing.finish()
        found = [one.exchange for one in paired]
    else:
        found = list(Exchanges(records))
    answers = {
        one.asked["url"]: [response["status_code"] for response in one.side.responses]
        for one in found
    }
    assert len(found) == 3
    assert answers == {"/before": [204], "/up": [101, 200], "/next": [200]}


def test_an_interim_response_after_the_final_one_is_of_the_same_exchange() -> None:
    """Lines of several files may be out of order."""
    kinds = ("request", 103), ("response", 200), ("response", 103)
    records = [message(kind, "client", status_code=status) for kind, status in kinds]
    (one,) = Exchanges(records)
    assert one.client and [len(one.client.interim), len(one.client.records)] == [1, 3]


def test_what_is_held_is_the_sum_of_what_is_open() -> None:
    pairing = Pairing(0)
    records = [message("request", role, exchange=f"{role}-1") for role in ("client", "server")]
    for record in records:
        pairing.add(record)
    assert pairing.held == sum(map(size_of, records)) + 2 * pair._OPEN_SIZE
    pairing.add(message("response", "server", exchange="server-1"))
    assert states(pairing.add(message("response", "client", exchange="client-1"))) == ["over"]
    assert pairing.held == 0


@pytest.mark.parametrize("collect", [Exchanges, lambda records: Pairing(0).add(records[0])])
def test_without_a_role_it_is_the_client(collect: Any) -> None:
    record = message("response", "client")
    del record["role"], record["exchange"]
    [found] = collect([record])
    exchange = found.exchange if isinstance(found, Paired) else found
    assert exchange.client and exchange.server is None


def test_a_pending_request_comes_with_its_exchange() -> None:
    pairing = Pairing(0)
    pairing.add(message("request", "client", method="PUT"))
    [told] = pairing.expire(pairing.now + PATIENCE)
    assert told.exchange.request and told.exchange.request["method"] == "PUT"


def test_a_request_after_the_end_of_its_exchange_opens_none() -> None:
    pairing = Pairing(0)
    pairing.add(message("response", "client"))
    assert states(pairing.expire(pairing.now + GRACE)) == ["over"]
    assert pairing.add(message("request", "client")) == []
    assert pairing.held == 0 and pairing.finish() == []


def test_the_encoding_of_a_payload_goes_with_it() -> None:
    pairing = Pairing(0)
    record = message("request", "client", raw_payload="AA==", raw_payload_encoding="base64")
    pairing.add(record)
    [told] = pairing.finish()
    assert told.exchange.request and "raw_payload_encoding" not in told.exchange.request


@pytest.mark.parametrize("has_sequence", [True, False])
def test_exchanges_that_are_over_leave_little_memory(has_sequence: bool) -> None:
    """A flood of short exchanges with long targets, within the patience for a request."""
    pairing = Pairing(0)
    tracemalloc.start()
    try:
        for n in range(30_000):
            for kind in ("request", "response"):
                more: Any = {"exchange": f"{n}-1", "connection": f"1:{n}"}
                if kind == "request":
                    more["url"] = f"/{n}" + "x" * 1000
                more["sequence"] = n if has_sequence else None
                pairing.add(message(kind, "client", **more))
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pairing.held <= HELD_MAX
    # The keys of the last exchanges, and the queue: tables of fixed size.
    assert taken < 15_000_000


def sides_of(*records: Any, finish: bool = True) -> list[tuple[str, bool, bool]]:
    """Return role, and whether request and response are there, for each side in order."""
    sides = Sides()
    found = [each for one in records for each in sides.add(one, 1, 0)]
    if finish:
        found += sides.finish()
    return [(role, side.request is not None, side.response is not None) for role, side in found]


def test_each_side_once() -> None:
    """Both ends of an exchange are reported, whatever comes between them."""
    both = [
        message(kind, role)
        for kind, role in (
            ("request", "client"), ("request", "server"), ("response", "server"),
            ("response", "client"),
        )
    ]  # fmt: skip
    assert sides_of(*both, finish=False) == [("server", True, True), ("client", True, True)]


def test_sides_of_reused_socket() -> None:
    first, second = message("request", "client"), message("request", "client")
    response = message("response", "client")
    assert sides_of(first, second, response, finish=False) == [
        ("client", True, False), ("client", True, True)
    ]  # fmt: skip


def test_sides_with_interim_and_early_responses() -> None:
    interim = message("response", "server", status_code=100)
    final, request = message("response", "server"), message("request", "server")
    assert sides_of(interim, request, final, finish=False) == [("server", True, True)]
    assert sides_of(final, request, finish=False) == [("server", True, True)]
    assert sides_of(final) == [("server", False, True)]
    alone = message("request", "client")
    del alone["exchange"]
    assert sides_of(alone, finish=False) == [("client", True, False)]


def test_sides_expire() -> None:
    """A request that broke off and a response whose request was filtered do not stay."""
    sides = Sides()
    assert sides.add(message("request", "client", incomplete=["reset"]), 1, 0) == []
    assert sides.add(message("response", "server"), 1, 0) == []
    assert sides.expire(GRACE - 1) == []
    assert [role for role, _ in sides.expire(GRACE)] == ["client"]
    assert [role for role, _ in sides.expire(UPLOAD)] == ["server"]
    assert sides.finish() == []


def test_sides_are_bounded() -> None:
    sides = Sides()
    found = []
    for number in range(OPEN_MAX + 5):
        found += sides.add(message("request", "client", exchange=f"{number}-1"), 1, 0)
    assert len(found) == 5
    assert len(sides.finish()) == OPEN_MAX
    big = HELD_MAX // 3
    for number in range(4):
        found = sides.add(message("request", "client", exchange=f"{number}-1"), big, 0)
    assert len(found) == 1
    assert len(sides.finish()) == 3
