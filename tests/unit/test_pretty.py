# SPDX-License-Identifier: Apache-2.0
"""Lines for people: their content, on a terminal and elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from profiler.exchanges.read import Capture
from profiler.outputs.choice import choose
from profiler.outputs.pretty import Pretty
from tests import sample_capture
from tests.terminal import PROFILER, ROOT, Terminal

DEMO = ROOT / "tests" / "replay" / "cases" / "demo" / "capture"
REPLAY = [*PROFILER, "replay", str(DEMO)]
# The demo's second exchange, with the times of the recording.
HEALTHZ = (
    r"23:28:51\.127 python3→gunicorn       GET     127\.0\.0\.1:8080/healthz +"
    r"200    195 B  55\.5 ms"
)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def pretty(records: list[dict[str, Any]], path: Path) -> list[str]:
    sink = Pretty(path, None)
    for record in records:
        sink.write(record)
    sink.close()
    return path.read_text().splitlines()


def message(kind: str, **more: Any) -> dict[str, Any]:
    of_kind = (
        {"method": "GET", "url": "/a?token=s3cret", "headers": {"host": "shop"}}
        if kind == "request"
        else {
            "status_code": 200,
            "request": {"method": "GET", "url": "/a?token=s3cret"},
            "latency_ms": 1.5,
        }
    )
    return {
        "timestamp": "2026-01-01T00:00:01Z",
        "type": kind,
        "role": "client",
        "comm": "curl",
        "exchange": "1-1",
        "source_ip": "192.0.2.1",
        "source_port": 80,
        "dest_ip": "192.0.2.2",
        "bytes": 1234,
        **of_kind,
        **more,
    }


def test_an_exchange_is_a_line_and_both_ends_are_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [*REPLAY, "--format", "pretty"], capture_output=True, text=True, check=True, cwd=ROOT
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    assert re.fullmatch(HEALTHZ, lines[1]), lines[1]
    assert "\x1b" not in done.stdout
    assert done.stderr.splitlines()[0].startswith("http-profiler: secrets are redacted")


def test_a_terminal_gets_pretty_lines_of_its_width_with_colours() -> None:
    for columns in (40, 80, 200):
        with Terminal(REPLAY, columns=columns) as terminal:
            text = terminal.end()
        assert terminal.exit_code == 0
        lines = [line for line in text.splitlines() if "8080/" in line and "200" in line]
        assert len(lines) == 4, text
        assert all(len(line) <= columns for line in lines)
        assert b"\x1b[32m" in terminal.sent  # a status of 200 is green
    assert re.search(HEALTHZ, text)


@pytest.mark.parametrize(
    "environment",
    [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"TERM": "vt100"}, {"TERM": "no-such"}, {"TERM": ""}],
    ids=str,
)
def test_without_colours(environment: dict[str, str]) -> None:
    with Terminal(REPLAY, columns=120, **environment) as terminal:
        assert re.search(HEALTHZ, terminal.end())
    assert b"\x1b" not in terminal.sent


def test_an_empty_no_color_is_ignored() -> None:
    with Terminal(REPLAY, NO_COLOR="") as terminal:
        terminal.end()
    assert b"\x1b[32m" in terminal.sent


@pytest.mark.parametrize(("option", "is_pretty"), [("jsonl", False), ("pretty", True)])
def test_a_requested_format(option: str, is_pretty: bool) -> None:
    with Terminal([*REPLAY, "--format", option]) as terminal:
        terminal.end()
    assert (b'{"timestamp":' not in terminal.sent) is is_pretty


def test_a_file_gets_json_even_with_a_terminal(tmp_path: Path) -> None:
    with Terminal([*REPLAY, "--output", str(tmp_path / "out")]) as terminal:
        text = terminal.end()
    assert "secrets are shown" in text
    assert (tmp_path / "out").read_text().startswith('{"timestamp":')


def test_formats_that_hide_secrets_by_default(tmp_path: Path) -> None:
    for form, redact, hides in (
        ("pretty", None, True),
        ("pretty", False, False),
        ("jsonl", None, False),
        ("jsonl", True, True),
    ):
        path = tmp_path / f"{form}-{redact}"
        sink, redactor = choose(path, form, redact)
        sink.write(message("request"))
        sink.write(message("response"))
        sink.flush()
        sink.close()
        assert (redactor is not None) is hides
        assert ("s3cret" not in path.read_text()) is hides
        assert ("redacted-" in path.read_text()) is hides


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([message("request")], ["curl→", "GET", "shop/a", "none"]),
        ([message("request", incomplete=["reset"])], ["none", "! reset"]),
        (
            [message("request"), message("response", incomplete=["lost", "body_limit"])],
            ["200", "1.2 kB", "1.50 ms", "! lost, body_limit"],
        ),
        ([message("response")], ["→", "GET", "192.0.2.1:80/a", "200"]),
        ([{**message("response"), "request": {}}], ["?", "200"]),
        ([message("request", role="server", method="BREW")], ["→curl", "BREW"]),
        (
            [message("request"), message("response", error_code="CANCEL", incomplete=["reset"])],
            ["! reset, CANCEL"],
        ),
        ([message("request"), message("response", status_code=101, upgrade="websocket")],
         ["101", "websocket"]),
        ([message("request", method="CONNECT", url="h:443")], ["CONNECT", " h:443 "]),
        ([message("request", tls={"library": "go"})], [" https://shop/a"]),
        ([message("request")], [" shop/a"]),
    ],
)  # fmt: skip
def test_what_is_missing_is_visible(
    records: list[dict[str, Any]], words: list[str], tmp_path: Path
) -> None:
    [line] = pretty(records, tmp_path / "out")
    for word in words:
        assert word in line


def test_a_pending_request_has_a_line(tmp_path: Path) -> None:
    later = message("request", timestamp="2026-01-01T00:00:07Z", exchange="2-1")
    lines = pretty([message("request"), later, message("response")], tmp_path / "out")
    assert [re.search(r" (wait|none|200) ", f"{line} ")[1] for line in lines] == [  # type: ignore[index]
        "wait", "200", "none"
    ]  # fmt: skip


def test_pending_requests_are_emitted_by_the_clock(tmp_path: Path) -> None:
    now = 1_767_225_601_000_000_000
    sink = Pretty(tmp_path / "out", None, lambda: now)
    sink.write(message("request"))
    sink.flush()
    assert (tmp_path / "out").read_text() == ""
    now += 5_000_000_000
    sink.flush()
    assert " wait" in (tmp_path / "out").read_text()


def test_hostile_bytes_never_reach_the_terminal(tmp_path: Path) -> None:
    records = list(Capture(sample_capture.hostile(tmp_path / "c")).records())
    lines = pretty(records, tmp_path / "out")
    text = "\n".join(lines)
    assert len(lines) == 5
    for character in "\x1b\x00\x85\u202e\u2066\u200b\r":
        assert character not in text
        assert f"⟨U+{ord(character):04X}⟩" in text


def test_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m profiler.cli replay {DEMO} --format pretty | true"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "Traceback" not in done.stderr
