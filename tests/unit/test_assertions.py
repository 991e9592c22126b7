"""Conditions: what they say of an exchange, and where one is not understood."""

from __future__ import annotations

from typing import Any

import pytest
from profiler.exchanges.store import Exchange, Exchanges

from profiler.exchanges.query import ConditionError, parse_condition, parse_expectation
from profiler.exchanges.verify import Verdict, judge

Record = dict[str, Any]


def message(kind: str, second: float = 1, number: int = 1, **more: Any) -> Record:
    return {
        "timestamp": f"2026-01-01T00:00:{second:012.9f}Z",
        "pid": 7,
        "comm": "curl",
        "cmdline": "curl --silent shop",
        "type": kind,
        "role": "client",
        "exchange": f"1-{number}",
        "netns": 1,
        **more,
    }


def request(method: str = "GET", url: str = "/items/7?full=1", **more: Any) -> Record:
    headers = {"Host": "shop.example:8080", "Accept": ["text/html", "text/plain"]}
    return message("request", method=method, url=url, **{"headers": headers, "bytes": 100, **more})


def response(status: int = 200, **more: Any) -> Record:
    fields = {
        "headers": {"Content-Type": "text/html"},
        "bytes": 5000,
        "request": {"method": "GET", "url": "/items/7?full=1"},
        "latency_ms": 1500.0,
        "duration_ms": 1600.0,
        **more,
    }
    return message("response", 2, status_code=status, **fields)


def exchanges(*records: Record) -> list[Exchange]:
    found = Exchanges()
    found.add_all(records)
    return list(found)


def holds(condition: str, *records: Record) -> bool:
    (exchange,) = exchanges(*(records or (request(), response())))
    return parse_condition(condition).holds(exchange)


@pytest.mark.parametrize(
    "condition",
    [
        "status=200",
        "status!=404",
        "status >= 200 and status<300",
        "status=2xx",
        "status!=5xx",
        "latency>1s",
        "latency=1500ms",
        "latency<1500.5ms",
        "latency>=1500000us",
        "duration<=1.6s",
        "duration<1m",
        "method=GET",
        "method!=POST",
        "path=/items/7",
        "path~/items/*",
        "path~/items/[0-9]",
        "url=/items/7?full=1",
        "host=Shop.example",
        "host=shop.example:8080",
        "host~*.example",
        "comm=curl",
        "cmdline~*--silent*",
        'cmdline="curl --silent shop"',
        r"cmdline!='it\'s'",
        "pid=7",
        "pid<8",
        "role=client",
        "role!=server",
        "bytes=5100",
        "request_bytes=100",
        "response_bytes>4999",
        "incomplete=none",
        "header.host~shop*",
        "header.Accept=text/plain",
        "header.accept!=text/csv",
        "header.content-type=text/html",
        "header.Authorization=none",
        "header.Host!=none",
        "GET /items/*",
        "GET /items/7?full=1",
        "* /items/7",
        "GET /items/7 and status=200 and latency>1s",
    ],
)
def test_a_condition_that_holds(condition: str) -> None:
    assert holds(condition)


@pytest.mark.parametrize(
    "condition",
    [
        "status=404",
        "status!=200",
        "status!=2xx",
        "status=4xx",
        "latency>1500ms",
        "duration<1s",
        "method=get",
        "path=/items",
        "path~/items/",
        "path=/items/7?full=1",
        "host=shop",
        "comm~python*",
        "pid=70",
        "role=server",
        "bytes=5000",
        "incomplete!=none",
        "incomplete=lost",
        "header.Accept!=text/plain",
        "header.Host=none",
        'header.Host="none"',
        "POST /items/7",
        "GET /item",
        "* /items/7 and status=404",
        "status=200 and pid=8",
    ],
)
def test_a_condition_that_does_not(condition: str) -> None:
    assert not holds(condition)


def test_what_is_not_known_has_no_value() -> None:
    asked = request(incomplete=["closed_early"])
    for condition in ("status=none", "latency=none", "status!=200", "incomplete=closed_early"):
        assert holds(condition, asked)
    for condition in ("status=200", "latency<1s", "latency>=0ms", "header.Content-Type~*"):
        assert not holds(condition, asked)
    # A response whose request was not seen.
    answered = {key: value for key, value in response().items() if key != "request"}
    assert holds("method=none and path=none and host=none and status=200", answered)
    assert not holds("GET /items/7", answered)


def test_an_interim_response_is_none() -> None:
    assert holds("status=none", request(), response(100))


