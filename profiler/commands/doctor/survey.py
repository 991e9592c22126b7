# SPDX-License-Identifier: Apache-2.0
"""Names the running processes whose TLS library ``--tls`` does not support.

It is a process of its own: files of other processes are parsed without privileges, as in a
capture. The helper opens them.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path

from profiler.accounting import Uncaptured
from profiler.ingest.tls.processes import Discovery, Files
from profiler.privileges.confinement import ConfinementError, confine, user_for
from profiler.privileges.helper import Helper


def survey(proc: Path = Path("/proc")) -> list[Uncaptured]:
    """Return the processes, by number. Raises ConfinementError if no unprivileged user exists."""
    running = _running(proc)
    user = user_for(None)
    files = Files(proc)
    with contextlib.closing(Helper()) as helper:
        files.share(helper)
        helper.split()
        user = user_for(None)
        if user is not None:
            confine(user)
        discovery = Discovery(files)
        reasons = ((pid, comm, discovery.unsupported(pid)) for pid, comm in running)
        return [Uncaptured(pid, comm, reason) for pid, comm, reason in reasons if reason]


def _running(proc: Path) -> list[tuple[int, str]]:
    found = []
    for directory in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It may have ended.
            found.append((int(directory.name), (directory / "comm").read_text().rstrip("\n")))
    return sorted(found)


if __name__ == "__main__":
    try:
        print(json.dumps([asdict(each) for each in survey()]))
    except ConfinementError as error:
        sys.exit(str(error))
