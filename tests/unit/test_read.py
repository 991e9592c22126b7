# SPDX-License-Identifier: Apache-2.0
"""Capture files as found in practice: compressed, several, in any order, truncated."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import profiler
from profiler import cli
from profiler.commands.progress import progress
from profiler.errors import CaptureFileError
from profiler.exchanges.read import Capture

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RECORDING = Path(__file__).parents[1] / "replay" / "cases" / "demo" / "capture"
COMPRESS = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd.compress}


def line(second: int, kind: str = "request", number: int = 1, **more: Any) -> bytes:
    record = {
        "timestamp": f"2026-01-01T00:00:{second:02}.000000000Z",
        "type": kind,
        "role": "client",
        "exchange": f"1-{number}",
        "netns": 1,
        **more,
    }
    return json.dumps(record).encode() + b"\n"


def file(path: Path, *lines: bytes, how: str = "plain") -> Path:
    path.write_bytes(COMPRESS[how](b"".join(lines)))
    return path


@pytest.mark.parametrize("how", COMPRESS)
def test_the_first_bytes_identify_the_compression(how: str, tmp_path: Path) -> None:
    path = file(tmp_path / "any.name", line(1), line(2, "response"), how=how)
    assert [record["type"] for record in profiler.read(path)] == ["request", "response"]
    assert sum(1 for _ in profiler.read(str(path))) == 2


@pytest.mark.parametrize("how", COMPRESS)
def test_standard_input(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path / "lines", line(1), how=how)
    with path.open("rb") as stdin:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(stdin))
        assert len(list(Capture(Path("-")).records())) == 1


def test_several_files_are_read_in_the_order_of_their_first_records(tmp_path: Path) -> None:
    newest = file(tmp_path / "http.jsonl", line(30, url="/c"), line(40, url="/d"))
    middle = file(tmp_path / "http.jsonl.1", line(20, url="/b"), how="zstd")
    oldest = file(tmp_path / "http.jsonl.2.gz", line(10, url="/a"), how="gzip")
    empty = file(tmp_path / "http.jsonl.3")
    capture = Capture(newest, empty, middle, oldest)
    assert [record["url"] for record in capture.records()] == ["/a", "/b", "/c", "/d"]
    assert capture.name == "http.jsonl and 3 more"
    assert capture.lines == 4


def test_an_exchange_may_begin_in_one_file_and_end_in_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = file(tmp_path / "a.1", line(1, method="GET", url="/"))
    new = file(tmp_path / "a", line(2, "response", status_code=503))
    for paths in ([old, new], [new, old]):
        assert cli.main(["check", *map(str, paths), "--fail-if", "GET / and failed"]) == 4
        assert "0 of 1 assertions hold for 1 exchanges" in capsys.readouterr().err


def test_the_error_for_a_damaged_line_names_its_file(tmp_path: Path) -> None:
    first = file(tmp_path / "a", line(1))
    second = file(tmp_path / "b", line(2), b"{]\n")
    capture = Capture(first, second)
    assert len(list(capture.records())) == 2
    assert capture.damaged == (
        "a and 1 more: of 3 lines, 1 damaged (line 2: is not a JSON object (in b))"
    )
    with pytest.warns(UserWarning, match="1 damaged"):
        assert len(list(profiler.read(first, second))) == 2


@pytest.mark.parametrize("how", ["gzip", "zstd"])
def test_a_truncated_compressed_file_is_read_up_to_the_cut(how: str, tmp_path: Path) -> None:
    lines = [line(second % 60, number=second, url=f"/{second * 7919}") for second in range(9999)]
    path = file(tmp_path / "lines", *lines, how=how)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    capture = Capture(path)
    found = list(capture.records())
    assert 100 < len(found) < 9999
    [(number, why)] = capture.damage.examples[-1:]
    assert "cut off" in why and number >= len(found)


@pytest.mark.parametrize("how", COMPRESS)
def test_a_recording_is_recognised(how: str, tmp_path: Path) -> None:
    path = tmp_path / "night"
    path.write_bytes(COMPRESS[how](RECORDING.read_bytes()))
    with pytest.raises(CaptureFileError) as error:
        list(Capture(path).records())
    assert str(error.value) == (
        f"{path} is a recording, not a capture file: convert it with `http-profiler replay {path}`"
    )


def test_names_of_headers_that_an_old_version_wrote(tmp_path: Path) -> None:
    headers = {"Host": "a", "X-Tag": ["1"], "x-tag": "2"}
    [record] = profiler.read(file(tmp_path / "a", line(1, headers=headers)))
    assert record["headers"] == {"host": "a", "x-tag": ["1", "2"]}


def test_progress(tmp_path: Path) -> None:
    path = file(tmp_path / "a", *[line(1, number=number) for number in range(5000)])
    told: list[tuple[str, float]] = []
    list(Capture(path).records(lambda name, share: told.append((name, share))))
    assert [name for name, _ in told] == ["a"] * 5
    shares = [share for _, share in told]
    assert shares == sorted(shares) and 0 < shares[0] < shares[-1] <= 1


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path / "a", *[line(1, number=number) for number in range(5000)])
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress(patience=0.0) as report:
        list(Capture(path).records(report))
        shown = sys.stderr.getvalue()  # type: ignore[attr-defined]
    assert re.fullmatch(r"(\rhttp-profiler: reading a: \d+ %\x1b\[K)+", shown)
    # Nothing of it remains.
    assert sys.stderr.getvalue() == shown + "\r\x1b[K"  # type: ignore[attr-defined]
    monkeypatch.setattr("sys.stderr", Terminal())
    with progress(patience=1e6) as report:
        list(Capture(path).records(report))
    assert sys.stderr.getvalue() == ""  # type: ignore[attr-defined]


def test_no_progress_without_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress() as report:
        assert report is None


DEEP = b"[" * 300 + b"]" * 300


@pytest.mark.parametrize(
    ("more", "why"),
    [
        (b'"later": ' + DEEP, "`later` is nested too deeply"),
        (b'"request": {"later": ' + DEEP + b"}", "`request` is nested too deeply"),
        (b'"pid": 18446744073709551615', "`pid` has the wrong type"),
        (b'"tls": {"version": 1.3}', "`tls` has the wrong type"),
        (b'"timestamp": "0001-01-01T00:00:00Z"', "`timestamp` is not a time"),
        (b'"timestamp": "9999-01-01T00:00:00Z"', "`timestamp` is not a time"),
        (b'"process_start": "yesterday"', "`process_start` is not a time"),
    ],
)
def test_a_hostile_line_is_damaged(more: bytes, why: str, tmp_path: Path) -> None:
    good = line(1)
    path = file(tmp_path / "a", good, good[:-2] + b", " + more + b"}\n")
    capture = Capture(path)
    assert len(list(capture.records())) == 1
    assert capture.damage.examples == [(2, why)]
    for arguments in (["check", "--fail-if", "failed"], ["query", "select count(*) from messages"]):
        assert cli.main([*arguments, str(path)]) == 3


@pytest.mark.parametrize(
    "more",
    [
        {"type": "response", "request": {"method": "GET", "url": "/", "headers": 5}},
        {"body": "a", "body_charset": "\0"},
        {"body": "a..b", "body_charset": "idna"},
        {"body": "\u20ac", "body_charset": "latin-1"},
    ],
)
@pytest.mark.parametrize("kind", ["har", "curl", "csv"])
def test_strange_values_in_a_line_are_accepted(more: Any, kind: str, tmp_path: Path) -> None:
    record = {"method": "GET", "url": "/", "http_version": "1.1", "headers": {"host": "a"}}
    path = file(tmp_path / "a", line(1, **{**record, **more}))
    assert cli.main(["export", f"--{kind}", str(path), "-o", str(tmp_path / "out")]) == 0


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    path = file(tmp_path / "a", b"\xef\xbb\xbf" + line(1))
    assert len(list(profiler.read(path))) == 1
