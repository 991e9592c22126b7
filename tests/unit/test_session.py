# SPDX-License-Identifier: Apache-2.0
"""How a capture ends on its own, and what it reports about filters; the engine is a recording."""

from __future__ import annotations

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from profiler import accounting
from profiler.accounting import KernelAccount
from profiler.errors import OutputError
from profiler.exchanges.conditions import conditions
from profiler.ingest import fastpath, session
from profiler.ingest.http import Messages
from profiler.ingest.http.message import Output
from profiler.ingest.probe.recording import Recording
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Event
from profiler.privileges.helper import Helper

CASE = Path(__file__).parents[1] / "replay" / "cases" / "demo"


class Recorded:
    """An engine that delivers a recording, a few records per poll, and then nothing."""

    route, carrier, fallback = "syscall", "bpftrace", ""
    problems: ClassVar[list[str]] = []
    clock = time.CLOCK_MONOTONIC
    applied = ("pid", "port")

    def __init__(self) -> None:
        # Everything except the final counts, which the session requests.
        self._records = list(Recording(CASE / "capture").records())[:-1]
        self.polls = 0
        self.stopped = False

    def __enter__(self) -> Recorded:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def batches(self) -> Iterator[list[bytes]]:
        while True:
            self.polls += 1
            batch, self._records = self._records[:10], self._records[10:]
            yield batch

    def stop(self) -> list[bytes]:
        self.stopped = True
        return self._records

    def discover(self) -> None:
        pass

    def share(self, helper: Helper) -> None:
        pass

    def account(self) -> KernelAccount:
        return KernelAccount()

    def ignore(self, socket: int) -> None:
        pass


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    recorded = Recorded()
    monkeypatch.setattr(session, "open_engine", lambda _: recorded)
    # The tests must not lose their privileges.
    monkeypatch.setattr(session, "user_for", lambda _: None)
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


def test_the_start_tells_that_there_is_no_fast_path(
    engine: Recorded,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(fastpath.VARIABLE, "0")
    session.capture(Settings(output=tmp_path / "out.jsonl", duration=0.001))
    assert ", no fast path, " in capsys.readouterr().err


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


ENDS = r"^http-profiler: the capture continues: cannot write .*No space left on device"
EXPECTED = CASE / "expected.jsonl"


def recorded_lines(recording: Path, tmp_path: Path) -> list[dict[str, object]]:
    """The lines that a replay of ``recording`` gives."""
    replayed = tmp_path / "replayed.jsonl"
    session.replay(recording, Settings(output=replayed))
    return lines(replayed)


def test_a_full_disk_for_the_recording_costs_no_line(
    engine: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    settings = Settings(output=output, duration=0.05, record=Path("/dev/full"))
    with pytest.raises(OutputError, match="cannot write the recording /dev/full: No space left"):
        session.capture(settings)
    assert lines(output) == lines(EXPECTED)
    said = capsys.readouterr().err
    assert len(re.findall(ENDS, said, re.MULTILINE)) == 1
    assert "wrote" in said


def test_a_full_disk_for_the_counts_costs_no_line(
    engine: Recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    settings = Settings(output=output, duration=0.05, stats=Path("/dev/full"), stats_seconds=0.01)
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        session.capture(settings)
    assert lines(output) == lines(EXPECTED)
    # It fails at each interval, and is reported once.
    assert len(re.findall(ENDS, capsys.readouterr().err, re.MULTILINE)) == 1


def test_a_full_disk_for_the_lines_costs_neither_the_recording_nor_the_counts(
    engine: Recorded, tmp_path: Path
) -> None:
    recording, stats = tmp_path / "night.capture", tmp_path / "stats.jsonl"
    settings = Settings(
        output=Path("/dev/full"), duration=0.05, record=recording, stats=stats, format="jsonl"
    )
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        session.capture(settings)
    # It continued until its time was over: only the final counts came after that.
    assert len(engine._records) == 1
    assert recorded_lines(recording, tmp_path) == lines(EXPECTED)
    assert accounting.read(stats).final


def test_a_capture_that_can_write_nothing_ends(engine: Recorded, tmp_path: Path) -> None:
    full = Path("/dev/full")
    stats = tmp_path / "stats.jsonl"
    settings = Settings(output=full, record=full, stats=stats, format="jsonl")
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left"):
        session.capture(settings)
    assert engine.stopped
    assert accounting.read(stats).final


@pytest.mark.parametrize(("name", "fits"), [("_INTERFACE", False), ("INTERFACE", True)])
def test_a_module_of_another_interface_is_not_used(
    monkeypatch: pytest.MonkeyPatch, name: str, fits: bool
) -> None:
    """Its package was upgraded alone, or this one."""
    installed = ModuleType("http_profiler_fastpath")
    setattr(installed, name, fastpath._INTERFACE)
    monkeypatch.setitem(sys.modules, installed.__name__, installed)
    assert fastpath.module() is (installed if fits else None)
    monkeypatch.setattr(fastpath, "_INTERFACE", fastpath._INTERFACE + 1)
    assert fastpath.module() is None


def test_an_error_in_one_connection_is_reported_at_once(
    engine: Recorded,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Usual messages would not come this way.
    monkeypatch.setenv(fastpath.VARIABLE, "0")
    feed = Messages.feed
    broken: list[int] = []

    def failing(self: Messages, event: Event) -> Sequence[Output]:
        broken[:] = broken or [event.socket]
        if event.socket in broken:
            raise ValueError("captured text")
        return feed(self, event)

    monkeypatch.setattr(Messages, "feed", failing)
    output = tmp_path / "out.jsonl"
    session.capture(Settings(output=output, duration=0.05))
    # A process whose messages fail is not known as the other end either.
    others = [line for line in lines(EXPECTED) if line["socket"] not in broken]
    assert [{**line, "peer": None} for line in lines(output)] == [
        {**line, "peer": None} for line in others
    ]
    said = capsys.readouterr().err
    assert "captured text" not in said
    assert len(re.findall("the capture continues: ValueError", said)) == 1
    assert re.search(r"dropped \d connections because of an error \(ValueError \(unit/test_s", said)
