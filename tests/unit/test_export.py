# SPDX-License-Identifier: Apache-2.0
"""Exports, checked with other tools: a schema, a shell with curl, csv, DuckDB."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import threading
from base64 import b64encode
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from profiler.errors import ProfilerError
from profiler.exchanges.model import Exchange
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import Capture, normalized
from profiler.outputs.answer import answer
from profiler.outputs.csv import csv_lines
from profiler.outputs.curl import command, quote
from profiler.outputs.har import entry, har
from profiler.outputs.tables import QueryError, database
from tests import sample_capture

SCHEMA = json.loads((Path(__file__).parents[1] / "har-1.2.schema.json").read_text())
HAR = jsonschema.Draft202012Validator(
    SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)
CASES = sorted((Path(__file__).parents[1] / "cases").glob("*/expected.jsonl"))


# All fields, in their order.
TLS = {
    "library": "openssl",
    "version": "1.3",
    "sni": "shop.example",
    "alpn": "h2",
    "cipher": "TLS_AES_128_GCM_SHA256",
}


def exchanges(records: list[dict[str, Any]]) -> Exchanges:
    return Exchanges(map(normalized, records))


def request(**more: Any) -> dict[str, Any]:
    return {
        "timestamp": "2026-01-01T00:00:00.123456789Z",
        "type": "request",
        "role": "client",
        "exchange": "1-1",
        "method": "GET",
        "url": "/",
        "http_version": "1.1",
        "dest_ip": "127.0.0.1",
        "dest_port": 80,
        "headers": {"Host": "a"},
        "body": "",
        **more,
    }


def response(**more: Any) -> dict[str, Any]:
    return {
        "timestamp": "2026-01-01T00:00:01Z",
        "type": "response",
        "role": "client",
        "exchange": "1-1",
        "status_code": 200,
        "reason": "OK",
        "http_version": "1.1",
        "headers": {},
        "body": "",
        "latency_ms": 5.5,
        "duration_ms": 7.0,
        **more,
    }


def one(*records: dict[str, Any]) -> Exchange:
    (found,) = exchanges(list(records))
    return found


def document(found: Exchanges) -> dict[str, Any]:
    return json.loads(b"".join(har(found)))  # type: ignore[no-any-return]


# HAR


def test_har_of_every_situation_keeps_to_the_schema() -> None:
    assert CASES
    for case in CASES:
        records = [json.loads(line) for line in case.read_text().splitlines()]
        HAR.validate(document(exchanges(records)))


def test_har_of_many_and_of_none(tmp_path: Path) -> None:
    capture = Capture(sample_capture.write(tmp_path / "c", 300))
    found = document(exchanges(list(capture.records())))
    HAR.validate(found)
    assert 300 <= len(found["log"]["entries"]) < 305
    HAR.validate(document(exchanges([])))


def test_har_of_hostile_bytes_keeps_to_the_schema(tmp_path: Path) -> None:
    capture = Capture(sample_capture.hostile(tmp_path / "c"))
    HAR.validate(document(exchanges(list(capture.records()))))


def test_a_har_entry() -> None:
    asked = request(
        url="/a?b=1&b=2&c",
        method="POST",
        body="x=1",
        headers={
            "Host": "shop",
            "Cookie": "a=1; b=2",
            "Content-Type": "text/plain",
            "X": ["1", "2"],
        },
        raw_payload="POST /a HTTP/1.1\r\nHost: shop\r\n\r\nx=1",
        bytes=35,
    )
    answered = response(
        body=b64encode(b"\xff").decode(),
        body_encoding="base64",
        bytes=20,
        headers={"Set-Cookie": "s=1; Path=/; HttpOnly", "Location": "/b"},
        incomplete=["lost"],
    )
    found = entry(one(asked, answered))
    assert found["startedDateTime"] == "2026-01-01T00:00:00.123Z"
    assert (found["time"], found["timings"]["wait"], found["timings"]["receive"]) == (7, 5.5, 1.5)
    assert found["serverIPAddress"] == "127.0.0.1"
    assert found["_incomplete"] == ["lost"]
    sent = found["request"]
    assert sent["url"] == "http://shop/a?b=1&b=2&c"
    assert [(p["name"], p["value"]) for p in sent["queryString"]] == [
        ("b", "1"),
        ("b", "2"),
        ("c", ""),
    ]
    assert [p["value"] for p in sent["headers"] if p["name"] == "x"] == ["1", "2"]
    assert [c["name"] for c in sent["cookies"]] == ["a", "b"]
    assert sent["postData"] == {"mimeType": "text/plain", "text": "x=1"}
    assert (sent["headersSize"], sent["bodySize"]) == (32, 3)
    content = found["response"]["content"]
    assert (content["text"], content["encoding"], content["size"]) == ("/w==", "base64", 1)
    assert found["response"]["cookies"] == [
        {"name": "s", "value": "1", "path": "/", "httpOnly": True}
    ]
    assert found["response"]["redirectURL"] == "/b"


def test_a_har_entry_without_a_response_has_status_0() -> None:
    found = entry(one(request()))
    assert (found["response"]["status"], found["comment"]) == (0, "no response was captured")


def test_the_schema_rejects_an_invalid_har() -> None:
    good = document(exchanges([request(), response()]))
    HAR.validate(good)
    for change in (
        lambda d: d["log"].pop("creator"),
        lambda d: d["log"].update(version="1.1"),
        lambda d: d["log"]["entries"][0].update(time=-1),
        lambda d: d["log"]["entries"][0]["request"].update(url="/a"),
        lambda d: d["log"]["entries"][0]["response"].update(status="200"),
        lambda d: d["log"]["entries"][0].update(misspelt=1),
    ):
        bad = json.loads(json.dumps(good))
        change(bad)
        with pytest.raises(jsonschema.ValidationError):
            HAR.validate(bad)


# curl


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.got: list[tuple[str, str, str, list[tuple[str, str]], bytes]] = []


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.raw_requestline.decode().split(" ")[1]
        fields = [(k, v.encode("latin-1").decode()) for k, v in self.headers.items()]
        self.server.got.append((self.command, target, self.request_version, fields, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one_server:
        threading.Thread(target=one_server.serve_forever, daemon=True).start()
        yield one_server
        one_server.shutdown()


NASTY = 'it\'s $HOME `id` \\ "quoted" !1 *?[a] ~ #c & ; | > < (x) %41 \N{SNOWMAN}'


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"url": "/a/../b//c?x={1,2}&y=[1-3]&z=%20'$(id)`"},
        {"url": "*", "method": "OPTIONS"},
        {"url": "http://elsewhere.example/a"},
        {"url": "/\N{SNOWMAN}#f"},
        {"method": "HEAD"},
        {"method": "DELETE"},
        {"method": "M-SEARCH"},
        {"http_version": "1.0"},
        {"headers": {"Host": "name.example:81", "X-A": NASTY, "X-B": ["1", "2"], "X-Empty": ""}},
        {"headers": {"Host": "name.example", "X": "a\tb\u202e\x1b[31m"}},
        {"headers": {"Host": "name.example", "User-Agent": "mine", "Accept": "text/plain"}},
        {"method": "POST", "body": "a=1&b=@/etc/passwd"},
        {"method": "POST", "body": "@/etc/passwd"},
        {
            "method": "PUT",
            "body": f"line\n\n{NASTY}\n\n",
            "headers": {"Host": "h", "Content-Type": "a/b"},
        },
        {"method": "POST", "body": "x" * 300_000},
        {"method": "POST", "body": "escape \x1b[31m and \x00 nothing\r\n"},
        {
            "method": "POST",
            "body": b64encode(bytes(range(256))).decode(),
            "body_encoding": "base64",
        },
        {"method": "POST", "body": "\xe9", "body_charset": "iso-8859-1"},
        {
            "method": "POST",
            "body": "in chunks",
            "headers": {"Host": "h", "Transfer-Encoding": "chunked"},
        },
        {"method": "GET", "body": "a body", "headers": {"Host": "h"}},
    ],
    ids=lambda more: "-".join(f"{k}={str(v)[:20]}" for k, v in more.items()) or "plain",
)
def test_the_command_sends_what_was_sent(
    server: Server, more: dict[str, Any], tmp_path: Path
) -> None:
    """Run by a POSIX shell: method, target, version, headers and content arrive unchanged."""
    record = request(dest_port=server.server_address[1], **more)
    script = command(one(record))
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "LC_ALL": "C.UTF-8"}
    (tmp_path / "script").write_text(script)
    subprocess.run(
        ["sh", "script"],
        env=environment,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        timeout=60,
    )
    ((method, target, version, fields, body),) = server.got
    assert (method, version) == (record["method"], f"HTTP/{record['http_version']}")
    assert target == record["url"]
    expected = record["body"].encode(record.get("body_charset", "utf-8"))
    if record.get("body_encoding"):
        expected = bytes(range(256))
    assert body == expected
    sent = [
        (name.lower(), value)
        for name, values in record["headers"].items()
        for value in (values if isinstance(values, list) else [values])
    ]
    counted = (
        []
        if not expected or ("transfer-encoding", "chunked") in sent
        else [("content-length", str(len(expected)))]
    )
    assert sorted((name.lower(), value) for name, value in fields) == sorted(sent + counted)
    assert all(c == "\n" or c.isprintable() for c in script.replace(record["body"], ""))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"method": "CONNECT", "url": "a:1"}, "it opens a tunnel"),
        ({"method": "a b"}, "its start line is invalid"),
        ({"url": "/\r\nX: 1"}, "its start line is invalid"),
        ({"headers": {"@/etc/passwd": ""}}, "a header is invalid"),
        ({"headers": {"a": "b\r\nc: d"}}, "a header is invalid"),
        ({"http_version": "3"}, "its version is unknown"),
    ],
)
def test_reports_exchanges_that_cannot_be_repeated(more: dict[str, Any], why: str) -> None:
    text = command(one(request(cmdline="evil\nrm -rf /", **more)))
    assert text == f"# 2026-01-01T00:00:00.123456789Z evil -> no response: left out, {why}\n"


def test_a_comment_ends_with_its_line() -> None:
    text = command(one(request(cmdline="x\u2028y\x0by"), response(incomplete=["lost"])))
    assert text.splitlines()[1].startswith("curl ")


def test_a_unix_socket_and_http2() -> None:
    text = command(
        one(
            request(
                dest_path="/run/a b.sock",
                http_version="2",
                headers={":authority": "a", ":path": "/", "x": "1"},
            )
        )
    )
    assert "--http2-prior-knowledge" in text
    assert "--unix-socket '/run/a b.sock'" in text
    assert "--header 'x: 1'" in text and ":path" not in text


def test_quoting_by_the_shell_itself() -> None:
    for text in ("", "a b", NASTY, "\x01\x7f\u202e", "'" * 3, "-n", "%s\\n"):
        ran = subprocess.run(
            ["sh", "-c", f"printf %s {quote(text)}"], capture_output=True, check=True
        )
        assert ran.stdout.decode() == text


# CSV


def test_csv(tmp_path: Path) -> None:
    capture = Capture(sample_capture.write(tmp_path / "c", 100))
    found = exchanges(list(capture.records()))
    rows = list(csv.DictReader(io.StringIO("".join(csv_lines(found)), newline="")))
    assert len(rows) == len(found)
    both = next(row for row in rows if row["server"] == "shop")
    assert (both["client"], both["server_address"]) == ("nginx", "127.0.0.1:8000")
    assert float(both["server_latency_ms"]) < float(both["latency_ms"])


def test_csv_runs_no_formula() -> None:
    found = exchanges([request(method="=1+1", url='/a,"b"\n', cmdline="@SUM(A1)")])
    (row,) = csv.DictReader(io.StringIO("".join(csv_lines(found)), newline=""))
    assert (row["method"], row["client"], row["url"]) == ("'=1+1", "'@SUM(A1)", '/a,"b"\n')


def test_csv_has_what_is_known_of_tls() -> None:
    found = exchanges([request(tls=TLS), request(exchange="1-2")])
    rows = list(csv.DictReader(io.StringIO("".join(csv_lines(found)), newline="")))
    assert [{name: row[f"tls_{name}"] for name in TLS} for row in rows] == [
        TLS,
        dict.fromkeys(TLS, ""),
    ]


def test_an_empty_csv_has_its_header() -> None:
    assert "".join(csv_lines([])).startswith("time,client,")


# SQL and Parquet


def test_sql(tmp_path: Path) -> None:
    capture = Capture(sample_capture.write(tmp_path / "c", 200))
    records = list(capture.records())
    with database() as tables:
        found = tables.load(records)
        for sql, expected in (
            ("select count(*) from exchanges", len(found)),
            ("select count(*) from messages", len(records)),
            (
                "select epoch_ns(min(timestamp)) % 1000000000 from messages where pid is not null",
                None,
            ),
            ("select count(distinct headers->>'host') from messages where type = 'request'", 4),
            (
                "select max(response_headers->>'$.\"set-cookie\"[1]') from exchanges",
                "theme=dark; Path=/",
            ),
        ):
            _, rows = tables.query(sql)
            ((value,),) = rows
            assert value == expected if expected is not None else value > 0, sql
        path = tmp_path / "x.parquet"
        path.write_bytes(tables.parquet())
        _, rows = tables.query(f"select count(*), count(request_body) from '{path}'")
        assert list(rows) == [(len(found), len(found))]
        with pytest.raises(QueryError, match=r"^DuckDB: .*selct"):
            tables.query("selct 1")
        with pytest.raises(QueryError, match="nothing"):
            tables.query("select nothing from messages")


def test_sql_of_tls() -> None:
    with database() as tables:
        tables.load([request(tls=TLS), request(exchange="1-2")])
        for sql in (
            f"select {', '.join(f'tls_{name}' for name in TLS)} from exchanges"
            " where tls_library is not null",
            f"select {', '.join(f'tls.{name}' for name in TLS)} from messages"
            " where tls is not null",
        ):
            _, rows = tables.query(sql)
            assert list(rows) == [tuple(TLS.values())], sql


def test_nanoseconds_are_kept() -> None:
    with database() as tables:
        tables.load([request()])
        _, rows = tables.query("select epoch_ns(timestamp) from messages")
        assert list(rows) == [(1767225600123456789,)]


def test_sql_of_an_empty_and_a_strange_capture(tmp_path: Path) -> None:
    with database() as tables:
        tables.load([])
        _, rows = tables.query("select * from exchanges")
        assert list(rows) == []
    with database() as tables:
        tables.load(Capture(sample_capture.hostile(tmp_path / "c")).records())
        _, rows = tables.query("select body from messages where url = '/' || ?".replace("?", "'a'"))
        assert list(rows) == []
    long = request(body="x" * 20_000_000)
    with database() as tables:
        tables.load([long])
        _, rows = tables.query("select length(body) from messages")
        assert list(rows) == [(20_000_000,)]


def test_without_duckdb_one_line_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    with (
        pytest.raises(ProfilerError, match=r"pip install 'http-profiler\[query\]'"),
        database(),
    ):
        pass


def test_an_answer_for_a_terminal() -> None:
    lines = list(answer(["name", "n"], [("a\x1b[31m\u202e", 1.5), (None, 22)], for_terminal=True))
    assert lines == [
        "name                       n\n",
        "---------------------  -----\n",
        "a⟨U+001B⟩[31m⟨U+202E⟩  1.500\n",
        "                          22\n",
    ]
    assert list(answer(["n"], [(n,) for n in range(1002)], True))[-1] == "... and 2 more rows\n"
    assert list(answer(["n"], [], True)) == ["n\n", "-\n"]


def test_an_answer_for_programs() -> None:
    assert list(answer(["a", "b"], [(1, None)], for_terminal=False)) == ['{"a":1,"b":null}\n']
