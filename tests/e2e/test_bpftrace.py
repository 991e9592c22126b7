# SPDX-License-Identifier: Apache-2.0
"""The light engine: its lines are right, its gaps are reported, and both engines agree.

bpftrace needs half a minute to start in an emulated guest, so most tests share one capture.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, continued, stopped, traffic
from tests.e2e.test_capture import url_of
from tests.e2e.test_ending import PROFILER, accounts
from tests.e2e.test_trouble import fails


@dataclass
class Watch:
    """Both engines running in one guest, and a server that was started before them."""

    guest: Guest
    light: Capture
    other: Capture
    server: dict[str, Any]

    def exchange(self, url: str) -> dict[tuple[str, str], Record]:
        """Wait for the light engine's four lines of one exchange: (type, direction) -> record."""
        lines = self.light.wait_for(lambda r: url_of(r) == url, 4)
        assert len(lines) == 4
        return {(r["type"], r["direction"]): r for r in lines}


@pytest.fixture(scope="module")
def watch(guest: Guest) -> Iterator[Watch]:
    with (
        background(guest, "serve") as (_, server),
        Capture(guest, "--engine", "bpftrace", output="/tmp/light.jsonl") as light,
        Capture(guest, output="/tmp/other.jsonl") as other,
    ):
        assert "syscall route" in light.said
        yield Watch(guest, light, other, server)


def test_both_sides_of_an_exchange(watch: Watch, token: str) -> None:
    url = f"/{token}"
    client = traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], f"POST:{url}:300")
    for (kind, direction), line in watch.exchange(url).items():
        role = "client" if (kind == "request") == (direction == "send") else "server"
        process = client if role == "client" else watch.server
        ports = (client["port"], watch.server["port"])
        assert line["role"] == role
        assert line["pid"] == process["pid"]
        if role == "client":  # a thread of the server: Python 3.14 names it
            assert line["comm"] == "python3"
        assert line["cmdline"].startswith("python3 /tmp/traffic.py")
        assert line["source_ip"] == line["dest_ip"] == "127.0.0.1"
        assert (line["source_port"], line["dest_port"]) == (
            ports if kind == "request" else ports[::-1]
        )
        assert len(line["body"]) == 300
        assert line["bytes"] == line["captured"]
        assert "incomplete" not in line
        if kind == "request":
            assert (line["method"], line["url"]) == ("POST", url)
        else:
            assert line["status_code"] == 200
        assert line["syscall"] in ("sendto" if direction == "send" else "recvfrom", "read")


def test_ipv6(watch: Watch, token: str) -> None:
    client = traffic(watch.guest, "requests", "::1", watch.server["port"], f"GET:/{token}")
    for line in watch.exchange(f"/{token}").values():
        assert line["source_ip"] == line["dest_ip"] == "::1"
        assert {line["source_port"], line["dest_port"]} == {client["port"], watch.server["port"]}


def test_every_byte_value_is_right(watch: Watch, token: str) -> None:
    traffic(watch.guest, "every_byte", token)
    said = watch.guest.exec(["bpftrace", "--version"]).stdout
    exact = int(said.split(".")[1]) >= 17  # older versions print some bytes ambiguously
    lines = watch.exchange(f"/{token}")
    for direction in ("send", "recv"):
        request = lines["request", direction]
        if exact or "incomplete" not in request:
            assert base64.b64decode(request["body"]) == bytes(range(256)) + rb"\x00\xff\\x41"
        else:
            assert request["incomplete"] == ["lost"]


def test_reports_a_long_body_and_the_next_message_is_right(watch: Watch, token: str) -> None:
    specs = [f"POST:/{token}/big:20000", f"GET:/{token}/next?size=5"]
    traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], *specs)
    sent = bytes(97 + i % 26 for i in range(20000)).decode()
    for line in watch.exchange(f"/{token}/big").values():
        assert line["incomplete"] == ["body_limit"]
        assert sent.startswith(line["body"])
        assert line["bytes"] > 20000 > line["captured"]
    following = watch.exchange(f"/{token}/next?size=5")
    assert following["response", "recv"]["body"] == following["response", "send"]["body"] == "xxxxx"
    assert all("incomplete" not in line for line in following.values())


