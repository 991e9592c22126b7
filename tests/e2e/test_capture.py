# SPDX-License-Identifier: Apache-2.0
"""Every message of real traffic on a real kernel becomes the right line, on both routes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import pytest

from profiler.ingest.probe.macros import OWN_PLACES
from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture, skipped_calls
from tests.e2e.conftest import ROUTES, background, held, traffic

pytestmark = pytest.mark.one_guest("debian-13")


@dataclass
class Watch:
    """A profiler that watches a guest, and the servers that ran before it started."""

    guest: Guest
    capture: Capture
    route: str
    server: dict[str, Any]
    early_port: int
    go_on: Callable[[], None]
    go_on_http2: Callable[[], None]

    def exchange(self, url: str) -> dict[tuple[str, str], Record]:
        """Wait for the four lines of one exchange: (type, direction) -> record."""
        lines = self.capture.wait_for(lambda r: url_of(r) == url, 4)
        assert len(lines) == 4
        return {(r["type"], r["direction"]): r for r in lines}


def url_of(record: Record) -> str | None:
    return record.get("url") or record.get("request", {}).get("url")


def nanoseconds(timestamp: str) -> int:
    whole, fraction = timestamp.rstrip("Z").split(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc)
    return int(moment.timestamp()) * 10**9 + int(fraction)


@pytest.fixture(scope="module", params=ROUTES)
def watch(guest: Guest, request: pytest.FixtureRequest) -> Iterator[Watch]:
    route = request.param
    with (
        background(guest, "serve") as (_, server),
        held(guest, "early", "127.0.0.1", server["port"], "/before", "/after") as (early, go_on),
        held(guest, "http2", "early", "wait") as (_, go_on_http2),
        Capture(guest, "--route", route) as capture,
    ):
        assert f"{route} route" in capture.said
        yield Watch(guest, capture, route, server, early["port"], go_on, go_on_http2)


def test_both_sides_of_an_exchange(watch: Watch, token: str) -> None:
    url = f"/{token}"
    client = traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], f"POST:{url}:500")
    lines = watch.exchange(url)
    body = bytes(97 + i % 26 for i in range(500)).decode()

    for (kind, direction), line in lines.items():
        sides = {("request", "send"): "client", ("response", "recv"): "client"}
        role = sides.get((kind, direction), "server")
        process = client if role == "client" else watch.server
        to_server = kind == "request"
        assert line["role"] == role
        assert line["pid"] == process["pid"]
        # The thread's name: since Python 3.14 a server's threads have their own.
        assert line["comm"] == "python3" or (
            role == "server" and line["comm"].startswith("Thread-")
        )
        assert line["cmdline"].startswith("python3 /tmp/traffic.py")
        assert ("serve" in line["cmdline"]) == (role == "server")
        assert line["source_ip"] == line["dest_ip"] == "127.0.0.1"
        ports = (client["port"], watch.server["port"])
        assert (line["source_port"], line["dest_port"]) == (ports if to_server else ports[::-1])
        assert client["before"] <= nanoseconds(line["timestamp"]) <= client["after"]
        assert line["http_version"] == "1.1"
        assert line["body"] == body
        assert line["raw_payload"].endswith("\r\n\r\n" + body)
        assert line["bytes"] == line["captured"] == len(line["raw_payload"])
        assert "incomplete" not in line
        if to_server:
            assert (line["method"], line["url"]) == ("POST", url)
            assert line["headers"]["x-test"] == "yes"
        else:
            assert (line["status_code"], line["reason"]) == (200, "OK")
            assert line["headers"]["content-length"] == "500"
            host = f"127.0.0.1:{watch.server['port']}"
            assert line["request"] == {"method": "POST", "url": url, "host": host}
            assert 0 < line["latency_ms"] <= line["duration_ms"] < 60_000

    # One exchange as each process saw it, each on its own socket.
    ids = {
        role: {r["exchange"] for r in lines.values() if r["role"] == role}
        for role in sides.values()
    }
    assert len(ids["client"]) == 1
    assert lines["request", "send"]["socket"] != lines["request", "recv"]["socket"]
    # The request is received after it was sent, the response after the request.
    order = [("request", "send"), ("request", "recv"), ("response", "send"), ("response", "recv")]
    times = [nanoseconds(lines[each]["timestamp"]) for each in order]
    assert times[0] < times[3]
    assert times[1] < times[2]


def test_two_requests_on_one_connection(watch: Watch, token: str) -> None:
    urls = [f"/{token}/1", f"/{token}/2?size=7"]
    specs = [f"GET:{url}" for url in urls]
    client = traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], *specs)
    first, second = (watch.exchange(url) for url in urls)
    assert first["response", "recv"]["body"] == "xx"
    assert second["response", "recv"]["body"] == "xxxxxxx"
    for key in first:
        assert first[key]["socket"] == second[key]["socket"]
        assert first[key]["exchange"] != second[key]["exchange"]
    assert second["request", "send"]["source_port"] == client["port"]


def test_ipv6(watch: Watch, token: str) -> None:
    client = traffic(watch.guest, "requests", "::1", watch.server["port"], f"GET:/{token}")
    for line in watch.exchange(f"/{token}").values():
        assert line["source_ip"] == line["dest_ip"] == "::1"
        assert {line["source_port"], line["dest_port"]} == {client["port"], watch.server["port"]}


def test_a_body_of_100_kib_is_whole(watch: Watch, token: str) -> None:
    size = 100 * 1024
    specs = [f"POST:/{token}/up:{size}", f"GET:/{token}/down?size={size}"]
    traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], *specs)
    sent = bytes(97 + i % 26 for i in range(size)).decode()
    for line in watch.exchange(f"/{token}/up").values():
        assert line["body"] == sent
        assert "incomplete" not in line
    down = watch.exchange(f"/{token}/down?size={size}")
    assert down["response", "send"]["body"] == down["response", "recv"]["body"] == "x" * size


def test_a_connection_from_before_the_profiler(watch: Watch) -> None:
    watch.go_on()
    lines = watch.exchange("/after")
    assert lines["request", "send"]["source_port"] == watch.early_port
    assert lines["request", "recv"]["pid"] == watch.server["pid"]
    assert lines["response", "recv"]["body"] == "xx"
    assert not [r for r in watch.capture.records() if url_of(r) == "/before"]


def test_http2_whose_server_speaks_first(watch: Watch, token: str) -> None:
    traffic(watch.guest, "http2", token)
    for number in range(3):
        lines = watch.exchange(f"/{token}/{number}")
        for line in lines.values():
            assert line["http_version"] == "2"
            assert line["stream"] == 2 * number + 1
            assert "incomplete" not in line
        assert lines["request", "recv"]["headers"][":authority"] == ("one", "one", "three")[number]
        assert lines["response", "recv"]["body"] == f"answer {number}"


def test_http2_from_before_the_profiler(watch: Watch) -> None:
    """Earlier traffic is not guessed: a field was added to HPACK's table before the capture."""
    watch.go_on_http2()
    pointing, plain = (watch.exchange(f"/early/{number}") for number in (1, 2))
    for direction in ("send", "recv"):
        assert ":authority" not in pointing["request", direction]["headers"]
        assert pointing["request", direction]["incomplete"] == ["unknown_header_state"]
        assert plain["request", direction]["headers"][":authority"] == "three"
        assert "incomplete" not in plain["request", direction]
        assert plain["response", direction]["body"] == "answer 2"
    assert not [r for r in watch.capture.records() if url_of(r) == "/early/0"]


