# SPDX-License-Identifier: Apache-2.0
"""The command line with an engine that needs no kernel: it delivers a recording.

``python -m tests.unit.stand_in_engine CAPTURE ARGUMENT ...`` is ``http-profiler ARGUMENT ...``.
``STAND_IN_LOST`` and ``STAND_IN_SKIPPED`` are the numbers of calls it reports as lost and
skipped, ``STAND_IN_TROUBLE`` is the reason why it does not start. With ``STAND_IN_SLOW`` it
starts when it gets SIGINT; with ``STAND_IN_CGROUP`` the cgroup of `run` is an ordinary
directory. It keeps its privileges, unless HTTP_PROFILER_UNPRIVILEGED_USER names a user.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from profiler import cli
from profiler.accounting import Count, Direction, KernelAccount
from profiler.errors import ProbeError
from profiler.ingest import wire
from profiler.ingest.probe.recording import Recording
from profiler.privileges.helper import Helper

POLL_SECONDS = 0.01


class StandInEngine:
    route, carrier, clock, fallback = "socket", "recording", time.CLOCK_MONOTONIC, ""
    applied = ("cgroup",)
    problems: ClassVar[list[str]] = []

    def __init__(self, capture: Path) -> None:
        if "STAND_IN_TROUBLE" in os.environ:
            raise ProbeError(os.environ["STAND_IN_TROUBLE"])
        # The session's handler is for one signal, which may have arrived earlier.
        is_told = signal.default_int_handler
        while "STAND_IN_SLOW" in os.environ and signal.getsignal(signal.SIGINT) is not is_told:
            time.sleep(POLL_SECONDS)
        self._records = [
            record
            for record in Recording(capture).records()
            # These belong to this engine, not to the recorded one.
            if not isinstance(wire.decode(record), (wire.Counters, wire.Clock))
        ]

    def __enter__(self) -> StandInEngine:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def batches(self) -> Iterator[list[bytes]]:
        while True:
            batch, self._records = self._records[:5], self._records[5:]
            if not batch:
                time.sleep(POLL_SECONDS)  # As a poll does: wait for records.
            yield batch

    def stop(self) -> list[bytes]:
        rest, self._records = self._records, []
        return rest

    def discover(self) -> None:
        """Nothing to attach to."""

    def share(self, helper: Helper) -> None:
        pass

    def account(self) -> KernelAccount:
        lost = Count(int(os.environ.get("STAND_IN_LOST", "0")))
        send = Direction(seen=lost, lost={"ring_full": lost, "unreadable": Count()})
        recv = Direction(seen=Count(7, 7), lost={"unreadable": Count(7, 7)})
        return KernelAccount(send, recv, int(os.environ.get("STAND_IN_SKIPPED", "0")))

    def ignore(self, socket: int) -> None:
        pass


class StandInCgroup:
    path = "/stand-in"
    directory = Path("/stand-in")

    def __init__(self, *_: object) -> None:
        pass

    def join(self) -> None:
        pass

    def remove(self) -> list[str]:
        return []


def main(arguments: list[str]) -> int:
    capture, *rest = arguments
    os.environ.setdefault("HTTP_PROFILER_UNPRIVILEGED_USER", "root")

    def open_engine(_settings: Any) -> StandInEngine:
        return StandInEngine(Path(capture))

    with ExitStack() as stack:
        stack.enter_context(patch("profiler.ingest.session.open_engine", open_engine))
        if "STAND_IN_CGROUP" in os.environ:
            stack.enter_context(patch("profiler.commands.run.trace.Cgroup", StandInCgroup))
        return cli.main(rest)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
