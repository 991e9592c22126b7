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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from profiler.errors import ProbeError, UnsupportedError
from profiler.probe.counters import FILTERED, LOST, Account, Accounts, Tally
from profiler.probe.generate import Attachment, Program, generate
from profiler.probe.hooks import Hooks, load_hooks
from profiler.probe.layout import Layout, read_layout
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
        self._attachments: list[Attachment] = []
        self._records: list[bytes] = []
        hooks = load_hooks()
        layout = read_layout(tuple(hook.name for hook in hooks.functions))
        routes = (settings.route,) if settings.route else ROUTES
        failures = []
        for route in routes:
            try:
                self._bpf = self._load(route, hooks, layout, settings)
            except ProbeError as error:
                failures.append(str(error))
            else:
                self.route = route
                break
        else:
            raise ProbeError("; ".join(failures))
        self.fallback = "; ".join(failures)
        """Why a better route was not taken; empty if the best one was."""
        self._bpf["events"].open_ring_buffer(self._receive)

    def __enter__(self) -> BccEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the records of each poll, an empty list where there were none, until detached."""
        while self._bpf is not None:
            self._bpf.ring_buffer_poll(POLL_MS)
            yield self._take()

    def stop(self) -> list[bytes]:
        """Unhook the probe and return what it had already handed over."""
        for attachment in self._attachments:
            self._detach(attachment)
        self._attachments = []
        self._bpf.ring_buffer_consume()
        return self._take()

    def accounts(self) -> Accounts:
        """The kernel's counters, summed over CPUs."""
        table = self._bpf["account"]
        return Accounts(send=_account(table, 0), recv=_account(table, 1))

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
        if self._bpf is not None:
            self._bpf.cleanup()
            self._bpf = None

    def _receive(self, _context: Any, data: int, size: int) -> int:
        self._records.append(ctypes.string_at(data, size))
        return 0

    def _take(self) -> list[bytes]:
        records, self._records = self._records, []
        return records

    def _load(self, route: str, hooks: Hooks, layout: Layout, settings: Settings) -> Any:
        program = generate(
            route, hooks, layout, settings, self_pid=os.getpid(), machine=platform.machine()
        )
        with _explained(f"the {route} route cannot be loaded"):
            bpf = self._bcc.BPF(
                text=program.source,
                # Nobody reads the debug information, and it is a seventh of the compiler's work.
                cflags=["-Wno-everything", "-g0"],
            )
            self._attachments = []
            try:
                self._attach_all(bpf, program)
            except BaseException:
                bpf.cleanup()
                raise
            return bpf

    def _attach_all(self, bpf: Any, program: Program) -> None:
        self._bpf = bpf
        for attachment in program.attachments:
            self._attach(attachment)
            self._attachments.append(attachment)

    def _attach(self, attachment: Attachment) -> None:
        bpf, kind = self._bpf, attachment.kind
        if kind == "tracepoint":
            bpf.attach_tracepoint(tp=attachment.target, fn_name=attachment.function)
        elif kind == "kprobe":
            bpf.attach_kprobe(event=attachment.target, fn_name=attachment.function)
        # BCC attaches fentry and fexit programs by itself when it loads them.

    def _detach(self, attachment: Attachment) -> None:
        bpf, kind = self._bpf, attachment.kind
        if kind == "tracepoint":
            bpf.detach_tracepoint(tp=attachment.target)
        elif kind == "kprobe":
            bpf.detach_kprobe(event=attachment.target, fn_name=attachment.function)
        else:
            # Programs of a name of BCC's own choosing: all there are, the first time round.
            for name in list(bpf.kfunc_entry_fds):
                bpf.detach_kfunc(fn_name=name)
            for name in list(bpf.kfunc_exit_fds):
                bpf.detach_kretfunc(fn_name=name)


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
