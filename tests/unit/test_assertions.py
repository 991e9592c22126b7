# SPDX-License-Identifier: Apache-2.0
"""Conditions: their result for an exchange, and the position of a syntax error."""

from __future__ import annotations

from typing import Any

import pytest

from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.query import ConditionError, matches, parse, parse_expectation
from profiler.exchanges.verify import Verdict, expect, fail_if, verify

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
    headers = {"host": "shop.example:8080", "accept": ["text/html", "text/plain"]}
    return message("request", method=method, url=url, **{"headers": headers, "bytes": 100, **more})


def response(status: int = 200, **more: Any) -> Record:
    fields = {
        "headers": {"content-type": "text/html"},
        "bytes": 5000,
        "request": {"method": "GET", "url": "/items/7?full=1"},
        "latency_ms": 1500.0,
        "duration_ms": 1600.0,
        **more,
    }
    return message("response", 2, status_code=status, **fields)


def exchanges(*records: Record) -> list[Exchange]:
    return list(Exchanges(records))


def holds(condition: str, *records: Record) -> bool:
    (exchange,) = exchanges(*(records or (request(), response())))
    return matches(parse(condition), exchange)


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
        "url='/items/7?full=1'",
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
        "GET '/items/7?full=1'",
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
        "path=/items",
        "path~/items/",
        "path='/items/7?full=1'",
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


def test_an_unknown_field_has_no_value() -> None:
    asked = request(incomplete=["closed_early"])
    for condition in ("status=none", "latency=none", "status!=200", "incomplete=closed_early"):
        assert holds(condition, asked)
    for condition in ("status=200", "latency<1s", "latency>=0ms", "header.Content-Type~*"):
        assert not holds(condition, asked)
    # A response whose request was not seen.
    answered = {key: value for key, value in response().items() if key != "request"}
    assert holds("method=none and path=none and host=none and status=200", answered)
    assert not holds("GET /items/7", answered)


def test_an_interim_response_is_not_the_response() -> None:
    assert holds("status=none", request(), response(100))


def test_an_exchange_is_evaluated_at_each_end() -> None:
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
    # The server's response was not seen at the server.
    assert holds("comm=nginx and status=200", *both[:3])


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("", 1, "a condition is missing"),
        ("   ", 4, "a condition is missing"),
        ("5=status", 1, "'5' is not a field"),
        ("stat=5", 1, "'stat' is not a field; did you mean status?"),
        ("header.=5", 1, "is not a field"),
        ("status 5", 1, "an operator is missing after status"),
        ("status==500", 7, "'==' is not an operator"),
        ("status=>500", 7, "'=>' is not an operator"),
        ("status=50", 8, "is not a status"),
        ("pid=1.5", 5, "is not a process id"),
        ("pid=²", 5, "is not a process id"),
        ("latency>-1s", 9, "is not a length of time"),
        ("latency>9000h", 9, "is not a length of time"),
        ("bytes>1e3", 7, "is not a number"),
        ("method<GET", 7, "method cannot be compared with <"),
        ('path="/a"b', 10, "'b' in a value"),
        ("GET  = 3", 6, "a path is missing"),
        ("comm=0123456789abcdef", 6, "longer than a thread's name in the kernel"),
        ("address=10.0.0.1/8", 9, "has bits set after its mask"),
        ("user=nobody-of-this-name", 6, "has no user"),
        ("not", 4, "a condition is missing"),
        ("or failed", 1, "a condition is missing"),
        ("failed or", 10, "a condition is missing"),
        ("()", 2, "a condition is missing"),
    ],
)
def test_a_syntax_error(text: str, column: int, words: str) -> None:
    for read in (parse, parse_expectation):
        with pytest.raises(ConditionError, match=f"column {column}: ") as raised:
            read(text)
        assert raised.value.column == column
        assert words in str(raised.value)


def test_the_error_for_a_long_condition_is_short() -> None:
    with pytest.raises(ConditionError, match=r"…', column 6001: a value is missing") as raised:
        parse("path=".rjust(6000))
    assert len(str(raised.value)) < 300


def test_a_number_of_exchanges_is_for_expectations() -> None:
    for text, words in (
        ("GET /x ~ 3", "column 8: a number of exchanges cannot be compared with ~"),
        ("GET /x > many", "column 10: 'many' is not a number of exchanges"),
        ("GET /x > 3 and pid=1", "column 12: `and` or `or` is missing before 'and'"),
        ("GET /x >", "column 9: a value is missing"),
        ("GET /x=3", "column 7: '=' in a value"),
        ("failed=1", "column 7: put a space before a number of exchanges"),
        ("(failed)=1", "column 9: put a space before a number of exchanges"),
        ("path=/x>3", "column 8: '>' in a value"),
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
        ("(failed or status=404) = 2", (2,), (1,)),
        ("failed = 0", (0,), (1,)),
        ("GET /x = 0", (0,), (1,)),
    ],
)
def test_the_number_of_exchanges(
    text: str, enough: tuple[int, ...], wrong: tuple[int, ...]
) -> None:
    expectation = parse_expectation(text)
    for count in (*enough, *wrong):
        assert expectation.holds(count) is (count in enough)


def verdicts(
    records: list[Record], never: str = "", wanted: str = "", lost: str | None = None
) -> list[Verdict]:
    assertions = [*([fail_if(never)] if never else []), *([expect(wanted)] if wanted else [])]
    return verify(exchanges(*records), assertions, lost)[1]


def test_a_violation_names_its_exchange_without_secrets() -> None:
    url = "/login\x1b[2J?token=s3cret"
    (verdict,) = verdicts([request(url=url), response(503)], "status>=500")
    (line,) = verdict.lines()
    assert line.startswith(
        "fail-if status>=500: GET http://shop.example:8080/login⟨U+001B⟩[2J?token="
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


def test_reports_what_is_missing() -> None:
    (verdict,) = verdicts([request()], wanted="POST /x >= 2")
    assert verdict.lines() == ["expect POST /x >= 2: matched 0 exchanges, expected >= 2"]


def test_unseen_messages_prove_nothing() -> None:
    records = [request(), response()]
    # An upper bound: not proven.
    for never, wanted in (("status=500", ""), ("", "GET /nope = 0"), ("", "* * <= 5")):
        (verdict,) = verdicts(records, never, wanted, lost="lost 3 calls")
        assert verdict.failure == "cannot be verified: lost 3 calls"
        assert verdict.unproven
    # A lower bound: proven.
    for wanted in ("GET /items/7", "* * > 0"):
        assert verdicts(records, wanted=wanted, lost="lost 3 calls")[0].failure is None
    # And a violation is proven.
    (verdict,) = verdicts(records, "status=200", lost="lost 3 calls")
    assert verdict.failure == "1 of 1 exchanges" and not verdict.unproven
    (verdict,) = verdicts(records, wanted="GET /nope", lost="lost 3 calls")
    assert verdict.failure == "matched 0 exchanges, expected >= 1 (lost 3 calls)"
    assert not verdict.unproven
