# SPDX-License-Identifier: Apache-2.0
"""Percentiles of any number of latencies, in bounded memory.

A histogram whose bounds grow by a factor: each octave has 32 bins, so a value is given
back within 1.1 % of what it was. Between a microsecond and a month there are 1,320 bins.
"""

from __future__ import annotations

import math

_BINS = 32
_LEAST = 0.001
_MOST = 1320


class Latencies:
    """Takes milliseconds; knows their percentiles by nearest rank."""

    __slots__ = ("_bins", "count")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self.count = 0

    def add(self, milliseconds: float) -> None:
        """Count a latency."""
        number = 0
        if milliseconds > _LEAST:
            number = min(round(_BINS * math.log2(milliseconds / _LEAST)), _MOST)
        self._bins[number] = self._bins.get(number, 0) + 1
        self.count += 1

    def copy(self) -> Latencies:
        """Return one that stays as it is."""
        one = Latencies()
        one._bins, one.count = dict(self._bins), self.count
        return one

    def percentile(self, share: float) -> float | None:
        """Return what ``share`` (0.99) of all do not exceed, milliseconds; ``None`` of none."""
        rank = math.ceil(share * self.count)
        for number in sorted(self._bins):
            rank -= self._bins[number]
            if rank <= 0:
                return _LEAST * math.pow(2.0, number / _BINS)
        return None