def test_every_hooked_syscall(watch: Watch, token: str) -> None:
    traffic(watch.guest, "syscalls", token)
    pairs = {"write": "read", "writev": "readv", "sendto": "recvfrom", "sendmsg": "recvmsg"}
    for send, receive in pairs.items():
        lines = watch.exchange(f"/{token}/{send}")
        for (_, direction), line in lines.items():
            assert line["syscall"] == (send if direction == "send" else receive)
            assert line["body"] == "b" * 300, (send, line)
            assert "incomplete" not in line


def test_one_byte_at_a_time(watch: Watch, token: str) -> None:
    traffic(watch.guest, "bytewise", token)
    lines = watch.exchange(f"/{token}")
    assert lines["request", "recv"]["headers"] == {"host": "x"}
    assert lines["response", "recv"]["status_code"] == 204


def test_peeked_bytes_are_not_data(watch: Watch, token: str) -> None:
    traffic(watch.guest, "peek", token)
    lines = watch.exchange(f"/{token}")
    assert lines["request", "recv"]["bytes"] == lines["request", "send"]["bytes"]


def test_a_32_bit_call_is_not_taken_for_another(watch: Watch, token: str) -> None:
    if watch.guest.exec("uname -m").stdout.strip() != "x86_64":
        pytest.skip("only x86 lets a process use both tables of system calls")
    traffic(watch.guest, "narrow", token)
    lines = watch.exchange(f"/{token}")
    assert len(lines) == 4
    assert not any("incomplete" in line for line in lines.values())


