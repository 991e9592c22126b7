# SPDX-License-Identifier: Apache-2.0
"""The calling convention of a hooked kernel function, as the probe's program needs it.

One program, ``leave_function`` of ``bpf/route_socket.h``, serves all functions that move
data. It is compiled once, with placeholders; when it is loaded for a function, that
function's :class:`Calling` is written over them (``load.py``). The verifier then sees
constants, and skips the code that they exclude.
"""

from __future__ import annotations

from typing import NamedTuple

from profiler.errors import UnsupportedError
from profiler.ingest.probe.hooks import FunctionHook

# LEVEL_* of bpf/route_socket.h, in its order.
LEVELS = ("socket", "above", "tcp", "inflight", "sock")
# bpf/call.h
LOOK_FIRST, LOOK_SECOND = 1, 2

# In place of a parameter's position.
NO_PARAMETER = 0xFF
# Followed by one for each member of Calling. More than 32 bits, so that each takes an
# instruction of its own.
CALLING_PLACEHOLDER = 0x5368617065000000
# Likewise, 8 apart: offsets of loads from a context, which is not that large.
PARAMETER_PLACEHOLDER = 0x7000

MACROS = (
    f"#define NO_PARAMETER {NO_PARAMETER}",
    f"#define CALLING_PLACEHOLDER {CALLING_PLACEHOLDER}ULL",
    f"#define PARAMETER_PLACEHOLDER {PARAMETER_PLACEHOLDER}",
)


class Calling(NamedTuple):
    """How a target is called: ``enum calling`` of ``bpf/kernel.h``, a byte each, in its order."""

    direction: int = 0
    """0: it sends, 1: it receives."""
    socket: int = 0
    message: int = 0
    flags: int = 0
    """Positions of parameters, or :data:`NO_PARAMETER`."""
    result: int = 0
    """Likewise; what a function returns follows its parameters in the program's context."""
    level: int = 0
    look: int = 0
    slot: int = 0
    """Where the program keeps what it works on (``bpf/call.h``)."""

    @property
    def constants(self) -> dict[int, int]:
        """Placeholder -> constant."""
        return {CALLING_PLACEHOLDER + n: value for n, value in enumerate(self)}

    @property
    def offsets(self) -> dict[int, int]:
        """Placeholder -> offset in the context, in bytes; 0 (which is not loaded) without one."""
        return {
            PARAMETER_PLACEHOLDER + 8 * n: 8 * value if value != NO_PARAMETER else 0
            for n, value in enumerate(self)
        }


def calling_of(hook: FunctionHook, parameters: tuple[str, ...]) -> Calling:
    """Return how a function with these ``parameters`` is called. Raises UnsupportedError."""
    return Calling(
        direction=int(hook.direction != "send"),
        socket=position(hook, parameters, hook.socket),
        message=position(hook, parameters, hook.message),
        flags=position(hook, parameters, hook.flags),
        result=position(hook, parameters, hook.result) if hook.result else len(parameters),
        level=LEVELS.index(hook.level),
    )


def position(hook: FunctionHook, parameters: tuple[str, ...], name: str | None) -> int:
    """Return a parameter's position by its name. Raises UnsupportedError if there is none."""
    if name is None:
        return NO_PARAMETER
    if name not in parameters:
        raise UnsupportedError(
            f"{hook.name} of this kernel has no parameter {name!r} "
            f"(it has {', '.join(parameters)}): use --route syscall"
        )
    return parameters.index(name)