def test_an_exchange_is_looked_at_from_each_end() -> None:
    joined = {"connection": "1:x", "sequence": 5}
    served = {"role": "server", "exchange": "2-1", "pid": 9, "comm": "nginx"}
    both = (
        request(**joined),
        response(),
        {**request(**joined), **served},
        {**response(latency_ms=20.0), **served},
    )
    for condition in ("comm=curl", "comm=nginx", "latency>1s", "role=server and latency=20ms"):
        assert holds(condition, *both)
    assert not holds("role=server and latency>1s", *both)
    assert not holds("comm=nginx and pid=7", *both)
    # The server's answer was not seen at the server.
    assert holds("comm=nginx and status=200", *both[:3])


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "a field is missing"),
        ("   ", 4, "a field is missing"),
        ("5=status", 1, "a field is missing"),
        ("stat=5", 1, "'stat' is not a field"),
        ("header.=5", 1, "is not a field"),
        ("status", 7, "an operator is missing"),
        ("status 5", 8, "an operator is missing"),
        ("status==500", 7, "'==' is not an operator"),
        ("status=>500", 7, "'=>' is not an operator"),
        ("status=", 8, "a value is missing"),
        ("status=abc", 8, "'abc' is not a status"),
        ("status=50", 8, "is not a status"),
        ("status=6xx", 8, "is not a status"),
        ("status>5xx", 8, "with = and != only"),
        ("status~5*", 7, "status cannot be asked with ~"),
        ("pid=1.5", 5, "is not a number"),
        ("pid=²", 5, "is not a number"),
        ("latency>1", 9, "is not a time"),
        ("latency>-1s", 9, "is not a time"),
        ("latency>none", 9, "`none` can be asked"),
        ("method<GET", 7, "method cannot be asked with <"),
        ("role=proxy", 6, "is not `client` or `server`"),
        ('path="/a', 6, "the quote is not closed"),
        ('path="/a"b', 10, "`and` is missing before 'b'"),
        ("status=200 status=201", 12, "`and` is missing before 'status=201'"),
        ("status=200 or status=201", 12, "there is no `or`"),
        ("status=200 and", 15, "a field is missing"),
        ("status=200 and GET /", 16, "a field is missing"),
        ("GET", 4, "a path is missing"),
        ("GET  = 3", 6, "a path is missing"),
    ],
)
def test_what_is_not_understood(text: str, column: int, words: str) -> None:
    for parse in (parse_condition, parse_expectation):
        with pytest.raises(ConditionError, match=f"column {column}: ") as raised:
            parse(text)
        assert raised.value.column == column
        assert words in str(raised.value)


def test_a_number_of_exchanges_is_for_expectations() -> None:
    with pytest.raises(ConditionError, match=r"column 8: .*belongs to an expectation"):
        parse_condition("GET /x >= 3")
    for text, words in (
        ("GET /x ~ 3", "column 8: a number of exchanges cannot be asked with ~"),
        ("GET /x > many", "column 10: 'many' is not a number of exchanges"),
        ("GET /x > 3 and pid=1", "column 12: `and` is missing before 'and'"),
        ("GET /x >", "column 9: a value is missing"),
    ):
        with pytest.raises(ConditionError) as raised:
            parse_expectation(text)
        assert words in str(raised.value)


@pytest.mark.parametrize(
    ("text", "enough", "wrong"),
    [
        ("GET /x", (1, 2), (0,)),
        ("GET /x >= 3", (3, 4), (0, 2)),
        ("GET /x and status=200 > 3", (4,), (3,)),
        ("path=/x = 2", (2,), (1, 3)),
        ("path=/x != 2", (1, 3), (2,)),
        ("path=/x < 2", (0, 1), (2,)),
        ("path=/x <=2", (0, 2), (3,)),
        ("GET /x = 0", (0,), (1,)),
    ],
)
def test_how_many_there_must_be(text: str, enough: tuple[int, ...], wrong: tuple[int, ...]) -> None:
    expectation = parse_expectation(text)
    for count in (*enough, *wrong):
        assert expectation.holds(count) is (count in enough)


def verdicts(
    records: list[Record], fail_if: str = "", expect: str = "", lost: str | None = None
) -> list[Verdict]:
    conditions = [parse_condition(fail_if)] if fail_if else []
    expectations = [parse_expectation(expect)] if expect else []
    return judge(exchanges(*records), conditions, expectations, lost)[1]


def test_a_violation_says_which_exchange_it_was_without_its_secrets() -> None:
    url = "/login\x1b[2J?token=s3cret"
    (verdict,) = verdicts([request(url=url), response(503)], "status>=500")
    (line,) = verdict.lines()
    assert line.startswith(
        "fail-if status>=500: GET http://shop.example:8080/login\ufffd[2J?token="
    )
    assert line.endswith(" 503 1500.0 ms (client curl[7], 2026-01-01T00:00:01.000000000Z)")
    assert "s3cret" not in line
    (verdict,) = verdicts([request(incomplete=["lost"])], "status=none")
    assert "no response seen" in verdict.lines()[0]
    assert verdict.lines()[0].endswith("incomplete: lost")


def test_many_violations_are_counted() -> None:
    records = [request(number=n) for n in range(25)]
    (verdict,) = verdicts(records, "method=GET")
    assert verdict.count == 25
    assert verdict.failure == "25 of 25 exchanges"
    assert len(verdict.lines()) == 21
    assert verdict.lines()[-1] == "fail-if method=GET: and 5 more"


def test_what_is_missing_is_said() -> None:
    (verdict,) = verdicts([request()], expect="POST /x >= 2")
    assert verdict.lines() == ["expect POST /x >= 2: seen 0 times, must be >= 2"]


def test_what_was_not_seen_shows_nothing() -> None:
    records = [request(), response()]
    # At most so many: not shown.
    for fail_if, expect in (("status=500", ""), ("", "GET /nope = 0"), ("", "* * <= 5")):
        (verdict,) = verdicts(records, fail_if, expect, lost="lost 3 calls")
        assert verdict.failure == "cannot be shown to hold: lost 3 calls"
        assert verdict.unproven
    # At least so many: shown.
    for expect in ("GET /items/7", "* * > 0"):
        assert verdicts(records, expect=expect, lost="lost 3 calls")[0].failure is None
    # And a violation is one.
    (verdict,) = verdicts(records, "status=200", lost="lost 3 calls")
    assert verdict.failure == "1 of 1 exchanges" and not verdict.unproven
    (verdict,) = verdicts(records, expect="GET /nope", lost="lost 3 calls")
    assert verdict.failure == "seen 0 times, must be >= 1 (lost 3 calls)"
    assert not verdict.unproven
