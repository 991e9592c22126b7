# SPDX-License-Identifier: Apache-2.0
"""One run of the profiler: a live capture until it is told to stop, or a replay.

The rule for ending, whatever the reason - a signal, a full disk, a reader that
has gone: unhook the probe, take what the kernel had already handed over, write
it, state the counts. Only then is an error reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol

from profiler.accounting import Account
from profiler.errors import CaptureFileError, ProfilerError
from profiler.exchanges.redact import described
from profiler.ingest import wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.probe import Engine, open_engine
from profiler.ingest.probe.recording import Origin, Recorder, Recording
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.stats import Stats
from profiler.outputs import Sink
from profiler.outputs.choice import Choice, choose

_CLOCK_SECONDS = 1.0
# The wall clock was set, not just disciplined, if it moved by more than this between two polls.
_CLOCK_STEP_NS = 1_000_000


class Attendant(Protocol):
    """What goes along with a capture: a command that is traced, a program that reads the lines."""

    def begun(self, account: Callable[[], Account]) -> None:
        """The probe is attached: from here on nothing is missed. May raise ProfilerError.

        ``account`` returns that of the capture so far, until it ends.
        """

    def goes_on(self, idle: bool) -> bool:
        """A poll was written, ``idle`` if it brought nothing: is the capture to go on?"""


def capture(
    settings: Settings, choice: Choice | None = None, attendant: Attendant | None = None
) -> Account:
    """Capture on this machine until it is told to stop, or has all that was asked for.

    Into the sink of ``choice``, which is closed in any case; else into that of the settings.
    ``attendant`` may tell it to stop. Raises ProfilerError.
    """
    started = time.monotonic()
    with _signals() as received, contextlib.ExitStack() as stack:
        sink, redactor = choice or choose(
            settings.output, settings.format, settings.redact, time.time_ns
        )
        stack.callback(sink.close)
        _say(described(redactor))
        _say("loading the probe ...")
        engine = stack.enter_context(open_engine(settings))
        recorder = stats = None
        if settings.stats:
            stats = Stats(settings.stats, settings.stats_seconds)
            stack.callback(stats.close)
        if settings.record:
            origin = Origin(platform.machine(), os.uname().release, engine.route)
            recorder = Recorder(settings.record, origin)
            stack.callback(recorder.close)
        pipeline = Pipeline(
            settings,
            sink,
            Processes(),
            platform.machine(),
            recorder,
            engine.applied,
            route=engine.route,
        )
        if engine.fallback:
            _say(f"not taken: {engine.fallback}")
        late = [f"--{name}" for name in settings.filters.given() if name not in engine.applied]
        if late:
            _say(f"{engine.carrier} cannot filter by {', '.join(late)}: done with whole messages")
        _say(
            f"capturing ({engine.route} route, {engine.carrier}, Linux {os.uname().release}, "
            f"after {time.monotonic() - started:.1f} s)" + ("" if attendant else "; Ctrl-C ends it")
        )
        if attendant and not received.stop:
            attendant.begun(lambda: _account(engine, pipeline))
        # Whatever ends the loop, the summary is the last word before the error.
        stack.callback(lambda: _say_summary(pipeline.account))
        try:
            _run(engine, pipeline, sink, stats, received, settings.duration, attendant)
        finally:
            _end(engine, pipeline, sink)
            if stats:
                stats.write(pipeline.account)
        return pipeline.account


def replay(path: Path, settings: Settings) -> None:
    """Run a recording through the pipeline. Raises ProfilerError, after what is whole."""
    recording = Recording(path)
    sink, redactor = choose(settings.output, settings.format, settings.redact)
    _say(described(redactor))
    origin = recording.origin
    pipeline = Pipeline(settings, sink, Processes(proc=None), origin.machine, route=origin.route)
    damage = None
    with contextlib.closing(sink):
        try:
            for record in recording.records():
                pipeline.feed(record)
                if pipeline.full:
                    break
        except CaptureFileError as error:
            damage = error
        pipeline.finish()
    _say_summary(pipeline.account)
    if damage:
        raise damage


def _run(
    engine: Engine,
    pipeline: Pipeline,
    sink: Sink,
    stats: Stats | None,
    received: Signals,
    duration: float | None,
    attendant: Attendant | None,
) -> None:
    clock_due, offset = 0.0, 0
    end = None if duration is None else time.monotonic() + duration
    for records in engine.batches(lambda: pipeline.memory.total):
        # NTP disciplines the wall clock, and an administrator sets it.
        clocks = _read_clocks(engine.clock)
        moved = abs(clocks.realtime - clocks.kernel - offset)
        if time.monotonic() >= clock_due or moved > _CLOCK_STEP_NS:
            pipeline.feed(wire.encode(clocks))
            clock_due = time.monotonic() + _CLOCK_SECONDS
            offset = clocks.realtime - clocks.kernel
        _feed_all(engine, pipeline, records)
        sink.flush()
        if received.asked:
            received.asked = False
            _say_summary(_account(engine, pipeline))
        if stats and stats.due():
            stats.write(_account(engine, pipeline))
        if received.stop or pipeline.full or (end is not None and time.monotonic() >= end):
            return
        if attendant and not attendant.goes_on(not records):
            return


def _account(engine: Engine, pipeline: Pipeline) -> Account:
    return replace(pipeline.account, kernel=engine.account())


def _feed_all(engine: Engine, pipeline: Pipeline, records: list[bytes]) -> None:
    for record in records:
        not_http = pipeline.feed(record)
        if not_http is not None:
            engine.ignore(not_http)


def _end(engine: Engine, pipeline: Pipeline, sink: Sink) -> None:
    """Do every step, even behind one that fails: a full disk must not hide the counts."""
    records = engine.stop()
    document = json.dumps(engine.account().to_json()).encode()
    records.append(wire.encode(wire.Counters(document)))
    steps: list[Callable[[], object]] = [partial(pipeline.feed, record) for record in records]
    # Closed before the summary: a sink may have the whole screen until then.
    steps += [pipeline.finish, sink.flush, sink.close]
    failure = None
    for step in steps:
        try:
            step()
        except ProfilerError as error:
            failure = failure or error
    if failure:
        raise failure


def _read_clocks(kernel: int) -> wire.Clock:
    before = time.clock_gettime_ns(kernel)
    realtime = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after = time.clock_gettime_ns(kernel)
    return wire.Clock((before + after) // 2, realtime)


@dataclass
class Signals:
    """What was asked of the profiler since it last looked."""

    stop: bool = False
    """SIGINT or SIGTERM: end in order. A second one acts as usual."""

    asked: bool = False
    """SIGUSR1: state the counts and go on."""


@contextlib.contextmanager
def _signals() -> Iterator[Signals]:
    received = Signals()
    stopping = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in (*stopping, signal.SIGUSR1)}

    def stop(_number: int, _frame: FrameType | None) -> None:
        received.stop = True
        for number in stopping:
            signal.signal(number, previous[number])

    def ask(_number: int, _frame: FrameType | None) -> None:
        received.asked = True

    for number in stopping:
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, ask)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """One line for the user; standard output belongs to the records."""
    with contextlib.suppress(BrokenPipeError):
        print(f"http-profiler: {text}", file=sys.stderr, flush=True)


def _say_summary(account: Account) -> None:
    for line in account.lines():
        _say(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _say(f"peak resident memory {peak} MiB")
