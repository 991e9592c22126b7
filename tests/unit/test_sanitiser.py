# SPDX-License-Identifier: Apache-2.0
"""Whatever is captured or recorded: no terminal obeys it, and no command ends with a traceback."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import orjson
import pytest

from profiler import RECORDING_FORMAT, cli
from profiler.exchanges.text import escaped, visible_lines
from profiler.ingest import wire
from profiler.ingest.probe.recording import VERSION, Recording
from profiler.ingest.record import timestamp

DEMO = Path(__file__).parents[1] / "replay/cases/demo/capture"
HOSTILE = "\x9b31m\x1b[31m\x7f"
REQUEST: dict[str, Any] = {
    "timestamp": "2026-01-01T00:00:00.000000000Z",
    "type": "request",
    "role": "client",
    "method": "GET",
    "url": "/",
    "exchange": "1-1",
    "http_version": "1.1",
    "headers": {},
}
RESPONSE = {**REQUEST, "type": "response", "status_code": 200, "latency_ms": 1.0}
READERS = [
    ["inventory"],
    ["export", "--har"],
    ["export", "--csv"],
    ["export", "--curl"],
    ["query", "select * from exchanges"],
    ["query", "select * from messages"],
    ["check", "--fail-if", "failed"],
]


def lines(path: Path, *records: Any) -> str:
    texts = (
        one if isinstance(one, str) else json.dumps(one, ensure_ascii=False) for one in records
    )
    path.write_text("".join(f"{text}\n" for text in texts), "utf-8")
    return str(path)


def recording(path: Path, header: Any, *records: bytes) -> str:
    if isinstance(header, dict):
        origin = {"machine": "x86_64", "kernel": "6.1", "route": "socket"}
        header = {"format": RECORDING_FORMAT, "version": VERSION, **origin, **header}
        header = json.dumps(header).encode()
    frames = (struct.pack("=I", len(one)) + one for one in records)
    path.write_bytes(header + b"\n" + b"".join(frames))
    return str(path)


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run a command; whatever it prints must be safe for a terminal."""
    code = cli.main(arguments)
    out, err = capfd.readouterr()
    assert not any(0x7F <= ord(one) <= 0x9F or one == "\x1b" for one in out + err)
    return code, out, err


def test_json_keeps_its_meaning() -> None:
    document = {"a\x9b": "\x80\x9f\x7f\xa0Âé€\U0001f600", "b": "\\u0080"}
    data = orjson.dumps(document)
    assert orjson.loads(escaped(data)) == document
    assert b"\\u009b" in escaped(data)
    assert b"\\u007f" in escaped(data)
    assert escaped(b"plain") == b"plain"


def test_lines_stay_lines() -> None:
    assert visible_lines("a\nb\x1b\tc") == "a\nb⟨U+001B⟩⟨U+0009⟩c"


@pytest.mark.parametrize("command", READERS)
def test_control_characters_of_a_capture(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    hostile = {"url": f"/{HOSTILE}", "comm": HOSTILE, "headers": {f"a{HOSTILE}": HOSTILE}}
    capture = lines(tmp_path / "c", {**REQUEST, **hostile}, {**RESPONSE, "comm": HOSTILE})
    assert run(capfd, *command, capture)[0] == 0


@pytest.mark.parametrize("command", READERS)
@pytest.mark.parametrize("depth", [240, 250, 253, 254, 900])
def test_a_line_that_is_nested_deeply(
    command: list[str], depth: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    deep = f'{json.dumps(REQUEST)[:-1]}, "x": {"[" * depth + "]" * depth}}}'
    code, _, err = run(capfd, *command, lines(tmp_path / "c", REQUEST, deep, RESPONSE))
    assert code == (0 if depth == 240 else 3)
    assert ("1 damaged" in err) == (depth > 240)


@pytest.mark.parametrize("latency", ["9e18", "1e308", "1e400", "-1e308"])
def test_a_latency_without_reason(
    latency: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    slow = json.dumps(RESPONSE).replace("1.0,", f"{latency},").replace("1.0}", f"{latency}}}")
    capture = lines(tmp_path / "c", REQUEST, slow, RESPONSE)
    for command in READERS:
        assert run(capfd, *command, capture)[0] == (0 if latency == "9e18" else 3)


@pytest.mark.parametrize("year", ["0000", "10000", "-001", "1969", "2262", "9999999999", HOSTILE])
def test_a_year_that_no_one_lives_in(
    year: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    odd = {**REQUEST, "timestamp": f"{year}-01-01T00:00:00Z"}
    code, _, err = run(capfd, "export", "--csv", lines(tmp_path / "c", REQUEST, odd))
    assert code == 3
    assert "line 2: `timestamp` is no" in err


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("select date '5000000-01-01'", 0),
        ("select timestamp '290000-01-01'", 0),
        ("select date '0044-03-15 (BC)'", 0),
        ("select 'infinity'::timestamp", 0),
        ("select interval 100000000 years", 1),
        ("select interval 1000000000 days", 1),
        ("select 170141183460469231731687303715884105727 as n", 0),
        ("select 1e308, 'nan'::double", 0),
        ("select chr(155) || chr(27) || chr(127)", 0),
        ("select error(chr(27) || chr(155))", 1),
        (f"select {HOSTILE}", 1),
    ],
)
def test_results_and_errors_of_duckdb(
    sql: str, code: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    found, out, err = run(capfd, "query", sql, lines(tmp_path / "c", REQUEST))
    assert found == code, err
    assert code == 0 or (not out and "http-profiler: DuckDB: " in err)


@pytest.mark.parametrize(
    "header",
    [
        {"version": HOSTILE},
        {"machine": ["x"]},
        {"route": {HOSTILE: 1}},
        {"byteorder": HOSTILE},
        b"[" * 4000,
        b'{"a":' * 800,
    ],
    ids=lambda header: repr(header)[:24],
)
def test_the_first_line_of_a_recording(
    header: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capfd, "replay", recording(tmp_path / "r", header))
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert str(tmp_path) in err


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 1000 + b"]" * 1000,
        json.dumps({"lost": {HOSTILE: 5}, "filtered": {HOSTILE: 3}}).encode(),
        b'{"seen": 1e308}',
        b"",
    ],
    ids=lambda document: repr(document)[:24],
)
def test_the_counters_of_a_recording(
    document: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    counters = wire.encode(wire.Counters(document))
    assert run(capfd, "replay", recording(tmp_path / "r", {}, counters))[0] in (0, 1)


@pytest.mark.parametrize("form", ["jsonl", "pretty"])
@pytest.mark.parametrize(("kernel", "realtime"), [(0, 2**63 - 1), (2**63 - 1, 0)])
def test_a_recording_of_another_age(
    form: str, kernel: int, realtime: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    records = [
        one for one in Recording(DEMO).records() if not isinstance(wire.decode(one), wire.Clock)
    ]
    clock = wire.encode(wire.Clock(kernel, realtime))
    path = recording(tmp_path / "r", {}, clock, *records)
    assert cli.main(["replay", "--format", form, path]) == 0
    assert "127.0.0.1" in capfd.readouterr().out


def test_times_that_no_reader_accepts() -> None:
    assert timestamp(-1) == timestamp(0) == "1970-01-01T00:00:00.000000000Z"
    assert timestamp(2**64) == "2261-12-31T23:59:59.999999999Z"
