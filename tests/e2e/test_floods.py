# SPDX-License-Identifier: Apache-2.0
"""Floods over a guest's loopback: memory and disk stay within their bounds, the capture continues.

tests/floods.py has the floods. The memory is that of the process which parses captured bytes.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES, background, continued, stopped, traffic
from tests.e2e.test_ending import accounts
from tests.floods import FLOODS
from tests.records import read_record

pytestmark = pytest.mark.one_guest("debian-12")

SCRIPT = "/tmp/floods.py"
OUTPUT = "/tmp/floods.jsonl"
BOUND = 16 << 20
# Beside the bound: what is remembered of heads, and partly used arenas of the allocator.
BASE = 12 << 20
FILE_MAX, FILES = 4 << 20, 4
OPTIONS = (
    *("--max-memory", str(BOUND), "--output-max-size", str(FILE_MAX)),
    *("--output-files", str(FILES)),
)
HIERARCHY = "/sys/fs/cgroup/floods"


class Attacked(Capture):
    """A capture whose output is rotated, and too large to be read as a whole."""

    idle: int
    """The resident memory before the first flood, in bytes."""

    def lines(self, word: str) -> list[dict]:
        """Return the lines with ``word``."""
        found = self.guest.exec(f"sudo cat {OUTPUT}* | grep -a {word}", check=False).stdout
        return [read_record(line) for line in found.splitlines()]

    def exchange(self, port: int, token: str) -> list[dict]:
        """Make an ordinary exchange; return its lines, of both ends, as soon as they are there."""
        traffic(self.guest, "requests", "127.0.0.1", port, f"POST:/{token}:1000")
        return self.wait_for_lines(token)

    def wait_for_lines(self, token: str) -> list[dict]:
        """Return the lines of an exchange: request and response, each of both ends."""
        deadline = time.monotonic() + 180
        while len(lines := self.lines(token)) < 4:
            assert time.monotonic() < deadline, (lines, self.account())
            time.sleep(0.3)
        return lines

    def memory(self, name: str) -> int:
        """Return a size in the status of the process that parses captured bytes, in bytes."""
        text = self.guest.exec("cat /proc/$(pgrep -x http-profiler)/status").stdout
        return int(re.search(rf"{name}:\s+(\d+) kB", text)[1]) << 10

    def sizes(self) -> list[int]:
        """Return the sizes of all output files, in bytes."""
        listed = self.guest.exec(f"sudo sh -c 'stat -c %s {OUTPUT}*'").stdout
        return [int(size) for size in listed.split()]


@pytest.fixture(scope="module")
def port(guest: Guest) -> Iterator[int]:
    """The port of an ordinary server."""
    with background(guest, "serve") as (_, facts):
        yield facts["port"]


@pytest.fixture(scope="module", params=ROUTES)
def capture(guest: Guest, port: int, request: pytest.FixtureRequest) -> Iterator[Attacked]:
    """A capture that meets all floods, one after the other, as on a machine under attack."""
    guest.push(Path(__file__).parents[1] / "floods.py", SCRIPT)
    guest.exec(f"sudo rm -f {OUTPUT}*")
    with Attacked(guest, "--route", request.param, *OPTIONS, output=OUTPUT) as capture:
        capture.exchange(port, "idle")
        capture.idle = capture.memory("VmRSS")
        yield capture


@pytest.fixture
def attacked(capture: Attacked) -> Attacked:
    """The shared capture; its account may excuse a failure of this test too."""
    Capture.in_use.add(capture)
    return capture


def check_flood(capture: Attacked, port: int, token: str, name: str, connections: int) -> None:
    guest = capture.guest
    guest.exec("sudo sh -c 'echo 5 > /proc/$(pgrep -x http-profiler)/clear_refs'")
    guest.exec(["python3", SCRIPT, name, str(connections)], timeout=600)
    ordinary = capture.exchange(port, token)
    growth = capture.memory("VmHWM") - capture.idle
    print(f"{name}: {growth / BOUND:.2f} of the bound")
    assert growth <= 1.25 * BOUND + BASE
    assert all("incomplete" not in line for line in ordinary)
    assert {line["role"] for line in ordinary} == {"client", "server"}
    assert len({line["exchange"] for line in ordinary if line["role"] == "client"}) == 1
    sizes = capture.sizes()
    assert max(sizes) <= FILE_MAX
    assert len(sizes) <= 1 + FILES


# The parser is the same on both routes. These make the most records, the largest and the smallest.
BOTH_ROUTES = ("bodies", "bytewise", "resets")


@pytest.mark.parametrize(
    ("capture", "name"),
    [
        pytest.param(
            *(route, name),
            marks=() if route == ROUTES[0] or name in BOTH_ROUTES else pytest.mark.thorough,
        )
        for route in ROUTES
        for name in FLOODS
    ],
    indirect=["capture"],
)
def test_a_flood_stays_within_the_bounds(
    attacked: Attacked, port: int, token: str, name: str
) -> None:
    # Emulated, both ends are captured, and the bound is half of that in tests/floods.py.
    check_flood(attacked, port, token, name, -(-FLOODS[name].connections // 4))


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("name", "connections"), [("tables", 15_000), ("references", 400), ("resets", 200)]
)
def test_a_large_flood_stays_within_the_bounds(
    attacked: Attacked, port: int, token: str, name: str, connections: int
) -> None:
    check_flood(attacked, port, token, name, connections)


def test_the_account_balances_after_the_floods(attacked: Attacked) -> None:
    said = attacked.stop()
    assert "bug of http-profiler" not in said
    sides = accounts(said)
    assert len(sides) == 2
    for seen_calls, seen_bytes, *fates in sides.values():
        assert seen_calls == sum(fates[::2])
        assert seen_bytes == sum(fates[1::2])


def test_the_control_group_of_an_ended_process_in_floods_of_them(
    guest: Guest, port: int, token: str
) -> None:
    """The kernel opens its directory by number, among 20,000; a removed one is absent."""
    count = 20_000
    guest.exec(f"sudo sh -c 'mkdir {HIERARCHY} && cd {HIERARCHY} && seq {count} | xargs mkdir'")
    try:
        with Capture(guest) as capture:
            stopped(guest)
            for group, word in ((count, "kept"), (1, "removed")):
                request = f"requests 127.0.0.1 {port} GET:/{token}/{word}"
                guest.exec(
                    f"sudo sh -c 'echo $$ > {HIERARCHY}/{group}/cgroup.procs; "
                    f"exec python3 /tmp/traffic.py {request}'"
                )
            guest.exec(f"sudo rmdir {HIERARCHY}/1")
            continued(guest)
            lines = capture.wait_for(
                lambda r: token in r.get("url", "") and r["direction"] == "send", 2
            )
    finally:
        guest.exec(f"sudo find {HIERARCHY} -depth -type d -delete", check=False)
    by_word = {line["url"].rpartition("/")[2]: line.get("cgroup") for line in lines}
    assert by_word == {"kept": f"/floods/{count}", "removed": None}
