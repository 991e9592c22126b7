# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import CaptureFileError
from profiler.exchanges.model import Exchange, absolute_url, authority, path_of, program
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import Capture, fault
from profiler.ingest.session import replay
from profiler.ingest.settings import Settings

CASES = sorted((Path(__file__).parents[1] / "replay" / "cases").iterdir())


def exchanges(records: list[dict[str, Any]]) -> list[Exchange]:
    found = Exchanges(records)
    assert len(found) == len(list(found))
    return list(found)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_the_profiler_writes_is_read(case: Path, tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    replay(case / "capture", Settings(output=lines))
    capture = Capture(lines)
    records = list(capture.records())
    assert records == [json.loads(line) for line in lines.read_text().splitlines()]
    assert capture.damage.lines == 0
    found = exchanges(records)
    # Every line is in one exchange.
    shown = [record for one in found for side in one.sides for record in side.records]
    assert sorted(map(str, shown)) == sorted(map(str, records))


def test_both_ends_of_the_demo_are_joined() -> None:
    records = [json.loads(line) for line in (CASES[2] / "expected.jsonl").read_text().splitlines()]
    assert CASES[2].name == "demo"
    found = exchanges(records)
    assert len(found) == len(records) / 4
    for one in found:
        assert one.client and one.server and one.client.request and one.server.request
        assert one.client.request["raw_payload"] == one.server.request["raw_payload"]


def message(kind: str, second: float, **more: Any) -> dict[str, Any]:
    return {
        "timestamp": f"2026-01-01T00:00:{second:012.9f}Z",
        "type": kind,
        "role": "client",
        "exchange": "1-1",
        "netns": 1,
        **more,
    }


def test_a_reused_number_is_another_exchange() -> None:
    first = [message("request", 1, url="/1"), message("response", 2, status_code=200)]
    again = [message("request", 3, url="/2"), message("response", 4, status_code=200)]
    assert [one.asked["url"] for one in exchanges(first + again)] == ["/1", "/2"]


def test_a_response_may_come_first_and_interim_ones_before_it() -> None:
    records = [
        message("response", 2, status_code=100),
        message("response", 3, status_code=200),
        message("request", 1, url="/"),
    ]
    (one,) = exchanges(records)
    assert one.side.request and one.side.request["url"] == "/"
    assert [r["status_code"] for r in one.side.interim] == [100]
    assert one.response and one.response["status_code"] == 200


def test_a_connection_seen_mid_stream_may_lack_a_request() -> None:
    (one,) = exchanges([{**message("response", 1, status_code=200), "exchange": "1-1"}])
    assert one.asked == {}
    (one,) = exchanges([message("response", 1, request={"method": "GET", "url": "/a"})])
    assert one.asked["url"] == "/a"


def both(server_second: float, **more: Any) -> list[dict[str, Any]]:
    here = {"connection": "unix:5", "method": "GET", "url": "/"}
    return [
        message("request", 1, **here),
        message("request", server_second, **{**here, "role": "server", "exchange": "2-1", **more}),
        message("response", 5, status_code=200),
    ]


def test_without_sequence_numbers_time_decides() -> None:
    assert len(exchanges(both(2))) == 1
    assert len(exchanges(both(6))) == 2  # the client had its response
    assert len(exchanges(both(0.5))) == 2
    assert len(exchanges(both(2, url="/other"))) == 2
    assert len(exchanges(both(2, exchange="2-7"))) == 2


def test_sequence_numbers_take_precedence_over_the_clock() -> None:
    records = both(6)
    records[0]["sequence"] = records[1]["sequence"] = 77
    assert len(exchanges(records)) == 1
    records[1]["sequence"] = 78
    assert len(exchanges(records)) == 2


def written(path: Path, *lines: bytes) -> Capture:
    path.write_bytes(b"".join(lines))
    return Capture(path)


GOOD = json.dumps(message("request", 1)).encode() + b"\n"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"{]\n", "is not a JSON object"),
        (b"\xff\n", "is not a JSON object"),
        (b"[1]\n", "is not a JSON object"),
        (b'{"a":1}\n', "is not a message"),
        (b'{"type":"request"}\n', "is not a message"),
        (GOOD[:-2], "is cut off"),
        (GOOD.replace(b'"client"', b"5"), "`role` has the wrong type"),
        (GOOD.replace(b'"netns": 1', b'"netns": true'), "`netns` has the wrong type"),
        (GOOD.replace(b'"netns": 1', b'"headers": {"a": 1}'), "`headers` has the wrong type"),
        (GOOD.replace(b'"netns": 1', b'"request": {"url": []}'), "`request` has the wrong type"),
        (GOOD.replace(b'"netns": 1', b'"incomplete": [1]'), "`incomplete` has the wrong type"),
        (GOOD.replace(b"-01T", b"-99T"), "`timestamp` is not a time"),
        (
            GOOD.replace(b'"netns": 1', b'"body":"!","body_encoding":"base64"'),
            "`body` is not base64",
        ),
    ],
)
def test_a_damaged_line_is_counted_and_the_others_are_read(
    line: bytes, why: str, tmp_path: Path
) -> None:
    capture = written(tmp_path / "c", GOOD, b"\n", GOOD, line)
    assert len(list(capture.records())) == 2
    assert capture.damage.examples == [(4, why)]
    assert str(capture.damage) == f"1 damaged (line 4: {why})"


