# SPDX-License-Identifier: Apache-2.0
"""Fuzzes each target for a while: ``python -m tests.fuzz [SECONDS] [TARGET ...]``.

It starts from the cases of ``tests/cases``. ``output/fuzz`` keeps the interesting inputs and
those that fail. The name of a failing input is printed: replay it with
``python -m tests.fuzz.TARGET FILE``. The exit code is 1 if there is one.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from profiler.accounting import KernelAccount
from profiler.ingest import wire
from tests.fuzz import actions
from tests.replay.script import CASES, read, records
from tests.unit.wires import SOCKET

OUTPUT = Path("output/fuzz")
TARGETS = ("fuzz_http", "fuzz_wire")
SECONDS = 60

# Kinds that no case contains.
OTHERS = [
    wire.encode(item)
    for item in (
        wire.Clock(1, 2),
        wire.Process(100, 7, 3, 0, b"a\0b\0"),
        wire.Cgroup(3, b"/system.slice"),
        wire.Names(SOCKET, 0, b"/run/a", b"\0b"),
        wire.Counters(json.dumps(KernelAccount().to_json()).encode()),
    )
]


def framed(record: bytes) -> bytes:
    """Prefix a record with its length."""
    return len(record).to_bytes(2, "little") + record


def main(seconds: str = str(SECONDS), *targets: str) -> int:
    """Divide ``seconds`` between the targets."""
    if find_spec("atheris") is None:
        print("not fuzzed: there is no atheris for this machine", file=sys.stderr)
        return 0
    names = targets or TARGETS
    for name in names:
        seeds = OUTPUT / name
        seeds.mkdir(parents=True, exist_ok=True)
        for path in CASES.glob("*/stream.txt"):
            script = read(path)
            if name == "fuzz_http":
                seed = actions.encode(script.steps, script.joined)
                unwanted = actions.encode(script.steps, script.joined, passed_over=True)
                (seeds / f"{path.parent.name}-passed-over").write_bytes(unwanted)
            else:
                seed = b"".join(map(framed, [*OTHERS, *records(script.steps, script.joined)]))
            (seeds / path.parent.name).write_bytes(seed)
        options = [
            f"-max_total_time={int(seconds) // len(names)}",
            f"-artifact_prefix={OUTPUT}/{name}-",
            *("-max_len=8192", "-timeout=10", "-rss_limit_mb=1024"),
            *("-verbosity=0", "-print_final_stats=1"),
        ]
        command = [sys.executable, "-m", f"tests.fuzz.{name}", *options, str(seeds)]
        if subprocess.run(command, check=False).returncode:
            print(f"{name} failed; the input is the last of {OUTPUT}/{name}-*", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
