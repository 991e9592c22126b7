# SPDX-License-Identifier: Apache-2.0
"""The replay of ``replay.py`` by pytest-benchmark: ``tox -e bench-replay``."""

from __future__ import annotations

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.replay import run, workload

ROUNDS = 50


@pytest.mark.parametrize("name", ["demo", "kept", "fresh"])
def test_replay(benchmark: BenchmarkFixture, name: str) -> None:
    """One round is the time of all messages; ``messages`` is their number."""
    machine, records, messages = workload(name, ROUNDS)
    benchmark.extra_info["messages"] = messages * ROUNDS
    assert benchmark(run, machine, records).account.messages == messages * ROUNDS
    benchmark.extra_info["microseconds a message"] = round(
        benchmark.stats["min"] / (messages * ROUNDS) * 1e6, 1
    )
