"""What a message costs from the ring to the line: the stages behind the probe, replayed.

    python -m benchmarks.replay                  # µs a message
    python -m benchmarks.replay --instructions   # counted by valgrind
    python -m benchmarks.replay --profile        # where
    tox -e bench-replay                          # µs, by pytest-benchmark

The recorded capture of the demo (``tests/replay/cases/demo``: a new connection
for each exchange) is fed again and again, each time as new connections and
later, to a sink that writes to ``/dev/null``. So are, with ``--kept``, exchanges
between one client and one server on one connection, each message in one call.
"""

from __future__ import annotations

import cProfile
import pstats
import sys
from pathlib import Path
from timeit import repeat

from benchmarks.heads import USUAL
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


def kept_alive(records: list[bytes], rounds: int) -> list[bytes]:
    """Exchanges on a connection that the first two chunks of the capture open, at both ends."""
    items = [wire.decode(record) for record in records]
    out = [r for r, item in zip(records, items) if isinstance(item, (wire.Clock, wire.Process))]
    client, server = [item for item in items if isinstance(item, wire.Chunk)][:2]
    answer = USUAL["nginx 200"].replace(b"Length: 0", b"Length: 64") + b"x" * 64
    turns = [
        (client, wire.SEND, USUAL["curl GET"]),
        (server, wire.RECV, USUAL["curl GET"]),
        (server, wire.SEND, answer),
        (client, wire.RECV, answer),
    ]
    for n in range(rounds):
        for end, direction, data in turns:
            moved = end._replace(
                direction=direction, time=end.time + n * _STEP, position=n * len(data),
                size=len(data), captured=len(data), payload=data,
            )  # fmt: skip
            out.append(wire.encode(moved))
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


def workload(kept: bool, rounds: int) -> tuple[str, list[bytes], int]:
    """Return the machine, the records of so many rounds, and the messages of one."""
    recording = Recording(_CASE / "capture")
    machine, capture = recording.origin.machine, list(recording.records())
    if kept:
        return machine, kept_alive(capture, rounds), 4
    written = run(machine, capture).written
    return machine, rounds_of(capture, rounds), written.requests + written.responses


def main(arguments: list[str]) -> None:
    """Print the cost; or run so many rounds, to be counted."""
    kept = ["--kept"] if "--kept" in arguments else []
    arguments = [argument for argument in arguments if argument not in kept]
    rounds = 5 * _ROUNDS if kept else _ROUNDS
    # However many are counted, as many are made.
    machine, records, messages = workload(bool(kept), 2 * rounds)
    if arguments == ["--instructions"]:
        count = per_round("benchmarks.replay", *kept, rounds=rounds) / messages
        print(f"{count:,.0f} instructions a message")
    elif arguments == ["--profile"]:
        with cProfile.Profile() as profile:
            run(machine, records)
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)
    elif arguments:
        run(machine, records[: len(records) * int(arguments[0]) // (2 * rounds)])
    else:
        best = min(repeat(lambda: run(machine, records), number=1, repeat=7))
        print(f"{best / (messages * 2 * rounds) * 1e6:.1f} µs a message")


if __name__ == "__main__":
    main(sys.argv[1:])
