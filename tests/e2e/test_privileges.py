# SPDX-License-Identifier: Apache-2.0
"""What parses captured bytes holds no privileges, on both routes; its helper reads none of them."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES, background, traffic

pytestmark = pytest.mark.one_guest("debian-12")

WAIT_SECONDS = 30.0

# Prints a JSON object for each process of the profiler.
PROCESSES = r"""
import json, os, pathlib

def links(directory):
    for link in directory.iterdir():
        try:
            yield os.readlink(link)
        except FileNotFoundError:
            pass  # It was closed meanwhile.

for proc in pathlib.Path("/proc").glob("[0-9]*"):
    try:
        words = (proc / "cmdline").read_bytes().split(b"\0")
        if not any(word.endswith(b"/http-profiler") for word in words[:2]):
            continue
        status = dict(line.split(":", 1) for line in (proc / "status").open())
        print(json.dumps({
            "pid": int(proc.name),
            "comm": (proc / "comm").read_text().strip(),
            "uids": status["Uid"].split(),
            "groups": status["Groups"].split(),
            "capabilities": int(status["CapPrm"], 16) | int(status["CapEff"], 16),
            "no_new_privs": status["NoNewPrivs"].strip(),
            "seccomp": status["Seccomp"].strip(),
            "mapped": [line.split()[-1] for line in (proc / "maps").open() if "bpf-map" in line],
            "open": list(links(proc / "fd")),
        }))
    except OSError:
        continue  # It has ended.
"""


def unprivileged_user(guest: Guest) -> str:
    """The user of the package, which a test of this guest may have installed, or nobody."""
    return guest.exec("id -nu http-profiler 2>/dev/null || echo nobody").stdout.strip()


def processes(guest: Guest) -> list[dict[str, Any]]:
    """Return the profiler's processes, the reader first."""
    printed = guest.exec(["sudo", "python3", "-c", PROCESSES]).stdout
    found = [json.loads(line) for line in printed.splitlines()]
    return sorted(found, key=lambda process: process["comm"] == "http-prof-root")


@pytest.mark.parametrize("route", ROUTES)
def test_the_reader_has_no_privileges_and_the_helper_no_data(
    guest: Guest, token: str, route: str
) -> None:
    with background(guest, "serve") as (_, server), Capture(guest, "--route", route) as capture:
        traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
        capture.wait_for(lambda r: r.get("url") == f"/{token}", 2)
        reader, helper = processes(guest)
        said = capture.stop()
    user = unprivileged_user(guest)
    assert f"as user {user}" in said
    assert reader["uids"] == [guest.exec(f"id -u {user}").stdout.strip()] * 4
    assert reader["groups"] == []
    assert reader["capabilities"] == 0
    assert (reader["no_new_privs"], reader["seccomp"]) == ("1", "2")
    # It keeps what it has mapped, and nothing that it could attach.
    assert not any("bpf-prog" in name or "perf_event" in name for name in reader["open"])
    assert any("bpf-map" in name for name in reader["mapped"])
    assert helper["uids"] == ["0"] * 4
    assert helper["mapped"] == []
    assert processes(guest) == []


def test_the_probe_is_detached_however_the_reader_ends(guest: Guest) -> None:
    with Capture(guest) as capture:
        reader, helper = processes(guest)
        guest.exec(f"sudo kill -KILL {reader['pid']}")
        capture.wait()
        deadline = time.monotonic() + WAIT_SECONDS
        while processes(guest) and time.monotonic() < deadline:
            pass
        assert processes(guest) == []
    assert any("bpf-prog" in name for name in helper["open"])


def test_a_capture_reports_that_its_helper_ended(guest: Guest) -> None:
    with Capture(guest) as capture:
        _, helper = processes(guest)
        guest.exec(f"sudo kill -KILL {helper['pid']}")
        assert capture.wait() == 1
    lines = capture.said.splitlines()
    assert lines[-1].startswith("http-profiler: the helper that holds the probe has ended")
    assert "Traceback" not in capture.said
    assert any("wrote " in line for line in lines)


def test_a_rotated_file_is_followed_without_access_to_it(guest: Guest, token: str) -> None:
    guest.exec("sudo install -d -m 700 /root/capture")
    output = "/root/capture/lines.jsonl"
    with background(guest, "serve") as (_, server):
        port = server["port"]
        with Capture(guest, "--port", str(port), output=output) as capture:
            traffic(guest, "requests", "127.0.0.1", port, f"GET:/{token}/1")
            capture.wait_for(lambda r: r.get("url") == f"/{token}/1", 2)
            guest.exec(f"sudo mv {output} {output}.old")
            traffic(guest, "requests", "127.0.0.1", port, f"GET:/{token}/2")
            deadline = time.monotonic() + WAIT_SECONDS
            while f"/{token}/2" not in guest.exec(f"sudo cat {output}", check=False).stdout:
                assert time.monotonic() < deadline, capture.said
            capture.stop()
            owner = guest.exec(f"sudo stat --format %U:%a {output}").stdout.strip()
            # One file again, as the capture of the test reads it.
            join = f"cat {output} >>{output}.old && mv {output}.old {output}"
            guest.exec(f"sudo sh -c '{join}'")
    assert owner == "root:600"


def test_root_keeps_its_privileges_if_the_user_wants_that(guest: Guest) -> None:
    with Capture(guest, "--unprivileged-user", "root") as capture:
        (reader,) = processes(guest)
        said = capture.stop()
    assert reader["uids"] == ["0"] * 4
    assert said.splitlines()[0] == (
        "http-profiler: captured bytes are parsed as root: --unprivileged-user root"
    )


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("lossless", [False, True])
def test_the_reader_may_take_precedence_only_with_lossless(
    guest: Guest, route: str, lossless: bool
) -> None:
    with Capture(guest, "--route", route, *["--lossless"] * lossless):
        reader, _ = processes(guest)
        limits = guest.exec(f"sudo cat /proc/{reader['pid']}/limits").stdout
    (priority,) = (line for line in limits.splitlines() if "realtime priority" in line)
    assert priority.split()[-2:] == (["1", "1"] if lossless else ["0", "0"])
