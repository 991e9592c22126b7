# SPDX-License-Identifier: Apache-2.0
"""Attaches programs to the functions of TLS libraries (--tls).

The kernel attaches to a file by its inode, so one attachment serves every process that maps the
file, now or later, in any mount namespace. Closing the descriptors removes the breakpoints.

Opening files of other processes and attaching need privileges; parsing the files must not have
any. So :class:`Probes` runs in the helper, and :class:`Libraries` in the confined process. The
helper attaches only to files that it has opened itself: the other side names one by its identity.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from profiler.accounting import Uncaptured
from profiler.ingest.probe.generate import LibraryPrograms
from profiler.ingest.probe.load import attach_to_file
from profiler.ingest.tls.libraries import Hook
from profiler.ingest.tls.processes import Discovery, Files, Finding
from profiler.ingest.wire import HANDSHAKE_RECORD
from profiler.privileges.helper import Descriptor, Helper

# Device, inode and time of change in nanoseconds, from fstat(2).
Identity = tuple[int, int, int]

# The longest reply of the helper has room for as many numbers of processes.
_PIDS_MAX = 4096
POINTS_MAX = 256
"""Far more than the functions of a library have together: a file can pretend any number."""
# Nothing is wrong with the file: a capability is missing, or the kernel offers no uprobes.
_NOT_OF_THE_FILE = (errno.EACCES, errno.EPERM, errno.EOPNOTSUPP)
# Processes that are remembered for the summary.
_NOTED_MAX = 1000

LATE = (
    "its library was found by its first handshake, so messages of that connection may be missing; "
    "the next ones are captured"
)
QUIC = "it uses UDP port 443 (QUIC, HTTP/3), which is not captured; turn HTTP/3 off in the program"


class Probes(Files):
    """Opens files, and attaches to those that it has opened."""

    def __init__(
        self,
        libraries: Iterable[LibraryPrograms],
        programs: Mapping[str, int],
        has_called: Callable[[int], bool],
        program: Path | None = None,
        proc: Path = Path("/proc"),
        root: Path = Path("/"),
    ) -> None:
        """``programs`` maps the functions of the loaded probe to their descriptors.

        ``has_called`` returns whether a process has called a function of a library. ``program``
        will be started during the capture.
        """
        super().__init__(proc, root, program)
        self._has_called = has_called
        self._libraries = {each.function: each for each in libraries}
        self._programs = programs
        self._opened: dict[Identity, int] = {}
        self._attached: dict[Identity, list[int]] = {}
        self.attach = self._attach
        self.forget = self._forget
        self.pids_after = self._pids_after
        self.silent = self._silent
        _allow_files()

    def share(self, helper: Helper) -> None:
        """Let ``helper`` do all this."""
        super().share(helper)
        self.attach = helper.offer(self._attach)
        self.forget = helper.offer(self._forget)
        self.pids_after = helper.offer(self._pids_after)
        self.silent = helper.offer(self._silent)

    def close(self) -> None:
        """Detach from all files."""
        self._forget()
        while self._attached:
            _close(self._attached.popitem()[1])

    def _open_mapping(self, pid: int, start: int) -> Descriptor:
        return self._kept(super()._open_mapping(pid, start))

    def _open_cached(self, path: str) -> Descriptor:
        return self._kept(super()._open_cached(path))

    def _open_program(self) -> Descriptor:
        return self._kept(super()._open_program())

    def _kept(self, descriptor: Descriptor) -> Descriptor:
        identity = _identity(descriptor)
        if identity not in self._opened:
            self._opened[identity] = os.dup(descriptor)
        return descriptor

    def _forget(self) -> None:
        """Close the files that were opened since the last call."""
        _close(self._opened.values())
        self._opened.clear()

    def _attach(self, identity: list[int], functions: list[list[object]]) -> bool:
        """Attach to ``functions`` of an opened file: name, offset of the entry, and of returns.

        Return whether it was not attached to before. Raises OSError if the file was not opened, or
        if the kernel refuses an offset; then nothing of the file stays attached.
        """
        device, inode, changed = identity
        key = device, inode, changed
        if key in self._attached:
            return False
        file = self._opened.get(key)
        if file is None:
            raise FileNotFoundError(errno.ENOENT, "the helper has not opened the file")
        descriptors: list[int] = []
        try:
            for program, offset in self._points(functions):
                descriptors.append(attach_to_file(program, file, offset))
        except OSError:
            _close(descriptors)
            raise
        self._attached[key] = descriptors
        return True

    def _points(self, functions: list[list[object]]) -> list[tuple[int, int]]:
        """Return the programs and their offsets: returns first, so that no call stays open."""
        points: list[tuple[int, int]] = []
        for name, entry, returns in functions:
            hook = self._libraries[str(name)]
            if hook.leave is not None:
                leave = self._programs[hook.leave.function]
                points += [(leave, int(offset)) for offset in returns]  # type: ignore
            points.append((self._programs[hook.entry.function], int(entry)))  # type: ignore
        if len(points) > POINTS_MAX:
            raise OSError(errno.E2BIG, "too many places to probe")
        return points

    def _pids_after(self, pid: int) -> list[int]:
        """Return the processes with higher numbers than ``pid``, the first ones."""
        pids = (int(each.name) for each in self._proc.glob("[0-9]*"))
        return sorted(each for each in pids if each > pid)[:_PIDS_MAX]

    def _silent(self, pids: list[int]) -> list[int]:
        """Return those of ``pids`` that have called no probed library."""
        return [pid for pid in pids if not self._has_called(pid)]


class Libraries:
    """The TLS libraries of this machine: finds them, and has the programs attached."""

    def __init__(self, probes: Probes, functions: Iterable[str]) -> None:
        self._probes = probes
        self._functions = frozenset(functions)
        self._discovery = Discovery(probes)
        self._done: set[Identity] = set()
        self._refused: dict[Identity, str] = {}
        self._problems: set[str] = set()
        # By process and reason: those whose handshake was seen at a socket.
        self._silent: dict[Uncaptured, None] = {}
        self._uncaptured: dict[Uncaptured, None] = {}

    def attach_all(self) -> list[str]:
        """Attach to the libraries of ``ld.so.cache``, of all processes and of the program that
        will be started; return problems.
        """
        problems = self._attach([*self._discovery.cached(), *self._discovery.program()])
        pids = self._probes.pids_after(0)
        while pids:
            for pid in pids:
                problems += self.attach_to(pid)
            pids = self._probes.pids_after(pids[-1])
        return problems

    def attach_to(self, pid: int) -> list[str]:
        """Attach to the libraries of a process; return problems that were not returned before."""
        try:
            return self._attach(self._discovery.process(pid))
        except OSError:
            # It has ended.
            return []

    def handshake(self, record: bytes) -> list[str]:
        """Attach to the libraries of the process in a HANDSHAKE record; return new problems."""
        _, is_datagram, pid, comm = HANDSHAKE_RECORD.unpack(record)
        name = comm.partition(b"\0")[0].decode(errors="replace")
        if is_datagram:
            self._note(self._uncaptured, pid, name, QUIC)
            return []
        before = len(self._done)
        problems = self.attach_to(pid)
        if len(self._done) > before:
            self._note(self._uncaptured, pid, name, LATE)
        self._note(self._silent, pid, name, self._discovery.reason(pid, self._refused))
        return problems

    def uncaptured(self) -> tuple[Uncaptured, ...]:
        """Return the processes whose encrypted traffic was noticed, but not captured."""
        pids = sorted({each.pid for each in self._silent})
        silent = set(self._probes.silent(pids)) if pids else set()
        # One that never called the library has no first connection that could be late.
        late = (each for each in self._uncaptured if each.reason == QUIC or each.pid not in silent)
        return (*(each for each in self._silent if each.pid in silent), *late)

    def _note(self, noted: dict[Uncaptured, None], pid: int, comm: str, reason: str) -> None:
        if len(noted) < _NOTED_MAX:
            noted[Uncaptured(pid, comm, reason)] = None

    def _attach(self, findings: list[Finding]) -> list[str]:
        problems = [self._attach_to_file(each) for each in findings]
        self._probes.forget()
        new = [each for each in dict.fromkeys(problems) if each and each not in self._problems]
        self._problems.update(new)
        return new

    def _attach_to_file(self, finding: Finding) -> str:
        """Attach to one file; return what went wrong, or an empty text."""
        identity = finding.identity
        if identity is None or identity in self._done:
            return finding.problem
        functions = [
            [name, hook.entry, list(hook.returns)]
            for library in finding.libraries
            for hook in library.hooks
            for name in self._hooked(hook)
        ]
        if not functions:
            return finding.problem
        self._done.add(identity)
        problem = self._refusal(identity, finding.path, functions)
        if problem:
            self._refused[identity] = problem
            return problem
        refused = [each for library in finding.libraries for each in library.refused]
        return f"{finding.path}: {refused[0]}" if refused else finding.problem

    def _refusal(self, identity: Identity, path: str, functions: list[list[object]]) -> str:
        """Have a file attached to; return why it cannot be probed, or an empty text."""
        if _number_of_points(functions) > POINTS_MAX:
            return f"{path}: cannot be probed: its functions return in too many places"
        try:
            self._probes.attach(list(identity), functions)
        except OSError as error:
            if error.errno not in _NOT_OF_THE_FILE:
                return f"{path}: cannot be probed: {error.strerror}"
            # Before Linux 6.16, and the stable kernels of July 2025, CAP_PERFMON sufficed.
            needs = "" if error.errno == errno.EOPNOTSUPP else " (CAP_SYS_ADMIN is needed)"
            return f"TLS libraries cannot be probed: {error.strerror}{needs}"
        return ""

    def _hooked(self, hook: Hook) -> list[str]:
        """Return one of a function's names, if the probe has a program for it."""
        return [name for name in hook.names if name in self._functions][:1]


def _number_of_points(functions: list[list[object]]) -> int:
    return sum(1 + len(returns) for _, _, returns in functions)  # type: ignore


def _identity(descriptor: int) -> Identity:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _allow_files() -> None:
    """Allow as many open files as possible: each probed instruction takes one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
