# SPDX-License-Identifier: Apache-2.0
"""The bpftrace engine: runs the distribution's bpftrace and turns its output into records.

It serves machines without BCC, and tests use it as an independent reference. It uses
the syscall route, and captures of each call as much as bpftrace can print
(``generate_bpftrace.Dialect``). The rest only advances the stream, and the message
reports ``body_limit``. ``printed.py`` turns the lines into records.

SIGINT ends the child process: it detaches its probes, then prints its remaining data
and its counts. If the profiler is killed, the child ends too, because its next
heartbeat fails on the closed pipe.
"""

from __future__ import annotations

import os
import platform
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType

from profiler.accounting import KernelAccount
from profiler.errors import ProbeError, UnsupportedError
from profiler.ingest.probe.cgroups import directories
from profiler.ingest.probe.generate_bpftrace import APPLIED, Dialect, generate
from profiler.ingest.probe.hooks import load_hooks
from profiler.ingest.probe.layout import read_layout
from profiler.ingest.probe.printed import Printed
from profiler.ingest.probe.proc import read_process
from profiler.ingest.settings import Settings
from profiler.ingest.wire import Chunk, Process, decode, encode
from profiler.privileges.helper import Helper

POLL_SECONDS = 0.1

# Starting takes 10 s in an emulated machine on an otherwise idle host.
_START_SECONDS = 180.0
_STOP_SECONDS = 60.0

_INTRODUCED_MAX = 8192
_READ_BYTES = 1 << 20
_VERSION = re.compile(r"v(\d+)\.(\d+)")


def find_bpftrace() -> tuple[str, Dialect]:
    """Return the path of bpftrace and its dialect. Raises UnsupportedError."""
    path = shutil.which("bpftrace")
    if path is None:
        raise UnsupportedError(
            "bpftrace is not installed: install your distribution's package (bpftrace on Debian "
            "and Ubuntu), or use --engine bcc"
        )
    printed = subprocess.run(
        [path, "--version"], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    ).stdout
    version = _VERSION.search(printed)
    if version is None:
        raise UnsupportedError(
            f"{path} does not report its version (`bpftrace --version` prints "
            f"{printed.strip()!r}): use --engine bcc"
        )
    return path, Dialect((int(version[1]), int(version[2])))


def write_program(settings: Settings, dialect: Dialect, *, own_pids: Sequence[int]) -> str:
    """Return the program for the running kernel. Raises UnsupportedError."""
    if settings.route == "socket":
        raise UnsupportedError(
            "the bpftrace engine supports only the syscall route: omit --route, or use --engine bcc"
        )
    return generate(
        load_hooks(),
        read_layout(),
        settings,
        dialect,
        own_pids=own_pids,
        machine=platform.machine(),
    )


