# SPDX-License-Identifier: Apache-2.0
"""http-profiler: every HTTP message of a Linux machine, read at the kernel's sockets by eBPF.

The layers, and imports go one way::

    schema, accounting < exchanges < outputs < ingest < commands < cli

``ingest`` turns the kernel's bytes into records; everything else works on records from any source.
``docs/explanation/architecture.md`` is the guided tour.

For programs: :func:`profiler.read` yields the records of capture files, and
:func:`profiler.capture` asserts on traffic (``docs/how-to/assertions.md``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.2.0"

RECORDING_FORMAT = "http-profiler capture"
"""The name of the format in the first line of a recording (``--record``)."""

__all__ = ["Messages", "Record", "__version__", "capture", "read"]

_HOMES = {
    "Messages": "profiler.commands.background",
    "Record": "profiler.schema",
    "capture": "profiler.commands.background",
    "read": "profiler.exchanges.read",
}

if TYPE_CHECKING:
    from profiler.commands.background import Messages, capture
    from profiler.exchanges.read import read
    from profiler.schema import Record
else:

    def __getattr__(name: str) -> object:
        # Loaded on first use, because the command line and the stages do not need them.
        if name in _HOMES:
            from importlib import import_module

            return getattr(import_module(_HOMES[name]), name)
        raise AttributeError(f"module 'profiler' has no attribute {name!r}")
