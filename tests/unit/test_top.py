# SPDX-License-Identifier: Apache-2.0
"""`top` in a real pseudo-terminal: keys, resizing, hostile bytes, a flood, and its end."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests import sample_capture
from tests.terminal import PROFILER, ROOT, Terminal


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_capture.write(tmp_path_factory.mktemp("shop") / "shop.jsonl", 300)


def top(capture: Path | str, *options: str) -> list[str]:
    return [*PROFILER, "top", "--from", str(capture), *options]


def test_from_endpoints_to_one_exchange_and_back(shop: Path) -> None:
    with Terminal(top(shop)) as terminal:
        terminal.until("953 lines of shop.jsonl")
        assert "300 exchanges" in terminal.text
        terminal.press("/", *"checkout", "\r")
        terminal.until("filter: checkout")
        terminal.press("down")
        terminal.press("\r")
        terminal.until(lambda text: "POST shop.internal/checkout  the latest" in text)
        terminal.press("\r")
        terminal.until("authorization: Bearer redacted-")
        terminal.press("end")
        terminal.until(lambda text: "timestamp" not in text)
        terminal.press("esc")
        terminal.until("time▼")
        terminal.press("esc")
        terminal.until("requests▼")
        terminal.press("\t")
        terminal.until("nginx (server) pid 812")
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0
    assert sample_capture.SECRET.encode() not in terminal.sent
    assert terminal.sent.startswith(b"http-profiler: secrets are redacted")
    assert terminal.sent.count(b"\x1b[?25l") == terminal.sent.count(b"\x1b[?25h")  # the cursor


def test_secrets_are_shown_on_request(shop: Path) -> None:
    with Terminal(top(shop, "--no-redact")) as terminal:
        terminal.until("lines of")
        terminal.press("\r", "\r")
        terminal.until(f"authorization: Bearer {sample_capture.SECRET}")


def test_filters_select_what_is_shown(shop: Path) -> None:
    with Terminal(top(shop, "--path", "/checkout", "--status", "5xx")) as terminal:
        terminal.until(lambda text: "lines of" in text and "/checkout" in text)
        rows = [line for line in terminal.still().split("\n")[3:-1] if line]
        terminal.press("q")
        terminal.end()
    assert len(rows) == 2 and all("/checkout" in row for row in rows)


def test_the_requested_number(shop: Path) -> None:
    with Terminal(top(shop, "--count", "40")) as terminal:
        terminal.until("lines of shop.jsonl")
        # Each exchange has at least two of them.
        assert 5 < int(re.search(r"(\d+) exchanges", terminal.text)[1]) <= 20
        terminal.press("q")
        terminal.end()


def test_resizing(shop: Path) -> None:
    with Terminal(top(shop)) as terminal:
        terminal.until("lines of")
        for lines, columns in ((10, 40), (50, 160), (1, 1), (24, 80)):
            terminal.resize(lines, columns)
            # The last line is the help, as much of it as fits.
            help_ = "↑↓ move  Enter"[: columns - 1]
            terminal.until(
                lambda text, n=lines, h=help_: n < 3 or text.split("\n")[n - 1].startswith(h)
            )
        terminal.until("GET shop.example/items/{id}")
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0


def test_hostile_bytes(tmp_path: Path) -> None:
    with Terminal(top(sample_capture.hostile(tmp_path / "c")), columns=200, lines=60) as terminal:
        terminal.until("5 exchanges")
        terminal.press("\t", "\t", "\r", "\r")
        terminal.until("⟨U+202E⟩gnp.exe")
        terminal.press("q")
        terminal.end()
    # No escape sequence from captured text: neither red, nor the end of a title.
    sent = terminal.sent.decode()
    assert "\x1b[31mred" not in sent
    assert not set(sent) & set("\x00\x85\u202e\u2066\u200b")


@pytest.mark.parametrize(
    "environment", [{"NO_COLOR": "1"}, {"TERM": "vt100"}], ids=["NO_COLOR", "vt100"]
)
def test_without_colours(shop: Path, environment: dict[str, str]) -> None:
    with Terminal(top(shop), **environment) as terminal:
        terminal.until("lines of")
        terminal.press("q")
        terminal.end()
    assert not re.search(rb"\x1b\[([0-9]*;)*3[1-6]m", terminal.sent)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("dumb", "the terminal dumb cannot move its cursor"),
        ("no-such", "has no description of the terminal no-such"),
    ],
)
def test_unusable_terminals(shop: Path, term: str, words: str) -> None:
    with Terminal(top(shop), columns=200, TERM=term) as terminal:
        assert words in terminal.end()
    assert terminal.exit_code == 1
    assert b"Traceback" not in terminal.sent


def test_no_terminal_at_all(shop: Path) -> None:
    for command in (top(shop), [*PROFILER, "top"]):
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 1
        [line] = done.stderr.splitlines()
        assert line.startswith("http-profiler: top needs a terminal")


@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_signals_restore_the_screen(shop: Path, signal_: int) -> None:
    with Terminal(top(shop)) as terminal:
        terminal.until("lines of")
        terminal.signal(signal_)
        terminal.end()
    assert terminal.exit_code == 0
    assert terminal.sent.count(b"\x1b[?25l") == terminal.sent.count(b"\x1b[?25h")


def test_damaged_lines_are_reported_and_counted(shop: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "d.jsonl"
    damaged.write_bytes(b"{]\n" + shop.read_bytes())
    with Terminal(top(damaged), columns=160) as terminal:
        terminal.until("1 damaged")
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 3


def test_a_read_error_restores_the_screen(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("hello\n")
    for name, words in (("c", "is not a capture"), ("none", "No such file")):
        with Terminal(top(tmp_path / name), columns=250) as terminal:
            assert words in terminal.end()
        assert terminal.exit_code == 1 and b"Traceback" not in terminal.sent


def test_a_pipe_that_continues_while_keys_are_pressed(shop: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    lines = shop.read_bytes().splitlines(keepends=True)
    command = ["sh", "-c", f'exec "$@" < {fifo}', "sh", *top("-")]
    with Terminal(command) as terminal:
        with fifo.open("wb", buffering=0) as pipe:
            pipe.write(b"".join(lines[:450]))
            terminal.until(lambda text: re.search(r" 1\d\d exchanges.*reading stand", text))
            terminal.press("\t")
            terminal.until("nginx (server)")
            pipe.write(b"".join(lines[450:]))
        terminal.until("953 lines of standard input")
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0


def test_reports_what_the_kernel_lost() -> None:
    demo = ROOT / "tests" / "replay" / "cases" / "demo" / "capture"
    live = [sys.executable, "-m", "tests.unit.stand_in_engine", str(demo), "top"]
    with Terminal(live, columns=200, STAND_IN_LOST="3", STAND_IN_SKIPPED="2") as terminal:
        terminal.until("lost calls: 3; the kernel skipped the probe for 2 calls")
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0


def test_a_flood(tmp_path: Path) -> None:
    """More messages than in a second, as fast as they can be read, within bounds."""
    [*records] = sample_capture.records(20)
    capture = tmp_path / "flood.jsonl"
    times = 30_000 // len(records)
    with capture.open("wb") as file:
        for number in range(times):
            for record in records:
                more = {
                    "timestamp": f"2026-01-01T00:{number // 60:02d}:{number % 60:02d}Z",
                    "exchange": f"{record['exchange']}{number}",
                    "connection": f"{record['connection']}-{number}",
                    "body": "0123456789" * 1000,
                }
                file.write(orjson.dumps({**record, **more}, option=orjson.OPT_APPEND_NEWLINE))
    assert capture.stat().st_size > 300_000_000
    with Terminal(top(capture)) as terminal:
        terminal.until("reading flood.jsonl")
        terminal.press("\t")  # handled while it reads
        assert "reading flood.jsonl" in terminal.until("nginx (server)")
        terminal.until("lines of flood.jsonl")
        terminal.press("\t")
        terminal.until("idle, dropped:")
        status = Path(f"/proc/{terminal.pid}/status").read_text()
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0
    assert int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) < 250_000  # type: ignore[index]
    # Drawn now and then: once per message would be more than the file.
    assert len(terminal.sent) < 3_000_000
