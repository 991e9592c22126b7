# SPDX-License-Identifier: Apache-2.0
"""The calling convention of a hooked kernel function, as the probe's program needs it.

One program, ``leave_function`` of ``bpf/route_socket.h``, serves all functions that move
data. It is compiled once, with placeholders. When it is loaded for a function,
``load.py`` replaces them with that function's :class:`Calling`. The verifier then sees
constants, and skips the code that they make unreachable.
"""

from __future__ import annotations

from typing import NamedTuple

from profiler.errors import UnsupportedError
from profiler.ingest.probe.hooks import FunctionHook

# LEVEL_* of bpf/route_socket.h, in its order.
LEVELS = ("socket", "above", "tcp", "inflight", "sock")
# bpf/call.h
LOOK_FIRST, LOOK_SECOND = 1, 2

# Instead of a position, if the function has no such parameter.
NO_PARAMETER = 0xFF
# The first of a sequence, one for each member of Calling. They exceed 32 bits, so that the
# compiler loads each with a 64-bit instruction of its own.
CALLING_PLACEHOLDER = 0x5368617065000000
# Likewise, in steps of 8: offsets of loads from the context, beyond its real size.
PARAMETER_PLACEHOLDER = 0x7000

MACROS = (
    f"#define NO_PARAMETER {NO_PARAMETER}",
    f"#define CALLING_PLACEHOLDER {CALLING_PLACEHOLDER}ULL",
    f"#define PARAMETER_PLACEHOLDER {PARAMETER_PLACEHOLDER}",
)


class Calling(NamedTuple):
    """How a target is called: ``enum calling`` of ``bpf/kernel.h`` in its order, a byte each."""

    direction: int = 0
    """0 for sending, 1 for receiving."""
    socket: int = 0
    message: int = 0
    flags: int = 0
    """Positions of parameters, or :data:`NO_PARAMETER`."""
    result: int = 0
    """Likewise. A function's return value follows its parameters in the program's context."""
    level: int = 0
    look: int = 0
    slot: int = 0
    """Index of the program's workspace (``bpf/call.h``)."""

    @property
    def constants(self) -> dict[int, int]:
        """Placeholder -> constant."""
        return {CALLING_PLACEHOLDER + n: value for n, value in enumerate(self)}

    @property
    def offsets(self) -> dict[int, int]:
        """Placeholder -> offset in the context in bytes; 0, never loaded, without a parameter."""
        return {
            PARAMETER_PLACEHOLDER + 8 * n: 8 * value if value != NO_PARAMETER else 0
            for n, value in enumerate(self)
        }


def calling_of(hook: FunctionHook, parameters: tuple[str, ...]) -> Calling:
    """Return the Calling of a function with these ``parameters``. Raises UnsupportedError."""
    return Calling(
        direction=int(hook.direction != "send"),
        socket=position(hook, parameters, hook.socket),
        message=position(hook, parameters, hook.message),
        flags=position(hook, parameters, hook.flags),
        result=position(hook, parameters, hook.result) if hook.result else len(parameters),
        level=LEVELS.index(hook.level),
    )


def position(hook: FunctionHook, parameters: tuple[str, ...], name: str | None) -> int:
    """Return the position of the parameter ``name``. Raises UnsupportedError if it is missing."""
    if name is None:
        return NO_PARAMETER
    if name not in parameters:
        raise UnsupportedError(
            f"{hook.name} of this kernel has no parameter {name!r} "
            f"(it has {', '.join(parameters)}): use --route syscall"
        )
    return parameters.index(name)
