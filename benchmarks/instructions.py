"""Counts instructions, which do not depend on what else the machine is doing.

``valgrind --tool=callgrind`` counts those of user space. A program is run twice,
with ``n`` and with ``2n`` rounds: the difference is free of its start.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

_COLLECTED = re.compile(r"Collected : ([0-9]+)")


def per_round(module: str, *arguments: str, rounds: int) -> float:
    """Return the instructions of one round of ``python -m module arguments ROUNDS``."""
    once, twice = (_count(module, *arguments, str(n)) for n in (rounds, 2 * rounds))
    return (twice - once) / rounds


def _count(module: str, *arguments: str) -> int:
    run = subprocess.run(
        [
            *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
            *(sys.executable, "-m", module, *arguments),
        ],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    match = _COLLECTED.search(run.stderr)
    assert match is not None, run.stderr
    return int(match[1])
