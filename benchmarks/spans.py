# SPDX-License-Identifier: Apache-2.0
"""The cost of a span beyond its records: what ``--otlp`` adds, counted by valgrind.

    python -m benchmarks.spans   # instructions of each part, for a span

The exchanges of the demo's recording are repeated, each later than the one before and on other
ports. In the capture, a record is passed on; in the process that exports, it is parsed, paired with
the other message of its end, encoded, counted, and compressed in batches.
"""

from __future__ import annotations

import gzip
import sys
from collections import deque
from itertools import starmap
from pathlib import Path
from typing import Callable

import orjson

from benchmarks.instructions import section, sections
from profiler.exchanges.pair import RoleSide, Sides
from profiler.exchanges.redact import Redactor
from profiler.outputs.otlp.delivery import BATCH_SPANS, request_of
from profiler.outputs.otlp.metrics import Metrics
from profiler.outputs.otlp.spans import Encoder, Span
from profiler.schema import Record

_LINES = Path(__file__).parents[1] / "tests/replay/cases/demo/expected.jsonl"
_ROUNDS = 50


def records() -> list[Record]:
    """Return the records of all rounds."""
    made: list[Record] = []
    for number in range(_ROUNDS):
        for line in _LINES.read_bytes().splitlines():
            record = orjson.loads(line)
            record["exchange"] = f"{number}-{record['exchange']}"
            record["sequence"] = record.get("sequence", 0) + number
            port = "source_port" if record["type"] == "request" else "dest_port"
            record[port] = 32768 + number
            made.append(record)
    return made


def parts() -> dict[str, Callable[[], object]]:
    """Return a function for each part, which processes all records."""
    made = records()
    lines = [orjson.dumps({**one, "body": "", "raw_payload": ""}) for one in made]
    paired = _paired(made)
    encoder, hiding = Encoder(None, {}, "host"), Encoder(Redactor(b"k"), {}, "host")
    spans = _encoded(encoder, paired)
    metrics = Metrics({}, "host")
    return {
        "passed on (capture)": lambda: [
            orjson.dumps({**one, "body": "", "raw_payload": ""}) for one in made
        ],
        "parsed": lambda: [orjson.loads(line) for line in lines],
        "paired": lambda: _paired(made),
        "encoded": lambda: _encoded(encoder, paired),
        "redacted besides": lambda: _encoded(hiding, paired),
        "counted in histograms": lambda: deque(starmap(metrics.add, paired), maxlen=0),
        "batched and compressed": lambda: [
            gzip.compress(request_of(spans[at : at + BATCH_SPANS]), 1)
            for at in range(0, len(spans), BATCH_SPANS)
        ],
    }


def _paired(made: list[Record]) -> list[RoleSide]:
    sides = Sides()
    return [side for record in made for side in sides.add(record, 1000, 0)]


def _encoded(encoder: Encoder, paired: list[RoleSide]) -> list[Span]:
    return [encoder.span(role, side) for role, side in paired]


def main(arguments: list[str]) -> None:
    """Print the instructions of each part; or run it, to be counted."""
    if arguments == ["--sections"]:
        for part in parts().values():
            section(part)
            section(part)
        return
    count = len(_paired(records()))
    names = list(parts())
    # The second call is counted, when all caches are filled.
    counts = sections(2 * len(names), "benchmarks.spans", "--sections")[1::2]
    per_span = {name: total / count for name, total in zip(names, counts)}
    per_span["redacted besides"] -= per_span["encoded"]
    for name, instructions in per_span.items():
        print(f"| {name} | {instructions:,.0f} |")
    print(f"| all | {sum(per_span.values()):,.0f} |")


if __name__ == "__main__":
    main(sys.argv[1:])
