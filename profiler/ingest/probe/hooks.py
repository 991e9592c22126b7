# SPDX-License-Identifier: Apache-2.0
"""Reads the table of hooks, ``bpf/hooks.toml``.

An unknown key is an error: a misspelt key must not silently disable a hook.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_PACKAGE = Path(__file__).resolve().parents[2]

# Inside the installed package, or next to it in a source tree.
BPF_DIRECTORY = next(
    (d for d in (_PACKAGE / "bpf", _PACKAGE.parent / "bpf") if d.is_dir()), _PACKAGE / "bpf"
)


@dataclass(frozen=True)
class FunctionHook:
    """A kernel function; ``socket``, ``message``, ``flags`` and ``result`` name its parameters.

    Without ``result``, the function's return value is the result. ``level`` is ``socket``,
    ``sock``, ``above``, ``tcp`` or ``inflight``. ``second``: two programs are attached where
    one can be skipped. ``optional``: some kernels lack the function and do not need it.
    ``protocol``: hooked only once this protocol is available above TCP.
    """

    name: str
    event: str
    socket: str
    direction: str | None = None
    message: str | None = None
    flags: str | None = None
    result: str | None = None
    level: str = "socket"
    second: bool = False
    optional: bool = False
    protocol: str | None = None


@dataclass(frozen=True)
class SyscallHook:
    """A system call; ``pointer``, ``flags`` and ``descriptor`` are positions of arguments, from 0.

    ``tracepoint`` is the name in ``syscalls:sys_enter_*``, if it differs from ``name``.
    """

    name: str
    direction: str
    payload: str
    pointer: int | None = None
    flags: int | None = None
    descriptor: int = 0
    tracepoint: str | None = None


@dataclass(frozen=True)
class LibraryHook:
    """A function of a TLS library; ``buffer``, ``length`` and ``moved`` are positions, from 0.

    ``event`` is ``send``, ``recv``, ``session``, ``record`` or ``free``. ``session`` is the kind
    of the first parameter: ``pointer`` or ``bio``.
    """

    library: str
    function: str
    event: str
    buffer: int | None = None
    length: int | None = None
    moved: int | None = None
    session: str = "pointer"


@dataclass(frozen=True)
class Hooks:
    """The three tables of ``hooks.toml``."""

    functions: tuple[FunctionHook, ...]
    syscalls: tuple[SyscallHook, ...]
    libraries: tuple[LibraryHook, ...] = ()


def load_hooks(path: Path = BPF_DIRECTORY / "hooks.toml") -> Hooks:
    """Read the table of hooks. Raises ValueError, which names an unknown or missing key."""
    with path.open("rb") as file:
        document = tomllib.load(file)
    unknown = set(document) - {"function", "syscall", "library"}
    if unknown:
        raise ValueError(f"{path}: unknown table {sorted(unknown)[0]!r}")
    try:
        return Hooks(
            functions=tuple(FunctionHook(**row) for row in document.get("function", ())),
            syscalls=tuple(SyscallHook(**row) for row in document.get("syscall", ())),
            libraries=tuple(LibraryHook(**row) for row in document.get("library", ())),
        )
    except TypeError as error:
        raise ValueError(f"{path}: {error}") from None
