"""http-profiler: every HTTP message of a Linux machine, read at the socket syscalls.

Data flows one way through this package, one module per stage::

    probe -> wire -> stream -> http -> exchange -> process -> record -> sinks

A stage takes items and yields items and may import an earlier stage's types,
never a later stage. ``docs/architecture.md`` is the guided tour.

For programs that assert on traffic there is :func:`profiler.capture` (``docs/assertions.md``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = ["Messages", "__version__", "capture"]

if TYPE_CHECKING:
    from profiler.commands.background import Messages, capture
else:

    def __getattr__(name: str) -> object:
        # Found when it is asked for: the command line, and each stage, do without.
        if name in ("Messages", "capture"):
            from importlib import import_module

            return getattr(import_module("profiler.commands.background"), name)
        raise AttributeError(f"module 'profiler' has no attribute {name!r}")
