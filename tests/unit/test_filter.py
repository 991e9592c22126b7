# SPDX-License-Identifier: Apache-2.0
"""Which lines a filter passes: each test lists the input, and the output in order."""

from __future__ import annotations

from typing import Any

import pytest

from profiler.exchanges import values
from profiler.exchanges.conditions import conditions
from profiler.exchanges.fields import FIELDS, View
from profiler.exchanges.filter import Filter, filtered
from profiler.exchanges.pair import size_of
from profiler.exchanges.query import Comparison, parse

Record = dict[str, Any]


def request(number: int = 1, url: str = "/a", **more: Any) -> Record:
    return {
        "type": "request", "exchange": f"9-{number}", "netns": 1, "role": "client",
        "direction": "send", "pid": 7, "comm": "curl", "cmdline": "curl -s shop", "uid": 33,
        "cgroup": "/system.slice/shop.service/inner", "source_ip": "10.0.0.1",
        "source_port": 40000, "dest_ip": "10.0.0.2", "dest_port": 80, "method": "GET",
        "url": url, "headers": {"host": "Shop.example:80"}, "body": "", "raw_payload": "", **more,
    }  # fmt: skip


def response(number: int = 1, status: int = 200, url: str = "/a", **more: Any) -> Record:
    return {
        **request(number), "type": "response", "direction": "recv", "source_ip": "10.0.0.2",
        "source_port": 80, "dest_ip": "10.0.0.1", "dest_port": 40000, "method": None, "url": None,
        "status_code": status, "request": {"method": "GET", "url": url}, "latency_ms": 50.0,
        "headers": {"set-cookie": ["a=1", "b=2"]}, **more,
    }  # fmt: skip


def lines(records: list[Record], **wanted: Any) -> list[str]:
    return [short(record) for record in filtered(records, Filter(conditions(**wanted)))]


def short(record: Record) -> str:
    kind = record["method"] if record["type"] == "request" else record["status_code"]
    return f"{kind}{record['exchange'].partition('-')[2]}" if "exchange" in record else str(kind)


EXCHANGE = [request(), response()]
WHOLE, NOTHING = ["GET1", "2001"], []  # type: ignore[var-annotated]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, WHOLE),
        ({"pid": (6, 7)}, WHOLE),
        ({"pid": (6,)}, NOTHING),
        ({"comm": ("curl",)}, WHOLE),
        ({"comm": ("cur",)}, NOTHING),
        ({"cmdline": ("*shop",)}, WHOLE),
        ({"cmdline": ("shop",)}, NOTHING),
        ({"user": (33,)}, WHOLE),
        ({"user": (0,)}, NOTHING),
        ({"cgroup": ("/system.slice/shop.service",)}, WHOLE),
        ({"cgroup": ("/",)}, WHOLE),
        ({"cgroup": ("/system.slice/shop",)}, NOTHING),
        ({"port": (80,)}, WHOLE),
        ({"port": (81,)}, NOTHING),
        ({"address": (values.address("10.0.0.2"),)}, WHOLE),
        ({"address": (values.address("10.0.0.3"),)}, NOTHING),
        ({"direction": ("send",)}, ["GET1"]),
        ({"role": ("client",)}, WHOLE),
        ({"role": ("server",)}, NOTHING),
        ({"method": ("POST", "GET")}, WHOLE),
        ({"method": ("POST",)}, NOTHING),
        ({"host": ("shop.*",)}, WHOLE),
        ({"host": ("shop.example",)}, WHOLE),
        ({"host": ("shop.example:80",)}, WHOLE),
        ({"host": ("shop",)}, NOTHING),
        ({"path": ("/a",)}, WHOLE),
        ({"path": ("/b", "/?")}, WHOLE),
        ({"path": ("/",)}, NOTHING),
        ({"status": ((200, 200),)}, WHOLE),
        ({"status": ((500, 599),)}, NOTHING),
        ({"header": (("host", "*"),)}, WHOLE),
        ({"header": (("set-cookie", "b=*"),)}, WHOLE),
        ({"header": (("set-cookie", "c=*"),)}, NOTHING),
        ({"min_latency": (50.0,)}, WHOLE),
        ({"min_latency": (50.1,)}, NOTHING),
        # All options must match.
        ({"path": ("/a",), "status": ((200, 299),), "pid": (7,)}, WHOLE),
        ({"path": ("/a",), "status": ((500, 599),)}, NOTHING),
        ({"status": ((200, 299),), "direction": ("recv",)}, ["2001"]),
    ],
)
def test_one_exchange(wanted: dict[str, Any], expected: list[str]) -> None:
    assert lines(EXCHANGE, **wanted) == expected


