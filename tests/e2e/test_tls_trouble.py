# SPDX-License-Identifier: Apache-2.0
"""Trouble with TLS libraries and their processes: one line each, and the capture continues."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from provisioning import Guest
from provisioning.capture import Record
from tests.e2e.capture import Capture
from tests.e2e.conftest import background, traffic
from tests.e2e.scenario import serving
from tests.e2e.test_capture import url_of
from tests.e2e.test_ending import accounts
from tests.e2e.test_tls import BLOCKING, HOME, curl, prepare
from tests.e2e.test_tls_uncaptured import wait_for

pytestmark = pytest.mark.one_guest("debian-12")

KINDS, ROLES = ("request", "response"), ("client", "server")
SERVER = f"https://127.0.0.1:{BLOCKING}"
WAITING = f"python3 {HOME}/waiting.py"
PROGRAMS = f"python3 {HOME}/programs.py"


@pytest.fixture(scope="module", autouse=True)
def server(guest: Guest) -> Iterator[None]:
    prepare(guest)
    with serving(guest, {f"{PROGRAMS} serve {BLOCKING}": (BLOCKING,)}):
        yield


@pytest.fixture
def library(guest: Guest, token: str) -> str:
    """The path of a copy of OpenSSL, in a directory of its own."""
    directory = f"{HOME}/{token}"
    guest.exec(f"mkdir {directory} && cp /usr/lib/*/libssl.so.3 {directory}")
    return f"{directory}/libssl.so.3"


@contextmanager
def calling(guest: Guest, library: str, url: str, before: str = "") -> Iterator[int]:
    """Send requests on one connection until the block ends; yield the pid.

    The process has mapped the library then. ``before`` is a command that runs this one.
    """
    directory, end = library.rpartition("/")[0], f"{HOME}/{url.replace('/', '-')}.end"
    call = f"{PROGRAMS} call_until https://127.0.0.1:{BLOCKING}{url} {end}"
    command = f"exec {before} env LD_LIBRARY_PATH={directory} {call}"
    with guest.popen(command, stderr=None) as client:
        started = f"pid=$(pgrep -f '^{call}') && grep -q {library} /proc/$pid/maps"
        waiting = f"until {started}; do sleep 0.1; done; echo $pid"
        yield int(guest.exec(waiting, timeout=60).stdout)
        guest.exec(["touch", end])
        assert client.wait(60) == 0


def check_new_exchanges(capture: Capture, url: str) -> None:
    """Wait for four new lines of a client; they and the server's have one connection."""

    def is_of_client(record: Record) -> bool:
        return url_of(record) == url and record["role"] == "client"

    known = sum(map(is_of_client, capture.records()))
    capture.wait_for(is_of_client, known + 4)
    lines = [line for line in capture.records() if url_of(line) == url]
    assert {line["role"] for line in lines} == {"client", "server"}
    assert len({line["connection"] for line in lines}) == 1
    for line in lines:
        assert "incomplete" not in line
        assert line["dest_port" if line["type"] == "request" else "source_port"] == BLOCKING


def check_exchange(lines: list[Record]) -> None:
    """Both ends have two whole lines, of one connection."""
    ends = sorted((line["type"], line["role"]) for line in lines)
    assert ends == [(kind, role) for kind in KINDS for role in ROLES]
    assert not [line for line in lines if "incomplete" in line]
    assert len({line["connection"] for line in lines}) == 1


def check_account(said: str) -> None:
    """Nothing is lost, at sockets and in libraries, and every call has a fate."""
    sides = accounts(said)
    assert len(sides) == 4
    for calls, size, *fates in sides.values():
        assert fates[4:] == [0, 0]
        assert (calls, size) == (sum(fates[::2]), sum(fates[1::2]))


def maps(guest: Guest, pid: int, library: str) -> str:
    """Return how the process has mapped the library: the last words of each mapping."""
    return guest.exec(f"grep -o '{library}.*' /proc/{pid}/maps").stdout


def test_a_library_that_is_replaced_while_it_is_used(
    guest: Guest, token: str, library: str
) -> None:
    """As an update does. Its processes keep the old file, and new ones get another inode."""
    old, new = f"/{token}/old", f"/{token}/new"
    with Capture(guest, "--tls", "--no-redact") as capture, calling(guest, library, old) as first:
        check_new_exchanges(capture, old)
        guest.exec(f"cp {library} {library}.new && mv {library}.new {library}")
        with calling(guest, library, new) as second:
            assert "(deleted)" in maps(guest, first, library)
            assert "(deleted)" not in maps(guest, second, library)
            check_new_exchanges(capture, new)
            check_new_exchanges(capture, old)
        said = capture.stop()
    assert "not probed" not in said


def test_a_library_that_was_deleted(guest: Guest, token: str, library: str) -> None:
    url = f"/{token}"
    with calling(guest, library, url) as pid:
        guest.exec(["rm", library])
        assert "(deleted)" in maps(guest, pid, library)
        with Capture(guest, "--tls", "--no-redact") as capture:
            check_new_exchanges(capture, url)
            said = capture.stop()
    assert "not probed" not in said


