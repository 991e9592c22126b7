# SPDX-License-Identifier: Apache-2.0
"""Keeps built artifacts: each is made whole and once, or not at all.

An image takes a minute to build and a second to reuse, and several test workers want
it at the same time. An artifact is named by the hash of its inputs. It is written
under a temporary name and renamed when it is complete, so a final name means a
complete artifact. A lock makes the second worker wait and then use the first one's
result.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HASH_DIGITS = 16
# A regular expression, because one guest's name can be a prefix of another's.
_HASH = "[0-9a-f]" * HASH_DIGITS


def cache_directory() -> Path:
    """Return the directory that holds everything kept between runs."""
    chosen = os.environ.get("HTTP_PROFILER_CACHE")
    if chosen:
        return Path(chosen).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "http-profiler"


def digest(recipe: Any) -> str:
    """Return the hash that names what ``recipe``, any JSON value, makes."""
    text = json.dumps(recipe, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def digest_files(root: Path, paths: Iterable[Path]) -> dict[str, str]:
    """Return path, mode and content hash of each file at or below ``paths``; missing is empty."""
    found: dict[str, str] = {}
    for path in paths:
        for file in source_files(path):
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            executable = "x" if os.access(file, os.X_OK) else "-"
            found[str(file.relative_to(root))] = f"{executable}{content}"
    return found


def source_files(path: Path) -> list[Path]:
    """List the files at or below ``path`` that a person wrote: no bytecode, no hidden files."""
    if path.is_file():
        return [path]
    return sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.suffix != ".pyc"
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``; with ``wait=False`` raise BlockingIOError when it is taken.

    The file is removed on release, so whoever gets the lock checks that the file it
    locked still has that name.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_file(descriptor, path):
                break
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


@contextmanager
def made_aside(final: Path) -> Iterator[Path]:
    """Yield a new directory that becomes ``final`` if the block succeeds, and is removed if not."""
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = final.with_name(f".{final.name}.{os.getpid()}.tmp")
    remove_tree(aside)
    aside.mkdir()
    try:
        yield aside
        aside.rename(final)
    except BaseException:
        remove_tree(aside)
        raise


def remove_leftovers(directory: Path, prefix: str) -> None:
    """Remove what a killed run left. Call this while holding the lock of ``prefix``."""
    for leftover in directory.glob(f".{prefix}-{_HASH}.*.tmp"):
        remove_tree(leftover)


def made(directory: Path, prefix: str) -> list[Path]:
    """Return the artifacts with that prefix, most recently used first."""
    found = directory.glob(f"{prefix}-{_HASH}")
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def prune(directory: Path, prefix: str, keep: int) -> list[Path]:
    """Remove all but the ``keep`` newest artifacts of a prefix; return what was removed."""
    removed = made(directory, prefix)[keep:]
    for old in removed:
        # Renamed first: an interrupted removal must not leave half of it under its name.
        aside = old.with_name(f".{old.name}.{os.getpid()}.tmp")
        old.rename(aside)
        remove_tree(aside)
    return removed


def free_space(place: Path) -> float:
    """Return how many GiB are free below a directory."""
    return shutil.disk_usage(place).free / 2**30


def write_whole(path: Path, text: str) -> None:
    """Write a small file so that a reader sees the old text or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_text(text, "utf-8")
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it; one that does not exist is fine."""
    if path.exists():
        shutil.rmtree(path)


def give_to_caller(thing: Path) -> None:
    """Give a file or flat directory made through sudo to the user who called sudo."""
    uid, gid = os.environ.get("SUDO_UID"), os.environ.get("SUDO_GID")
    for path in (thing, *(thing.iterdir() if thing.is_dir() else ())):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if uid and gid:
            os.chown(path, int(uid), int(gid))
