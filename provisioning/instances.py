# SPDX-License-Identifier: Apache-2.0
"""The state of a machine between two commands: one directory per instance.

The machine outlives ``up``; ``ssh`` and ``down`` find it later, from other processes.
``/proc`` decides what runs, never a file. A process is ours only if its command line
names our instance, so a reused process id is never killed. Only one process at a time
changes an instance.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from provisioning.cache import locked, write_whole
from provisioning.errors import GuestError, UnknownGuest
from provisioning.guest import Address
from provisioning.host import REPOSITORY

STATE = REPOSITORY / ".guests"

NAME = re.compile(r"[a-z0-9.-]+(@[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True)
class Access:
    """How ssh reaches an instance that is up."""

    host: str
    port: int
    user: str
    key: str
    control: str
    ready: bool = False
    """Whether it has accepted a command since its start."""

    def address(self) -> Address:
        """Return the address for a :class:`Guest`."""
        return Address(self.host, self.port, self.user, (Path(self.key),), Path(self.control))


@dataclass(frozen=True)
class Instance:
    """One machine by name: a guest's name, or ``guest@anything`` for another of the same kind."""

    name: str

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise UnknownGuest(self.name, ["names such as debian-12 or debian-12@gw0"])

    @property
    def directory(self) -> Path:
        """The directory of all its files."""
        return STATE / self.name

    @property
    def overlay(self) -> Path:
        """Its throw-away disk."""
        return self.directory / "overlay.qcow2"

    @property
    def pid_file(self) -> Path:
        """Written by QEMU itself, so it never runs unrecorded."""
        return self.directory / "pid"

    @property
    def console(self) -> Path:
        """The output of the kernel and the boot on the serial line."""
        return self.directory / "console.log"

    @property
    def log(self) -> Path:
        """QEMU's own output."""
        return self.directory / "qemu.log"

    @property
    def access_file(self) -> Path:
        """How it is reached, written before it is started."""
        return self.directory / "access.json"

    def pid(self) -> int | None:
        """Return the id of this machine's process, if it runs."""
        with suppress(FileNotFoundError, ValueError):
            pid = int(self.pid_file.read_text("ascii"))
            if self.is_process(pid):
                return pid
        return None

    def is_process(self, pid: int) -> bool:
        """Whether that process is this machine, and alive (a zombie has no command line)."""
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return os.fsencode(self.pid_file) in arguments

    def access(self) -> Access | None:
        """Return how to reach it, if it was started."""
        try:
            return Access(**json.loads(self.access_file.read_text("utf-8")))
        except FileNotFoundError:
            return None

    def record(self, access: Access) -> None:
        """Store how to reach it, and whether it is up."""
        write_whole(self.access_file, json.dumps(asdict(access)))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock that permits changing it."""
        try:
            with locked(STATE / f"{self.name}.lock", wait=False):
                yield
        except BlockingIOError:
            raise GuestError(
                f"{self.name} is in use by another run: wait for it, or use another name"
            ) from None

    def end(self, grace: float = 10.0) -> bool:
        """End its process; return whether there was one."""
        pid = self.pid()
        if pid is None:
            return False
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.kill(pid, signum)
            if self._ended(pid, grace):
                return True
        raise GuestError(f"{self.name}: process {pid} survived SIGKILL")

    def _ended(self, pid: int, grace: float) -> bool:
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline:
            if not self.is_process(pid):
                # Our own child stays a zombie until it is waited for.
                with suppress(ChildProcessError):
                    os.waitpid(pid, 0)
                return True
            time.sleep(0.05)
        return False

    def forget(self) -> None:
        """Remove all its files. Its process must have ended."""
        access = self.access()
        if access is not None:
            shutil.rmtree(Path(access.control).parent, ignore_errors=True)
        if self.directory.exists():
            shutil.rmtree(self.directory)


def known_instances() -> list[Instance]:
    """Return the instances that left a directory, running or not."""
    if not STATE.is_dir():
        return []
    return [Instance(path.name) for path in sorted(STATE.iterdir()) if path.is_dir()]