def test_http2_whose_server_speaks_first(watch: Watch, token: str) -> None:
    traffic(watch.guest, "http2", token)
    for number in range(3):
        lines = watch.exchange(f"/{token}/{number}")
        assert lines["response", "recv"]["body"] == f"answer {number}"
        assert all("incomplete" not in line for line in lines.values())


def test_every_hooked_syscall(watch: Watch, token: str) -> None:
    traffic(watch.guest, "syscalls", token)
    pairs = {"write": "read", "writev": "readv", "sendto": "recvfrom", "sendmsg": "recvmsg"}
    for send, receive in pairs.items():
        for (_, direction), line in watch.exchange(f"/{token}/{send}").items():
            assert line["syscall"] == (send if direction == "send" else receive)
            assert line["body"] == "b" * 300, (send, line)
            assert "incomplete" not in line


def test_peeked_bytes_are_not_data(watch: Watch, token: str) -> None:
    traffic(watch.guest, "peek", token)
    lines = watch.exchange(f"/{token}")
    assert lines["request", "recv"]["bytes"] == lines["request", "send"]["bytes"]


def test_one_byte_at_a_time(watch: Watch, token: str) -> None:
    traffic(watch.guest, "bytewise", token)
    lines = watch.exchange(f"/{token}")
    assert lines["request", "recv"]["headers"] == {"host": "x"}


def test_reports_a_message_that_is_cut_off(watch: Watch, token: str) -> None:
    traffic(watch.guest, "cut_off", token)
    lines = watch.exchange(f"/{token}")
    assert {(line["source_port"], line["dest_port"]) for line in lines.values()} == {
        (line["dest_port"], line["source_port"]) for line in lines.values()
    }
    for direction in ("send", "recv"):
        assert lines["request", direction]["incomplete"] == ["closed_early"]
        assert lines["response", direction]["body"] == "until the end"


def test_other_protocols_leave_no_line(watch: Watch, token: str) -> None:
    traffic(watch.guest, "noise", token)
    after = f"/after-{token}"
    traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], f"GET:{after}")
    watch.exchange(after)
    stray = [r for r in watch.light.records() if token in r["raw_payload"] and url_of(r) != after]
    assert stray == []


def test_both_engines_agree(watch: Watch, token: str) -> None:
    """Two programs in two languages, one on functions and one on system calls: the same lines."""
    where = ("127.0.0.1", watch.server["port"])
    specs = [f"GET:/{token}/r/1", f"POST:/{token}/r/2:3000", f"DELETE:/{token}/r/3"]
    traffic(watch.guest, "requests", *where, *specs[:2])
    traffic(watch.guest, "syscalls", f"{token}/s")
    traffic(watch.guest, "threads", f"{token}/t", 10)
    count = 2 * (2 + 4 + 10)

    def requests(capture: Capture) -> list[tuple[Any, ...]]:
        lines = capture.wait_for(
            lambda r: r["type"] == "request" and r["url"].startswith(f"/{token}/"), count
        )
        assert len(lines) == count
        keys = ("method", "url", "pid", "comm", "direction", "source_ip", "source_port",
                "dest_ip", "dest_port", "syscall", "socket", "netns", "bytes")  # fmt: skip
        return sorted(tuple(line[key] for key in keys) for line in lines)

    assert requests(watch.light) == requests(watch.other)


def test_the_end(watch: Watch) -> None:
    """The last test with this fixture: it stops the light engine."""
    said = watch.light.stop("TERM")
    assert watch.light.exit_code == 0
    assert "do not add up" not in said
    assert set(accounts(said)) == {"send", "recv"}
    for seen_calls, seen_bytes, *fates in accounts(said).values():
        assert seen_calls == fates[0] + fates[2] + fates[4] > 0
        assert seen_bytes == fates[1] + fates[3] + fates[5] > 0
        assert fates[4:] == [0, 0]
    for reason in ("not_http", "not_stream", "call_limit"):
        assert reason in said
    # Nothing remains.
    assert watch.guest.exec("pgrep -x bpftrace", check=False).stdout == ""
    assert watch.guest.exec("sudo sh -c 'ls -d /tmp/http-profiler-*'", check=False).stdout == ""


