# SPDX-License-Identifier: Apache-2.0
"""One run of the profiler: a live capture or a replay.

A capture ends in the same way after a signal, a full disk or a closed output:
detach the probe, drain and write what the kernel has already forwarded, print the
counts. Only then is an error reported.

Lines, recording and counts do not depend on each other: a capture continues as long as it can
write lines or a recording. What cannot be written is reported at once, and again as the error
that the capture ends with.
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
from pwd import struct_passwd
from types import FrameType
from typing import TYPE_CHECKING, Protocol

from profiler.accounting import Account
from profiler.errors import CaptureFileError, OutputClosed, OutputError, ProfilerError
from profiler.exchanges.redact import described
from profiler.exchanges.text import visible_lines
from profiler.ingest import wire
from profiler.ingest.containers import Files
from profiler.ingest.decryption import Decryption
from profiler.ingest.decryption import load as load_decryption
from profiler.ingest.http import charset
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.probe import Engine, inseparable, open_engine
from profiler.ingest.probe.recording import Origin, Recorder, Recording
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.stats import Stats
from profiler.outputs import Sink
from profiler.outputs.choice import Choice, choose
from profiler.privileges.confinement import ConfinementError, confine, user_for
from profiler.privileges.helper import Helper

if TYPE_CHECKING:
    from profiler.exchanges.redact import Redactor
    from profiler.outputs.otlp.exporter import Exporter
    from profiler.schema import Record

_CLOCK_SECONDS = 1.0
# If the wall clock moved by more than this between two polls, it was set, not slewed by NTP.
_CLOCK_STEP_NS = 1_000_000


class KeySource(Protocol):
    """Where the secrets of TLS connections come from."""

    def read(self) -> bytes:
        """Return whole lines of a key log that are new. Needs no privileges."""


class Attendant(Protocol):
    """Accompanies a capture: a traced command, or a program that reads the lines."""

    def begun(self, account: Callable[[], Account]) -> None:
        """Start: the probe is attached and misses nothing from now on. May raise ProfilerError.

        ``account`` returns the account of the capture so far; call it only during the capture.
        """

    def goes_on(self, idle: bool) -> bool:
        """Whether to continue, called after each poll; ``idle`` if it returned no records."""


def capture(
    settings: Settings,
    choice: Choice | None = None,
    attendant: Attendant | None = None,
    helper: Helper | None = None,
    key_source: KeySource | None = None,
) -> Account:
    """Capture on this machine until a signal, or a limit in ``settings``, ends the capture.

    Write to the sink of ``choice``, which is always closed, or else to the one that ``settings``
    describe. ``attendant`` can end the capture too. Once the probe is attached, this process gives
    up its privileges for good; ``helper`` serves what was offered to it, and stays open.
    ``key_source`` has the secrets if ``settings.tls_keys``. Raises ProfilerError.
    """
    started = time.monotonic()
    with _signals() as received, contextlib.ExitStack() as stack:
        user, reason = _reader(settings)
        if reason:
            _say(f"captured bytes are parsed as root: {reason}")
        sink, redactor = choice or choose(
            settings.output, settings.format, settings.redact, time.time_ns, settings.rotation
        )
        stack.callback(sink.close)
        if settings.tls:
            _say("--tls shows what processes encrypt: passwords, cookies and private content")
        if key_source:
            load_decryption()
            _say("--tls-keys shows what the command encrypts: passwords, cookies, private content")
        _say(described(redactor, settings.record is not None))
        exporter = _exporter(settings, redactor, user, replay=False)
        if exporter:
            stack.callback(exporter.close)
            settings = replace(settings, exporter_pid=exporter.pid)
        _say("loading the probe ...")
        engine = stack.enter_context(open_engine(settings))
        recorder = stats = None
        failures = stack.enter_context(_Failures())
        if settings.stats:
            stats = Stats(settings.stats, settings.stats_seconds)
            stack.callback(failures.attempt, stats.close)
        if settings.record:
            origin = Origin(platform.machine(), os.uname().release, engine.route)
            recorder = _TolerantRecorder(Recorder(settings.record, origin), failures)
            stack.callback(recorder.close)
            sink = _TolerantSink(sink, recorder, failures)
        processes = Processes(files=Files())
        if helper is None:
            helper = Helper()
            stack.callback(helper.close)
        pipeline = Pipeline(
            settings,
            sink,
            processes,
            platform.machine(),
            recorder,
            engine.applied,
            route=engine.route,
            decryption=Decryption() if key_source else None,
            exporter=exporter,
        )
        if engine.fallback:
            _say(f"not used: {engine.fallback}")
        late = [f"--{name}" for name in settings.filters.given() if name not in engine.applied]
        if late:
            _say(f"{engine.carrier} cannot filter by {', '.join(late)}: applied to whole messages")
        if user:
            # The user may be unable to read the directories from which Python imports modules.
            charset.load_all()
            for shared in (engine, sink, processes, stats, exporter):
                if shared:
                    shared.share(helper)
            helper.split()
            for missing in confine(user, settings.lossless):
                _say(f"captured bytes are parsed {missing}")
        engine.discover()
        _say_problems(engine)
        fast = "fast path" if pipeline.has_fast_path else "no fast path"
        how = [f"{engine.route} route", engine.carrier, fast, f"Linux {os.uname().release}"]
        if user:
            # It may have failed to become the other one.
            name = user.pw_name if os.geteuid() == user.pw_uid else "root"
            how.append(f"as user {name}")
        how.append(f"after {time.monotonic() - started:.1f} s")
        _say(f"capturing ({', '.join(how)})" + ("" if attendant else "; Ctrl-C ends it"))
        if attendant and not received.stop:
            attendant.begun(lambda: _account(engine, pipeline, exporter))
        # However the loop ends, the summary comes directly before the error.
        stack.callback(lambda: _say_summary(pipeline.account))
        try:
            _run(
                *(engine, helper, pipeline, sink, stats, exporter),
                *(failures, received, settings.duration, attendant, key_source),
            )
        finally:
            try:
                _end(engine, pipeline, sink, key_source, exporter)
            finally:
                if stats:
                    failures.attempt(stats.write, pipeline.account)
        return pipeline.account


def _reader(settings: Settings) -> tuple[struct_passwd | None, str]:
    """Return the user that parses captured bytes; ``None`` is root, for the reason returned."""
    reason = inseparable(settings)
    if reason:
        return None, reason
    try:
        user = user_for(settings.unprivileged_user)
    except ConfinementError as error:
        return None, f"{error}; name one with --unprivileged-user"
    return user, "" if user else "--unprivileged-user root"


def replay(path: Path, settings: Settings, key_log: Path | None = None) -> None:
    """Run a recording through the pipeline.

    ``key_log`` has secrets of its TLS connections; the recording has those that were used when it
    was made. Raises ProfilerError. Intact records before a damaged one are written first.
    """
    recording = Recording(path)
    keys = _keys_in(key_log) if key_log else b""
    sink, redactor = choose(
        settings.output, settings.format, settings.redact, rotation=settings.rotation
    )
    _say(described(redactor))
    exporter = _exporter(settings, redactor, None, replay=True)
    origin = recording.origin
    pipeline = Pipeline(
        *(settings, sink, Processes(proc=None), origin.machine),
        route=origin.route,
        decryption=Decryption(),
        exporter=exporter,
    )
    damage = None
    # The lines are written first: the end of the export may wait for a Collector.
    with contextlib.closing(exporter or contextlib.ExitStack()), contextlib.closing(sink):
        pipeline.learn(keys)
        try:
            for record in recording.records():
                pipeline.feed(record)
                if pipeline.full:
                    break
        except CaptureFileError as error:
            damage = error
        pipeline.finish()
        if exporter:
            exporter.account(pipeline.account)
    if exporter:
        pipeline.account.exported = exporter.counts()
    _say_summary(pipeline.account)
    if damage:
        raise damage


def _keys_in(key_log: Path) -> bytes:
    try:
        return key_log.read_bytes()
    except OSError as error:
        raise CaptureFileError(f"cannot read the key log {key_log}: {error.strerror}") from error


class _Failures:
    """Errors of outputs that do not end a capture; it ends with the first one, if with no other."""

    def __init__(self) -> None:
        self._first: OutputError | None = None

    def __enter__(self) -> _Failures:
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if self._first is not None and (error is None or isinstance(error, OutputClosed)):
            raise self._first

    def attempt(self, step: Callable[..., object], *arguments: object) -> bool:
        """Call ``step``; report the first error at once. Return whether it succeeded."""
        try:
            step(*arguments)
        except OutputClosed:
            raise
        except OutputError as error:
            if self._first is None:
                self._first = error
                _say(f"the capture continues: {error}")
            return False
        return True


class _TolerantRecorder:
    """A recording that ends where it cannot be written."""

    def __init__(self, recorder: Recorder, failures: _Failures) -> None:
        self._recorder: Recorder | None = recorder
        self._failures = failures

    @property
    def is_open(self) -> bool:
        """Whether all records so far are in the recording."""
        return self._recorder is not None

    def write(self, record: bytes) -> None:
        if self._recorder and not self._failures.attempt(self._recorder.write, record):
            self.close()

    def close(self) -> None:
        recorder, self._recorder = self._recorder, None
        if recorder:
            self._failures.attempt(recorder.close)


class _TolerantSink:
    """A sink that drops the lines it cannot write, as long as the recording has them."""

    def __init__(self, sink: Sink, recorder: _TolerantRecorder, failures: _Failures) -> None:
        self._sink = sink
        self._recorder = recorder
        self._failures = failures

    def share(self, helper: Helper) -> None:
        self._sink.share(helper)

    def write(self, record: Record) -> None:
        self._attempt(self._sink.write, record)

    def flush(self) -> None:
        self._attempt(self._sink.flush)

    def close(self) -> None:
        self._attempt(self._sink.close)

    def _attempt(self, step: Callable[..., object], *arguments: object) -> None:
        if self._recorder.is_open:
            self._failures.attempt(step, *arguments)
        else:
            step(*arguments)


def _run(
    engine: Engine,
    helper: Helper,
    pipeline: Pipeline,
    sink: Sink,
    stats: Stats | None,
    exporter: Exporter | None,
    failures: _Failures,
    received: Signals,
    duration: float | None,
    attendant: Attendant | None,
    key_source: KeySource | None,
) -> None:
    clock_due, offset = 0.0, 0
    fault_reported = False
    end = None if duration is None else time.monotonic() + duration
    for records in engine.batches():
        helper.check()
        # NTP slews the wall clock, and an administrator may set it.
        clocks = _read_clocks(engine.clock)
        moved = abs(clocks.realtime - clocks.kernel - offset)
        if time.monotonic() >= clock_due or moved > _CLOCK_STEP_NS:
            pipeline.feed(wire.encode(clocks))
            clock_due = time.monotonic() + _CLOCK_SECONDS
            offset = clocks.realtime - clocks.kernel
        if key_source:
            # A program writes a key before it uses it.
            pipeline.learn(key_source.read())
        _feed_all(engine, pipeline, records)
        _say_problems(engine)
        sink.flush()
        if exporter:
            if exporter.wants_account():
                exporter.account(_account(engine, pipeline, None))
            exporter.flush()
        if pipeline.account.faults and not fault_reported:
            fault_reported = True
            (cause,) = list(pipeline.account.faults)[:1]
            _say(f"an error dropped a connection, the capture continues: {cause}")
        if received.counts:
            received.counts = False
            _say_summary(_account(engine, pipeline, exporter))
        if stats and stats.due():
            failures.attempt(stats.write, _account(engine, pipeline, exporter))
        if received.stop or pipeline.full or (end is not None and time.monotonic() >= end):
            return
        if attendant and not attendant.goes_on(not records):
            return


def _account(engine: Engine, pipeline: Pipeline, exporter: Exporter | None) -> Account:
    exported = exporter.counts() if exporter else None
    return replace(pipeline.account, kernel=engine.account(), exported=exported)


def _exporter(
    settings: Settings, redactor: Redactor | None, user: struct_passwd | None, replay: bool
) -> Exporter | None:
    """Return what ``--otlp`` and ``--prometheus`` request. Raises ProfilerError."""
    if settings.otlp is None and settings.prometheus is None:
        return None
    from profiler.outputs.otlp.endpoint import endpoint, resource_attributes
    from profiler.outputs.otlp.exporter import Exporter
    from profiler.outputs.prometheus import listen, url_of

    target = endpoint(settings.otlp, os.environ) if settings.otlp is not None else None
    given = resource_attributes(os.environ)
    listener = listen(settings.prometheus) if settings.prometheus is not None else None
    # What leaves the machine is redacted, unless the user says otherwise.
    redact = redactor is not None or settings.redact is not False
    if target:
        _say(f"spans go to {target}" + ("" if redact else "; secrets in them are shown"))
    if listener:
        _say(f"metrics are at {url_of(listener)}")
    return Exporter(
        target,
        redact=redact,
        replay=replay,
        user=user,
        say=_say,
        max_bytes=settings.otlp_queue,
        listener=listener,
        given=given,
    )


def _end_export(exporter: Exporter, account: Account) -> None:
    exporter.account(account)
    exporter.close()
    account.exported = exporter.counts()


def _feed_all(engine: Engine, pipeline: Pipeline, records: list[bytes]) -> None:
    for not_http in pipeline.feed_all(records):
        engine.ignore(not_http)


def _end(
    engine: Engine,
    pipeline: Pipeline,
    sink: Sink,
    key_source: KeySource | None,
    exporter: Exporter | None,
) -> None:
    """Run every step, even after one that fails: a full disk must not hide the counts."""
    records = engine.stop()
    document = json.dumps(engine.account().to_json()).encode()
    records.append(wire.encode(wire.Counters(document)))
    steps: list[Callable[[], object]] = [partial(pipeline.feed, record) for record in records]
    if key_source:
        steps.insert(0, partial(_learn_all, pipeline, key_source))
    # Closed before the summary: a sink may use the whole screen until it is closed.
    steps += [pipeline.finish, sink.flush, sink.close]
    if exporter:
        steps.append(partial(_end_export, exporter, pipeline.account))
    failure = None
    for step in steps:
        try:
            step()
        except ProfilerError as error:
            failure = failure or error
    if failure:
        raise failure


def _learn_all(pipeline: Pipeline, key_source: KeySource) -> None:
    while lines := key_source.read():
        pipeline.learn(lines)


def _read_clocks(kernel: int) -> wire.Clock:
    before = time.clock_gettime_ns(kernel)
    realtime = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after = time.clock_gettime_ns(kernel)
    return wire.Clock((before + after) // 2, realtime)


@dataclass
class Signals:
    """The signals received and not yet handled."""

    stop: bool = False
    """SIGINT or SIGTERM: end in order. A second one has its usual effect."""

    counts: bool = False
    """SIGUSR1: print the counts and continue."""


@contextlib.contextmanager
def _signals() -> Iterator[Signals]:
    received = Signals()
    stopping = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.getsignal(number) for number in (*stopping, signal.SIGUSR1)}

    def stop(_number: int, _frame: FrameType | None) -> None:
        received.stop = True
        for number in stopping:
            signal.signal(number, previous[number])

    def request_counts(_number: int, _frame: FrameType | None) -> None:
        received.counts = True

    for number in stopping:
        signal.signal(number, stop)
    signal.signal(signal.SIGUSR1, request_counts)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _say(text: str) -> None:
    """Print one line for the user to standard error; standard output is for the records."""
    with contextlib.suppress(BrokenPipeError):
        print(f"http-profiler: {visible_lines(text)}", file=sys.stderr, flush=True)


def _say_problems(engine: Engine) -> None:
    while engine.problems:
        _say(engine.problems.pop(0))


def _say_summary(account: Account) -> None:
    for line in account.lines():
        _say(line)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _say(f"peak resident memory {peak} MiB")
