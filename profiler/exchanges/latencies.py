# SPDX-License-Identifier: Apache-2.0
"""Percentiles of any number of latencies, in bounded memory.

A histogram with exponential bounds: each octave has 32 bins, so a value is returned within 1.1 % of
the original. There are 1,320 bins between a microsecond and a month.
"""

from __future__ import annotations

import math

_BINS = 32
_LEAST = 0.001
_MOST = 1320


class Latencies:
    """Collects milliseconds; computes percentiles by nearest rank."""

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
        """Return an independent copy."""
        one = Latencies()
        one._bins, one.count = dict(self._bins), self.count
        return one

    def percentile(self, share: float) -> float | None:
        """Return the latency (ms) that ``share`` (0.99) of all do not exceed; ``None`` if there is
        none.
        """
        rank = math.ceil(share * self.count)
        for number in sorted(self._bins):
            rank -= self._bins[number]
            if rank <= 0:
                return _LEAST * math.pow(2.0, number / _BINS)
        return None
