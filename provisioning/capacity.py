# SPDX-License-Identifier: Apache-2.0
"""Computes how many guests this host can run side by side.

Tests want as many as possible, but a host that runs out of memory kills guests at
random. Each guest needs a processor of its own, which an emulated one keeps busy, and
all of its memory, which it comes to use.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

from provisioning.catalog import GuestSpec

# MiB of a machine on top of its guest's memory: QEMU and its cache of translated code.
OVERHEAD = 512


def fitting(guests: Collection[GuestSpec], processors: int, available: int) -> int:
    """Return how many of ``guests`` fit at once, at least 1; ``available`` is memory in MiB."""
    largest = max((spec.memory for spec in guests), default=0) + OVERHEAD
    return max(1, min(len(guests), processors, available // largest))


def side_by_side(guests: Collection[GuestSpec]) -> int:
    """Return how many of ``guests`` fit on this host now."""
    memory = dict(
        line.split(":", 1) for line in Path("/proc/meminfo").read_text("ascii").splitlines()
    )
    available = int(memory["MemAvailable"].split()[0]) // 1024
    return fitting(guests, len(os.sched_getaffinity(0)), available)
