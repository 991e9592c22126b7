# SPDX-License-Identifier: Apache-2.0
"""A recording of a flood: real memory stays within the bound, the output within its size.

Each recording is replayed by a process of its own. It is compared with one that replays nothing
but an ordinary exchange.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from profiler.ingest import wire
from profiler.ingest.probe.recording import Origin, Recorder
from tests.floods import CLIENT, FLOODS, Talk
from tests.records import read_record
from tests.unit.wires import Wire

BOUND = 32 << 20
# Beside the bound: what is remembered of heads (profiler/ingest/http/fields.py), and the
# allocator's arenas that are partly used.
BASE = 12 << 20
FILE_MAX = 4 << 20
FILES = 20
ORDINARY = [
    (CLIENT, b"GET /ordinary HTTP/1.1\r\nHost: a\r\n\r\n"),
    (1 - CLIENT, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
]

# Not getrusage(2): its peak includes that of the process which started this one.
PROGRAM = """
import sys
from pathlib import Path
from profiler.cli import main
code = main()
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])
sys.exit(code)
"""


class Replayed:
    """A replay of ``talks``, then of an ordinary exchange."""

    def __init__(self, directory: Path, *talks: Talk) -> None:
        capture = directory / "capture"
        recorder = Recorder(capture, Origin("x86_64", "6.1", "socket"))
        for n, talk in enumerate([*talks, iter(ORDINARY)]):
            each = Wire(socket=1000 + n)
            for end, data in talk:
                recorder.write(wire.encode((each.send if end == CLIENT else each.recv)(data)))
        recorder.close()
        arguments = {
            "--output": directory / "out.jsonl",
            "--max-memory": BOUND,
            "--output-max-size": FILE_MAX,
            "--output-files": FILES,
        }
        options = [str(part) for pair in arguments.items() for part in pair]
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "replay", str(capture), *options],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        self.said = done.stderr
        self.peak = 1024 * int(done.stdout)
        self.files = sorted(directory.glob("out.jsonl*"))
        lines = (line for path in self.files for line in path.read_text().splitlines())
        self.ordinary = [read_record(line) for line in lines if "/ordinary" in line]


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The peak resident memory of a replay of an ordinary exchange, in bytes."""
    return Replayed(tmp_path_factory.mktemp("idle")).peak


@pytest.mark.parametrize("name", FLOODS)
def test_a_recorded_flood_stays_within_the_bounds(name: str, idle: int, tmp_path: Path) -> None:
    flood = FLOODS[name]
    replayed = Replayed(tmp_path, *map(flood.talk, range(flood.connections)))
    growth = replayed.peak - idle
    assert growth <= 1.25 * BOUND + BASE, replayed.said
    # It is a flood: without a bound there would be several times as much.
    assert not flood.holds or growth > BOUND / 2
    assert "bug of http-profiler" not in replayed.said
    sizes = [path.stat().st_size for path in replayed.files]
    assert max(sizes) <= FILE_MAX
    assert len(sizes) <= 1 + FILES
    assert [line["type"] for line in replayed.ordinary] == ["request", "response"]
    assert all("incomplete" not in line for line in replayed.ordinary)
