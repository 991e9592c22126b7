# SPDX-License-Identifier: Apache-2.0
"""Known traps of similar tools, one test each.

Many are cases of the doctor's canary, which runs through both routes
(profiler/commands/doctor/cases.py); here they carry the name of the trap. More are in
test_capture.py, which reuses its captures for them.
"""

from __future__ import annotations

import pytest

from provisioning import Guest
from provisioning.catalog import find_guest
from provisioning.errors import GuestError
from tests.e2e.capture import Capture
from tests.e2e.conftest import UNORDERED, Examination, traffic
from tests.e2e.test_capture import url_of

# Trap -> the canary's cases that would show it, and their expected results.
CASES = {
    "a_buffer_copied_at_entry_makes_data_of_eagain_and_partial_writes": {
        "eagain": "captured",
        "partial-writes": "captured",
    },
    "peeked_bytes_counted_twice": {"peek": "captured"},
    "discarded_and_urgent_bytes_are_not_stream_data": {"trunc": "partial", "oob": "captured"},
    "sendfile_and_splice_must_advance_the_stream": {
        "sendfile": "partial",
        "splice-to-socket": "partial",
        "splice-from-socket": "partial",
    },
    "segments_are_clamped_by_the_result": {
        "writev-readv": "captured",
        "sendmsg-recvmsg": "captured",
        "empty-segments": "captured",
    },
    "beyond_the_loop_the_stream_still_advances": {"many-segments": "partial"},
    "two_threads_on_one_socket": {"threads": "captured"},
    "state_by_descriptor_outlives_the_descriptor": {"reused": "captured", "dup": "captured"},
    "a_short_lived_process_is_gone": {"gone": "captured"},
    "a_first_read_of_one_byte": {"bytewise": "captured"},
}


@pytest.mark.parametrize("trap", CASES)
def test_trap(examination: Examination, trap: str) -> None:
    """A partial case has both messages after its hole: the stream resumed at the right position."""
    for name, expected in CASES[trap].items():
        rows = [row for row in examination.document["cases"] if row["name"] == name]
        results = {row["result"] for row in rows}
        if (name, examination.route) == UNORDERED:
            assert "missed" not in results, rows
            continue
        assert len(rows) == 2, name
        # Calls that skipped the probe are checked in test_doctor.py, end by end.
        seen = [row for row in rows if "skipped the probe" not in row["reason"]]
        results = {row["result"] for row in seen}
        assert results <= {expected, "captured"}, rows
        assert expected in results or len(seen) < len(rows), rows
        assert not any(row["worse"] for row in rows), rows


def test_per_cpu_buffers_reorder(guest: Guest, token: str) -> None:
    """The perf buffer, for kernels before 5.8, is one buffer per CPU."""
    with Capture(guest, "--buffer", "perf") as capture:
        assert "perf buffer" in capture.said
        traffic(guest, "threads", token, 20)
        lines = capture.wait_for(lambda r: (url_of(r) or "").startswith(f"/{token}/"), 80)
    assert len(lines) == 80
    answers = [r for r in lines if r["type"] == "response"]
    assert all(r["request"]["url"] == f"/{token}/{r['body']}" for r in answers)
    assert all(r["latency_ms"] >= 0 for r in answers)


@pytest.mark.thorough
@pytest.mark.one_guest("debian-12")
def test_the_headers_replace_missing_btf(guest: Guest, token: str) -> None:
    """As on Ubuntu 20.04's 5.4: offsets from the headers, and the perf buffer."""
    options = ("--types", "headers", "--buffer", "perf")
    if int(find_guest(guest.name.partition("@")[0]).kernel.split(".")[0]) >= 7:
        # BCC cannot compile these headers; such a kernel has BTF.
        with pytest.raises(GuestError, match="the kernel's headers cannot be read on Linux 7"):
            Capture(guest, *options).__enter__()
        return
    with Capture(guest, *options) as capture:
        assert "syscall route" in capture.said
        traffic(guest, "syscalls", token)
        lines = capture.wait_for(lambda r: (url_of(r) or "").startswith(f"/{token}/"), 16)
        said = capture.stop()
    assert all(r["body"] == "b" * 300 and "incomplete" not in r for r in lines)
    assert all(r["source_ip"] == "127.0.0.1" for r in lines)
    assert "do not add up" not in said
