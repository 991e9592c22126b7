# SPDX-License-Identifier: Apache-2.0
"""How a capture ends on its own, and what it reports about filters; the engine is a recording."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from profiler.accounting import KernelAccount
from profiler.exchanges.conditions import conditions
from profiler.ingest import session
from profiler.ingest.probe.recording import Recording
from profiler.ingest.settings import Settings

CASE = Path(__file__).parents[1] / "replay" / "cases" / "demo"


class Recorded:
    """An engine that delivers a recording, a few records per poll, and then nothing."""

    route, carrier, fallback = "syscall", "bpftrace", ""
    clock = time.CLOCK_MONOTONIC
    applied = ("pid", "port")

    def __init__(self) -> None:
        # Everything except the final counts, which the session requests.
        self._records = list(Recording(CASE / "capture").records())[:-1]
        self.polls = 0
        self.held: list[int] = []
        self.stopped = False

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def batches(self, held: Callable[[], int]) -> Iterator[list[bytes]]:
        while True:
            self.polls += 1
            batch, self._records = self._records[:10], self._records[10:]
            yield batch
            self.held.append(held())

    def stop(self) -> list[bytes]:
        self.stopped = True
        return self._records

    def account(self) -> KernelAccount:
        return KernelAccount()

    def ignore(self, socket: int) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(session, "open_engine", lambda _: recorded)
    return recorded


def lines(path: Path) -> list[dict[str, object]]:
    # The times are those of another clock.
    timeless = (json.loads(line) for line in path.read_text().splitlines())
    return [{k: v for k, v in line.items() if "time" not in k and "start" not in k}
            for line in timeless]  # fmt: skip


def test_a_capture_ends_after_the_requested_messages(
    engine: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    session.capture(Settings(output=output, count=5))
    # What was still in the kernel is not written.
    assert lines(output) == lines(CASE / "expected.jsonl")[:5]
    assert engine.stopped
    said = capsys.readouterr().err
    assert "wrote" in said and "seen 0/0" in said


def test_a_capture_ends_after_its_time(engine: Recorded, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    session.capture(Settings(output=output, duration=0.001))
    # What was still in the kernel is written.
    assert engine.stopped
    assert lines(output) == lines(CASE / "expected.jsonl")


def test_the_engine_gets_the_number_of_unwritten_bytes(engine: Recorded, tmp_path: Path) -> None:
    session.capture(Settings(output=tmp_path / "out.jsonl", duration=0.3))
    # Some messages are open after the first records, none after the last.
    assert engine.held[0] > 1000
    assert engine.held[-1] == 0


def test_reports_filters_that_the_engine_cannot_apply(
    engine: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    # As if the kernel had applied --port; --comm does not matter here.
    wanted = conditions(port=(1,), comm=("gunicorn",), role=("server",))
    session.capture(Settings(output=output, duration=0.001, where=wanted))
    expected = lines(CASE / "expected.jsonl")
    servers = [r for r in expected if (r["comm"], r["role"]) == ("gunicorn", "server")]
    assert lines(output) == servers != []
    said = capsys.readouterr().err
    assert "bpftrace cannot filter by --comm: applied to whole messages" in said
    assert f"left out {len(expected) - len(servers)} messages (" in said
