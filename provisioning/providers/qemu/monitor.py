# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor (QMP): commands and answers, one JSON object per line.

Only the monitor can make a machine save its state. Events are ignored; an answer that
is an error is raised.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedRWPair
from pathlib import Path
from typing import Any

from provisioning.errors import ProvisioningError

# Enough to write gigabytes on a busy host; a slower QEMU hangs.
TIMEOUT = 120.0


class Monitor:
    """A connection to a machine's QEMU monitor."""

    def __init__(self, lines: BufferedRWPair) -> None:
        self._lines = lines

    def execute(self, command: str, **arguments: Any) -> Any:
        """Run a command and return its result. Raises ProvisioningError with QEMU's message."""
        request = {"execute": command, "arguments": arguments}
        self._lines.write(json.dumps(request).encode() + b"\n")
        self._lines.flush()
        while line := self._lines.readline():
            answer = json.loads(line)
            if "error" in answer:
                raise ProvisioningError(f"QEMU's {command}: {answer['error']['desc']}")
            if "return" in answer:
                return answer["return"]
        raise ProvisioningError(f"QEMU's {command}: it ended without an answer")

    def execute_line(self, line: str) -> None:
        """Run a command of the human monitor that prints something only if it fails."""
        said = self.execute("human-monitor-command", **{"command-line": line}).strip()
        if said:
            raise ProvisioningError(f"QEMU's {line}: {said}")


@contextmanager
def monitor_at(path: Path) -> Iterator[Monitor]:
    """Connect to the monitor that listens at a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(str(path))
            with connection.makefile("rwb") as lines:
                lines.readline()  # its greeting
                monitor = Monitor(lines)
                monitor.execute("qmp_capabilities")
                yield monitor
        except OSError as error:
            raise ProvisioningError(f"QEMU's monitor: {error}") from error
