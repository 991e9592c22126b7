# SPDX-License-Identifier: Apache-2.0
"""Opens the files in which container managers describe containers.

Opening them needs privileges, and parsing them must not have any. So :class:`Files` only opens, in
the privileged helper (:meth:`Files.share`), and ``metadata`` parses. A caller names a source of the
table below, a container and a user, never a path.

The storage of rootless containers belongs to users. Below its trusted start, the way to a file has
no symbolic links. The file is a regular one that belongs to the user, and nothing on the way is on
FUSE: its owner can let every call wait forever.
"""

from __future__ import annotations

import errno
import os
import pwd
import re
import stat
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from profiler.privileges.helper import Descriptor, Helper

_ID = re.compile("[0-9a-f]{64}")
_MAX_ENTRIES = 10_000
_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")


class Source(NamedTuple):
    """Where a manager describes containers: the first file that exists.

    ``start`` may lead through symbolic links of the administrator. For a user, the home directory
    is the start, and ``rootless`` the way on.
    """

    start: str
    files: tuple[str, ...]
    rootless: str | None = None


_STORAGE = "var/lib/containers/storage", ".local/share/containers/storage"

SOURCES = {
    "docker": Source("var/lib/docker/containers", ("{id}/config.v2.json",)),
    # An OCI bundle. k3s has a containerd of its own.
    "containerd": Source(
        "run",
        tuple(
            f"{home}/io.containerd.runtime.v2.task/{namespace}/{{id}}/config.json"
            for home in ("containerd", "k3s/containerd")
            for namespace in ("k8s.io", "default")
        ),
    ),
    "cri-o": Source(
        "run/containers/storage",
        tuple(f"{driver}-containers/{{id}}/userdata/config.json" for driver in _DRIVERS),
    ),
    "podman": Source(_STORAGE[0], ("db.sql", "libpod/db.sql"), _STORAGE[1]),
    "podman-list": Source(
        _STORAGE[0],
        tuple(f"{driver}-containers/containers.json" for driver in _DRIVERS),
        _STORAGE[1],
    ),
    # Containers of `podman run --rm`.
    "podman-volatile": Source(
        _STORAGE[0],
        tuple(f"{driver}-containers/volatile-containers.json" for driver in _DRIVERS),
        _STORAGE[1],
    ),
}


def _home_of(user: int) -> str:
    return pwd.getpwuid(user).pw_dir


class Files:
    """Opens files with the privileges of this process or, after :meth:`share`, of the helper."""

    def __init__(self, root: Path = Path("/"), home_of: Callable[[int], str] = _home_of) -> None:
        self._root = root
        self._home_of = home_of
        self.open = self._open
        self.logs = self._logs

    def share(self, helper: Helper) -> None:
        """Let ``helper`` open the files."""
        self.open = helper.offer(self._open)
        self.logs = helper.offer(self._logs)

    def _open(self, name: str, container: str, user: int | None) -> Descriptor:
        """Open the file of a source for a container of root, or of ``user``.

        The caller closes the descriptor. Raises OSError, such as FileNotFoundError.
        """
        source = SOURCES[name]
        if not _ID.fullmatch(container):
            raise OSError(errno.EINVAL, "no id of a container", container)
        start, prefix = self._root / source.start, ""
        fuse: set[bytes] = set()
        if user is not None:
            if source.rootless is None:
                raise FileNotFoundError(errno.ENOENT, f"{name} runs no containers of users")
            start, prefix = self._home(user), f"{source.rootless}/"
            fuse = _fuse_mounts()
        for file in source.files:
            path = prefix + file.format(id=container)
            try:
                return Descriptor(_opened(start, path, user, fuse))
            except (FileNotFoundError, NotADirectoryError):
                continue
        raise FileNotFoundError(errno.ENOENT, f"{name} does not describe it", container)

    def _home(self, user: int) -> Path:
        try:
            home = self._home_of(user)
        except (KeyError, OverflowError):
            raise FileNotFoundError(errno.ENOENT, "no such user", str(user)) from None
        return self._root / home.lstrip("/")

    def _logs(self, container: str | None, pod: str | None) -> list[str]:
        """Return the names of a kubelet's logs: of the container, and of the pod.

        They are ``POD_NAMESPACE_CONTAINER-ID.log`` and ``NAMESPACE_POD_UID``. What is not found is
        left out.
        """
        found = []
        for directory, end in (
            ("var/log/containers", container and f"-{container}.log"),
            ("var/log/pods", pod and f"_{pod}"),
        ):
            if end:
                names = _names(self._root / directory)
                found += [name for name in names if name.endswith(end)][:1]
        return found


def _names(directory: Path) -> Iterable[str]:
    try:
        with os.scandir(directory) as entries:
            return [entry.name for entry in islice(entries, _MAX_ENTRIES)]
    except OSError:
        return []


def _opened(start: Path, path: str, user: int | None, fuse: set[bytes]) -> int:
    """Open the regular file ``path`` below ``start``, without symbolic links after ``start``.

    ``user`` must own the file, if there is one. No mount of ``fuse`` is on the way.
    """
    flags = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
    here = os.open(start, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        *directories, name = path.split("/")
        for part in directories:
            _refuse(here, fuse, path)
            here = _stepped(here, part, flags | os.O_DIRECTORY)
        _refuse(here, fuse, path)
        here = _stepped(here, name, flags)
        # Before fstat(2), which would wait for the owner of a FUSE file system.
        _refuse(here, fuse, path)
        status = os.fstat(here)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "is no regular file", path)
        if user is not None and status.st_uid != user:
            raise OSError(errno.EPERM, f"does not belong to user {user}", path)
        return os.open(f"/proc/self/fd/{here}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(here)


def _stepped(here: int, part: str, flags: int) -> int:
    """Open ``part`` of a directory, and close the directory."""
    inner = os.open(part, flags, dir_fd=here)
    os.close(here)
    return inner


def _fuse_mounts() -> set[bytes]:
    """Return the ids of mounts that are FUSE (proc(5): the type follows a lone hyphen)."""
    lines = Path("/proc/self/mountinfo").read_bytes().split(b"\n")
    return {line.split(b" ", 1)[0] for line in lines if b" - fuse" in line}


def _refuse(descriptor: int, fuse: set[bytes], path: str) -> None:
    if fuse:
        # No call on the descriptor itself: the file system would answer it.
        facts = Path(f"/proc/self/fdinfo/{descriptor}").read_bytes().split()
        if facts[facts.index(b"mnt_id:") + 1] in fuse:
            raise OSError(errno.EPERM, "is on a FUSE file system", path)
