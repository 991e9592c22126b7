# SPDX-License-Identifier: Apache-2.0
"""What the profiler costs, counted in instructions, beside what people use instead.

A guest's clock counts instructions (``machine(icount=True)``), so an elapsed nanosecond
is an instruction that the one processor ran: for the target, for its client, for the
kernel, for whatever captures. ``inside`` runs in that guest and measures; this package
boots it, asks, and writes ``docs/explanation/performance.md``.
"""
