# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.matrix import Seen, collect, page, selection, the_range

JUNIT = """<testsuites><testsuite>
<testcase classname="tests.e2e.test_capture" name="test_ipv6[socket-debian-12]"/>
<testcase classname="tests.e2e.test_capture" name="test_ipv6[syscall-debian-12]">
  <failure message="no"/></testcase>
<testcase classname="tests.e2e.test_trouble" name="test_not_root[debian-12]"/>
<testcase classname="tests.e2e.test_doctor" name="test_case[socket-debian-12-peek]">
  <skipped/></testcase>
<testcase classname="tests.e2e.test_capture" name="test_ipv6[socket-debian-13]"/>
<testcase classname="tests.e2e.test_playbook" name="test_a_second_run_changes_nothing"/>
</testsuite></testsuites>"""


def row(name: str, end: str, result: str, reason: str = "") -> dict[str, Any]:
    words = {"group": "path", "name": name, "what": f"the {name}"}
    return {**words, "end": end, "result": result, "reason": reason}


def document(kernel: str, *rows: dict[str, Any]) -> dict[str, Any]:
    machine = {"kernel": kernel, "bcc": "0.26.0", "bpftrace": None}
    return {"machine": machine, "cases": list(rows)}


def seen(guest: str, *rows: dict[str, Any]) -> Seen:
    return Seen(guest, "2026-11-22", {"passed": 3}, [], {"socket": document("6.1.0", *rows)})


def test_each_kernel_is_there_once() -> None:
    assert the_range() == ["debian-11", "debian-12", "debian-13", "debian-14"]


def test_the_collected_results(tmp_path: Path) -> None:
    said = document("6.1.0")
    (tmp_path / "debian-12.socket.json").write_text(json.dumps(said))
    assert collect("debian-12", "today", JUNIT, tmp_path) == Seen(
        "debian-12",
        "today",
        {"passed": 2, "failed": 1, "skipped": 1},
        ["test_capture::test_ipv6[syscall-debian-12]"],
        {"socket": said},
    )


def test_a_guest_that_could_not_be_made_is_unreachable_not_failed(tmp_path: Path) -> None:
    junit = """<testsuites><testsuite>
<testcase classname="tests.e2e.test_capture" name="test_ipv6[socket-ubuntu-24.04]">
  <skipped type="pytest.skip" message="ubuntu-24.04 is unreachable: no answer within 8 s"/>
</testcase></testsuite></testsuites>"""
    found = collect("ubuntu-24.04", "today", junit, tmp_path)
    assert (found.tests, found.failures) == ({"skipped": 1}, [])
    text = page([found])
    assert text.count("ubuntu-24.04") == 1
    assert "| all | unreachable: no answer within 8 s |" in text


def test_the_page() -> None:
    captured = [row("peek", "send", "captured"), row("peek", "recv", "captured")]
    partial = [row("sendfile", "send", "partial", "lost: why"), row("sendfile", "recv", "captured")]
    text = page([seen("debian-12", *captured, *partial), seen("debian-9", *captured)])
    assert "| debian-9 | 2026-11-22 | 6.1.0 | 0.26.0 | unknown | all | 3 passed |" in text
    assert "| case | what it is | debian-9 | debian-12 |" in text
    assert "| `peek` | the peek | captured | captured |" in text
    assert "| `sendfile` | the sendfile | not run | send partial, recv captured [1] |" in text
    assert "| 1 | `sendfile` | send: lost: why | debian-12 |" in text
    assert "tox -e matrix" in text


def test_a_reason_of_both_ends_is_there_once() -> None:
    both = [row("mptcp", end, "unavailable", "no MPTCP") for end in ("send", "recv")]
    text = page([seen("debian-11", *both)])
    assert "| `mptcp` | the mptcp | unavailable [1] |" in text
    assert "| 1 | `mptcp` | no MPTCP | debian-11 |" in text


def test_failures_are_named() -> None:
    broken = Seen("debian-12", "today", {"failed": 1}, ["test_capture::test_ipv6"], {}, "-k ipv6")
    text = page([broken])
    assert "| debian-12 | today | unknown | unknown | unknown | `-k ipv6` | 1 failed |" in text
    assert "- `test_capture::test_ipv6`" in text


@pytest.mark.parametrize(
    ("arguments", "selected"),
    [
        ("-v", ""),
        ("-vv --tb=short -ra --durations 5", ""),
        ("-v -k test_doctor -s", "-k test_doctor"),
        ("tests/e2e/test_doctor.py -q", "tests/e2e/test_doctor.py"),
        # An unknown option may select tests.
        ("--lf", "--lf"),
        # Not -v and a word.
        ("--verbosity-of-ours", "--verbosity-of-ours"),
    ],
)
def test_display_options_are_no_selection(arguments: str, selected: str) -> None:
    assert selection(arguments.split()) == selected.split()
    text = page([Seen("debian-12", "today", {"passed": 1}, [], {}, arguments)])
    assert f"| {f'`{selected}`' if selected else 'all'} | 1 passed |" in text


def test_a_selection_of_several_words_stays_one() -> None:
    several = Seen("debian-12", "today", {"passed": 1}, [], {}, "-v -k 'this or that'")
    assert "| `-k 'this or that'` | 1 passed |" in page([several])
