# SPDX-License-Identifier: Apache-2.0
"""The replay of ``replay.py`` by pytest-benchmark: ``tox -e bench-replay``."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import pcap
from benchmarks.replay import run, workload
from profiler.ingest import fastpath

ROUNDS = {"demo": 50, "kept": 500, "fresh": 500, "1m": 5}
# Each HTTP message as JSON.
TSHARK = ("tshark", "-n", "-Y", "http", "-T", "ek")


@pytest.mark.parametrize("name", ROUNDS)
@pytest.mark.parametrize("fast", ["0", "1"], ids=["python", "fast path"])
def test_replay(
    benchmark: BenchmarkFixture, name: str, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round is the time of all messages; ``messages`` is their number."""
    monkeypatch.setenv(fastpath.VARIABLE, fast)
    machine, records, messages = workload(name, ROUNDS[name])
    messages *= ROUNDS[name]
    assert benchmark(run, machine, records).account.messages == messages
    report(name, "fast path" if fast == "1" else "python", messages, benchmark)


@pytest.mark.parametrize("name", ROUNDS)
def test_tshark(benchmark: BenchmarkFixture, name: str, tmp_path: Path) -> None:
    """The same traffic as packets, which pass once, not at both ends; with tshark's own start."""
    if shutil.which("tshark") is None:
        pytest.skip("tshark is not installed (apt install tshark)")
    # More, so that its start counts less.
    rounds = (1 if name == "1m" else 10) * ROUNDS[name]
    _, records, messages = workload(name, rounds)
    port = pcap.write(records, tmp_path / "packets.pcap")
    command = [*TSHARK, "-d", f"tcp.port=={port},http", "-r", str(tmp_path / "packets.pcap")]

    def dissect() -> int:
        done = subprocess.run(
            command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return done.stdout.count(b'"timestamp"')

    messages = messages * rounds // 2
    assert benchmark.pedantic(dissect, rounds=2) == messages
    report(name, "tshark", messages, benchmark)


def report(name: str, reader: str, messages: int, benchmark: BenchmarkFixture) -> None:
    """Print the throughput of the best round, which the columns of pytest-benchmark do not show."""
    each = messages / benchmark.stats["min"]
    print(f"{name}, {reader}: {each:,.0f} messages a second")
