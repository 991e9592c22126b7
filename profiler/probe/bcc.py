"""Engine: compile, attach and read the probe with BCC. The only module that imports bcc.

An engine yields batches of records as they are on the wire; a batch is what was
in the ring buffer when it was polled. What goes wrong in the compiler or the
kernel reaches the user as one line; the full log is kept in a file that the
line names.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profiler.errors import ProbeError, UnsupportedError
from profiler.probe.counters import FILTERED, LOST, Account, Accounts, Tally
from profiler.probe.generate import (
    PAGE_SIZE,
    Attachment,
    Program,
    can_fetch_and_add,
    generate,
    uses_boot_time,
    uses_ring_buffer,
)
from profiler.probe.headers import read_layout_of_headers
from profiler.probe.hooks import Hooks, load_hooks
from profiler.probe.layout import Layout, read_layout
from profiler.probe.load import attach, load, skipped, target_id, with_fetch, with_shape
from profiler.probe.order import Order
from profiler.settings import ROUTES, Settings

POLL_MS = 100
VERDICT_OTHER = 2


class BccEngine:
    """A probe that is attached; a context manager that detaches it.

    Raises ProbeError or UnsupportedError if no route can be loaded on this
    machine, with the reason for each route that was tried.
    """

    def __init__(self, settings: Settings) -> None:
        _check_privilege()
        self._bcc = _import_bcc()
        self._bpf: Any = None
        self._attached: list[int] = []
        self._programs: list[int] = []
        self._records: list[bytes] = []
        self._order = Order()
        hooks = load_hooks()
        layout, without_btf = self._read_layout(hooks, settings)
        self.clock = time.CLOCK_BOOTTIME if uses_boot_time(layout) else time.CLOCK_MONOTONIC
        """The clock of the records' times."""
        routes = (settings.route,) if settings.route else ROUTES
        failures = []
        if without_btf:
            failures.append(without_btf)
            routes = ("syscall",)
        for route in routes:
            try:
                self._start(route, hooks, layout, settings)
            except ProbeError as error:
                self.detach()
                failures.append(str(error))
            else:
                self.route = route
                break
        else:
            raise ProbeError("; ".join(failures))
        self.fallback = "; ".join(failures)
        """Why a better route was not taken; empty if the best one was."""

    def __enter__(self) -> BccEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the records of each poll, an empty list where there were none, until detached."""
        while self._bpf is not None:
            yield self._poll(POLL_MS)

    def stop(self) -> list[bytes]:
        """Unhook the probe and return what it had already handed over."""
        self._close_attached()
        return self._poll(0) + self._order.rest()

    def accounts(self) -> Accounts:
        """The kernel's counters, summed over CPUs."""
        table = self._bpf["account"]
        missed = sum(map(skipped, self._programs))
        return Accounts(send=_account(table, 0), recv=_account(table, 1), skipped=missed)

    def ignore(self, socket: int) -> None:
        """Have the kernel forward no more of the socket with this inode."""
        table = self._bpf["connections"]
        connection = table.Leaf()
        connection.verdict = VERDICT_OTHER
        # The socket may have been closed meanwhile; then there is nothing to ignore,
        # and an entry made now would stay until the table needs its room.
        key = ctypes.c_ulonglong(socket)
        if key in table:
            table[key] = connection

    def detach(self) -> None:
        """Unhook the probe and free its tables."""
        self._close_attached()
        while self._programs:
            os.close(self._programs.pop())
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None

    def _read_layout(self, hooks: Hooks, settings: Settings) -> tuple[Layout, str]:
        """Where the kernel keeps what the probe reads, and why that is not known from BTF."""
        reason = "--types headers: the socket route needs BTF"
        if settings.types != "headers":
            try:
                return read_layout({hook.name for hook in hooks.functions}), ""
            except UnsupportedError as error:
                if settings.types == "btf" or settings.route == "socket":
                    raise
                reason = str(error)
        if settings.route == "socket":
            raise UnsupportedError(reason)
        with _explained("the kernel's headers cannot be read"):
            return read_layout_of_headers(self._bcc), reason

    def _start(self, route: str, hooks: Hooks, layout: Layout, settings: Settings) -> None:
        program = generate(
            route, hooks, layout, settings, self_pid=os.getpid(), machine=platform.machine()
        )
        self._bpf = self._compile(program)
        events = self._bpf["events"]
        if uses_ring_buffer(layout, settings):
            self.carrier = "ring buffer"
            events.open_ring_buffer(self._receive)
        else:
            self.carrier = "perf buffer"
            events.open_perf_buffer(
                self._receive_on_cpu,
                page_cnt=_pages_of_a_cpu(settings.ring_bytes),
                lost_cb=lambda _: None,  # the program has counted it
            )
        self._attach_all(program, layout)

    def _compile(self, program: Program) -> Any:
        # Nobody reads the debug information, and it is a seventh of the compiler's work.
        with _explained(f"the {program.route} route cannot be compiled"):
            return self._bcc.BPF(text=program.source, cflags=["-Wno-everything", "-g0"])

    def _attach_all(self, program: Program, layout: Layout) -> None:
        # One that is bound to a kernel function when it is loaded serves only that.
        loaded: dict[tuple[str, int, int | None], int] = {}
        for attachment in program.attachments:
            target = target_id(attachment, layout)
            key = attachment.function, attachment.shape, target
            if key not in loaded:
                loaded[key] = self._load(attachment, target, layout)
                self._programs.append(loaded[key])
            self._attached.append(attach(loaded[key], attachment))

    def _load(self, attachment: Attachment, target: int | None, layout: Layout) -> int:
        code = self._bpf.dump_func(attachment.function.encode())
        code = with_shape(code, attachment.shape)
        if can_fetch_and_add(layout):
            code = with_fetch(code)
        return load(code, attachment, target)

    def _close_attached(self) -> None:
        while self._attached:
            os.close(self._attached.pop())

    def _receive(self, _context: Any, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return 0

    def _receive_on_cpu(self, _cpu: int, data: int, size: int) -> None:
        # A record of the perf buffer is padded: its true size is in its head.
        self._records.append(ctypes.string_at(data, size))

    def _poll(self, milliseconds: int) -> list[bytes]:
        started = time.clock_gettime_ns(self.clock)
        if self.carrier == "ring buffer":
            self._bpf.ring_buffer_poll(milliseconds)
        else:
            self._bpf.perf_buffer_poll(milliseconds)
        records, self._records = self._records, []
        return records if self.carrier == "ring buffer" else self._order.arrange(records, started)


def _pages_of_a_cpu(size: int) -> int:
    """A perf buffer has one part for each CPU, of a power of two of pages."""
    pages = max(8, size // PAGE_SIZE // (os.cpu_count() or 1))
    return 1 << (pages.bit_length() - 1)


def _account(table: Any, direction: int) -> Account:
    cpus = table[ctypes.c_int(direction)]

    def tally(*members: Any) -> Tally:
        return Tally(sum(m.calls for m in members), sum(m.bytes for m in members))

    return Account(
        seen=tally(*(cpu.seen for cpu in cpus)),
        forwarded=tally(*(cpu.forwarded for cpu in cpus)),
        filtered={
            name: tally(*(cpu.filtered[i] for cpu in cpus)) for i, name in enumerate(FILTERED)
        },
        lost={name: tally(*(cpu.lost[i] for cpu in cpus)) for i, name in enumerate(LOST)},
    )


def _check_privilege() -> None:
    if os.geteuid() != 0:
        raise ProbeError("capturing needs root: run `sudo http-profiler`")


def _import_bcc() -> Any:
    try:
        import bcc
    except ImportError:
        raise UnsupportedError(
            f"BCC is not there for this Python ({sys.executable}): install your distribution's "
            "package (python3-bpfcc on Debian and Ubuntu), and let the environment that "
            "http-profiler is installed in see the system's packages (--system-site-packages)"
        ) from None
    return bcc


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Keep what BCC, clang and the verifier print; on failure say where, and the line that tells.

    They write to file descriptor 2, below Python, so that is what is redirected.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.NamedTemporaryFile(
        mode="w+", prefix="http-profiler-", suffix=".log", delete=False
    ) as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except UnsupportedError:
            raise
        except Exception as error:
            log.seek(0)
            raise ProbeError(
                f"{what} on Linux {os.uname().release}: {_telling_line(log.read(), error)} "
                f"(the whole log: {log.name})"
            ) from error
        else:
            Path(log.name).unlink()
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _telling_line(log: str, error: Exception) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if "Operation not permitted" in log or getattr(error, "errno", None) == 1:
        return "the kernel does not permit BPF here (a container without CAP_BPF, or lockdown)"
    if any("kernel headers" in line or "chdir(/lib/modules" in line for line in lines):
        return (
            "BCC needs this kernel's headers: install the linux-headers package of the running "
            "kernel"
        )
    for line in lines:
        if "error:" in line:  # clang: the first one is the cause
            return line
    for line in reversed(lines):  # the verifier: its last word before the statistics
        if not line.startswith(("processed ", "verification time", "stack depth", "HINT")):
            return line
    return str(error)
