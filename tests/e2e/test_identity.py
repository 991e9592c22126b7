# SPDX-License-Identifier: Apache-2.0
"""Which process moved the bytes, and when: also for ended processes and changed clocks."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, continued, stopped, traffic
from tests.e2e.test_capture import nanoseconds, url_of

HOUR = 3600 * 10**9


@pytest.fixture(scope="module")
def server(guest: Guest) -> Iterator[dict[str, Any]]:
    with background(guest, "serve") as (_, facts):
        yield facts


@pytest.fixture(scope="module")
def capture(guest: Guest, server: dict[str, Any]) -> Iterator[Capture]:
    with Capture(guest) as capture:
        yield capture


def test_a_process_that_has_ended(
    guest: Guest, server: dict[str, Any], capture: Capture, token: str
) -> None:
    stopped(guest)
    client = traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
    assert guest.exec(f"test -e /proc/{client['pid']}", check=False).returncode == 1
    continued(guest)
    lines = capture.wait_for(lambda r: url_of(r) == f"/{token}", 4)
    for line in lines:
        process = client if line["role"] == "client" else server
        assert line["pid"] == process["pid"]
        assert line["uid"] == process["uid"] != 0
        assert line["cgroup"] == process["cgroup"]
        assert line["cmdline"].startswith("python3 /tmp/traffic.py")
        assert line["cmdline"].split()[2] == ("requests" if process is client else "serve")
        # Since Python 3.14, Python names its threads.
        assert line["comm"] in ("python3", "Thread-1 (proce")
        if process is client:
            assert line["tid"] == client["tid"]
            # It started shortly before it connected.
            started = nanoseconds(line["process_start"])
            assert client["before"] - 60 * 10**9 < started < client["before"]


def test_a_process_that_runs_another_program(
    guest: Guest, server: dict[str, Any], capture: Capture, token: str
) -> None:
    """The same process and start time: only the exec distinguishes them."""
    first, second = f"/{token}/first", f"/{token}/second"
    client = traffic(guest, "exec_between", "127.0.0.1", server["port"], first, second)
    lines = capture.wait_for(lambda r: url_of(r) in (first, second) and r["role"] == "client", 4)
    commands = {(url_of(r), r["pid"]): r["cmdline"].split()[2] for r in lines}
    assert commands == {
        (first, client["pid"]): "exec_between",
        (second, client["pid"]): "requests",
    }


def test_a_clock_that_is_set(
    guest: Guest, server: dict[str, Any], capture: Capture, token: str
) -> None:
    where = ("requests", "127.0.0.1", server["port"])
    traffic(guest, *where, f"GET:/{token}/before")
    try:
        guest.exec("sudo date -s '+1 hour'")
        later = traffic(guest, *where, f"GET:/{token}/later")
    finally:
        guest.exec("sudo date -s '-1 hour'")
    after = traffic(guest, *where, f"GET:/{token}/after")
    lines = capture.wait_for(lambda r: (url_of(r) or "").startswith(f"/{token}/"), 12)
    for name, facts in (("later", later), ("after", after)):
        for line in (r for r in lines if url_of(r) == f"/{token}/{name}"):
            assert facts["before"] <= nanoseconds(line["timestamp"]) <= facts["after"]
    assert later["before"] - after["before"] > HOUR // 2


def test_timestamps_use_the_current_date(
    guest: Guest, server: dict[str, Any], capture: Capture, token: str
) -> None:
    """The kernel's clock counts from the boot, the lines' times from 1970."""
    traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
    (line, *_) = capture.wait_for(lambda r: url_of(r) == f"/{token}")
    said = datetime.fromtimestamp(nanoseconds(line["timestamp"]) / 1e9, timezone.utc)
    assert abs(datetime.now(timezone.utc) - said) < timedelta(hours=1)
