# SPDX-License-Identifier: Apache-2.0
"""The replay of ``replay.py`` by pytest-benchmark: ``tox -e bench-replay``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import run, workload
from profiler.ingest import fastpath

ROUNDS = 50


@pytest.mark.parametrize("name", ["demo", "kept", "fresh"])
@pytest.mark.parametrize("fast", ["0", "1"], ids=["python", "fast path"])
def test_replay(
    benchmark: BenchmarkFixture, name: str, fast: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One round is the time of all messages; ``messages`` is their number."""
    monkeypatch.setenv(fastpath.VARIABLE, fast)
    machine, records, messages = workload(name, ROUNDS)
    benchmark.extra_info["messages"] = messages * ROUNDS
    assert benchmark(run, machine, records).account.messages == messages * ROUNDS
    benchmark.extra_info["microseconds a message"] = round(
        benchmark.stats["min"] / (messages * ROUNDS) * 1e6, 1
    )
