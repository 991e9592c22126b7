# SPDX-License-Identifier: Apache-2.0
"""Who a process is: command line, user, cgroup.

The kernel says who a process is before the first record that names it, and
again when the process has run another program; so this is right for a process
that is gone by now, and a pid that is used again is another process. Only the
cgroup comes as a number, whose path is looked up here, once; in a replay the
capture brings the path as well.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from profiler.ingest.probe.cgroups import cgroup_of, mounted_at
from profiler.ingest.wire import Cgroup, Process

_KEPT = 4096


class Identity(NamedTuple):
    """What is known of a process; ``cmdline`` and ``cgroup`` are ``None`` if they are not.

    ``cmdline`` is the arguments joined by spaces; ``cgroup`` the path in the
    cgroup2 hierarchy, as in ``/proc/PID/cgroup``.
    """

    cmdline: str | None
    uid: int
    cgroup: str | None


class Processes:
    """The processes that were heard of, of more than ``_KEPT`` those that moved data last."""

    def __init__(self, proc: Path | None = Path("/proc"), cgroups: Path | None = None) -> None:
        """Look cgroups up in ``proc`` and below ``cgroups``, by default where they are mounted.

        With ``proc`` ``None`` only what :meth:`learn_cgroup` is told is known.
        """
        self._proc = proc
        self._root = (cgroups or mounted_at(proc)) if proc else None
        # By pid and start time; with the inode of the cgroup.
        self._known: OrderedDict[tuple[int, int], tuple[str | None, int, int]] = OrderedDict()
        self._paths: OrderedDict[int, str | None] = OrderedDict()
        # Those that were asked for since something was learnt.
        self._identities: dict[tuple[int, int], Identity] = {}

    def learn(self, process: Process) -> Cgroup | None:
        """Take over who a process is; return its cgroup if that was found out just now."""
        self._identities.clear()
        cmdline = _text(process.cmdline) if process.cmdline else None
        known = cmdline, process.uid, process.cgroup
        _keep(self._known, (process.pid, process.start_time), known)
        if process.cgroup in self._paths or self._root is None:
            return None
        path = self._find_cgroup(process.pid, process.cgroup)
        _keep(self._paths, process.cgroup, None if path is None else _shown(os.fsencode(path)))
        return None if path is None else Cgroup(process.cgroup, os.fsencode(path))

    def learn_cgroup(self, cgroup: Cgroup) -> None:
        """Take over the path of a cgroup."""
        self._identities.clear()
        _keep(self._paths, cgroup.id, _shown(cgroup.path))

    def identity(self, pid: int, start_time: int) -> Identity | None:
        """Who this process is; ``None`` if it was never introduced."""
        key = pid, start_time
        identity = self._identities.get(key)
        if identity is None:
            known = self._known.get(key)
            if known is None:
                return None
            # The kernel introduces it once, so what is asked for is kept longest.
            self._known.move_to_end(key)
            cmdline, uid, cgroup = known
            identity = self._identities[key] = Identity(cmdline, uid, self._paths.get(cgroup))
        return identity

    def _find_cgroup(self, pid: int, inode: int) -> str | None:
        assert self._proc is not None and self._root is not None
        path = cgroup_of(pid, self._proc)
        if path is not None and _inode(self._root / path.lstrip("/")) == inode:
            return path
        # The process is gone or has moved.
        for directory, _, _ in os.walk(self._root):
            if _inode(Path(directory)) == inode:
                return "/" + os.path.relpath(directory, self._root).lstrip(".")
        return None


def _keep(table: OrderedDict, key: object, value: object) -> None:  # type: ignore[type-arg]
    table[key] = value
    table.move_to_end(key)
    if len(table) > _KEPT:
        table.popitem(last=False)


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _shown(path: bytes) -> str:
    # A name need not be UTF-8, but a line must be.
    return path.decode(errors="replace")


def _text(cmdline: bytes) -> str:
    return cmdline.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
