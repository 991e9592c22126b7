"""What a message costs from the ring to the line: the stages behind the probe, replayed.

    python -m benchmarks.replay                  # µs a message
    python -m benchmarks.replay --instructions   # counted by valgrind
    python -m benchmarks.replay --profile        # where

The recorded capture of the demo (``tests/replay/cases/demo``) is fed again and
again, each time as new connections and later, to a sink that writes to
``/dev/null``.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from pathlib import Path
from timeit import repeat

from benchmarks.instructions import per_round
from profiler import wire
from profiler.pipeline import Pipeline
from profiler.probe.recording import Recording
from profiler.process import Processes
from profiler.settings import Settings
from profiler.sinks.jsonl import JsonLines

_CASE = Path(__file__).parents[1] / "tests/replay/cases/demo"
_STEP = 10_000_000  # nanoseconds
_ROUNDS = 100


def rounds_of(records: list[bytes], rounds: int) -> list[bytes]:
    """The capture, so many times: other sockets and a later time in each."""
    items = [wire.decode(record) for record in records]
    moved = [item for item in items if isinstance(item, (wire.Chunk, wire.End))]
    # Who is who is said once.
    out = [r for r, item in zip(records, items) if isinstance(item, (wire.Clock, wire.Process))]
    for n in range(rounds):
        for item in moved:
            later = item._replace(socket=item.socket + n * 1000, time=item.time + n * _STEP)
            out.append(wire.encode(later))
    return out


def run(machine: str, records: list[bytes]) -> Pipeline:
    """Feed ``records`` to a pipeline of its own."""
    sink = JsonLines(Path("/dev/null"))
    pipeline = Pipeline(Settings(), sink, Processes(None), machine)
    for record in records:
        pipeline.feed(record)
    pipeline.finish()
    sink.close()
    return pipeline


def main(arguments: list[str]) -> None:
    """Print the cost; or run so many rounds, to be counted."""
    recording = Recording(_CASE / "capture")
    machine, capture = recording.origin.machine, list(recording.records())
    written = run(machine, capture).written
    messages = written.requests + written.responses
    if arguments == ["--instructions"]:
        count = per_round("benchmarks.replay", rounds=_ROUNDS) / messages
        print(f"{count:,.0f} instructions a message")
        return
    # However many are counted, as many are made.
    records = rounds_of(capture, 2 * _ROUNDS)
    if arguments == ["--profile"]:
        with cProfile.Profile() as profile:
            run(machine, records)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    elif arguments:
        run(machine, records[: len(records) * int(arguments[0]) // (2 * _ROUNDS)])
    else:
        best = min(repeat(lambda: run(machine, records), number=1, repeat=7))
        print(f"{best / (messages * 2 * _ROUNDS) * 1e6:.1f} µs a message")


if __name__ == "__main__":
    main(sys.argv[1:])
