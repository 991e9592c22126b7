# SPDX-License-Identifier: Apache-2.0
"""``python -m benchmarks.top``: how many messages per second ``http-profiler top`` handles.

A capture of small messages is shown in a real pseudo-terminal, as fast as it can be read. The
printed figure is the processor time of everything: start, reading JSON lines, pairing,
counting, drawing. In a live capture the pipeline does the reading (``benchmarks.replay``).
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests import sample_capture
from tests.terminal import PROFILER, Terminal


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print one line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.top", description=__doc__)
    parser.add_argument("--exchanges", type=int, default=30_000, metavar="N")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        capture = sample_capture.write(Path(scratch, "shop.jsonl"), options.exchanges)
        with Terminal([*PROFILER, "top", "--from", str(capture)], lines=50, columns=160) as screen:
            screen.seconds = 600
            screen.until("lines of shop.jsonl")
            lines = int(re.search(r"(\d+) lines of", screen.text)[1])  # type: ignore[index]
            ticks = Path(f"/proc/{screen.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
            drawn = len(screen.sent)
            screen.press("q")
            screen.end()
    seconds = sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")
    print(
        f"{lines:,} messages in {seconds:.1f} s of processor time: {lines / seconds:,.0f} per "
        f"second; {drawn / 1000:,.0f} kB were drawn"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