def test_many_connections_at_once(watch: Watch, token: str) -> None:
    before = skipped_calls(watch.capture.account())
    traffic(watch.guest, "threads", token, 20)
    # A call that the kernel hides affects one message, and at most its response.
    hidden = 2 * (skipped_calls(watch.capture.account()) - before)
    lines = watch.capture.wait_for(
        lambda r: (url_of(r) or "").startswith(f"/{token}/"), 80 - hidden
    )
    assert len(lines) <= 80
    answers = [r for r in lines if r["type"] == "response" and not (hidden and "incomplete" in r)]
    assert all(r["request"]["url"] == f"/{token}/{r['body']}" for r in answers)
    assert len({r["body"] for r in answers}) >= 20 - hidden


def test_reports_a_message_that_is_cut_off(watch: Watch, token: str) -> None:
    traffic(watch.guest, "cut_off", token)
    lines = watch.exchange(f"/{token}")
    for direction in ("send", "recv"):
        assert lines["request", direction]["incomplete"] == ["closed_early"]
        assert lines["request", direction]["body"] == "only this"
        # Ended by closing the connection, as in HTTP/1.0: whole.
        assert lines["response", direction]["body"] == "until the end"
        assert "incomplete" not in lines["response", direction]
    # Also for data that is read after the kernel has torn down the connection.
    ports = {(line["source_port"], line["dest_port"]) for line in lines.values()}
    assert len(ports) == 2
    assert ports == {(destination, source) for source, destination in ports}


@pytest.mark.parametrize(
    ("scenario", "reasons"),
    [
        # The peer that resets a connection closes it; the other one gets the error.
        ("reset", {"send": "closed_early", "recv": "reset"}),
        # The peer that waits for more reads the end.
        ("gone", {"send": "exited", "recv": "closed_early"}),
    ],
)
def test_why_a_message_is_cut_off(
    watch: Watch, token: str, scenario: str, reasons: dict[str, str]
) -> None:
    traffic(watch.guest, scenario, token)
    lines = watch.exchange(f"/{token}")
    for direction, reason in reasons.items():
        assert lines["response", direction]["incomplete"] == [reason]
        assert lines["response", direction]["body"] == "only this"


def test_other_protocols_leave_no_line(watch: Watch, token: str) -> None:
    traffic(watch.guest, "noise", token)
    # Messages captured after the noise show that the noise has been processed.
    traffic(watch.guest, "requests", "127.0.0.1", watch.server["port"], "GET:/after-" + token)
    watch.exchange("/after-" + token)
    stray = [
        r
        for r in watch.capture.records()
        if token in r["raw_payload"] and not (url_of(r) or "").startswith("/after-")
    ]
    assert stray == []


