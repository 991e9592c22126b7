# SPDX-License-Identifier: Apache-2.0
"""Identifies processes: command line, user, cgroup.

The kernel describes a process before the first record that refers to it, and
again after exec(). So the identity is also known for a process that has ended,
and a reused pid is a new process. The cgroup arrives as an inode number. Its
path is looked up here, once; in a replay the recording contains the path.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from profiler.ingest.probe.cgroups import cgroup_of, mounted_at, path_of
from profiler.ingest.wire import Cgroup, Process
from profiler.privileges.helper import Helper

_KEPT = 4096


class Identity(NamedTuple):
    """What is known about a process; ``cmdline`` and ``cgroup`` are ``None`` if unknown.

    ``cmdline`` is the arguments joined by spaces. ``cgroup`` is the path in the
    cgroup2 hierarchy, as in ``/proc/PID/cgroup``.
    """

    cmdline: str | None
    uid: int
    cgroup: str | None


class Processes:
    """The known processes: at most ``_KEPT``, those that moved data last."""

    def __init__(self, proc: Path | None = Path("/proc"), cgroups: Path | None = None) -> None:
        """Look up cgroups in ``proc`` and below ``cgroups``, by default the mounted hierarchy.

        If ``proc`` is ``None``, paths come only from :meth:`learn_cgroup`.
        """
        self._proc = proc
        self._root = (cgroups or mounted_at(proc)) if proc else None
        # (pid, start time) -> (cmdline, uid, inode of the cgroup)
        self._known: OrderedDict[tuple[int, int], tuple[str | None, int, int]] = OrderedDict()
        self._paths: OrderedDict[int, str | None] = OrderedDict()
        self._find: Callable[[int, int], str | None] = self._find_cgroup
        # A cache, cleared whenever one of the tables changes.
        self._identities: dict[tuple[int, int], Identity] = {}

    def share(self, helper: Helper) -> None:
        """Let ``helper`` look up paths: /proc may hide other users' processes."""
        self._find = helper.offer(self._find_cgroup)

    def learn(self, process: Process) -> Cgroup | None:
        """Remember ``process``; return its cgroup if its path has just been found."""
        self._identities.clear()
        cmdline = _text(process.cmdline) if process.cmdline else None
        known = cmdline, process.uid, process.cgroup
        _keep(self._known, (process.pid, process.start_time), known)
        if process.cgroup in self._paths or self._root is None:
            return None
        path = self._find(process.pid, process.cgroup)
        _keep(self._paths, process.cgroup, None if path is None else _shown(os.fsencode(path)))
        return None if path is None else Cgroup(process.cgroup, os.fsencode(path))

    def learn_cgroup(self, cgroup: Cgroup) -> None:
        """Remember the path of a cgroup."""
        self._identities.clear()
        _keep(self._paths, cgroup.id, _shown(cgroup.path))

    def identity(self, pid: int, start_time: int) -> Identity | None:
        """Return the identity of a process; ``None`` if the kernel has not described it."""
        key = pid, start_time
        identity = self._identities.get(key)
        if identity is None:
            known = self._known.get(key)
            if known is None:
                return None
            # The kernel describes a process only once, so keep those in use longest.
            self._known.move_to_end(key)
            cmdline, uid, cgroup = known
            identity = self._identities[key] = Identity(cmdline, uid, self._paths.get(cgroup))
        return identity

    def _find_cgroup(self, pid: int, inode: int) -> str | None:
        assert self._proc is not None and self._root is not None
        path = cgroup_of(pid, self._proc)
        if path is not None and _inode(self._root / path.lstrip("/")) == inode:
            return path
        # The process has ended or moved to another cgroup.
        return path_of(inode, self._root)


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
    # A cgroup's name need not be UTF-8, but the output must be.
    return path.decode(errors="replace")


def _text(cmdline: bytes) -> str:
    return cmdline.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
