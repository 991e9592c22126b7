# SPDX-License-Identifier: Apache-2.0
"""Filters on a real kernel: what each one rejects is counted and not written."""

from __future__ import annotations

import re

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES, TRAFFIC, background

GROUP = "/sys/fs/cgroup/http-profiler-test"
WANTED = "/tmp/wanted"


def ask(
    guest: Guest, port: int, path: str, *, host: str = "127.0.0.2", program: str = WANTED,
    user: str = "nobody", group: str = f"{GROUP}/inner",
) -> None:  # fmt: skip
    """Run a client that passes all filters, except as the arguments change it."""
    enter = f"echo $$ > {group}/cgroup.procs"
    client = f"{program} {TRAFFIC} requests {host} {port} GET:{path}"
    as_user = f"setpriv --reuid {user} --regid nogroup --clear-groups"
    guest.exec(f"sudo sh -c '{enter} && exec {as_user} {client}'", timeout=120)


@pytest.mark.one_guest("debian-13")
@pytest.mark.parametrize("route", ROUTES)
def test_each_filter_rejects_what_it_names(guest: Guest, route: str, token: str) -> None:
    guest.exec(f"sudo mkdir -p {GROUP}/inner && sudo ln -sf $(command -v python3) {WANTED}")
    options = ("--route", route, "--comm", "wanted", "--user", "nobody")
    options += ("--cgroup", GROUP, "--address", "127.0.0.2/31")
    # A request waits for its status; the capture ends on its own.
    options += ("--path", "/*/[mov]*", "--status", "2xx", "--count", "6")
    with background(guest, "serve") as (_, server), Capture(guest, *options) as capture:
        port = server["port"]
        ask(guest, port, f"/{token}/program", program="python3")
        ask(guest, port, f"/{token}/user", user="root")
        ask(guest, port, f"/{token}/group", group="/sys/fs/cgroup")
        ask(guest, port, f"/{token}/address", host="127.0.0.1")
        ask(guest, port, f"/{token}/address", host="::1")
        ask(guest, port, f"/{token}/else")
        ask(guest, port, f"/{token}/v4")
        ask(guest, port, f"/{token}/mapped", host="::ffff:127.0.0.2")
        ask(guest, port, f"/{token}/outer", group=GROUP)
        capture.wait_for(lambda record: "outer" in record.get("request", {}).get("url", ""))
        assert capture.wait() == 0

    said = capture.said
    assert "wrote 3 requests and 3 responses" in said
    assert "left out 2 messages (--path 2)" in said
    records = capture.records()
    paths = [record.get("url") or record["request"]["url"] for record in records]
    assert paths == [f"/{token}/{each}" for each in ("v4", "mapped", "outer") for _ in range(2)]
    for record in records:
        assert (record["comm"], record["role"]) == ("wanted", "client")
        assert "127.0.0.2" in (record["source_ip"], record["dest_ip"])
        assert record["cgroup"] == GROUP.replace("/sys/fs/cgroup", "") + (
            "" if "outer" in str(record) else "/inner"
        )
    assert "do not add up" not in said
    for direction in ("send", "recv"):
        counted = re.search(rf"{direction} calls.*", said)
        assert counted, said
        for reason in ("comm", "user", "cgroup", "address"):
            assert re.search(rf"\b{reason} \d+/\d+", counted[0]), (reason, said)
