# SPDX-License-Identifier: Apache-2.0
"""Twice the input causes at most twice the work, whatever grows.

The work is counted in instructions by valgrind, so a busy machine does not matter
(``benchmarks/growth.py``; docs/explanation/performance.md has the figures).
"""

from __future__ import annotations

import shutil

import pytest

from benchmarks.growth import SHAPES, TEXTS, counts

# Room for uneven growth: Python's tables and garbage collection, which happen at certain sizes.
# Quadratic work gives up to 4, and is clearly above the limit when it is half of the total.
LIMIT = 2.3


@pytest.fixture(scope="module")
def counted() -> dict[str, list[int]]:
    if shutil.which("valgrind") is None:
        pytest.fail("valgrind is needed: provisioning/setup-host.sh installs it")
    return counts()


@pytest.mark.parametrize("shape", [*SHAPES, *TEXTS])
def test_twice_the_input_is_at_most_twice_the_work(
    counted: dict[str, list[int]], shape: str
) -> None:
    one, two, four = counted[shape]
    assert two <= LIMIT * one
    assert four <= LIMIT * two
