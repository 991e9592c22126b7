# SPDX-License-Identifier: Apache-2.0
"""Keeps programs attached: each is attached until its file descriptor is closed."""

from __future__ import annotations

import os
import time

from profiler.ingest.probe.generate import Attachment
from profiler.ingest.probe.kernel import protocols_above_tcp
from profiler.ingest.probe.load import attach

REFRESH_SECONDS = 0.1


class Attachments:
    """Attached programs, and programs that wait until their protocol is available above TCP."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self._later: list[tuple[int, Attachment]] = []
        self._due = 0.0

    def add(self, program: int, attachment: Attachment) -> None:
        """Attach a loaded program now, or once its protocol is available. Raises ProbeError."""
        if attachment.protocol:
            self._later.append((program, attachment))
        else:
            self.descriptors.append(attach(program, attachment))

    def refresh(self) -> None:
        """Every 0.1 s, attach programs whose protocol has become available. Raises ProbeError."""
        if not self._later or time.monotonic() < self._due:
            return
        self._due = time.monotonic() + REFRESH_SECONDS
        there = protocols_above_tcp()
        later, self._later = self._later, []
        for program, attachment in later:
            if there is None or attachment.protocol in there:
                self.descriptors.append(attach(program, attachment))
            else:
                self._later.append((program, attachment))

    def close(self) -> None:
        """Detach everything."""
        self._later.clear()
        while self.descriptors:
            os.close(self.descriptors.pop())