@pytest.mark.parametrize("name", ["pid", "comm", "uid", "cmdline", "cgroup", "latency_ms"])
def test_unknown_fields_match_nothing(name: str) -> None:
    everything: dict[str, Any] = {
        "pid": (7,), "comm": ("curl",), "cmdline": ("*",), "user": (33,), "cgroup": ("/",),
        "port": (80,), "min_latency": (1.0,),
    }  # fmt: skip
    records = [{key: value for key, value in record.items() if key != name} for record in EXCHANGE]
    assert lines(EXCHANGE, **everything) == WHOLE
    assert lines(records, **everything) == NOTHING


def test_the_path_is_without_query_and_origin() -> None:
    urls = ["/a?b=/c", "http://h/a#x", "http://h/c"]
    records = [request(i, url) for i, url in enumerate(urls)]
    assert lines(records, path=("/a",)) == ["GET0", "GET1"]


def test_a_request_that_decides_is_not_delayed() -> None:
    wanted = Filter(conditions(path=("/a",), method=("GET",)))
    asked, answered = request(), response()
    assert wanted.feed(asked) == [asked]
    assert wanted.feed(response(1, 103)) == [response(1, 103)]
    assert wanted.feed(answered) == [answered]
    assert wanted.feed(request(2, "/b")) == []
    assert wanted.feed(response(2, url="/b")) == []
    assert wanted.dropped == {"path": 2}


def test_a_request_waits_for_its_status() -> None:
    """Lines are emitted when their exchange is decided, and in their original order within it."""
    records = [
        request(1), request(2), request(3), response(3, 500), response(1, 200), response(2, 503),
    ]  # fmt: skip
    assert lines(records, status=((500, 599),)) == ["GET3", "5003", "GET2", "5032"]


def test_interim_responses_are_part_of_it() -> None:
    records = [request(), response(1, 103), response(1, 500)]
    assert lines(records, status=((500, 599),)) == ["GET1", "1031", "5001"]
    # Any of the responses may match.
    assert lines(records, status=((103, 103),)) == ["GET1", "1031", "5001"]
    assert lines(records, status=((404, 404),)) == NOTHING
    # The latency is that of the final one.
    slow = [request(), response(1, 103, latency_ms=1.0), response(1, 200, latency_ms=200.0)]
    assert lines(slow, min_latency=(100.0,)) == ["GET1", "1031", "2001"]
    quick = [request(), response(1, 103, latency_ms=200.0), response(1, 200, latency_ms=1.0)]
    assert lines(quick, min_latency=(100.0,)) == NOTHING


def test_a_switch_of_protocols() -> None:
    # A 101 ends it, but after an upgrade to h2c the response follows in HTTP/2.
    websocket = response(1, 101, upgrade="websocket")
    assert lines([request(), websocket], status=((101, 101),)) == ["GET1", "1011"]
    h2c = [request(), response(1, 101, upgrade="h2c"), response(1, 500)]
    assert lines(h2c, status=((500, 599),)) == ["GET1", "1011", "5001"]


def test_a_response_before_its_request_is_complete() -> None:
    records = [response(1, 500), request(1), request(2), response(2, 500)]
    failing = ["5001", "GET1", "GET2", "5002"]
    assert lines(records, status=((500, 599),)) == failing
    assert lines(records, host=("shop.example",)) == failing
    assert lines(records, header=(("host", "*"),)) == failing
    assert lines(records, status=((200, 299),)) == NOTHING
    assert lines(records, host=("other",)) == NOTHING


def test_a_request_that_is_never_answered() -> None:
    records = [request(1), request(2), response(2, 500)]
    # Whether it failed or was slow is unknown.
    assert lines(records, status=((500, 599),)) == ["GET2", "5002"]
    assert lines(records, min_latency=(1.0,)) == ["GET2", "5002"]
    # The known part is enough to decide.
    assert lines(records, path=("/a",)) == ["GET1", "GET2", "5002"]
    wanted = Filter(conditions(header=(("x", "*"),), status=((500, 599),)))
    assert list(filtered([request(1)], wanted)) == []
    assert wanted.dropped == {"status": 1}


def test_a_response_whose_request_was_not_seen() -> None:
    unknown = response(1, 500)
    for name in ("exchange", "request", "latency_ms"):
        del unknown[name]
    assert lines([unknown], status=((500, 599),)) == ["500"]
    assert lines([unknown], header=(("set-cookie", "*"),)) == ["500"]
    for wanted in ({"method": ("GET",)}, {"host": ("*",)}, {"min_latency": (1.0,)}):
        assert lines([unknown], **wanted) == NOTHING


def test_pushed_responses() -> None:
    """The server sends both; it is an exchange like any other."""
    pushed = [
        request(2, "/style.css", role="server", direction="send"),
        response(2, 404, role="server", direction="send"),
    ]
    assert lines([request(), *pushed, response()], status=((404, 404),)) == ["GET2", "4042"]


def test_both_ends_of_an_exchange_are_separate() -> None:
    # The same number, as from another machine's lines in the same file.
    there = [request(role="server"), response(1, 500, role="server")]
    records = [request(), there[0], there[1], response(1, 200)]
    assert lines(records, status=((500, 599),)) == ["GET1", "5001"]


