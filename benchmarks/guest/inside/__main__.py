"""Prints what was measured, as JSON.

``python3 -m benchmarks.guest.inside ASKED WORKLOAD CAPTURE``
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.guest.inside.captures import CAPTURES
from benchmarks.guest.inside.measure import BenchmarkError, measure
from benchmarks.guest.inside.workloads import WORKLOADS

DIRECTORY = Path("/run/http-profiler-bench")


def main() -> int:
    """Measure one thing; return the exit code."""
    asked, workload, capture = sys.argv[1:]
    try:
        result = measure(asked, WORKLOADS[workload], CAPTURES[capture], DIRECTORY)
    except BenchmarkError as error:
        print(f"{asked} {workload} {capture}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
