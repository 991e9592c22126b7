# SPDX-License-Identifier: Apache-2.0
"""Counts instructions, which do not depend on other load on the machine.

``valgrind --tool=callgrind`` counts those of user space. A program runs twice, with ``n``
and with ``2n`` rounds: the difference excludes its start. Or it marks the sections to
count, each separately.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable

_COLLECTED = re.compile(r"Collected : ([0-9]+)")
_TOTAL = re.compile(r"^totals: ([0-9]+)$", re.MULTILINE)

# The function that ``dir()`` calls: part of Python's C interface, so callgrind finds it by
# name in every build of Python, and hardly anything else calls it.
_ENTRY = "PyObject_Dir"


def per_round(module: str, *arguments: str, rounds: int) -> float:
    """Return the instructions of one round of ``python -m module arguments ROUNDS``."""
    once, twice = (_count(module, *arguments, str(n)) for n in (rounds, 2 * rounds))
    return (twice - once) / rounds


def _count(module: str, *arguments: str) -> int:
    said = _callgrind("--callgrind-out-file=/dev/null", python=[module, *arguments])
    match = _COLLECTED.search(said)
    assert match is not None, said
    return int(match[1])


def _callgrind(*options: str, python: list[str]) -> str:
    """Run ``python -m`` under callgrind; return its standard error."""
    run = subprocess.run(
        ["valgrind", "--tool=callgrind", *options, sys.executable, "-m", *python],
        env={**os.environ, "PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stderr


def section(function: Callable[[], object]) -> None:
    """Run ``function``; under :func:`sections` its instructions are counted separately."""

    class Section:
        def __dir__(self) -> list[str]:
            function()
            return []

    dir(Section())


def sections(count: int, module: str, *arguments: str) -> list[int]:
    """Return the instructions of the last ``count`` sections of ``python -m module arguments``."""
    with TemporaryDirectory() as directory:
        options = f"--toggle-collect={_ENTRY}", f"--dump-after={_ENTRY}"
        out = f"--callgrind-out-file={directory}/out"
        _callgrind(out, *options, python=[module, *arguments])
        dumps = sorted(Path(directory).glob("out.*"), key=lambda path: int(path.suffix[1:]))
        totals = [_TOTAL.findall(dump.read_text())[-1] for dump in dumps]
    return [int(total) for total in totals[-count:]]
