# SPDX-License-Identifier: Apache-2.0
"""The doctor's results on a real kernel match this table, case by case.

The doctor has its own expectations (profiler/commands/doctor/cases.py). They are repeated
here, so that neither can become lenient unnoticed.
"""

from __future__ import annotations

import pytest

from provisioning import Guest
from provisioning.catalog import find_guest
from tests.e2e.conftest import ROUTES, UNORDERED, Examination

PATHS = [
    "write-read", "writev-readv", "pwritev2-preadv2", "sendto-recvfrom", "sendmsg-recvmsg",
    "sendmmsg-recvmmsg", "sendfile", "splice-to-socket", "splice-from-socket",
    "io_uring-send-recv", "io_uring-write-read", "peek", "trunc", "oob", "eagain",
    "partial-writes", "empty-segments", "many-segments", "threads", "zerocopy", "mptcp", "ktls",
    "bytewise", "large-body",
]  # fmt: skip
SOCKETS = [
    "before-idle", "before-waiting", "ipv4", "ipv6", "v4-mapped", "unix-path", "unix-abstract",
    "socketpair", "fork", "fork-exec", "dup", "passed", "reused", "netns", "pidns", "gone",
]  # fmt: skip

# All other cases are captured whole, at both ends, on both routes: (case, end) -> result, messages.
FIRST = "(request 1, response 1)"
LESS = {
    ("sendfile", "send"): ("partial", f"lost {FIRST}"),
    ("splice-to-socket", "send"): ("partial", f"lost {FIRST}"),
    ("splice-from-socket", "recv"): ("partial", f"lost {FIRST}"),
    ("trunc", "recv"): ("partial", f"lost {FIRST}"),
    ("many-segments", "send"): ("partial", f"body_limit {FIRST}"),
    ("many-segments", "recv"): ("partial", f"body_limit {FIRST}"),
}
LESS_ON = {
    "socket": LESS,
    "syscall": {
        **LESS,
        # io_uring makes no system call for each. Its receiver's peer sends with plain calls.
        ("io_uring-send-recv", "send"): ("missed", "no line (request 2, response 2)"),
        ("io_uring-send-recv", "recv"): ("missed", "no line"),
        ("io_uring-write-read", "send"): ("missed", "no line (request 2, response 2)"),
        ("io_uring-write-read", "recv"): ("missed", "no line"),
    },
}

# The kernels that have it. On all others it must be present.
OPTIONS = {"mptcp": "CONFIG_MPTCP", "ktls": "CONFIG_TLS"}
SINCE = {
    "io_uring-send-recv": (5, 6),
    "io_uring-write-read": (5, 6),
    "mptcp": (5, 6),
}


# Since this release the kernel may skip the probe (docs/notes/probe.md); the doctor reports it.
SKIPS_SINCE = (7, 0)


def test_the_machine(examination: Examination) -> None:
    machine = examination.document["machine"]
    assert machine["kernel"].startswith(find_guest(examination.guest).kernel)
    assert machine["btf"] is machine["headers"] is machine["ring_buffer"] is machine["root"] is True
    assert machine["bcc"]
    assert machine["bpftrace"]
    assert "CAP_SYS_ADMIN" in machine["capabilities"]
    assert machine["routes"][examination.route] == machine["engines"]["bcc"] == "available"
    assert all(machine["functions"].values())
    assert machine["tracepoints"] == {"sys_enter": True, "sys_exit": True}


def test_the_run(examination: Examination) -> None:
    (run,) = examination.document["runs"]
    assert run["error"] is None
    assert run["route"] == examination.route
    assert any("seen" in line for line in run["messages"])
    assert examination.document["format"] == 1
    names = {(row["group"], row["name"], row["end"]) for row in examination.document["cases"]}
    groups = {"path": PATHS, "socket": SOCKETS}
    assert names == {
        (group, name, end)
        for group, cases in groups.items()
        for name in cases
        for end in ("send", "recv")
    }


@pytest.mark.parametrize("name", [*PATHS, *SOCKETS])
def test_case(examination: Examination, name: str) -> None:
    rows = {row["end"]: row for row in examination.document["cases"] if row["name"] == name}
    for end in ("send", "recv"):
        row = rows[end]
        lacks = name in OPTIONS and OPTIONS[name] not in examination.options
        if lacks or examination.kernel < SINCE.get(name, (0, 0)):
            assert row["result"] == "unavailable", row
            continue
        if (name, examination.route) == UNORDERED and row["result"] in ("partial", "wrong"):
            assert "paired" in row["reason"], row
            assert "body" not in row["reason"], row
            continue
        if "skipped the probe" in row["reason"]:
            assert examination.kernel >= SKIPS_SINCE
            assert row["result"] in ("partial", "missed"), row
            assert row["worse"] is False, row
            continue
        result, reason = LESS_ON[examination.route].get((name, end), ("captured", ""))
        assert row["result"] == result, row
        assert row["reason"].partition(":")[0] == reason, row
        assert row["worse"] is False, row


def test_hardly_any_call_is_skipped(examination: Examination) -> None:
    rows = examination.document["cases"]
    assert sum("skipped the probe" in row["reason"] for row in rows) <= len(rows) // 10


def test_the_verdict(examination: Examination) -> None:
    worse = [row for row in examination.document["cases"] if row["worse"]]
    assert examination.document["ok"] == (not worse)
    assert examination.exit_code == (1 if worse else 0)


def test_not_root(guest: Guest) -> None:
    done = guest.exec("http-profiler doctor", check=False, timeout=120)
    assert done.returncode == 1
    assert "kernel " in done.stdout
    assert done.stdout.count("run `sudo http-profiler doctor`") == len(ROUTES)
    assert done.stderr == ""
