# SPDX-License-Identifier: Apache-2.0
"""The canary: a process that sends known HTTP messages in every possible way.

``python -m profiler.commands.doctor.canary TOKEN DIRECTORY KIND`` opens what must be open before
the profiler starts, prints ``{"ready": true, "pids": [...]}`` with the processes that will play,
and waits for a line on standard input. KIND is a key of ``cases.KINDS``. Then it plays every case
and prints one line of JSON for each: what was sent, or why it could not be. The last case, ``end``,
is a plain exchange: when its lines are written, so are all earlier ones.

It exchanges messages only with itself, over loopback. Network and pid namespaces need root.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from profiler.commands.doctor import sockets
from profiler.commands.doctor.cases import KINDS, SOCKET, Case
from profiler.commands.doctor.scenario import CASE_SECONDS, CanaryError, Scenario
from profiler.commands.doctor.script import End, Sent

END = Case(SOCKET, "end", "the last exchange", sockets.ipv4)

# Inode of the first pid namespace (PROC_PID_INIT_INO, include/linux/proc_ns.h): outside
# it the kernel's numbers for processes are not ours.
_FIRST_PID_NAMESPACE = 0xEFFFFFFC


def main(token: str, directory: str, kind: str) -> None:
    """Play all cases of a kind."""
    signal.signal(signal.SIGALRM, _give_up)
    scenarios = [
        (case, Scenario(token, case.name, Path(directory))) for case in (*KINDS[kind], END)
    ]
    unprepared = {case.name: _attempt(case, scenario, prepare=True) for case, scenario in scenarios}
    pids = [os.getpid(), *(pid for _, scenario in scenarios for pid in scenario.pids)]
    _print({"ready": True, "pids": pids if _knows_pids() else []})
    if not sys.stdin.readline():
        return
    for case, scenario in scenarios:
        reason = unprepared[case.name] or _attempt(case, scenario)
        sent = [] if reason else [_with_pids(sent).to_json() for sent in scenario.sent]
        _print({"case": case.name, "sent": sent, "unavailable": reason})


def _attempt(case: Case, scenario: Scenario, prepare: bool = False) -> str | None:
    """Prepare or play a case; return why that is not possible."""
    signal.alarm(CASE_SECONDS)
    try:
        if not prepare:
            case.play(scenario)
        elif case.prepare:
            scenario.prepared = case.prepare(scenario)
    except OSError as error:
        # strerror of ours begins with the call's name
        return str(error.strerror or error)
    except (CanaryError, ValueError, AttributeError, ImportError) as error:
        # AttributeError, ImportError: this Python was built without the function or module.
        return str(error)
    finally:
        signal.alarm(0)
    return None


def _give_up(_number: int, _frame: FrameType | None) -> NoReturn:
    raise CanaryError(f"no end within {CASE_SECONDS} s")


def _knows_pids() -> bool:
    return Path("/proc/self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE


def _with_pids(sent: Sent) -> Sent:
    known = _knows_pids()

    def fill(end: End) -> End:
        return dataclasses.replace(end, pid=(end.pid or os.getpid()) if known else None)

    return dataclasses.replace(sent, sender=fill(sent.sender), receiver=fill(sent.receiver))


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
