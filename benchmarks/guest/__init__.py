# SPDX-License-Identifier: Apache-2.0
"""The profiler's cost in instructions, compared with other tools.

A guest's clock counts instructions (``machine(icount=True)``). So an elapsed nanosecond is
an instruction that the one processor ran: for the target, its client, the kernel or the
capture. ``inside`` runs in that guest and measures. This package boots it, requests the
measurements, and writes ``docs/explanation/performance.md``.
"""
