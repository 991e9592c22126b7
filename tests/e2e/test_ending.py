# SPDX-License-Identifier: Apache-2.0
"""The end of a capture: clean, with every byte accounted for, and replayable."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.conftest import ROUTES, background, continued, held, stopped, traffic
from tests.records import read_record, read_records

COUNT = r"(\d+)/(\d+)"
LINE = re.compile(
    rf"((?:TLS )?(?:send|recv)) calls/bytes: seen {COUNT} = forwarded {COUNT} "
    rf"\+ filtered {COUNT}.* \+ lost {COUNT}"
)

# Matches the profiler, but not the shell that runs the search.
PROFILER = "[/]usr/bin/http-profiler"


def accounts(said: str) -> dict[str, list[int]]:
    """Return by direction: seen, forwarded, filtered and lost, each as calls and bytes.

    The directions of plain text have other keys, such as ``TLS send``.
    """
    return {m[1]: [int(n) for n in m.groups()[1:]] for m in LINE.finditer(said)}


@pytest.mark.parametrize("route", ROUTES)
def test_bodies_that_are_not_wanted_stay_in_the_kernel(
    guest: Guest, token: str, route: str
) -> None:
    """Their messages are still reported, and no other bytes are taken for such a body."""
    size = 100_000
    known = ["length", "upload", "length", "length"]
    connections = {
        "plain": known,
        "lines": ["lines", "length", "upload"],
        "long": ["long", "length"],
        # These make the kernel forward everything that follows.
        "head": ["length", "HEAD", "length", "upload"],
        "status": ["length", "304", "length", "upload"],
        "chunked": ["upload", "chunked", "length", "upload"],
    }
    with Capture(guest, "--route", route, "--max-body", "0") as capture:
        for name, kinds in connections.items():
            traffic(guest, "bodies", f"{token}/{name}", size, *kinds)
        capture.wait_for(lambda r: token in r.get("request", {}).get("url", ""), 2 * 21)
        said = capture.stop()
        records = capture.records()
    for name, kinds in connections.items():
        for number, kind in enumerate(kinds):
            url = f"/{token}/{name}/{number}"
            asked = [r for r in records if r.get("url") == url]
            answered = [r for r in records if r.get("request", {}).get("url") == url]
            assert len(asked) == len(answered) == 2, url
            for line in asked:
                assert line["bytes"] > size if kind == "upload" else line["bytes"] < 200
                assert line.get("incomplete") == (["body_limit"] if kind == "upload" else None)
            for line in answered:
                has_body = kind not in ("HEAD", "304")
                assert line.get("incomplete") == (["body_limit"] if has_body else None), url
                assert (line["bytes"] > size) == (kind in ("length", "long", "chunked"))
    # All bodies of the first three kinds, whether in separate calls or with their head (also the
    # "abc" of the response to an upload); of the other kinds only the first body.
    lines = 70 * len("x\r\n") + len("Content-Length: 900000\r\n\r\n")
    stayed = [int(moved) for moved in re.findall(r"max_body \d+/(\d+)", said)]
    assert stayed == [11 * size + 3 * len("abc") + lines] * 2


@pytest.mark.one_guest("debian-13")
@pytest.mark.parametrize("route", ROUTES)
def test_limits_counts_and_replay(guest: Guest, token: str, route: str, tmp_path: Path) -> None:
    recorded = f"/tmp/{token}.capture"
    options = ("--route", route, "--max-body", "1000", "--record", recorded)
    with background(guest, "serve") as (_, server), Capture(guest, *options) as capture:
        where = ("127.0.0.1", server["port"])
        specs = [f"POST:/{token}/big:300000", f"GET:/{token}/next?size=5"]
        traffic(guest, "requests", *where, *specs)
        traffic(guest, "noise", token)
        capture.wait_for(lambda r: r.get("url") == f"/{token}/next?size=5", 2)
        said = capture.stop()

        assert capture.exit_code == 0
        records = capture.records()
        assert not guest.exec(f"sudo tail -c 1 {capture.output}").stdout.strip()
        assert guest.exec(["stat", "-c", "%a", capture.output]).stdout.strip() == "600"
        guest.exec(["sudo", "chmod", "a+r", recorded])
        guest.pull(recorded, tmp_path / "capture")

    # Beyond the limit: truncated, counted and reported; and the connection stays in sync.
    big = [r for r in records if r.get("url") == f"/{token}/big"]
    assert len(big) == 2
    for line in big:
        assert line["incomplete"] == ["body_limit"]
        assert len(line["body"]) == 1000
        assert line["bytes"] > 300_000 > line["captured"]
    following = [r for r in records if r.get("request", {}).get("url") == f"/{token}/next?size=5"]
    assert [r["body"] for r in following] == ["xxxxx"] * 2
    assert all("incomplete" not in r for r in following)

    # seen = forwarded + filtered + lost
    directions = accounts(said)
    assert set(directions) == {"send", "recv"}
    for seen_calls, seen_bytes, *fates in directions.values():
        assert seen_calls == fates[0] + fates[2] + fates[4]
        assert seen_bytes == fates[1] + fates[3] + fates[5]
        assert seen_bytes > 600_000
        assert fates[0] > 0  # forwarded
        assert fates[2] > 0  # filtered: at least the noise
        assert fates[4:] == [0, 0]  # lost
    assert "not_http" in said
    assert "do not add up" not in said

    # The recording gives the same lines on any machine, without a kernel.
    replayed = subprocess.run(
        [
            sys.executable,
            "-m",
            "profiler.cli",
            "replay",
            "--max-body",
            "1000",
            tmp_path / "capture",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    assert read_records(replayed.stdout) == records
    assert accounts(replayed.stderr) == directions


@pytest.mark.one_guest("debian-12")
def test_sigterm_and_filters(guest: Guest, token: str) -> None:
    with background(guest, "serve") as (_, wanted), background(guest, "serve") as (_, other):
        # The clients fail one filter, the other server fails the other.
        options = ("--port", str(wanted["port"]))
        for server in (wanted, other):
            options += ("--pid", str(server["pid"]))
        with Capture(guest, *options) as capture:
            for server in (other, wanted):
                traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
            capture.wait_for(lambda r: r["type"] == "response")
            said = capture.stop("TERM")
            assert capture.exit_code == 0
            records = capture.records()
    # The default is the socket route where the kernel supports it.
    assert "socket route" in said
    assert [(r["type"], r["direction"], r["pid"]) for r in records] == [
        ("request", "recv", wanted["pid"]),
        ("response", "send", wanted["pid"]),
    ]
    assert re.search(r"pid \d+/\d+", said)
    assert re.search(r"port \d+/\d+", said)


@pytest.mark.one_guest("debian-12")
@pytest.mark.parametrize("route", ROUTES)
def test_a_connection_shared_with_a_filtered_process(guest: Guest, token: str, route: str) -> None:
    with held(guest, "shared", token) as (facts, go_on):
        options = ("--route", route, "--pid", str(facts["child"]))
        with Capture(guest, *options) as capture:
            go_on()
            lines = capture.wait_for(lambda r: True, 8)
            said = capture.stop()
    urls = sorted(r["url"] for r in lines if r["type"] == "request")
    assert urls == [f"/{token}/child/{number}" for number in (0, 0, 1, 1)]
    assert all("incomplete" not in r for r in lines)
    # What the other process moved was filtered, not lost.
    for _, _, forwarded, _, filtered, _, *lost in accounts(said).values():
        assert forwarded == 4
        assert filtered >= 4
        assert lost == [0, 0]


@pytest.mark.one_guest("debian-12")
def test_an_unfinished_message_is_written_at_the_end(guest: Guest, token: str) -> None:
    with background(guest, "serve") as (_, server), Capture(guest) as capture:
        script = (
            "import socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1])));"
            "s.sendall(b'POST /%s HTTP/1.1\\r\\nContent-Length: 10\\r\\n\\r\\nhalf' "
            "% sys.argv[2].encode()); print('sent', flush=True); sys.stdin.read()"
        )
        command = ["python3", "-c", script, str(server["port"]), token]
        with guest.popen(command, stdin=subprocess.PIPE, stderr=None) as client:
            assert client.stdout.readline() == b"sent\n"
            said = capture.stop()
        lines = [r for r in capture.records() if r.get("url") == f"/{token}"]
    # Both ends had part of it; neither had all of it.
    assert {r["direction"] for r in lines} == {"send", "recv"}
    assert all(r["body"] == "half" and "incomplete" in r for r in lines)
    assert "incomplete" in said


@pytest.mark.one_guest("debian-12")
def test_reports_what_the_ring_cannot_hold(guest: Guest, token: str) -> None:
    """The profiler is paused while one connection moves more than the ring can hold."""
    with background(guest, "serve") as (_, server):
        options = ("--ring-size", "65536", "--port", str(server["port"]))
        with Capture(guest, *options) as capture:
            stopped(guest)
            specs = [f"POST:/{token}/{n}:50000" for n in range(5)]
            traffic(guest, "requests", "127.0.0.1", server["port"], *specs)
            continued(guest)
            after = f"/{token}/after"
            traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:{after}")
            capture.wait_for(lambda r: r.get("request", {}).get("url") == after, 2)
            said = capture.stop()
            records = capture.records()

    assert re.search(r"lost \d+/\d+ \((?:ring_full|share) ", said)
    for seen_calls, seen_bytes, *fates in accounts(said).values():
        assert seen_calls == fates[0] + fates[2] + fates[4]
        assert seen_bytes == fates[1] + fates[3] + fates[5]
    # Lost messages are missing or marked; whole messages are right; nothing is mixed up.
    sent = bytes(97 + i % 26 for i in range(50000)).decode()
    hit = [r for r in records if after not in (r.get("url"), r.get("request", {}).get("url"))]
    assert 0 < len(hit) < 20 or any("incomplete" in r for r in hit)
    for record in hit:
        if "incomplete" in record:
            # If the end was lost too, nothing reported it before the capture ended.
            assert set(record["incomplete"]) <= {"lost", "closed_early"}
            assert sent.startswith(record["body"])
        else:
            assert record["body"] == sent
    # Another connection is not affected.
    whole = [r for r in records if r not in hit]
    assert len(whole) == 4
    assert all("incomplete" not in r for r in whole)


@pytest.mark.one_guest("debian-12")
def test_the_profiler_does_not_capture_itself(guest: Guest, token: str) -> None:
    """Its lines go over a TCP connection, which would feed back."""
    script = (
        "import socket, subprocess, sys\n"
        "listener = socket.create_server(('127.0.0.1', 0))\n"
        "out = socket.create_connection(listener.getsockname())\n"
        "reader, _ = listener.accept()\n"
        "subprocess.Popen(['http-profiler'], stdout=out, stderr=open('/tmp/said', 'w'))\n"
        "out.close()\n"
        "for line in reader.makefile(): print(line, end='', flush=True)\n"
    )
    with background(guest, "serve") as (_, server):
        guest.exec("sudo rm -f /tmp/said")
        with guest.popen(["sudo", "python3", "-c", script], stderr=None) as running:
            while "capturing" not in guest.exec("cat /tmp/said", check=False).stdout:
                assert running.poll() is None
            traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
            lines = [read_record(running.stdout.readline().decode()) for _ in range(4)]
            guest.exec(f"sudo pkill -INT -f '{PROFILER}'")
            assert running.wait(60) == 0
            assert running.stdout.read() == b""
        said = guest.exec("cat /tmp/said").stdout
    assert len({(r["type"], r["direction"]) for r in lines}) == 4
    assert re.search(r"self \d+/\d+", said)


@pytest.mark.one_guest("debian-12")
def test_the_counts_of_a_running_capture(guest: Guest, token: str) -> None:
    stats = f"/tmp/{token}.stats"
    options = ("--stats", stats, "--stats-interval", "0.5")
    with background(guest, "serve") as (_, server), Capture(guest, *options) as capture:
        traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}")
        capture.wait_for(lambda r: r.get("url") == f"/{token}", 2)
        guest.exec(f"sudo pkill -USR1 -f '{PROFILER}'")
        while not LINE.search(capture.said):
            assert capture.exit_code is None
        asked = accounts(capture.said)
        traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}/2")
        capture.wait_for(lambda r: r.get("url") == f"/{token}/2", 2)
        said = capture.stop()
    assert asked["send"][0] > 0
    lines = [json.loads(line) for line in guest.exec(["sudo", "cat", stats]).stdout.splitlines()]
    assert len(lines) > 2
    assert [line["final"] for line in lines] == [False] * (len(lines) - 1) + [True]
    requests = [line["written"]["requests"] for line in lines]
    assert requests == sorted(requests)
    assert requests[-1] >= 4
    for direction, (calls, size, *_) in accounts(said.rpartition("wrote")[2]).items():
        assert lines[-1]["account"][direction]["seen"] == {"calls": calls, "bytes": size}
