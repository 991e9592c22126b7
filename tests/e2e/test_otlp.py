# SPDX-License-Identifier: Apache-2.0
"""``--otlp`` to a real OpenTelemetry Collector: each end of an exchange is there once.

The Collector is built of Go modules (``collector/``). The first tests need no guest: a recording is
replayed on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.replay import workload
from profiler.exchanges.pair import key_of
from profiler.ingest.probe.recording import Origin, Recorder
from provisioning import Guest
from tests.e2e.capture import Capture
from tests.e2e.collector import Collector, attributes, binary, configuration, spans_in
from tests.e2e.conftest import ROUTES, background, traffic

ROOT = Path(__file__).parents[2]
CASES = ROOT / "tests" / "replay" / "cases"
CLIENT, SERVER = 3, 2
LIMIT = 120.0


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    collector = Collector(tmp_path)
    collector.start()
    try:
        yield collector
    finally:
        collector.stop()


def environment() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "OUTPUT_PATH"))}
    return {**clean, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


class Replay:
    """A replay with ``--otlp``, which writes its lines to ``output``."""

    def __init__(self, recording: Path, output: Path, url: str) -> None:
        self._said = output.with_suffix(".log")
        with self._said.open("w") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "profiler.cli", "replay", str(recording)),
                    *("--output", str(output), "--otlp", url),
                ],
                stderr=log,
                env=environment(),
                cwd=ROOT,
            )

    @property
    def said(self) -> str:
        """What it printed so far."""
        return self._said.read_text()

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> str:
        """Wait for its end; return what it printed."""
        assert self._process.wait(LIMIT) == 0, self.said
        assert "Traceback" not in self.said
        return self.said


def ends_in(records: Iterable[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
    """Return what identifies each end of an exchange in lines: role, process, method, status."""
    found: dict[Any, dict[str, Any]] = {}
    for record in records:
        end = found.setdefault(key_of(record), {"role": record["role"]})
        if record["type"] == "request":
            end.update(method=record["method"], pid=record["pid"])
        else:
            end["status"] = record.get("status_code")
    names = ("role", "pid", "method", "status")
    return Counter(tuple(map(end.get, names)) for end in found.values())


def ends_of(spans: list[tuple[dict[str, Any], dict[str, Any]]]) -> Counter[tuple[Any, ...]]:
    found = []
    for span, resource in spans:
        values = attributes(span)
        role = {CLIENT: "client", SERVER: "server"}[span["kind"]]
        status = values.get("http.response.status_code")
        found.append((role, resource["process.pid"], values["http.request.method"], status))
    return Counter(found)


@pytest.mark.parametrize("case", ["demo", "bytewise", "threads"])
def test_each_end_once(collector: Collector, tmp_path: Path, case: str) -> None:
    output = tmp_path / "lines.jsonl"
    said = Replay(CASES / case / "capture", output, collector.url).end()
    collector.stop()
    spans = collector.spans()
    assert ends_of(spans) == ends_in(map(json.loads, output.read_text().splitlines()))
    assert len({span["spanId"] for span, _ in spans}) == len(spans)
    assert f"spans {len(spans)} = sent {len(spans)} + dropped 0 + waiting 0" in said
    counter = collector.metrics()["http_profiler.spans"]["sum"]["dataPoints"]
    assert sum(int(point["asInt"]) for point in counter) == len(spans)
    # Both ends of an exchange are in one trace, and the client is the server's parent.
    clients = {span["spanId"]: span for span, _ in spans if span["kind"] == CLIENT}
    servers = [span for span, _ in spans if span["kind"] == SERVER]
    joined = [span for span in servers if span.get("parentSpanId") in clients]
    assert len(joined) == len(servers)
    for span in joined:
        assert span["traceId"] == clients[span["parentSpanId"]]["traceId"]


def recording(path: Path, rounds: int) -> int:
    """Write a recording of the demo, that many times; return its number of ends."""
    machine, records, messages = workload("demo", rounds)
    recorder = Recorder(path, Origin(machine, "6.1.0", "syscall"))
    for record in records:
        recorder.write(record)
    recorder.close()
    return messages * rounds // 2


def distinct(spans: list[tuple[dict[str, Any], dict[str, Any]]]) -> set[tuple[str, str]]:
    """Return what tells spans apart: each round repeats the ids, at a later time."""
    return {(span["spanId"], span["startTimeUnixNano"]) for span, _ in spans}


def test_restarted_under_load(collector: Collector, tmp_path: Path) -> None:
    """While the Collector is down, spans wait, and no line does."""
    ends = recording(tmp_path / "capture", 4000)
    output = tmp_path / "lines.jsonl"
    replay = Replay(tmp_path / "capture", output, collector.url)
    for number in range(3):
        before = len(collector.spans())
        until(lambda before=before: len(collector.spans()) > before)
        collector.stop()
        until(lambda number=number: replay.said.count("cannot send to") > number)
        assert not replay.is_over
        if number == 2:
            until(lambda: len(output.read_text().splitlines()) == 2 * ends)
        collector.start()
    said = replay.end()
    collector.stop()
    spans = collector.spans()
    assert said.count("accepts data again") == 3
    assert f"spans {ends} = sent {ends} + dropped 0 + waiting 0" in said
    # Of a batch in flight, the answer may be lost: it comes again, with the same ids.
    assert len(distinct(spans)) == ends
    assert len(spans) - ends <= 3 * 512


def test_beyond_the_limit(collector: Collector, tmp_path: Path) -> None:
    """A Collector that stays away: what was sent arrived, and the rest is counted."""
    ends = recording(tmp_path / "capture", 1500)
    output = tmp_path / "lines.jsonl"
    replay = Replay(tmp_path / "capture", output, collector.url)
    until(lambda: bool(collector.spans()))
    collector.stop()
    said = replay.end()
    arrived = len(distinct(collector.spans()))
    assert len(output.read_text().splitlines()) == 2 * ends
    assert f"spans {ends} = sent {arrived} + dropped {ends - arrived} (unreachable" in said


@pytest.mark.one_guest("debian-13")
@pytest.mark.parametrize("route", ROUTES)
def test_two_hops_in_a_guest(guest: Guest, token: str, tmp_path: Path, route: str) -> None:
    """Spans pass an agent and a gateway, each once; none is of the export itself."""
    guest.push(binary(), "/tmp/collector")
    arrived = f"/tmp/{token}.jsonl"
    with ExitStack() as stack:
        for name, port, forward in (
            ("gateway", 24318, ""),
            ("agent", 14318, "http://127.0.0.1:24318"),
        ):
            local = tmp_path / f"{name}.yaml"
            local.write_text(configuration(port, arrived, forward))
            guest.push(local, f"/tmp/{name}.yaml")
            command = ["/tmp/collector", "--config", f"/tmp/{name}.yaml"]
            stack.enter_context(guest.popen(command, stdout=None, stderr=None))
        for port in (14318, 24318):
            until(
                lambda port=port: (
                    not guest.exec(f"echo >/dev/tcp/127.0.0.1/{port}", check=False).returncode
                )
            )
        _, server = stack.enter_context(background(guest, "serve"))
        with Capture(guest, "--route", route, "--otlp", "http://127.0.0.1:14318") as capture:
            targets = [f"GET:/{token}/{number}" for number in range(20)]
            traffic(guest, "requests", "127.0.0.1", server["port"], *targets)
            # By now, both hops were captured: they export what the first one did.
            until(lambda: f"/{token}/19" in guest.exec(f"cat {arrived}", check=False).stdout)
            exporter = guest.exec("pgrep -x http-prof-otlp").stdout.split()
            said = capture.stop()
            records = capture.records()
        spans = list(spans_in(guest.exec(f"cat {arrived}").stdout.splitlines()))
    hops = [r for r in records if r.get("url") == "/v1/traces"]
    assert {r["role"] for r in hops} == {"client", "server"}
    assert not [r for r in records if str(r["pid"]) in exporter]
    ends = ends_in(records)
    for end in list(ends):
        if end[2] == "POST":
            del ends[end]
    assert ends_of(spans) == ends
    count = sum(ends.values())
    assert count >= 40
    assert f"exported spans {count} = sent {count} + dropped 0 + waiting 0; left out " in said
    ours = [(span, resource) for span, resource in spans if f"/{token}/" in json.dumps(span)]
    clients = {span["spanId"] for span, _ in ours if span["kind"] == CLIENT}
    assert len(ours) == 40
    for span, resource in ours:
        assert resource["host.name"] == guest.exec("uname -n").stdout.strip()
        assert span["kind"] == CLIENT or span["parentSpanId"] in clients


def until(condition: Any) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)
