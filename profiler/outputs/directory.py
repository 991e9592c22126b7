# SPDX-License-Identifier: Apache-2.0
"""Opens files for writing so that no other user can choose which file is opened.

A capture writes confidential lines as root. Whoever can change a directory on the path could
redirect them, for instance by a symbolic link. So these rules hold if the process runs as root.
*Trusted* users are root and the user who called sudo (``SUDO_UID``), who acts as root already.

- Every directory on the path belongs to a trusted user. If all users can write to it, it is sticky
  (as ``/tmp`` is).
- The last directory is sticky if others can write to it. Another one may be writable for a group,
  as ``/var/log`` is in Ubuntu: what its members put there belongs to them, so it is refused.
- A symbolic link belongs to a trusted user, and others cannot write to its directory.
- An existing file belongs to a trusted user. If others can write to its directory, they could have
  opened the file and then moved it there. So it has no other name, and others have no rights to it.
- Only regular files, FIFOs and character devices are opened.

A path is resolved from one directory to the next, each held by its file descriptor, so a rename in
between has no effect (path_resolution(7), openat(2)). For an ordinary user, the permissions of the
kernel suffice, and only the kinds of files are checked.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath

from profiler.errors import UnsafeFile
from profiler.exchanges.text import visible_lines

_LINKS = 40  # as many as the kernel follows
_ATTEMPTS = 3
_DIRECTORY = os.O_PATH | os.O_DIRECTORY
_OWN_DESCRIPTORS = Path("/proc/self/fd")
_SAFE = "choose a directory that only root can write to"
_RIGHTS_OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Directory:
    """A directory, held by its file descriptor ``fd``. Close it, or use it in ``with``.

    ``path`` is for messages. Raises UnsafeFile if other users could replace the directory or
    what is in it; see the rules of this module.
    """

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        status = os.fstat(fd)
        self._is_sticky = bool(status.st_mode & stat.S_ISVTX)
        self._writers = _writers(fd, status) if _runs_as_root() else ""
        if _runs_as_root() and status.st_uid not in _trusted():
            raise UnsafeFile(f"the directory {path} belongs to {_user(status.st_uid)}; {_SAFE}")
        if status.st_mode & stat.S_IWOTH:
            self._check_writers()

    def __enter__(self) -> Directory:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file descriptor."""
        os.close(self.fd)

    def enter(self, path: PurePath) -> Directory:
        """Open the directory that ``path`` names, from here if it is relative. Raises OSError."""
        here, links = self, 0
        pending = deque(path.parts)
        with contextlib.ExitStack() as opened:
            while pending:
                name = pending.popleft()
                link = here._read_link(name)
                if link is None:
                    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here.fd)
                    opened.callback(os.close, fd)
                    # A name of "/" replaces what came before.
                    here = Directory(fd, here.path / name)
                elif links < _LINKS:
                    links += 1
                    pending.extendleft(reversed(link.parts))
                else:
                    raise _too_many_links(path)
            here._check_writers()
            return Directory(os.dup(here.fd), here.path)

    @contextlib.contextmanager
    def target(self, name: str) -> Iterator[tuple[Directory, str]]:
        """Yield where ``name`` leads if it is a symbolic link, else this directory and ``name``.

        Nothing needs to exist under the name. Raises OSError.
        """
        directory = self
        with contextlib.ExitStack() as opened:
            for _ in range(_LINKS):
                link = directory._read_link(name)
                if link is None:
                    yield directory, name
                    return
                directory = opened.enter_context(directory.enter(link.parent))
                name = link.name or "."
        raise _too_many_links(self.path / name)

    def open(self, name: str, flags: int, accept: Callable[[int], None] | None = None) -> int:
        """Open the file ``name`` for writing, or create it with mode 0600; return its descriptor.

        Rights that others have to an existing file are removed, with a warning. ``accept`` is
        called with its descriptor before, and may raise an error to refuse it. Raises OSError.
        """
        for left in reversed(range(_ATTEMPTS)):
            with self.target(name) as (directory, last):
                try:
                    return directory._open_here(last, flags, accept)
                except (FileExistsError, FileNotFoundError):
                    # Another program created or renamed the file at this moment.
                    if not left:
                        raise
        raise AssertionError

    def status(self, name: str) -> os.stat_result | None:
        """Return the status of ``name``, not of what a link names; ``None`` if there is nothing."""
        try:
            return os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def check_owner(self, name: str, status: os.stat_result) -> None:
        """Raise UnsafeFile if the file ``name`` belongs to a user who is not trusted."""
        if _runs_as_root() and status.st_uid not in _trusted():
            path = self.path / name
            raise UnsafeFile(f"{path} belongs to {_user(status.st_uid)}; remove it, or {_SAFE}")

    def _check_writers(self) -> None:
        if self._writers and not self._is_sticky:
            raise UnsafeFile(f"{self._writers} can write to the directory {self.path}; {_SAFE}")

    def _check(self, name: str, status: os.stat_result) -> None:
        """Raise OSError if the file may not be opened."""
        path = self.path / name
        mode = status.st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            raise UnsafeFile(f"{path} is no file, FIFO or character device; choose another path")
        self.check_owner(name, status)
        if self._writers and not stat.S_ISCHR(mode):
            if status.st_nlink > 1:
                raise UnsafeFile(f"{path} has another name (hard link); remove it, or {_SAFE}")
            if mode & _RIGHTS_OF_OTHERS:
                raise UnsafeFile(f"other users may have opened {path}; remove it, or {_SAFE}")

    def _open_here(self, name: str, flags: int, accept: Callable[[int], None] | None) -> int:
        status = self.status(name)
        if status is None:
            flags |= os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
            return os.open(name, flags, 0o600, dir_fd=self.fd)
        is_own = self._names_own_descriptor(status)
        if not is_own:
            # Before it is opened: opening a FIFO waits for a reader, and a device may act.
            self._check(name, status)
            flags |= os.O_NOFOLLOW
        fd = os.open(name, flags, dir_fd=self.fd)
        try:
            status = os.fstat(fd)
            if not is_own:
                self._check(name, status)
            if accept:
                accept(fd)
            if not is_own:
                _make_private(fd, status, self.path / name)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _read_link(self, name: str) -> PurePath | None:
        """Return what the symbolic link ``name`` contains; ``None`` if it is no link."""
        status = self.status(name)
        if status is None or not stat.S_ISLNK(status.st_mode):
            return None
        if self._names_own_descriptor(status):
            return None
        # What is checked and what is read are the same link.
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=self.fd)
        try:
            self.check_owner(name, os.fstat(fd))
            if self._writers:
                raise UnsafeFile(
                    f"{self.path / name} is a symbolic link, and {self._writers} can write to its "
                    f"directory; {_SAFE}"
                )
            return PurePath(os.readlink("", dir_fd=fd))
        finally:
            os.close(fd)

    def _names_own_descriptor(self, status: os.stat_result) -> bool:
        """Whether it is a link in /proc/self/fd, to which /dev/stdout and /dev/fd lead.

        Whoever started this process opened what it names, and only the kernel can follow it.
        """
        if not stat.S_ISLNK(status.st_mode):
            return False
        try:
            return os.path.samestat(os.fstat(self.fd), _OWN_DESCRIPTORS.stat())
        except FileNotFoundError:
            return False


