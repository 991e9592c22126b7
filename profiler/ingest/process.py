# SPDX-License-Identifier: Apache-2.0
"""Identifies processes: command line, user, cgroup, and what runs in the cgroup.

The kernel describes a process before the first record that refers to it, and
again after exec(). So the identity is also known for a process that has ended,
and a reused pid is a new process. The cgroup arrives as an inode number. Its
path is looked up here, once, with the container, pod and service that it belongs to.
So a container that is gone keeps its name. In a replay the recording contains both.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import orjson

from profiler.ingest import wire
from profiler.ingest.containers import Files, Workload, Workloads
from profiler.ingest.probe.cgroups import cgroup_of, mounted_at, path_of
from profiler.ingest.wire import Cgroup, Process
from profiler.privileges.helper import Helper

_KEPT = 4096


class Identity(NamedTuple):
    """What is known about a process; each except ``uid`` is ``None`` if unknown.

    ``cmdline`` is the arguments joined by spaces. ``cgroup`` is the path in the
    cgroup2 hierarchy, as in ``/proc/PID/cgroup``.
    """

    cmdline: str | None
    uid: int
    cgroup: str | None
    workload: Workload | None = None


class Processes:
    """The known processes: at most ``_KEPT``, those that moved data last."""

    def __init__(
        self,
        proc: Path | None = Path("/proc"),
        cgroups: Path | None = None,
        files: Files | None = None,
    ) -> None:
        """Look up cgroups in ``proc`` and below ``cgroups``, by default the mounted hierarchy.

        ``files`` describe containers. If ``proc`` is ``None``, paths come only from
        :meth:`learn_cgroup`, and containers from :meth:`learn_workload`.
        """
        self._proc = proc
        self._root = (cgroups or mounted_at(proc)) if proc else None
        # (pid, start time) -> (cmdline, uid, inode of the cgroup)
        self._known: OrderedDict[tuple[int, int], tuple[str | None, int, int]] = OrderedDict()
        # Inode of a cgroup -> its path, and what runs in it
        self._cgroups: OrderedDict[int, tuple[str | None, Workload | None]] = OrderedDict()
        self._files = files
        self._workloads = Workloads(files)
        self._find: Callable[[int, int], str | None] = self._find_cgroup
        # A cache, cleared whenever one of the tables changes.
        self._identities: dict[tuple[int, int], Identity] = {}

    def share(self, helper: Helper) -> None:
        """Let ``helper`` look up paths: /proc may hide other users' processes."""
        self._find = helper.offer(self._find_cgroup)
        if self._files is not None:
            self._files.share(helper)

    def learn(self, process: Process) -> list[Cgroup | wire.Workload]:
        """Remember ``process``; return what has just been found out about its cgroup."""
        self._identities.clear()
        cmdline = _text(process.cmdline) if process.cmdline else None
        known = cmdline, process.uid, process.cgroup
        _keep(self._known, (process.pid, process.start_time), known)
        if process.cgroup in self._cgroups or self._root is None:
            return []
        path = self._find(process.pid, process.cgroup)
        if path is None:
            _keep(self._cgroups, process.cgroup, (None, None))
            return []
        cgroup = Cgroup(process.cgroup, os.fsencode(path))
        self.learn_cgroup(cgroup)
        workload = self._cgroups[cgroup.id][1]
        if workload is None or self._files is None:
            return [cgroup]
        return [cgroup, wire.Workload(cgroup.id, orjson.dumps(workload.fields))]

    def learn_cgroup(self, cgroup: Cgroup) -> None:
        """Remember the path of a cgroup."""
        self._identities.clear()
        path = _shown(cgroup.path)
        _keep(self._cgroups, cgroup.id, (path, self._workloads.find(path)))

    def learn_workload(self, workload: wire.Workload) -> None:
        """Remember what runs in a cgroup, whose path is known."""
        self._identities.clear()
        path, _ = self._cgroups.get(workload.id, (None, None))
        _keep(self._cgroups, workload.id, (path, _workload(workload.document)))

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
            path, workload = self._cgroups.get(cgroup, (None, None))
            identity = self._identities[key] = Identity(cmdline, uid, path, workload)
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


_FIELDS = ("container", "pod", "service")


def _workload(document: bytes) -> Workload | None:
    """Return the fields of a recording that are valid."""
    # Only recordings of containers need it, and it takes time to import.
    from profiler import schema

    try:
        fields = orjson.loads(document)
    except ValueError:
        return None
    checks = schema.checks()
    known = fields.items() if isinstance(fields, dict) else ()
    valid = {name: one for name, one in known if name in _FIELDS and checks[name](one)}
    return Workload(valid) if valid else None  # type: ignore[arg-type]


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
