# SPDX-License-Identifier: Apache-2.0
"""Many connections, and some that are flooded, cost no other connection its lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.ingest.probe.macros import OWN_PLACES
from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES, continued, stopped
from tests.e2e.test_ending import accounts

pytestmark = pytest.mark.one_guest("debian-12")

SCRIPT = Path(__file__).with_name("table_traffic.py")
WAITING = 200


def run(guest: Guest, scenario: str, token: str, *arguments: object) -> None:
    guest.push(SCRIPT, "/tmp/table_traffic.py")
    command = ["sudo", "python3", "/tmp/table_traffic.py", scenario, token, *map(str, arguments)]
    guest.exec(command, timeout=3600)


def url_of(record: Record) -> str:
    return record.get("url") or record.get("request", {}).get("url") or ""


def check_exchanges(records: list[Record], urls: set[str]) -> None:
    """Each exchange has its four lines, which are whole and right."""
    lines = [(r["type"], r["role"], url_of(r)) for r in records]
    assert sorted(lines) == sorted(
        (kind, role, url)
        for kind in ("request", "response")
        for role in ("client", "server")
        for url in urls
    )
    assert not [r for r in records if "incomplete" in r]
    assert all(r["body"] == url_of(r) for r in records if r["type"] == "response")


def check_account(said: str) -> None:
    sent = accounts(said)
    assert sent
    for seen_calls, seen_bytes, *fates in sent.values():
        assert seen_calls == fates[0] + fates[2] + fates[4]
        assert seen_bytes == fates[1] + fates[3] + fates[5]


def check_the_table(guest: Guest, token: str, route: str, staying: int, passing: int) -> None:
    every = max(1, passing // 200)
    with Capture(guest, "--route", route) as capture:
        run(guest, "table", token, OWN_PLACES, WAITING, staying, passing, every)
        said = capture.stop()
        records = [r for r in capture.records() if f"/{token}/" in url_of(r)]
    check_account(said)
    urls = {
        f"/{token}/{when}/{number}" for when in ("before", "waiting") for number in range(WAITING)
    }
    urls |= {f"/{token}/passing/{number}" for number in range(0, passing, every)}
    check_exchanges(records, urls)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("passing", [10_000, pytest.param(200_000, marks=pytest.mark.thorough)])
def test_floods_of_connections_leave_those_that_wait(
    guest: Guest, token: str, route: str, passing: int
) -> None:
    """Connections wait for an answer while more pass than the table has places."""
    check_the_table(guest, token, route, 0, passing)


@pytest.mark.parametrize("route", ROUTES)
def test_floods_of_open_connections_leave_those_that_wait(
    guest: Guest, token: str, route: str
) -> None:
    """More sockets are open at once than the table has places; most are not HTTP."""
    check_the_table(guest, token, route, OWN_PLACES, 200)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("kind", "floods"),
    [("bytes", 1), ("bytes", 64), pytest.param("resets", 1, marks=pytest.mark.thorough)],
)
def test_floods_of_connections_cost_only_their_own_lines(
    guest: Guest, token: str, route: str, kind: str, floods: int
) -> None:
    # Nobody reads the ring meanwhile, and yet the exchanges find room: 160 records of
    # under 200 bytes. Of the last quarter, 128 flooded sockets leave a ninth.
    exchanges = 40
    options = ("--route", route, "--ring-size", str(1 << 22), "--path", f"/{token}/*")
    with Capture(guest, *options) as capture:
        stopped(guest)
        try:
            run(guest, "share", token, kind, exchanges, floods)
        finally:
            continued(guest)
        # What the flood left in the ring comes before the last exchange.
        last = f"/{token}/{exchanges - 1}"
        capture.wait_for(lambda r: url_of(r) == last, 4, timeout=600)
        said = capture.stop()
        records = capture.records()
    check_account(said)
    assert "share" in said.rpartition(" + lost ")[2]
    check_exchanges(records, {f"/{token}/{number}" for number in range(exchanges)})
