# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest

from provisioning.capacity import fitting, side_by_side
from provisioning.catalog import load_catalog

GUESTS = [replace(spec, memory=2048) for spec in load_catalog().values()][:4]


@pytest.mark.parametrize(
    ("processors", "memory", "guests", "count"),
    [
        (8, 64_000, 4, 4),  # not more than there are
        (2, 64_000, 4, 2),
        (8, 2 * (2048 + 512), 4, 2),
        (8, 2 * (2048 + 512) - 1, 4, 1),
        (8, 100, 4, 1),  # it may still work, and reports an error if not
        (8, 64_000, 0, 1),
    ],
)
def test_as_many_as_fit(processors: int, memory: int, guests: int, count: int) -> None:
    assert fitting(GUESTS[:guests], processors, memory) == count


def test_the_largest_guest_counts() -> None:
    large = replace(GUESTS[0], memory=8000)
    assert fitting([GUESTS[1], large], 8, 10_000) == 1


def test_this_host() -> None:
    assert side_by_side(GUESTS[:1]) == 1
    assert 1 <= side_by_side(GUESTS) <= len(GUESTS)