def test_an_answer_to_what_is_not_http(watch: Watch, token: str) -> None:
    traffic(watch.guest, "refused", token)
    lines = watch.capture.wait_for(lambda line: token in str(line.get("body")), 2)
    assert {line["direction"] for line in lines} == {"send", "recv"}
    assert {line["status_code"] for line in lines} == {400}
    assert all("request" not in line for line in lines)


def test_the_client_behind_a_proxy(watch: Watch, token: str) -> None:
    traffic(watch.guest, "proxied", token)
    for version in (1, 2):
        lines = watch.exchange(f"/{token}/{version}")
        for line in lines.values():
            assert line["proxy"]["source_ip"] == "192.0.2.7"
            assert line["proxy"]["source_port"] == 4711


# Known traps, see test_traps.py.


def test_pairing_by_time_breaks_on_pipelining(watch: Watch, token: str) -> None:
    traffic(watch.guest, "pipeline", token, 6)
    lines = watch.capture.wait_for(lambda r: (url_of(r) or "").startswith(f"/{token}/"), 24)
    answers = [r for r in lines if r["type"] == "response"]
    assert len(answers) == 12
    for answer in answers:
        number = answer["body"].removeprefix("answer ")
        assert answer["request"]["url"] == f"/{token}/{number}"
        (asked,) = (
            r for r in lines if r["type"] == "request" and r["exchange"] == answer["exchange"]
        )
        assert asked["url"] == f"/{token}/{number}"


METHODS = ("PATCH", "OPTIONS", "CONNECT", "TRACE", "DELETE", "PURGE", "M-SEARCH", "a!#$%&'*+.^_`|~")


def test_a_list_of_methods_misses_some(watch: Watch, token: str) -> None:
    def ours(record: dict) -> bool:
        return record.get("headers", {}).get("host", "").startswith(token)

    traffic(watch.guest, "methods", token, *METHODS)
    lines = watch.capture.wait_for(ours, 2 * len(METHODS))
    assert sorted((r["method"], r["direction"]) for r in lines) == sorted(
        (name, direction) for name in METHODS for direction in ("send", "recv")
    )
    assert all("incomplete" not in r for r in lines)


def test_boot_time_is_not_wall_clock_time(watch: Watch, token: str) -> None:
    """The guest's clock was set after its boot: times based on the boot would be wrong."""
    traffic(watch.guest, "bytewise", token)
    line, *_ = watch.capture.wait_for(lambda r: url_of(r) == f"/{token}", 4)
    now = int(watch.guest.exec("date +%s%N").stdout)
    assert now - 600 * 10**9 < nanoseconds(line["timestamp"]) < now


def test_connections_that_share_a_place(watch: Watch, token: str) -> None:
    """The probe stores a connection at its inode's low bits, unless another one is there."""
    facts = traffic(watch.guest, "crowded", token, 3, OWN_PLACES)
    assert len(set(facts["places"])) == 1
    lines = watch.capture.wait_for(lambda r: (url_of(r) or "").startswith(f"/{token}/"), 24)
    answers = [r for r in lines if r["type"] == "response"]
    assert len(answers) == 12
    assert all(r["body"] == r["request"]["url"] for r in answers)
    assert all("incomplete" not in r for r in lines)


# Instructions of a program. The syscall route has the most, on Linux 7: 194,685.
VERIFIED = {"socket": 100_000, "syscall": 300_000}


def test_the_verifier_processes_few_instructions(watch: Watch) -> None:
    """Verification takes most of a start; the verifier rejects a million instructions."""
    pids = watch.guest.exec("pgrep -f 'http-profiler --outpu[t]'").stdout.split()
    files = [f"/proc/{pid}/fdinfo" for pid in pids]
    found = watch.guest.exec(["sudo", "grep", "-rhs", "^verified_insns:", *files], check=False)
    numbers = [int(number) for number in found.stdout.split()[1::2]]
    if not numbers:
        release = watch.guest.exec("uname -r").stdout.split(".")
        assert (int(release[0]), int(release[1])) < (5, 16)  # the first release that reports it
        return
    assert len(numbers) >= 4
    assert max(numbers) < VERIFIED[watch.route]