def test_a_field_of_a_later_version_is_passed_on() -> None:
    assert fault({**message("request", 1), "later": [1]}) is None


def test_many_damaged_lines_are_reported_briefly(tmp_path: Path) -> None:
    capture = written(tmp_path / "c", GOOD, *[b"{]\n"] * 9)
    list(capture.records())
    assert str(capture.damage).endswith("line 6: is not a JSON object; and 4 more)")


def test_files_that_are_not_captures(tmp_path: Path) -> None:
    assert list(written(tmp_path / "c").records()) == []
    with pytest.raises(CaptureFileError, match=r"none of its 1 lines is a message \(line 1: "):
        list(written(tmp_path / "c", b"hello\n").records())
    with pytest.raises(CaptureFileError, match="http-profiler replay"):
        list(Capture(CASES[0] / "capture").records())
    with pytest.raises(CaptureFileError, match="No such file"):
        Capture(tmp_path / "none")
    with pytest.raises(CaptureFileError, match="Is a directory"):
        list(Capture(tmp_path).records())


@pytest.mark.parametrize(
    ("request_", "url"),
    [
        ({"url": "/a?b", "headers": {"host": "shop:81"}}, "http://shop:81/a?b"),
        ({"url": "/a", "headers": {}}, "http://10.0.0.1:80/a"),
        ({"url": "/a", "headers": {"host": "a b/../"}}, "http://10.0.0.1:80/a"),
        ({"url": "http://x/a", "headers": {"host": "y"}}, "http://x/a"),
        ({"url": "*", "headers": {"host": "y"}}, "http://y/*"),
        ({"url": "/", "headers": {":authority": "y", ":scheme": "https"}}, "https://y/"),
        ({"url": "/", "headers": {"host": "y"}, "tls": {"library": "go"}}, "https://y/"),
        ({"url": "h:1", "method": "CONNECT", "headers": {}}, "http://h:1/"),
    ],
)
def test_urls(request_: dict[str, Any], url: str) -> None:
    record = message("request", 1, dest_ip="10.0.0.1", dest_port=80, **request_)
    assert absolute_url(record, record) == url


def test_an_ipv6_address() -> None:
    record = message("request", 1, dest_ip="::1", dest_port=80, headers={})
    assert authority(record, record) == "[::1]:80"


def test_paths() -> None:
    assert path_of("/a/b?c") == "/a/b"
    assert path_of("http://h/a?c") == "/a"
    assert path_of("http://[") == "http://["


@pytest.mark.parametrize(
    ("cmdline", "name"),
    [
        ("/usr/sbin/nginx -g daemon off;", "nginx"),
        ("nginx: worker process", "nginx"),
        ("/venv/bin/python3 /venv/bin/gunicorn app", "gunicorn"),
        ("python3.11 -u -m http.server 80", "http.server"),
        ("java -Xmx1g -jar /srv/a.jar --x", "a.jar"),
        ("python3 -c import this", "python3"),
        ("node", "node"),
        ("", "thread"),
    ],
)
def test_programs(cmdline: str, name: str) -> None:
    assert program({"cmdline": cmdline, "comm": "thread"}) == name