def test_filters_and_loss(guest: Guest, token: str) -> None:
    """The profiler is paused while more lines are printed than the pipe and ring can hold."""
    with background(guest, "serve") as (_, wanted), background(guest, "serve") as (_, other):
        options = ("--engine", "bpftrace", "--ring-size", "65536", "--port", str(wanted["port"]))
        pids = ("--pid", str(wanted["pid"]), "--pid", str(other["pid"]))
        # bpftrace cannot apply these filters.
        late = ("--user", str(wanted["uid"]), "--address", "127.0.0.0/8")
        with Capture(guest, *options, *pids, *late) as capture:
            where = ("127.0.0.1", wanted["port"])
            traffic(guest, "requests", "127.0.0.1", other["port"], f"GET:/{token}/other")
            traffic(guest, "requests", "::1", wanted["port"], f"GET:/{token}/other-address")
            traffic(guest, "requests", *where, f"GET:/{token}/before")
            capture.wait_for(lambda r: url_of(r) == f"/{token}/before", 2)
            stopped(guest)
            traffic(guest, "requests", *where, *[f"POST:/{token}/{n}:600" for n in range(300)])
            continued(guest)
            after = f"/{token}/after"
            traffic(guest, "requests", *where, f"GET:{after}")
            capture.wait_for(lambda r: r.get("request", {}).get("url") == after, 1)
            said = capture.stop()
            records = capture.records()

    assert capture.exit_code == 0
    assert re.search(r"lost \d+/\d+ \(ring_full \d+/\d+\)", said), said
    assert "do not add up" not in said
    assert {r["pid"] for r in records} == {wanted["pid"]}
    assert "port " in said and "pid " in said
    assert "bpftrace cannot filter by --user, --address: applied to whole messages" in said
    assert "left out 2 messages (--address 2)" in said
    # Lost messages are missing or marked; whole messages are right.
    sent = bytes(97 + i % 26 for i in range(600)).decode()
    whole = [r for r in records if "incomplete" not in r and "POST" in str(r)]
    assert 0 < len(whole) < 600
    assert all(r["body"] == sent for r in whole if url_of(r) not in (after, f"/{token}/before"))
    # If the end was lost too, nothing reported it before the capture ended.
    reasons = {reason for r in records for reason in r.get("incomplete", ())}
    assert reasons <= {"lost", "closed_early"}
    following = [r for r in records if url_of(r) == after]
    assert len(following) == 2 and all("incomplete" not in r for r in following)


def test_bpftrace_ends_when_the_profiler_is_killed(guest: Guest) -> None:
    with Capture(guest, "--engine", "bpftrace"):
        guest.exec(f"sudo pkill -KILL -f '{PROFILER}'")
        wait = "for i in $(seq 100); do pgrep -x bpftrace > /dev/null || exit 0; sleep 0.1; done"
        guest.exec(f"{wait}; exit 1")


def test_trouble(guest: Guest) -> None:
    command = "http-profiler --engine bpftrace"
    assert "sudo http-profiler" in fails(guest, command)
    assert "only the syscall route" in fails(guest, f"sudo {command} --route socket")
    with_path = "sudo env PATH={} /opt/http-profiler/bin/" + command
    assert "install your distribution's package" in fails(guest, with_path.format("/nowhere"))
    for version, said in (("v0.9.4", "0.9 is too old"), ("what", "does not report its version")):
        script = f"printf '#!/bin/sh\necho bpftrace {version}' > /tmp/b/bpftrace"
        guest.exec(f"mkdir -p /tmp/b; {script}; chmod +x /tmp/b/bpftrace")
        assert said in fails(guest, with_path.format("/tmp/b:/usr/bin:/bin"))
    line = fails(guest, f"sudo setpriv --bounding-set=-all --inh-caps=-all {command}")
    log = re.search(r"the whole log: (\S+)\)", line)
    assert log is not None, line
    assert guest.exec(["sudo", "cat", log[1]]).stdout


@pytest.mark.parametrize("engine", ["bcc", "bpftrace"])
def test_the_program_is_printed_without_root(guest: Guest, engine: str) -> None:
    text = guest.exec(f"http-profiler probe --engine {engine}").stdout
    assert ("tracepoint:raw_syscalls:sys_exit" in text) == (engine == "bpftrace")
    assert ("ringbuf_output" in text) == (engine == "bcc")
