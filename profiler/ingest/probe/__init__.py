# SPDX-License-Identifier: Apache-2.0
"""The only package that talks to the kernel: hooks and struct offsets in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Protocol

from profiler.accounting import KernelAccount
from profiler.ingest.settings import Settings


class Engine(Protocol):
    """A probe that is attached; a context manager that detaches it."""

    route: str
    carrier: str
    """What carries the records to user space."""

    clock: int
    """The clock of the records' times: ``time.CLOCK_BOOTTIME`` or ``CLOCK_MONOTONIC``."""

    fallback: str
    """Why a better route was not taken; empty if the best one was."""

    applied: tuple[str, ...]
    """The filters (members of ``Filters``) that it applies where the bytes move."""

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

    def batches(self, held: Callable[[], int]) -> Iterator[list[bytes]]:
        """Yield the records of each poll, an empty list where there were none, until detached.

        ``held`` returns how many bytes of messages are not written yet.
        """

    def stop(self) -> list[bytes]:
        """Unhook the probe and return what it had already handed over."""

    def account(self) -> KernelAccount:
        """The kernel's counters."""

    def ignore(self, socket: int) -> None:
        """Forward no more of the socket with this inode."""


# An engine's module is imported when it is opened: a replay needs neither.


def open_engine(settings: Settings) -> Engine:
    """Attach the probe with the engine that ``settings`` name. Raises ProbeError."""
    if settings.engine == "bpftrace":
        from profiler.ingest.probe.bpftrace import BpftraceEngine

        return BpftraceEngine(settings)
    from profiler.ingest.probe.bcc import BccEngine

    return BccEngine(settings)


def program_text(settings: Settings) -> str:
    """Return the program that :func:`open_engine` would load. Needs no privilege.

    Raises UnsupportedError if this machine has no such program.
    """
    if settings.engine == "bpftrace":
        from profiler.ingest.probe.bpftrace import find_bpftrace, write_program

        return write_program(settings, find_bpftrace()[1], self_pid=0)
    import platform

    from profiler.ingest.probe.generate import generate
    from profiler.ingest.probe.hooks import load_hooks
    from profiler.ingest.probe.layout import read_layout
    from profiler.ingest.settings import ROUTES

    hooks = load_hooks()
    layout = read_layout(tuple(hook.name for hook in hooks.functions))
    route = settings.route or ROUTES[0]
    return generate(route, hooks, layout, settings, machine=platform.machine()).source