def test_a_reused_socket_number() -> None:
    records = [request(url="/1"), request(url="/2"), response(1, 500, url="/2")]
    wanted = list(filtered(records, Filter(conditions(status=((500, 599),)))))
    assert [record["url"] for record in wanted] == ["/2", None]


def test_pending_exchanges_are_bounded() -> None:
    few = Filter(conditions(status=((500, 599),)), open_max=2)
    for number in range(5):
        assert few.feed(request(number)) == []
    assert (few.given_up, few.dropped) == (3, {"status": 3})
    # The oldest are filtered as a whole.
    assert few.feed(response(0, 500)) == []
    assert [short(r) for r in few.feed(response(4, 500))] == ["GET4", "5004"]

    waiting = request(0, body="x" * 5_000, raw_payload="x" * 5_000)
    small = Filter(conditions(status=((500, 599),)), held_max=7 * size_of(waiting) + 999)
    for number in range(20):
        small.feed({**waiting, "exchange": f"9-{number}"})
    assert small.given_up == 13
    # Decided exchanges hold nothing.
    for number in range(1000):
        small.feed(request(number + 100))
        small.feed(response(number + 100))
    assert small.given_up < 30


def test_a_finished_exchange_takes_no_memory() -> None:
    wanted = Filter(conditions(path=("/a",), status=((200, 299),)))
    for number in range(100):
        wanted.feed(request(number))
        wanted.feed(response(number, 200 if number % 2 else 500))
        wanted.feed(response(number + 1000, 500))  # early
        wanted.feed(request(number + 1000))
    assert wanted.held == 0


def test_filters_of_the_kernel_are_not_applied_again() -> None:
    wanted = conditions(pid=(1,), method=("GET",))
    assert list(filtered(EXCHANGE, Filter(wanted))) == []
    assert list(filtered(EXCHANGE, Filter(wanted.without(["pid"])))) == EXCHANGE


@pytest.mark.parametrize(
    ("text", "pid", "left"),
    [
        ("pid=1", (1,), []),
        ("pid=1 or pid=2", (1, 2), []),
        ("(pid=1 or pid=2) and failed", (1, 2), ["where"]),
        ("pid=1 and pid=2", (1,), ["where"]),
        ("pid=1 or comm=curl", (), ["where"]),
        ("pid=1 or failed", (), ["where"]),
        ("not pid=1", (), ["where"]),
        ("pid>1", (), ["where"]),
        ("pid=none", (), ["where"]),
    ],
)
def test_the_part_of_a_condition_for_the_kernel(
    text: str, pid: tuple[int, ...], left: list[str]
) -> None:
    wanted = conditions([parse(text)])
    assert wanted.filters.pid == pid
    assert [named.option for named in wanted.without(wanted.filters.given()).named] == left


def test_a_condition_of_messages_and_exchanges() -> None:
    def found(text: str, records: list[Record] = EXCHANGE) -> list[str]:
        return [short(one) for one in filtered(records, Filter(conditions([parse(text)])))]

    assert found("direction=recv or status=404") == ["2001"]
    assert found("direction=recv or status=200") == WHOLE
    assert found("not status=404 and not direction=send") == ["2001"]
    assert found("failed") == NOTHING
    assert found("failed", [request(), response(1, 503)]) == ["GET1", "5031"]
    assert found("not failed", [request(), response(1, 503), request(2)]) == ["GET2"]
    assert found("GET /a and latency>10ms") == WHOLE


def test_filtered_messages_are_counted() -> None:
    wanted = Filter(conditions(status=((500, 599),), min_latency=(100.0,), pid=(7,)))
    records = [*EXCHANGE, request(2), response(2, 500, latency_ms=1.0)]
    assert list(filtered(records, wanted)) == []
    assert (wanted.dropped, wanted.given_up) == ({"status": 2, "min_latency": 2}, 0)


def test_interim_responses_without_end() -> None:
    """With thousands of them from one peer, each costs no more than the first."""
    evaluated = 0

    class Counting(Comparison):
        def evaluate(self, view: View) -> bool | None:
            nonlocal evaluated
            evaluated += 1 + len(view.responses)
            return super().evaluate(view)

    condition = Counting(FIELDS["status"], "=", (200, 200))
    wanted = Filter(conditions([condition]))
    number = 2000
    records = [request(), *(response(1, 103) for _ in range(number)), response(1, 200)]
    assert len(list(filtered(records, wanted))) == number + 2
    assert evaluated < 60 * number
    assert wanted.held == 0


def test_a_process_that_exits_in_its_request_and_is_answered() -> None:
    records = [request(incomplete=["exited"]), response(1, 200)]
    assert lines_where("failed", records) == NOTHING
    assert lines_where("failed", records[:1]) == ["GET1"]


def lines_where(text: str, records: list[Record]) -> list[str]:
    return [short(one) for one in filtered(records, Filter(conditions([parse(text)])))]
