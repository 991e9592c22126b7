# SPDX-License-Identifier: Apache-2.0
"""Attaches the probe and reads its records: the only package that uses the kernel's BPF API."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType
from typing import Protocol

from profiler.accounting import KernelAccount
from profiler.ingest.settings import Settings
from profiler.privileges.helper import Helper


class Engine(Protocol):
    """An attached probe; a context manager that detaches it."""

    route: str
    carrier: str
    """The name of the channel that carries the records to user space."""

    clock: int
    """The clock of the records' times: ``time.CLOCK_BOOTTIME`` or ``CLOCK_MONOTONIC``."""

    fallback: str
    """Why a better route is not used; empty if the best one is."""

    problems: list[str]
    """What could not be probed, a line each. New lines may be added at any time."""

    applied: tuple[str, ...]
    """The filters (members of ``Filters``) that the probe applies in the kernel."""

    def __enter__(self) -> Engine:
        """The engine itself."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
        /,
    ) -> None:
        """Detach the probe."""

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the records of each poll until detached; an empty list if there are none."""

    def stop(self) -> list[bytes]:
        """Detach the probe and return the records that it has already forwarded."""

    def account(self) -> KernelAccount:
        """Return the kernel's counters."""

    def ignore(self, socket: int) -> None:
        """Stop forwarding the socket with this inode."""

    def discover(self) -> None:
        """Attach to the TLS libraries of this machine, if the settings require it."""

    def share(self, helper: Helper) -> None:
        """Offer ``helper`` what needs privileges; to be called before it is split off."""


def inseparable(settings: Settings) -> str:
    """Return why the process that reads the records needs privileges; empty if it does not."""
    return "the bpftrace engine looks into /proc itself" if settings.engine == "bpftrace" else ""


# Engines are imported when they are opened, because a replay needs none of them.


def open_engine(settings: Settings) -> Engine:
    """Attach the probe with the engine that ``settings`` select. Raises ProbeError."""
    if settings.engine == "bpftrace":
        from profiler.ingest.probe.bpftrace import BpftraceEngine

        return BpftraceEngine(settings)
    from profiler.ingest.probe.bcc import BccEngine

    return BccEngine(settings)


def program_text(settings: Settings) -> str:
    """Return the source of the program that :func:`open_engine` would load. Needs no privilege.

    Raises UnsupportedError if no such program can be generated for this machine.
    """
    if settings.engine == "bpftrace":
        from profiler.ingest.probe.bpftrace import find_bpftrace, write_program

        return write_program(settings, find_bpftrace()[1], own_pids=())
    import platform

    from profiler.ingest.probe.generate import generate
    from profiler.ingest.probe.hooks import load_hooks
    from profiler.ingest.probe.layout import read_layout
    from profiler.ingest.settings import ROUTES

    hooks = load_hooks()
    layout = read_layout(tuple(hook.name for hook in hooks.functions))
    route = settings.route or ROUTES[0]
    return generate(route, hooks, layout, settings, machine=platform.machine()).source
