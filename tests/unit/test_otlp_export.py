# SPDX-License-Identifier: Apache-2.0
"""``--otlp`` from the command line: the process that exports, to a mock Collector.

tests/e2e/test_otlp.py has a real one.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from profiler.outputs.otlp.endpoint import endpoint
from profiler.outputs.otlp.exporter import Exporter
from tests.unit.mock_collector import MockCollector, answer, mock_collector

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests" / "replay" / "cases" / "demo"
LIMIT = 60.0


def environment() -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OTEL_", "OUTPUT_PATH"))}
    return {**clean, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}


def replay(tmp_path: Path, *arguments: str) -> tuple[list[Any], str]:
    """Return the lines and what was printed."""
    output = tmp_path / "lines.jsonl"
    command = [sys.executable, "-m", "profiler.cli", "replay", str(DEMO / "capture")]
    done = subprocess.run(
        [*command, "--output", str(output), *arguments],
        capture_output=True, text=True, env=environment(), cwd=ROOT, check=False,
        timeout=LIMIT,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in output.read_text().splitlines()], done.stderr


def sides(lines: list[Any]) -> list[tuple[str, str, int]]:
    """Return kind, method and status of each end of an exchange in lines."""
    found: dict[Any, Any] = {}
    for line in lines:
        of = found.setdefault((line["exchange"], line["role"]), {})
        of.update(method=line.get("method") or of.get("method"), role=line["role"])
        of.update(status=line.get("status_code") or of.get("status"))
    return sorted((each["role"], each["method"], each["status"]) for each in found.values())


def spans(collector: MockCollector) -> list[tuple[str, str, int]]:
    found = []
    for span in collector.spans:
        values = {each.key: each.value for each in span.attributes}
        status = values["http.response.status_code"].int_value
        found.append(({2: "server", 3: "client"}[span.kind], span.name, status))
    return sorted(found)


@contextmanager
def capture(*arguments: str, user: str = "root") -> Iterator[subprocess.Popen[str]]:
    """Capture with an engine that needs no kernel."""
    stand_in = "tests.unit.stand_in_engine"
    process = subprocess.Popen(
        [sys.executable, "-m", stand_in, str(DEMO / "capture"), *arguments],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env={**environment(), "HTTP_PROFILER_UNPRIVILEGED_USER": user},
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.01)


def last(path: Path) -> Any:
    """Return the last line of a ``--stats`` file; empty if there is none yet."""
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1]) if lines else {}


def ended(process: subprocess.Popen[str]) -> str:
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LIMIT)
    assert "Traceback" not in said
    return said


def child_of(process: subprocess.Popen[str], name: str) -> int:
    """Return the id of a process that this one started, by its name."""
    children: list[int] = []

    def is_there() -> bool:
        text = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        children[:] = [
            int(pid) for pid in text.split()
            if Path(f"/proc/{pid}/comm").read_text().strip() == name
        ]  # fmt: skip
        return bool(children)

    until(is_there)
    return children[0]


def test_each_end_once(tmp_path: Path) -> None:
    with mock_collector() as collector:
        lines, said = replay(tmp_path, "--otlp", collector.url)
        assert lines == [json.loads(x) for x in (DEMO / "expected.jsonl").read_text().splitlines()]
        assert spans(collector) == sides(lines)
        count = len(collector.spans)
        assert len({span.span_id for span in collector.spans}) == count
        assert f"exported spans {count} = sent {count} + dropped 0 + waiting 0" in said


def test_metrics(tmp_path: Path) -> None:
    with mock_collector() as collector:
        lines, _ = replay(tmp_path, "--otlp", collector.url)
        found = {
            metric.name: metric
            for each in collector.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
        }
        ends = [role for role, _, _ in sides(lines)]
        counted = sum(
            point.count
            for name in ("http.server.request.duration", "http.client.request.duration")
            for each in collector.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.histogram.data_points
        )
        assert counted == len(ends)
        assert sum(p.as_int for p in found["http_profiler.spans"].sum.data_points) == len(ends)


def test_refused_metrics(tmp_path: Path) -> None:
    """A Collector without a pipeline for metrics: one line, and the spans arrive."""
    with mock_collector() as collector:
        collector.metrics_status = 404
        _, said = replay(tmp_path, "--otlp", collector.url)
        assert said.count("/v1/metrics answers 404") == 1
        count = len(collector.spans)
        assert f"sent {count} + dropped 0" in said


def test_full_queue(tmp_path: Path) -> None:
    """In a replay, spans wait for room; one that never has room is dropped and counted."""
    with mock_collector() as collector:
        _, said = replay(tmp_path, "--otlp", collector.url, "--otlp-queue", "2000")
        count = len(collector.spans)
        assert f"exported spans {count} = sent {count} + dropped 0" in said
    with mock_collector(*[answer(400)] * 50) as collector:
        lines, said = replay(tmp_path / "..", "--otlp", collector.url)
        assert f"sent 0 + dropped {len(sides(lines))} (refused {len(sides(lines))})" in said


def test_redacted_by_default(tmp_path: Path) -> None:
    """Spans are redacted although the lines are not."""
    with mock_collector() as collector:
        _, said = replay(tmp_path, "--otlp", collector.url)
        assert "secrets are shown as they were sent" in said
        assert "secrets in them are shown" not in said
        _, said = replay(tmp_path, "--otlp", collector.url, "--no-redact")
        assert "secrets in them are shown" in said


def test_wrong_url(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "profiler.cli", "replay", str(DEMO / "capture")]
    done = subprocess.run(
        [*command, "--otlp", "collector:4318"],
        capture_output=True, text=True, env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("http-profiler: --otlp 'collector:4318': give")


def test_live(tmp_path: Path) -> None:
    """A capture exports while it runs, and reports it in --stats, at SIGUSR1 and at the end."""
    output, stats = tmp_path / "lines.jsonl", tmp_path / "stats.jsonl"
    more = ("--output", str(output), "--stats", str(stats), "--stats-interval", "0.1")
    with mock_collector() as collector, capture("--otlp", collector.url, *more) as process:
        until(lambda: last(stats).get("exported", {}).get("sent", 0) >= 10)
        process.send_signal(signal.SIGUSR1)
        assert process.stderr is not None
        line = ""
        while not line.startswith("http-profiler: exported spans"):
            line = process.stderr.readline()
            assert line
        said = ended(process)
        lines = [json.loads(each) for each in output.read_text().splitlines()]
        assert spans(collector) == sides(lines)
        lost = [
            point.as_int
            for each in collector.resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
            if metric.name == "http_profiler.calls"
            for point in metric.sum.data_points
            if "unreadable" in str(point.attributes) and "receive" in str(point.attributes)
        ]
        assert lost == [7], "the account of the engine"
    exported = last(stats)["exported"]
    assert exported["spans"] == exported["sent"] == len(sides(lines))
    assert f"exported spans {exported['spans']} = sent {exported['spans']} + dropped 0" in said
    assert last(stats)["final"]


def test_hanging_collector(tmp_path: Path) -> None:
    """Lines are written while the Collector hangs; what was not delivered is counted."""
    output, stats = tmp_path / "lines.jsonl", tmp_path / "stats.jsonl"
    expected = [json.loads(x) for x in (DEMO / "expected.jsonl").read_text().splitlines()]
    more = ("--output", str(output), "--stats", str(stats), "--stats-interval", "0.1")
    with mock_collector() as collector:

        def hang(_handler: BaseHTTPRequestHandler) -> None:
            collector.released.wait(LIMIT)

        collector.answers += [hang] * 9
        with capture("--otlp", collector.url, *more) as process:
            until(lambda: bool(collector.requests))
            until(lambda: len(output.read_text().splitlines()) >= len(expected) - 1)
            begun = time.monotonic()
            said = ended(process)
            assert time.monotonic() - begun < 30
        lines = [json.loads(each) for each in output.read_text().splitlines()]
        assert len(lines) == len(expected)
    count = len(sides(lines))
    assert f"exported spans {count} = sent 0 + dropped {count} (end {count}) + waiting 0" in said


def test_killed_exporter(tmp_path: Path) -> None:
    """The capture continues without it, and reports it in one line."""
    output, stats = tmp_path / "lines.jsonl", tmp_path / "stats.jsonl"
    more = ("--output", str(output), "--stats", str(stats), "--stats-interval", "0.1")
    with mock_collector() as collector, capture("--otlp", collector.url, *more) as process:
        os.kill(child_of(process, "http-prof-otlp"), signal.SIGKILL)
        until(lambda: bool(last(stats).get("written", {}).get("requests")))
        said = ended(process)
    assert said.count("the process that exports has ended") == 1
    exported = last(stats)["exported"]
    dropped = sum(exported["dropped"].values())
    assert exported["spans"] == exported["sent"] + dropped
    assert output.read_text()


def test_overload() -> None:
    """A process that does not read holds nothing up; each message is a span or counted."""
    written = 6000
    record: Any = {
        "timestamp": "2026-01-01T00:00:00.000000000Z", "type": "request", "role": "client",
        "method": "GET", "url": "/" + "x" * 2000, "bytes": 1, "headers": {"host": "a"},
    }  # fmt: skip
    with mock_collector() as collector:
        target = endpoint(collector.url, {})
        exporter = Exporter(
            target, redact=True, replay=False, user=None, say=print, max_bytes=1 << 26
        )
        os.kill(exporter.pid, signal.SIGSTOP)
        for _ in range(written):
            exporter.write(record)
        exporter.flush()
        dropped = exporter.counts().messages_dropped
        assert 0 < dropped < written
        os.kill(exporter.pid, signal.SIGCONT)
        exporter.close()
        counts = exporter.counts()
        assert counts.spans + counts.messages_dropped == written
        assert counts.sent == counts.spans == len(collector.spans)
        assert counts.balanced()


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="needs libseccomp")
def test_confined(tmp_path: Path) -> None:
    """It exports as another user, without capabilities, all threads filtered; and by name."""
    output = tmp_path / "lines.jsonl"
    with mock_collector() as collector:
        url = collector.url.replace("127.0.0.1", "localhost")
        with capture("--otlp", url, "--output", str(output), user="nobody") as process:
            until(lambda: bool(collector.spans))
            pid = child_of(process, "http-prof-otlp")
            tasks = list(Path(f"/proc/{pid}/task").iterdir())
            assert len(tasks) == 3
            for task in tasks:
                text = (task / "status").read_text()
                status = dict(line.split(":", 1) for line in text.splitlines())
                assert status["Uid"].split()[0] == str(pwd.getpwnam("nobody").pw_uid)
                assert status["Seccomp"].strip() == "2"
                assert status["NoNewPrivs"].strip() == "1"
                for name in ("CapEff", "CapPrm", "CapAmb"):
                    assert int(status[name], 16) == 0
            # Of the capture, it has standard error and the pipe only.
            opened = [str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()]
            assert str(output) not in opened
            said = ended(process)
        count = len(collector.spans)
    assert f"exported spans {count} = sent {count} + dropped 0" in said
