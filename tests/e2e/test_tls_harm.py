# SPDX-License-Identifier: Apache-2.0
"""Probes do no harm: their targets live on, and no breakpoint stays when they are gone."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.scenario import serving
from tests.e2e.test_tls import HOME, prepare
from tests.e2e.test_tls_programs import CADDY, SERVERS

pytestmark = pytest.mark.one_guest("debian-13")

PYTHON = "/opt/http-profiler/bin/python"
HARM = f"{PYTHON} {HOME}/harm.py"


@contextmanager
def in_seccomp(guest: Guest) -> Iterator[int]:
    """Run a process that exchanges messages over TLS, under a strict filter; yield its pid.

    At the end, it must be alive.
    """
    command = f"exec {HARM} exchange_in_seccomp"
    with guest.popen(command, stdin=subprocess.PIPE, stderr=None) as target:
        yield int(target.stdout.readline())
        target.process.stdin.close()
        assert int(target.stdout.readline()) > 100
        assert target.wait(60) == 0


@contextmanager
def go_under_load(guest: Guest, token: str) -> Iterator[int]:
    """Run a server that is written in Go, with clients; yield its pid.

    At the end, all answers must have been right.
    """
    end = f"{HOME}/{token}.end"
    url = f"https://127.0.0.1:{CADDY}/text"
    client = f"python3 {HOME}/programs.py call_until_wrong {url} {HOME}/files/text {end}"
    with ExitStack() as stack:
        stack.enter_context(serving(guest, {SERVERS[CADDY].command: (CADDY,)}))
        clients = [stack.enter_context(guest.popen(client, stderr=None)) for _ in range(2)]
        yield int(guest.exec("pgrep -x caddy").stdout)
        guest.exec(["touch", end])
        for each in clients:
            assert int(each.stdout.readline()) > 10
            assert each.wait(60) == 0


def breakpoints(guest: Guest, pid: int) -> int:
    """Return how many bytes of a process's code are not those of its files."""
    (number,) = json.loads(guest.exec(f"sudo {HARM} breakpoints {pid}").stdout)
    return int(number)


# Not in `make test`: see "Safety" in docs/explanation/tls.md.
@pytest.mark.thorough
@pytest.mark.parametrize("times", [10, 100])
def test_targets_live_on_while_probes_come_and_go(guest: Guest, token: str, times: int) -> None:
    prepare(guest)
    if guest.exec(["test", "-e", SERVERS[CADDY].program], check=False).returncode:
        pytest.skip("this guest has no Caddy")
    with in_seccomp(guest) as python, go_under_load(guest, token) as caddy:
        command = f"sudo {HARM} attach_repeatedly {times} {python} {caddy}"
        found = json.loads(guest.exec(command, timeout=90 * times).stdout)
    assert found["points"] > 20
    # At least the entry and one return of reading and writing.
    assert all(number >= 4 for number in found["during"])
    assert found["after"] == [0, 0]


def test_a_profiler_that_is_killed_leaves_no_breakpoints(guest: Guest) -> None:
    prepare(guest)
    with in_seccomp(guest) as pid:
        with Capture(guest, "--tls") as capture:
            assert breakpoints(guest, pid) >= 4
            guest.exec("sudo pkill -KILL -f 'http-profiler --outpu[t]'")
            capture.wait()
        deadline = time.monotonic() + 60
        # The kernel removes them as the descriptors of the killed processes are closed.
        while breakpoints(guest, pid):
            assert time.monotonic() < deadline