def open_directory(path: PurePath) -> Directory:
    """Open a directory that files are written to; see the rules of this module.

    Raises OSError; UnsafeFile if other users could redirect the files.
    """
    # A relative path begins with a directory that this process holds, so what is above it does
    # not matter.
    name, start = ("/", Path("/")) if path.is_absolute() else (".", Path.cwd())
    fd = os.open(name, _DIRECTORY)
    try:
        return Directory(fd, start).enter(path)
    finally:
        os.close(fd)


def _runs_as_root() -> bool:
    return os.geteuid() == 0


def _trusted() -> set[int]:
    sudo = os.environ.get("SUDO_UID", "")
    return {0, int(sudo)} if sudo.isdecimal() else {0}


def _writers(fd: int, status: os.stat_result) -> str:
    """Return who can write to a directory besides trusted users; empty if nobody can."""
    if status.st_mode & stat.S_IWOTH:
        return "every user"
    if status.st_mode & stat.S_IWGRP and not _is_private(status.st_gid):
        return f"the group {_group(status.st_gid)}"
    # The group's rights are also the limit of those in an access control list (acl(5)).
    if status.st_mode & stat.S_IWGRP and _has_list(fd):
        return "an access control list"
    return ""


def _is_private(gid: int) -> bool:
    """Whether a group has only one member, a trusted user whose name it has.

    Distributions create such a group for each user, and directories that it can write to.
    """
    import grp

    names = {_user(uid) for uid in _trusted()}
    try:
        group = grp.getgrgid(gid)
    except KeyError:
        return False
    return group.gr_name in names and names.issuperset(group.gr_mem)


def _has_list(fd: int) -> bool:
    try:
        os.getxattr(_OWN_DESCRIPTORS / str(fd), "system.posix_acl_access")
    except OSError:
        return False
    return True


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def _make_private(fd: int, status: os.stat_result, path: Path) -> None:
    """Remove the rights of others to a file that is not a device, with a warning."""
    if stat.S_ISCHR(status.st_mode) or not status.st_mode & _RIGHTS_OF_OTHERS:
        return
    if os.geteuid() not in (0, status.st_uid):
        return
    try:
        os.fchmod(fd, 0o600)
    except OSError as error:
        _warn(f"others may read {path}, and its mode cannot be changed: {error.strerror}")
    else:
        mode = stat.S_IMODE(status.st_mode)
        _warn(f"{path} had mode {mode:04o}; now it is 0600, because others could access it")


def _warn(text: str) -> None:
    print(f"http-profiler: {visible_lines(text)}", file=sys.stderr, flush=True)


def _too_many_links(path: PurePath) -> OSError:
    return OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
