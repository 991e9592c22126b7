# SPDX-License-Identifier: Apache-2.0
"""The account of a capture, its terms, and the file of ``--stats``."""

from __future__ import annotations

import json
import re
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from profiler.accounting import (
    FILTERED,
    LOST,
    Account,
    Count,
    Direction,
    KernelAccount,
    Sides,
    Uncaptured,
    read,
)
from profiler.errors import CaptureFileError, OutputError
from profiler.ingest.probe.hooks import BPF_DIRECTORY
from profiler.ingest.stats import Stats
from tests.sample_capture import write_stats


@pytest.mark.parametrize("name, reasons", [("filtered", FILTERED), ("lost", LOST)])
def test_the_reasons_are_those_of_the_kernel_side(name: str, reasons: tuple[str, ...]) -> None:
    header = (BPF_DIRECTORY / "counters.h").read_text()
    enumeration = re.search(rf"enum {name} {{(.*?)}};", header, re.DOTALL)
    assert enumeration
    members = re.findall(rf"\b{name.upper()}_(\w+),", enumeration[1])
    assert tuple(m.lower() for m in members) == (*reasons, "reasons")


def direction(seen: int, forwarded: int, filtered: int, lost: int) -> Direction:
    seen_, forwarded_, *reasons = (Count(n, n * 100) for n in (seen, forwarded, filtered, lost))
    return Direction(seen_, forwarded_, {"pid": reasons[0]}, {"ring_full": reasons[1]})


BALANCED, WRONG = direction(6, 3, 2, 1), direction(2, 1, 0, 0)


def test_the_equation() -> None:
    assert KernelAccount(BALANCED, BALANCED).balanced()
    assert not KernelAccount(BALANCED, WRONG).balanced()
    assert not KernelAccount(WRONG, BALANCED).balanced()
    # Calls that add up do not compensate for bytes that do not.
    assert not Direction(Count(1, 10), Count(1, 9)).balanced()


def test_json_there_and_back() -> None:
    kernel = KernelAccount(BALANCED, WRONG, skipped=5)
    document = json.loads(json.dumps(kernel.to_json()))
    assert document["send"]["lost"]["ring_full"] == {"calls": 1, "bytes": 100}
    assert KernelAccount.from_json(document) == kernel
    document["send"]["lost"]["ring_full"]["calls"] = "1"
    with pytest.raises(TypeError):
        KernelAccount.from_json(document)


def test_the_account_of_tls() -> None:
    assert "tls" not in KernelAccount(BALANCED, BALANCED).to_json()
    kernel = KernelAccount(BALANCED, BALANCED, tls=Sides(BALANCED, WRONG))
    assert not kernel.balanced()
    assert replace(kernel, tls=Sides(BALANCED, BALANCED)).balanced()
    assert KernelAccount.from_json(json.loads(json.dumps(kernel.to_json()))) == kernel
    account = Account(kernel=kernel)
    assert account.lines()[-1] == (
        "TLS recv calls/bytes: seen 2/200 = forwarded 1/100 + filtered 0/0 + lost 0/0"
    )
    # One call of each direction of plain sockets, and one of TLS.
    assert account.lost_text == "lost calls: 3"


def test_processes_whose_tls_is_not_captured() -> None:
    java = tuple(Uncaptured(pid, "java", "Java has a TLS of its own") for pid in range(1, 8))
    other = Uncaptured(9, "curl", "it uses QUIC")
    kernel = KernelAccount(BALANCED, BALANCED, uncaptured=(*java, other))
    assert KernelAccount.from_json(json.loads(json.dumps(kernel.to_json()))) == kernel
    assert Account(kernel=kernel).lines()[-2:] == [
        "TLS not captured: java (pid 1), java (pid 2), java (pid 3), java (pid 4), java (pid 5) "
        "and 2 more: Java has a TLS of its own",
        "TLS not captured: curl (pid 9): it uses QUIC",
    ]


