# SPDX-License-Identifier: Apache-2.0
"""Prints the results of a measurement as JSON.

``python3 -m benchmarks.guest.inside METRIC CAPTURE WORKLOAD ...``
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
    """Measure one metric of some workloads; return the exit code."""
    metric, capture, *names = sys.argv[1:]
    workloads = [WORKLOADS[name] for name in names]
    try:
        results = measure(metric, workloads, CAPTURES[capture], DIRECTORY)
    except BenchmarkError as error:
        print(f"{metric} {capture}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
