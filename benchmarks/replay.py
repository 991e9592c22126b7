# SPDX-License-Identifier: Apache-2.0
"""The cost of a message from the ring to the line: replays the stages after the probe.

    python -m benchmarks.replay                  # µs per message
    python -m benchmarks.replay --instructions   # counted by valgrind
    python -m benchmarks.replay --stages         # counted for each stage separately
    python -m benchmarks.replay --profile        # where
    python -m benchmarks.replay --where=status=200 --instructions  # with a filter
    python -m benchmarks.replay --redact --instructions            # secrets are hidden
    tox -e bench-replay                          # µs, by pytest-benchmark

The recording of the demo (``tests/replay/cases/demo``: a new connection for each exchange)
is fed repeatedly, each time as new, later connections, to a sink that writes to
``/dev/null``. With ``--kept`` the same is done with exchanges between one client and one
server on one connection, each message in one call. With ``--fresh`` each of these exchanges has
a URL, an ETag and a body of its own, so that no cache of parsed heads helps. With ``--1m`` each
answer has a body of 1 MB, in records of the size that the probe makes.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from timeit import repeat
from typing import Callable

from benchmarks.heads import USUAL
from benchmarks.instructions import per_round, section, sections
from profiler.exchanges.conditions import conditions
from profiler.exchanges.query import parse
from profiler.exchanges.redact import Redactor
from profiler.ingest import wire
from profiler.ingest.http import Message, Messages
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.probe.recording import Recording
from profiler.ingest.process import Processes
from profiler.ingest.record import record_of
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Streams
from profiler.ingest.syscalls import names
from profiler.outputs.jsonl import JsonLines
from profiler.outputs.redacted import Redacted
from profiler.schema import Record

_CASE = Path(__file__).parents[1] / "tests/replay/cases/demo"
_STEP = 10_000_000  # nanoseconds
_ROUNDS = 100
_PIECE = 16383  # PAYLOAD_MAX in bpf/event.h


def rounds_of(records: list[bytes], rounds: int) -> list[bytes]:
    """Return the recording that many times, each with other sockets and a later time."""
    items = [wire.decode(record) for record in records]
    moved = [item for item in items if isinstance(item, (wire.Chunk, wire.End))]
    # Processes are introduced once.
    out = [r for r, item in zip(records, items) if isinstance(item, (wire.Clock, wire.Process))]
    for n in range(rounds):
        for item in moved:
            later = item._replace(socket=item.socket + n * 1000, time=item.time + n * _STEP)
            out.append(wire.encode(later))
    return out


def kept_alive(
    records: list[bytes], rounds: int, fresh: bool = False, size: int = 64
) -> list[bytes]:
    """Return exchanges on a connection that the recording's first two chunks open, at both ends.

    All are the same, or each is ``fresh``: with another URL, ETag and body. Bodies have ``size``
    bytes. A message has as many records as the probe makes of it.
    """
    items = [wire.decode(record) for record in records]
    out = [r for r, item in zip(records, items) if isinstance(item, (wire.Clock, wire.Process))]
    client, server = [item for item in items if isinstance(item, wire.Chunk)][:2]
    head = USUAL["nginx 200"].replace(b"Length: 0", b"Length: %d" % size)
    request, answer = USUAL["curl GET"], head + b"x" * size
    for n in range(rounds):
        if fresh:
            # Of one size, so that the positions below are right.
            request = USUAL["curl GET"].replace(b"/healthz", b"/items/%08d" % n)
            answer = head.replace(b"6921f3a0", b"%08x" % n) + b"%0*d" % (size, n)
        turns = [
            (client, wire.SEND, request),
            (server, wire.RECV, request),
            (server, wire.SEND, answer),
            (client, wire.RECV, answer),
        ]
        for end, direction, data in turns:
            for at in range(0, len(data), _PIECE):
                piece = data[at : at + _PIECE]
                moved = end._replace(
                    direction=direction, time=end.time + n * _STEP, position=n * len(data) + at,
                    size=len(piece), captured=len(piece), payload=piece,
                )  # fmt: skip
                out.append(wire.encode(moved))
    return out


def run(machine: str, records: list[bytes], settings: Settings = Settings()) -> Pipeline:  # noqa: B008
    """Feed ``records`` to a new pipeline."""
    sink = JsonLines(Path("/dev/null"))
    shown = Redacted(sink, Redactor()) if settings.redact else sink
    pipeline = Pipeline(settings, shown, Processes(None), machine)
    pipeline.feed_all(records)
    pipeline.finish()
    sink.close()
    return pipeline


def workload(name: str, rounds: int) -> tuple[str, list[bytes], int]:
    """Return the machine, the records of that many rounds, and the messages of one round.

    ``name`` is ``demo``, ``kept``, ``fresh`` or ``1m``.
    """
    recording = Recording(_CASE / "capture")
    machine, capture = recording.origin.machine, list(recording.records())
    if name != "demo":
        size = 1_000_000 if name == "1m" else 64
        return machine, kept_alive(capture, rounds, name == "fresh", size), 4
    messages = run(machine, capture).account.messages
    return machine, rounds_of(capture, rounds), messages


def stages(machine: str, records: list[bytes]) -> dict[str, Callable[[], object]]:
    """Return a function for each stage that processes all records; each will be called twice.

    Each stage gets all the results of the one before it; the last entry is the pipeline with
    all stages and its own work.
    """
    settings, processes = Settings(), Processes(None)
    items = [wire.decode(record) for record in records]
    for item in items:
        if isinstance(item, wire.Process):
            processes.learn(item)
    moved = [item for item in items if isinstance(item, (wire.Chunk, wire.End))]
    streams, messages = Streams(), Messages(settings)
    events = [event for item in moved for event in streams.feed(item)]
    read = (output for event in events for output in messages.feed(event))
    made = [output for output in read if isinstance(output, Message)]
    named = names(machine)

    def told(message: Message) -> Record:
        process = processes.identity(message.origin.pid, message.origin.start_time)
        return record_of(message, process, None, 0, settings.max_body, named)

    lines = [told(message) for message in made]
    sink = JsonLines(Path("/dev/null"))

    def all_of(function: Callable[..., object], each: Iterable[object]) -> Callable[[], object]:
        return lambda: deque(map(function, each), maxlen=0)

    return {
        "records are unpacked (wire)": all_of(wire.decode, records),
        "put in order (stream)": lambda: deque(map(Streams().feed, moved), maxlen=0),
        "read (http)": lambda: deque(map(Messages(settings).feed, events), maxlen=0),
        "told (record)": all_of(told, made),
        "written (sinks)": all_of(sink.write, lines),
        "redacted (only with --redact)": all_of(Redactor().record, lines),
        "all together": lambda: run(machine, records),
    }


def print_stages(name: str, option: list[str]) -> None:
    """Count each stage in a run of its own, and print its instructions per message."""
    machine, records, messages = workload(name, 2 * _ROUNDS)
    named = list(stages(machine, records))
    # Measure the second call, when all caches are filled.
    counts = sections(2 * len(named), "benchmarks.replay", *option, "--sections")[1::2]
    for name, count in zip(named, counts):
        print(f"| {name} | {count / (messages * 2 * _ROUNDS):,.0f} |")


def main(arguments: list[str]) -> None:
    """Print the cost; or run that many rounds, to be counted."""
    wheres = [one for one in arguments if one.startswith("--where=")]
    given = [*wheres, *(one for one in arguments if one == "--redact")]
    option = [argument for argument in arguments if argument in ("--kept", "--fresh", "--1m")]
    arguments = [argument for argument in arguments if argument not in (*option, *given)]
    name = option[0][2:] if option else "demo"
    where = conditions([parse(one.partition("=")[2]) for one in wheres])
    settings = Settings(where=where, redact="--redact" in given)
    if arguments == ["--stages"]:
        print_stages(name, option)
        return
    if arguments == ["--sections"]:
        machine, records, _ = workload(name, 2 * _ROUNDS)
        for stage in stages(machine, records).values():
            section(stage)
            section(stage)
        return
    rounds = {"demo": _ROUNDS, "1m": 5}.get(name, 5 * _ROUNDS)
    # Always built in the same number, however many are counted.
    machine, records, messages = workload(name, 2 * rounds)
    if arguments == ["--instructions"]:
        count = per_round("benchmarks.replay", *option, *given, rounds=rounds) / messages
        print(f"{count:,.0f} instructions per message")
    elif arguments == ["--profile"]:
        with cProfile.Profile() as profile:
            run(machine, records, settings)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    elif arguments:
        part = records[: len(records) * int(arguments[0]) // (2 * rounds)]
        run(machine, part, settings)
    else:
        best = min(repeat(lambda: run(machine, records, settings), number=1, repeat=7))
        print(f"{best / (messages * 2 * rounds) * 1e6:.1f} µs per message")


if __name__ == "__main__":
    main(sys.argv[1:])