def test_the_summary() -> None:
    kernel = KernelAccount(BALANCED, WRONG, skipped=2)
    account = Account(3, 2, {"lost": 1, "body_limit": 4}, 7, {"min_latency": 5, "pid": 1}, 8)
    account.faults = {"ValueError (hpack/hpack.py:9)": 2}
    account.kernel = kernel
    lines = [
        "wrote 3 requests and 2 responses; incomplete: body_limit 4, lost 1",
        "left out 6 messages (--min-latency 5, --pid 1)",
        "left out 8 exchanges that had not ended, because too many were waiting: "
        "some might have matched the filters",
        "dropped 7 connections that held too much memory (--max-memory, --max-connection-memory)",
        "dropped 2 connections because of an error (ValueError (hpack/hpack.py:9)): "
        "please report this as a bug of http-profiler",
        "send calls/bytes: seen 6/600 = forwarded 3/300 + filtered 2/200 (pid 2/200) "
        "+ lost 1/100 (ring_full 1/100)",
        "recv calls/bytes: seen 2/200 = forwarded 1/100 + filtered 0/0 + lost 0/0",
        "the kernel skipped the probe for 2 calls: the data they moved is missing, "
        "and messages around that time may be wrong",
    ]
    account.fast = 4
    assert account.lines() == [*lines[:3], "4 of 5 messages took the fast path", *lines[3:]]
    account.fast = 0
    # Before the end, a call may count as seen before its fate is decided.
    assert account.lines() == lines
    account.final = True
    mistake = "the counts do not add up: please report this as a bug of http-profiler"
    assert account.lines() == [*lines, mistake]
    assert Account(final=True).lines() == ["wrote 0 requests and 0 responses"]


def test_what_counts_as_lost() -> None:
    def lost(given_up: int = 0, undecided: int = 0, **lost: int) -> str | None:
        side = Direction(lost={reason: Count(calls, 100) for reason, calls in lost.items()})
        kernel = KernelAccount(side, side)
        return Account(given_up=given_up, undecided=undecided, kernel=kernel).lost_text

    assert lost() is None
    assert lost(unreadable=5) is None
    assert lost(ring_full=5, skipped=1, unreadable=7) == "lost calls: 12"
    assert lost(given_up=2) == "dropped connections: 2"
    assert lost(undecided=1) == "undecided exchanges that were left out: 1"
    assert lost(1, 1) == f"{lost(given_up=1)}; {lost(undecided=1)}"
    assert Account().lost_text == "the kernel's counts are missing"


def test_what_was_skipped() -> None:
    assert Account(kernel=KernelAccount()).skipped_text is None
    skipped = Account(kernel=KernelAccount(skipped=2)).skipped_text
    assert skipped == "the kernel skipped the probe for 2 calls of this machine"


def test_a_line_each_time_and_a_new_file_after_a_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiler.outputs.jsonl._FOLLOW_SECONDS", 0.0)
    path, old = tmp_path / "stats", tmp_path / "stats.1"
    stats = Stats(path, 0.0)
    stats.write(Account(requests=1))
    path.rename(old)
    stats.write(Account(requests=2))
    last = Account(3, 2, {"lost": 1}, kernel=KernelAccount(BALANCED, WRONG), final=True)
    stats.write(last)
    stats.close()
    for file, expected in ((old, [(1, False)]), (path, [(2, False), (3, True)])):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        assert [(line["written"]["requests"], line["final"]) for line in lines] == expected
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(lines[-1]) == ["timestamp", "final", "written", "account"]
    assert read(path) == last
    with pytest.raises(CaptureFileError, match="has no counts"):
        read(old)


def test_due_after_the_interval(tmp_path: Path) -> None:
    assert not Stats(tmp_path / "stats", 3600).due()
    assert Stats(tmp_path / "stats", 0).due()


def test_an_unwritable_file_is_reported_by_its_option(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"No such file.*choose another --stats"):
        Stats(tmp_path / "no" / "stats", 1)


def test_the_rows_of_the_report(tmp_path: Path) -> None:
    account = read(write_stats(tmp_path / "stats"))
    assert account.to_report() == {
        "rows": [
            ["seen", "", 104, 104_000, 100, 100_000],
            ["forwarded", "", 100, 100_000, 100, 100_000],
            ["filtered", "not_http", 1, 928, 0, 0],
            ["lost", "ring_full", 3, 3072, 0, 0],
        ],
        "skipped": 2,
        "final": True,
    }
    assert replace(account, kernel=None).to_report() is None
