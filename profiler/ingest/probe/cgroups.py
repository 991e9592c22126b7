# SPDX-License-Identifier: Apache-2.0
"""Finds control groups: their directories in the cgroup2 hierarchy, and a process's own one."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from profiler.errors import ProbeError, UnsupportedError

# struct file_handle of open_by_handle_at(2): size and type of what follows, here an inode number
# and a generation. Linux 5.4 accepts generation 0 for any. Newer kernels join both to one number of
# 64 bits (__kernfs_fh_to_dentry() in fs/kernfs/mount.c), so one form serves all.
_HANDLE = struct.Struct("=Ii2I")
_INO32_GEN = 1  # FILEID_INO32_GEN in include/linux/exportfs.h

_libc = ctypes.CDLL(None, use_errno=True)


def mounted_at(proc: Path = Path("/proc")) -> Path | None:
    """Return where the cgroup2 hierarchy is mounted; ``None`` if it is not."""
    try:
        mounts = (proc / "mounts").read_text().splitlines()
    except OSError:
        return None
    fields = (line.split() for line in mounts)
    return next((Path(mount[1]) for mount in fields if mount[2] == "cgroup2"), None)


def cgroup_of(pid: int | str, proc: Path = Path("/proc")) -> str | None:
    """Return the path of a process's control group; ``None`` if it cannot be read.

    The path is relative to the root of the hierarchy (proc_pid_cgroup(5)). It need not be
    UTF-8, so it is decoded like a file name.
    """
    try:
        lines = (proc / str(pid) / "cgroup").read_bytes().split(b"\n")
    except OSError:
        return None
    return next((os.fsdecode(line[3:]) for line in lines if line.startswith(b"0::")), None)


def path_of(inode: int, root: Path) -> str | None:
    """Return the path of the control group with this inode number; ``None`` if it is unknown.

    The cost does not depend on the number of control groups: the kernel finds the directory by its
    number. Requires CAP_DAC_READ_SEARCH and the cgroup2 hierarchy, mounted at ``root``. The path
    begins there.
    """
    try:
        opened = _open_inode(inode, root)
        try:
            path = Path(f"/proc/self/fd/{opened}").readlink()
        finally:
            os.close(opened)
        # A directory that was removed meanwhile is shown with a suffix.
        exists = path.stat().st_ino == inode
    except OSError:
        return None
    # Outside if a container has only a part of the hierarchy mounted
    if not exists or root not in (path, *path.parents):
        return None
    return "/" if path == root else f"/{path.relative_to(root)}"


def _open_inode(inode: int, root: Path) -> int:
    """Return a descriptor of a directory below ``root``. Raises OSError."""
    handle = _HANDLE.pack(8, _INO32_GEN, inode & 0xFFFFFFFF, inode >> 32)
    mount = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        opened = _libc.open_by_handle_at(mount, handle, os.O_PATH | os.O_CLOEXEC)
        if opened < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(root))
        return int(opened)
    finally:
        os.close(mount)


def directories(paths: Iterable[str], root: Path | None = None) -> list[Path]:
    """Return the directories of control groups; ``paths`` begin at the hierarchy's root.

    Raises ProbeError if one does not exist, and UnsupportedError without cgroup2.
    """
    paths = tuple(paths)
    if not paths:
        return []
    root = root or mounted_at()
    if root is None:
        raise UnsupportedError("--cgroup needs the cgroup2 hierarchy, which is not mounted here")
    found = [root / path.lstrip("/") for path in paths]
    for path, directory in zip(paths, found):
        if not directory.is_dir():
            raise ProbeError(
                f"there is no control group {path} below {root}: "
                "/proc/PID/cgroup shows the control group of a process"
            )
    return found
