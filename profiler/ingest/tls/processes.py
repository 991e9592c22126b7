# SPDX-License-Identifier: Apache-2.0
"""Finds the TLS libraries that processes have mapped, and those that programs will map.

Opening files of other processes needs privileges, and parsing them must not have any. So
:class:`Files` only opens, and its methods can run in the privileged helper
(:meth:`Files.share`); :class:`Discovery` only parses. The helper opens nothing but executable
mappings of processes, the libraries of its own ``/etc/ld.so.cache``, and the program that the
user has named.

A process chooses what its paths lead to, so a file is first opened without effect (``O_PATH``),
and then for reading if it is a regular file. Files on FUSE are refused: their owner can let a
read wait forever.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import struct
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from profiler.ingest.tls import unprobed
from profiler.ingest.tls.elf import ElfError, printable
from profiler.ingest.tls.libraries import Library, examine
from profiler.privileges.helper import Descriptor, Helper

# 65,530 mappings, the kernel's default limit, with a path of 200 bytes each.
_MAX_MAPS = 16 << 20
_MAX_CACHE = 16 << 20
_MAX_PATH = 4096
_BLOCK = 1 << 20
_KEPT = 8192
_DELETED = " (deleted)"

# dl-cache.h of glibc: magic and version, the number of entries, 24 bytes more.
_CACHE_MAGIC = b"glibc-ld.so.cache1.1"
_CACHE_HEAD = 48
# flags, key, value, osversion, hwcap; key and value are offsets of texts, from the magic.
_CACHE_ENTRY = struct.Struct("<iIIIQ")
# Libraries with other names are found in the processes that map them.
_CACHED = re.compile(r"lib(ssl|crypto|gnutls)\.so")


class Mapping(NamedTuple):
    """A file that a process has mapped executable: its first such mapping.

    ``device`` is as in proc(5), such as ``fe:01``. ``path`` is as the process sees it.
    """

    start: int
    stop: int
    device: str
    inode: int
    path: str
    is_deleted: bool


@dataclass(frozen=True)
class Finding:
    """What a file contains: ``libraries``, or a ``problem`` in one line.

    ``identity`` is device, inode and time of change in nanoseconds, from fstat(2); ``None`` if
    the file could not be opened. Two findings with one identity are one file: mappings of it by
    several processes, or by several paths.
    """

    path: str
    identity: tuple[int, int, int] | None
    libraries: tuple[Library, ...]
    problem: str = ""


class Files:
    """Opens files with the privileges of this process or, after :meth:`share`, of the helper.

    Each function returns a descriptor for the caller to close, and raises OSError.
    """

    def __init__(
        self,
        proc: Path = Path("/proc"),
        root: Path = Path("/"),
        program: Path | None = None,
    ) -> None:
        self._proc = proc
        self._root = root
        self.program = program
        self.open_program = self._open_program
        self.open_maps = self._open_maps
        self.open_mapping = self._open_mapping
        self.open_cached = self._open_cached

    def share(self, helper: Helper) -> None:
        """Let ``helper`` open the files."""
        self.open_maps = helper.offer(self._open_maps)
        self.open_mapping = helper.offer(self._open_mapping)
        self.open_cached = helper.offer(self._open_cached)
        self.open_program = helper.offer(self._open_program)

    def cached(self) -> list[str]:
        """Return the paths of TLS libraries in ``ld.so.cache``, which programs will map.

        Empty if there is no such file, or one of another format (as with musl).
        """
        try:
            with (self._root / "etc/ld.so.cache").open("rb") as file:
                return _cached_paths(file.read(_MAX_CACHE))
        except OSError:
            return []

    def _open_maps(self, pid: int) -> Descriptor:
        """Open ``/proc/PID/maps``; the kernel checks permissions here, not at each read."""
        return Descriptor(os.open(self._proc / str(pid) / "maps", os.O_RDONLY | os.O_CLOEXEC))

    def _open_mapping(self, pid: int, start: int) -> Descriptor:
        """Open the file that process ``pid`` has mapped executable at ``start``."""
        descriptor = self._open_maps(pid)
        try:
            mappings = _parsed(_read(descriptor, _MAX_MAPS))
            mapping = next((one for one in mappings if one.start == start), None)
        finally:
            os.close(descriptor)
        if mapping is None:
            raise FileNotFoundError(errno.ENOENT, "no longer mapped", f"{start:#x}")
        if mapping.device in self._fuse_devices(pid):
            raise OSError(errno.EPERM, "is on a FUSE file system", mapping.path)
        return _reopened(self._located(pid, mapping), mapping.path)

    def _located(self, pid: int, mapping: Mapping) -> int:
        """Return a descriptor (``O_PATH``) of a mapped file.

        ``map_files`` leads to the very file, also if it was deleted or replaced, but needs
        CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN.
        """
        directory = self._proc / str(pid)
        try:
            link = directory / "map_files" / f"{mapping.start:x}-{mapping.stop:x}"
            return os.open(link, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            if mapping.is_deleted:
                raise FileNotFoundError(errno.ENOENT, "was deleted", mapping.path) from None
        flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(directory / "root" / mapping.path.lstrip("/"), flags)
        # Only the inode: overlayfs and btrfs show one device in maps and another to fstat(2).
        if os.fstat(descriptor).st_ino != mapping.inode:
            os.close(descriptor)
            raise FileNotFoundError(errno.ENOENT, "was replaced", mapping.path)
        return descriptor

    def _fuse_devices(self, pid: int) -> set[str]:
        """Return the devices of FUSE file systems, as ``/proc/PID/maps`` writes them."""
        devices = set()
        for line in (self._proc / str(pid) / "mountinfo").read_bytes().split(b"\n"):
            # proc(5): field 3 is major:minor in decimal, the type follows a lone hyphen.
            left, _, right = line.partition(b" - ")
            if right.startswith(b"fuse"):
                major, _, minor = left.split(b" ")[2].partition(b":")
                devices.add(f"{int(major):02x}:{int(minor):02x}")
        return devices

    def _open_cached(self, path: str) -> Descriptor:
        """Open a library that is in ``ld.so.cache``."""
        if path not in self.cached():
            raise FileNotFoundError(errno.ENOENT, "not in ld.so.cache", path)
        place = self._root / path.lstrip("/")
        return _reopened(os.open(place, os.O_PATH | os.O_CLOEXEC), path)

    def _open_program(self) -> Descriptor:
        """Open the program that will be started."""
        if self.program is None:
            raise FileNotFoundError(errno.ENOENT, "no program is started")
        located = os.open(self.program, os.O_PATH | os.O_CLOEXEC)
        return _reopened(located, str(self.program))


class Discovery:
    """Examines each file once, however many processes map it."""

    def __init__(self, files: Files) -> None:
        self._files = files
        # A file that is mapped keeps its inode number. The path is there for the case that the
        # number is used again later.
        self._known: OrderedDict[tuple[str, int, str], Finding] = OrderedDict()
        self._reasons: dict[tuple[str, int, str], str] = {}

    def process(self, pid: int) -> list[Finding]:
        """Return the TLS libraries that a process has mapped, and the files with problems.

        Raises OSError if the process has ended, or may not be looked at.
        """
        findings = (self._mapping(pid, mapping) for mapping in self._mappings(pid))
        return [one for one in findings if one.libraries or one.problem]

    def reason(self, pid: int, refused: dict[tuple[int, int, int], str]) -> str:
        """Return why the TLS of a process that calls no probed function cannot be captured.

        ``refused`` maps the identity of each file that cannot be probed to the problem.
        """
        try:
            mappings = self._mappings(pid)
            paths = [mapping.path for mapping in mappings]
            library = problem = ""
            for mapping in mappings:
                one = self._mapping(pid, mapping)
                refusal = refused.get(one.identity, "") if one.identity else ""
                problem = problem or refusal or one.problem
                if not (library or refusal) and any(map(_has_sessions, one.libraries)):
                    library = f"it did not call {printable(one.path)}, which is probed"
            return (
                unprobed.reason_of_files(paths)
                or library
                or problem
                or (self._reason_of_program(pid, mappings[0]) if mappings else "")
                or unprobed.unknown()
            )
        except OSError:
            return "it ended before its files were examined"

    def unsupported(self, pid: int) -> str:
        """Return which library of a process is not supported; empty if its files show none."""
        try:
            mappings = self._mappings(pid)
            reason = unprobed.reason_of_files([mapping.path for mapping in mappings])
            if reason or not mappings:
                return reason
            findings = (self._mapping(pid, mapping) for mapping in mappings)
            if any(any(map(_has_sessions, one.libraries)) for one in findings):
                return ""
            return self._reason_of_program(pid, mappings[0])
        except OSError:
            return ""

    def _reason_of_program(self, pid: int, mapping: Mapping) -> str:
        """Examine the program itself, once: its mapping has the lowest address."""
        key = mapping.device, mapping.inode, mapping.path
        if key not in self._reasons:
            descriptor = self._files.open_mapping(pid, mapping.start)
            try:
                reason = unprobed.reason_of_program(descriptor)
            finally:
                os.close(descriptor)
            if len(self._reasons) >= _KEPT:
                self._reasons.clear()
            self._reasons[key] = reason
        return self._reasons[key]

    def _mappings(self, pid: int) -> list[Mapping]:
        descriptor = self._files.open_maps(pid)
        try:
            return _parsed(_read(descriptor, _MAX_MAPS))
        finally:
            os.close(descriptor)

    def cached(self) -> list[Finding]:
        """Return the TLS libraries in ``ld.so.cache``, before any process maps them."""
        findings = []
        for path in self._files.cached():
            try:
                findings.append(_finding(path, self._files.open_cached(path)))
            except OSError as error:
                findings.append(Finding(path, None, (), _problem(path, error)))
        return [one for one in findings if one.libraries or one.problem]

    def program(self) -> list[Finding]:
        """Return the TLS libraries in the program that will be started, before it is."""
        if self._files.program is None:
            return []
        path = str(self._files.program)
        try:
            finding = _finding(path, self._files.open_program())
        except OSError as error:
            finding = Finding(path, None, (), _problem(path, error))
        return [finding] if finding.libraries or finding.problem else []

    def _mapping(self, pid: int, mapping: Mapping) -> Finding:
        key = mapping.device, mapping.inode, mapping.path
        finding = self._known.get(key)
        if finding is None:
            try:
                opened = self._files.open_mapping(pid, mapping.start)
            except OSError as error:
                # Another process may have the file under another root, where it can be opened.
                problem = _problem(mapping.path, error) if self._has(pid, mapping) else ""
                return Finding(mapping.path, None, (), problem)
            finding = self._known[key] = _finding(mapping.path, opened)
            if len(self._known) > _KEPT:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        return finding

    def _has(self, pid: int, mapping: Mapping) -> bool:
        """Return whether a process still runs, and has not unmapped the file."""
        try:
            return mapping in self._mappings(pid)
        except OSError:
            return False


def _has_sessions(library: Library) -> bool:
    """Return whether it is probed, and not only the half of OpenSSL without sessions."""
    return bool(library.hooks) and library.kind != "libcrypto"


def _finding(path: str, descriptor: int) -> Finding:
    """Examine a file, and close it."""
    libraries: list[Library] = []
    problem = ""
    try:
        status = os.fstat(descriptor)
        libraries = examine(descriptor)
    except ElfError as error:
        problem = f"{printable(path)}: {error}"
    finally:
        os.close(descriptor)
    identity = status.st_dev, status.st_ino, status.st_ctime_ns
    return Finding(path, identity, tuple(libraries), problem)


def _problem(path: str, error: OSError) -> str:
    return f"{printable(path)}: cannot be opened: {error.strerror}"


def _reopened(located: int, path: str) -> Descriptor:
    """Return a descriptor for reading, and close the one that only locates the file."""
    try:
        if not stat.S_ISREG(os.fstat(located).st_mode):
            raise OSError(errno.EINVAL, "is not a regular file", path)
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
        return Descriptor(os.open(f"/proc/self/fd/{located}", flags))
    finally:
        os.close(located)


def _read(descriptor: int, limit: int) -> bytes:
    """Return what a file of /proc has, at most ``limit`` bytes."""
    blocks = []
    left = limit
    while left > 0 and (block := os.read(descriptor, min(_BLOCK, left))):
        blocks.append(block)
        left -= len(block)
    return b"".join(blocks)


def _parsed(maps: bytes) -> list[Mapping]:
    """Return the executable mappings of files in ``/proc/PID/maps``, each file once."""
    found: dict[tuple[str, int], Mapping] = {}
    # Not splitlines(): the kernel escapes the line feed in paths, but not the carriage return.
    for line in maps.split(b"\n"):
        # proc(5): range, permissions, offset, device, inode, path.
        fields = line.split(maxsplit=5)
        if len(fields) < 6 or b"x" not in fields[1] or fields[4] == b"0":
            continue
        # Surrogates keep bytes that are no UTF-8.
        path = os.fsdecode(fields[5]).replace("\\012", "\n")
        is_deleted = path.endswith(_DELETED)
        start, _, stop = fields[0].partition(b"-")
        mapping = Mapping(
            *(int(start, 16), int(stop, 16), fields[3].decode(), int(fields[4])),
            *(path[: -len(_DELETED)] if is_deleted else path, is_deleted),
        )
        found.setdefault((mapping.device, mapping.inode), mapping)
    return list(found.values())


def _cached_paths(cache: bytes) -> list[str]:
    # Before glibc 2.32 ldconfig wrote an older table in front of this one.
    base = cache.find(_CACHE_MAGIC)
    if base < 0 or len(cache) < base + _CACHE_HEAD:
        return []
    (count,) = struct.unpack_from("<I", cache, base + len(_CACHE_MAGIC))
    end = min(base + _CACHE_HEAD + count * _CACHE_ENTRY.size, len(cache))
    table = cache[base + _CACHE_HEAD : end]
    rows = _CACHE_ENTRY.iter_unpack(table[: len(table) // _CACHE_ENTRY.size * _CACHE_ENTRY.size])
    paths = (
        _text(cache, base + value)
        for _, key, value, _, _ in rows
        if _CACHED.match(_text(cache, base + key))
    )
    return list(dict.fromkeys(path for path in paths if path.startswith("/")))


def _text(cache: bytes, start: int) -> str:
    return os.fsdecode(cache[start : start + _MAX_PATH].partition(b"\0")[0])
