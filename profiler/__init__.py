"""http-profiler: every HTTP message of a Linux machine, read at the socket syscalls.

Data flows one way through this package, one module per stage::

    probe -> wire -> stream -> http -> exchange -> process -> record -> sinks

A stage takes items and yields items and may import an earlier stage's types,
never a later stage. ``docs/architecture.md`` is the guided tour.
"""

__version__ = "0.1.0"