class BpftraceEngine:
    """A running bpftrace with its probes attached; a context manager that ends it.

    Raises ProbeError or UnsupportedError if it cannot start on this machine.
    """

    route = "syscall"
    carrier = "bpftrace"
    clock = time.CLOCK_MONOTONIC
    fallback = ""
    """Empty, because this engine has no better route."""
    applied = APPLIED

    def __init__(self, settings: Settings) -> None:
        if os.geteuid() != 0:
            raise ProbeError("capturing needs root: run `sudo http-profiler`")
        directories(settings.filters.cgroup)  # raises if one does not exist
        if settings.tls or settings.tls_keys:
            raise UnsupportedError("the bpftrace engine cannot capture TLS: use --engine bcc")
        path, dialect = find_bpftrace()
        own = [os.getpid(), *([settings.exporter_pid] if settings.exporter_pid else [])]
        program = write_program(settings, dialect, own_pids=own)
        self._dialect = dialect
        processors = os.cpu_count() or 1
        self._printed = Printed(processors, hexadecimal=dialect.buffer == "%rh")
        self._introduced: dict[tuple[int, int], None] = {}
        self._looked_up: dict[tuple[int, int], Process | None] = {}
        self._rest = b""
        self.problems: list[str] = []
        self._ended = False
        self._directory = Path(tempfile.mkdtemp(prefix="http-profiler-"))
        self._log = self._directory / "bpftrace.log"
        (self._directory / "probe.bt").write_text(program)
        self._child: subprocess.Popen[bytes] | None = None
        try:
            self._child = self._start(path, dialect.environment(settings.ring_bytes, processors))
            self._wait_until_attached()
        except BaseException as error:
            self.detach(keep_log=isinstance(error, ProbeError))
            raise

    def __enter__(self) -> BpftraceEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach(keep_log=isinstance(error, ProbeError))

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the records of each poll; an empty list if there are none.

        Raises ProbeError if bpftrace exits unexpectedly.
        """
        while self._child is not None:
            self._read(POLL_SECONDS)
            if self._ended:
                raise ProbeError(f"bpftrace exited unexpectedly: {self._explain()}")
            yield self._introduce(self._printed.take(time.monotonic()))

    def stop(self) -> list[bytes]:
        """End bpftrace gracefully and return the records that it still prints."""
        deadline = time.monotonic() + _STOP_SECONDS
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGINT)
        while not self._ended and time.monotonic() < deadline:
            self._read(POLL_SECONDS)
        return self._introduce(self._printed.finish())

    def account(self) -> KernelAccount:
        """Return the counts that the program printed last; the final ones after :meth:`stop`."""
        return self._printed.account()

    def ignore(self, socket: int) -> None:
        """Drop the calls of the socket with this inode; bpftrace still prints them."""
        self._printed.ignore(socket)

    def discover(self) -> None:
        """Do nothing: ``--tls`` is refused."""

    def share(self, helper: Helper) -> None:
        """Not possible (``inseparable()`` of the package)."""
        raise NotImplementedError

    def detach(self, *, keep_log: bool = False) -> None:
        """Kill bpftrace and remove its files, except for the log if ``keep_log``."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            assert child.stdout is not None
            child.stdout.close()
        if not keep_log:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _look_up(self, who: tuple[int, int]) -> None:
        """Read /proc at once: the process may end while its record waits for older ones."""
        if who in self._introduced or self._looked_up.get(who) is not None:
            return
        self._looked_up[who] = read_process(*who)
        if len(self._looked_up) > _INTRODUCED_MAX:
            del self._looked_up[next(iter(self._looked_up))]

    def _introduce(self, records: list[bytes]) -> list[bytes]:
        """Insert the identity of each process before its first record, if it is known."""
        introduced = []
        for record in records:
            item = decode(record)
            if isinstance(item, Chunk):
                who = item.pid, item.start_time
                if who not in self._introduced:
                    self._introduced[who] = None
                    process = self._looked_up.pop(who, None)
                    if process is not None:
                        introduced.append(encode(process))
                    if len(self._introduced) > _INTRODUCED_MAX:
                        del self._introduced[next(iter(self._introduced))]
            introduced.append(record)
        return introduced

    def _start(self, path: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._log.open("wb") as log:
            return subprocess.Popen(
                [path, "-B", "line", "-f", "json", str(self._directory / "probe.bt")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **environment},
                # Ctrl-C is for the profiler, which ends its child when it can read the rest.
                start_new_session=True,
            )

    def _wait_until_attached(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._printed.attached:
            self._read(POLL_SECONDS)
            if self._ended:
                raise ProbeError(
                    f"bpftrace cannot load the probe on Linux {os.uname().release}: "
                    f"{self._explain()}"
                )
            if time.monotonic() > deadline:
                raise ProbeError(
                    f"bpftrace has not attached its probes after {_START_SECONDS:.0f} s: "
                    f"{self._explain()}"
                )

    def _read(self, timeout: float) -> None:
        """Read the available output; wait at most ``timeout`` seconds for it."""
        assert self._child is not None and self._child.stdout is not None
        descriptor = self._child.stdout.fileno()
        if not select.select([descriptor], [], [], timeout)[0]:
            return
        read = os.read(descriptor, _READ_BYTES)
        if not read:
            self._ended = True
            self._child.wait()
            return
        now = time.monotonic()
        if self._dialect.boot_time:
            # The clocks differ by the time that the machine has been suspended.
            self._printed.clock_offset = time.clock_gettime_ns(
                time.CLOCK_MONOTONIC
            ) - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        *lines, self._rest = (self._rest + read).split(b"\n")
        for line in lines:
            self._printed.feed(line, now)
        for who in self._printed.met():
            self._look_up(who)

    def _explain(self) -> str:
        """Return the most informative line that bpftrace printed, and the file with all lines."""
        with self._log.open("a") as log:
            log.writelines(f"{line}\n" for line in self._printed.other_lines)
        log_text = self._log.read_text(errors="replace")
        return f"{_telling_line(log_text)} (the whole log: {self._log})"


def _telling_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("Operation not permitted" in line or "CAP_BPF" in line for line in lines):
        return "the kernel does not permit BPF here (a container without CAP_BPF, or lockdown)"
    for line in lines:
        if "ERROR" in line:
            return line
    return lines[-1] if lines else "it printed nothing"