def test_a_kernel_that_refuses_all_uprobes(guest: Guest, token: str, library: str) -> None:
    """The service of the package has fewer capabilities, too."""
    problem = r"TLS libraries cannot be probed: Permission denied \(CAP_SYS_ADMIN is needed\)"
    rights = ("setpriv", "--bounding-set=-sys_admin")
    with (
        background(guest, "serve") as (_, plain),
        Capture(guest, "--tls", "--no-redact", before=rights) as capture,
        calling(guest, library, f"/{token}/tls"),
    ):
        assert wait_for(capture, problem) == {problem: ["python3", "python3"]}
        traffic(guest, "requests", "127.0.0.1", plain["port"], f"GET:/{token}/plain")
        lines = capture.wait_for(lambda record: token in (url_of(record) or ""), 4)
        said = capture.stop()
    assert {url_of(line) for line in lines} == {f"/{token}/plain"}
    assert said.count("not probed") == 1
    assert re.search(f"not probed: {problem}\n", said)


def test_a_program_that_runs_another_one(guest: Guest, token: str, library: str) -> None:
    """Its number has called a library, but the library of the second one is not known yet."""
    before, url = f"/{token}/before", f"/{token}"
    run = f"{PROGRAMS} call_and_run {SERVER}{before}"
    with Capture(guest, "--tls", "--no-redact") as capture, calling(guest, library, url, run):
        check_exchange(capture.wait_for(lambda record: url_of(record) == before, 4))
        check_new_exchanges(capture, url)


KILLED = f"sudo setarch --addr-no-random {WAITING}"


def test_a_process_that_is_killed_while_it_reads(guest: Guest, token: str) -> None:
    """Another one has the same number, and the same address of the session."""
    waiting, answered = f"/{token}/wait", f"/{token}/echo"
    with Capture(guest, "--tls", "--no-redact") as capture:
        command = f"{KILLED} kill_a_reader {SERVER}{waiting} {SERVER}{answered}"
        guest.exec(command, timeout=120)
        lines = capture.wait_for(lambda record: url_of(record) == answered, 4)
        first = capture.wait_for(lambda record: url_of(record) == waiting, 4)
        check_account(capture.stop())
    check_exchange(lines)
    assert {line["type"] for line in first if "incomplete" not in line} == {"request"}
    clients = {line["pid"] for line in [*lines, *first] if line["role"] == "client"}
    assert len(clients) == 1


def test_processes_that_are_killed_while_they_write(guest: Guest, token: str) -> None:
    urls = [f"/{token}/{number}" for number in range(5)]
    with Capture(guest, "--tls", "--no-redact") as capture:
        guest.exec(f"{KILLED} kill_writers {' '.join(SERVER + url for url in urls)}", timeout=120)
        guest.exec(curl("-d x", BLOCKING, f"/{token}"))
        lines = capture.wait_for(lambda record: url_of(record) == f"/{token}", 4)
        killed = capture.wait_for(lambda record: record.get("url") in urls, 10)
        check_account(capture.stop())
    check_exchange(lines)
    for line in killed:
        # A client that has not read the server's tickets yet resets the connection when it ends.
        reasons = ("exited", "reset") if line["role"] == "client" else ("closed_early",)
        assert len(line["incomplete"]) == 1
        assert line["incomplete"][0] in reasons
        # The server may have read the head only.
        assert set(line["body"]) | {"x"} == {"x"}


# The lies of tls/lies.py, and how the reason begins; empty if .eh_frame has the truth.
LIES = {
    "data": "SSL_read: its code is not in the file",
    "beyond": "SSL_read: its code is not in the file",
    "short": "SSL_read_ex: ",
    "long": "SSL_read_ex: it is too long to decode",
    "none": "",
    "sections": "malformed: its sections cannot be parsed",
}
# The client's functions are not probed.
HIDING = ("short", "long", "sections")


def test_libraries_that_lie_about_their_symbols(guest: Guest, token: str, library: str) -> None:
    """Their processes live on; all else is captured."""
    directory = library.rpartition("/")[0]
    guest.exec(f"/opt/http-profiler/bin/python {HOME}/lies.py {library} {directory}")
    with ExitStack() as running:
        clients = []
        for lie in LIES:
            call = f"{WAITING} exchange_within {SERVER}/{token}/{lie} 0"
            command = f"LD_LIBRARY_PATH={directory}/{lie} exec {call}"
            client = guest.popen(command, stdin=subprocess.PIPE, stderr=None)
            clients.append(running.enter_context(client))
        # They wait for a line, and have the library.
        mapped = f"sudo cat /proc/*/maps | grep -c 'r-x.*{directory}'"
        waiting = f"until [ $({mapped}) = {len(LIES)} ]; do sleep 0.2; done"
        guest.exec(waiting, timeout=120)
        _, plain = running.enter_context(background(guest, "serve"))
        capture = running.enter_context(Capture(guest, "--tls", "--no-redact"))
        for client in clients:
            client.process.stdin.close()
            assert client.wait(60) == 0
        for url in (f"{SERVER}/{token}/tls", f"http://127.0.0.1:{plain['port']}/{token}/plain"):
            guest.exec(f"curl -sSk -o /dev/null -d x {url}")
        names = [*(lie for lie in LIES if lie not in HIDING), "tls", "plain"]
        for name in names:
            url = f"/{token}/{name}"
            check_exchange(capture.wait_for(lambda record, url=url: url_of(record) == url, 4))
        said = capture.stop()
    problems = re.findall(rf"not probed: {directory}/(\w+)/libssl.so.3: (.*)", said)
    assert len(problems) == said.count("not probed")
    assert sorted(lie for lie, _ in problems) == sorted(lie for lie in LIES if LIES[lie])
    assert all(reason.startswith(LIES[lie]) for lie, reason in problems), problems
    check_account(said)
