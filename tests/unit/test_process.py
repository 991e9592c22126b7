from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from profiler.process import Processes
from profiler.wire import Chunk, Process
from tests.unit.wires import chunk as wire_chunk

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def chunk(pid: int, start_time: int) -> Chunk:
    return wire_chunk(b"x", pid=pid, start_time=start_time)


@pytest.fixture
def proc(tmp_path: Path) -> Any:
    def add(pid: int, cmdline: bytes, start_ticks: int, comm: str = "a (b) c") -> None:
        directory = tmp_path / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "cmdline").write_bytes(cmdline)
        fields = ["S", *(str(n) for n in range(4, 22)), str(start_ticks), "23"]
        (directory / "stat").write_text(f"{pid} ({comm}) {' '.join(fields)}\n")

    add.directory = tmp_path  # type: ignore[attr-defined]
    return add


def test_a_process_is_looked_up_once(proc: Any) -> None:
    proc(7, b"nginx:\0worker\0", 500)
    processes = Processes(proc.directory)
    found = processes.meet(chunk(7, 500 * TICK + 3))
    assert found == Process(7, 500 * TICK + 3, b"nginx:\0worker\0")
    assert processes.cmdline(7, 500 * TICK + 3) == "nginx: worker"
    proc(7, b"changed\0", 500)
    assert processes.meet(chunk(7, 500 * TICK + 3)) is None
    assert processes.cmdline(7, 500 * TICK + 3) == "nginx: worker"


def test_a_pid_that_is_used_again_is_another_process(proc: Any) -> None:
    proc(7, b"new\0", 900)
    processes = Processes(proc.directory)
    assert processes.meet(chunk(7, 500 * TICK)) is None
    assert processes.cmdline(7, 500 * TICK) is None
    assert processes.meet(chunk(7, 900 * TICK)) is not None
    assert processes.cmdline(7, 900 * TICK) == "new"


def test_a_process_that_is_gone_stays_unknown(tmp_path: Path) -> None:
    processes = Processes(tmp_path)
    assert processes.meet(chunk(1, 0)) is None
    assert processes.cmdline(1, 0) is None


def test_a_replay_knows_what_it_is_told_and_does_not_look(proc: Any) -> None:
    proc(7, b"on this machine\0", 500)
    processes = Processes(proc=None)
    processes.learn(Process(7, 500 * TICK, b"recorded\xff\0"))
    assert processes.meet(chunk(7, 500 * TICK)) is None
    assert processes.cmdline(7, 500 * TICK) == "recorded\ufffd"


def test_the_real_proc() -> None:
    """This process, with the start time that the kernel tells for it."""
    stat = Path("/proc/self/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[19])
    processes = Processes()
    assert processes.meet(chunk(os.getpid(), ticks * TICK)) is not None
    own = Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode()
    assert processes.cmdline(os.getpid(), ticks * TICK) == own
