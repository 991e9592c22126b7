# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
from pathlib import Path

import pytest

from profiler.ingest.probe.proc import read_process

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    directory = tmp_path / "7"
    directory.mkdir()
    (directory / "cmdline").write_bytes(b"nginx:\0worker\0")
    (directory / "cgroup").write_text("0::/\n")
    fields = ["S", *(str(n) for n in range(4, 22)), "500", "23"]
    (directory / "stat").write_text(f"7 (a (b) c) {' '.join(fields)}\n")
    return tmp_path


def test_the_identity_of_a_process(proc: Path) -> None:
    process = read_process(7, 500 * TICK + 3, proc)
    assert process is not None
    assert process[:2] == (7, 500 * TICK + 3)
    assert process.cmdline == b"nginx:\0worker\0"
    assert process.uid == os.getuid()


def test_a_reused_pid_is_another_process(proc: Path) -> None:
    assert read_process(7, 900 * TICK, proc) is None


def test_a_process_that_is_gone_stays_unknown(proc: Path) -> None:
    assert read_process(8, 500 * TICK, proc) is None


def test_the_real_proc() -> None:
    """This process, with its start time from the kernel."""
    stat = Path("/proc/self/stat").read_text()
    ticks = int(stat.rpartition(")")[2].split()[19])
    process = read_process(os.getpid(), ticks * TICK)
    assert process is not None
    assert process.cmdline == Path("/proc/self/cmdline").read_bytes()
