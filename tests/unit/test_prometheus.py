# SPDX-License-Identifier: Apache-2.0
"""``--prometheus``: what is served, read by Prometheus' own parsers over a real connection."""

from __future__ import annotations

import ctypes.util
import http.client
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_of
from prometheus_client.parser import text_string_to_metric_families as text_of

from profiler.accounting import Exported
from profiler.errors import OutputError, UsageError
from profiler.outputs import prometheus
from profiler.outputs.otlp import metrics
from profiler.outputs.otlp.exporter import Exporter
from profiler.outputs.otlp.metrics import BOUNDS, Metrics
from profiler.outputs.prometheus import (
    CONNECTIONS,
    OPENMETRICS,
    REQUEST_MAX,
    TEXT,
    Server,
    listen,
    prefers_openmetrics,
    render,
    url_of,
)
from tests.unit.mock_collector import mock_collector
from tests.unit.test_otlp_export import DEMO, ROOT, capture, child_of, ended, environment, until
from tests.unit.test_otlp_spans import TRACE, TRACEPARENT, record, side

SERVER, CLIENT = "http_server_request_duration_seconds", "http_client_request_duration_seconds"
# The header of Prometheus 3.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def collected(*sides: tuple[str, Any], given: Any = None) -> Metrics:
    found = Metrics(given or {}, "host-1", has_exemplars=True)
    for role, one in sides:
        found.add(role, one)
    found.set_account([["seen", "", 3, 30, 4, 40], ["lost", "ring_full", 1, 10, 0, 0]])
    return found


def get(
    address: tuple[str, int], path: str = "/metrics", accept: str = "", method: str = "GET"
) -> tuple[int, str, str]:
    """Return status, content type and body."""
    with closing(http.client.HTTPConnection(*address, timeout=20)) as connection:
        connection.request(method, path, headers={"Accept": accept} if accept else {})
        response = connection.getresponse()
        return response.status, response.getheader("Content-Type", ""), response.read().decode()


def samples(text: str) -> dict[str, float]:
    """Return the sum of all samples of each name."""
    found: dict[str, float] = {}
    for family in text_of(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A server of what the test's parameter has collected."""
    listener = listen("0")
    found = getattr(request, "param", None) or collected(("server", side("server")))
    Server(listener, found, lambda: None).start()
    yield listener.getsockname()[:2]
    listener.close()


@contextmanager
def raw(address: tuple[str, int]) -> Iterator[socket.socket]:
    with socket.create_connection(address, timeout=20) as connection:
        yield connection


def rest_of(connection: socket.socket) -> bytes:
    content = b""
    while data := connection.recv(65536):
        content += data
    return content


def test_text() -> None:
    times = (5.0, 6.0, 300.0, 20000.0)
    of = collected(*(("server", side("server", (), {"duration_ms": each})) for each in times))
    families = {each.name: each for each in text_of(render(of, None, False).decode())}
    assert set(families) == {SERVER, "http_profiler_calls", "http_profiler_bytes"}
    histogram = families[SERVER]
    assert histogram.type == "histogram"
    buckets = {
        float(each.labels["le"]): each.value
        for each in histogram.samples
        if each.name.endswith("_bucket")
    }
    assert list(buckets) == [*BOUNDS, float("inf")]
    assert (buckets[0.005], buckets[0.01], buckets[0.25], buckets[0.5], buckets[10.0]) == (
        1, 2, 2, 3, 3,
    )  # fmt: skip
    values = {each.name: each for each in histogram.samples}
    assert values[f"{SERVER}_count"].value == buckets[float("inf")] == 4
    assert values[f"{SERVER}_sum"].value == pytest.approx(20.311)
    assert values[f"{SERVER}_count"].labels == {
        "service_name": "nginx", "host_name": "host-1", "http_request_method": "GET",
        "url_scheme": "http", "http_response_status_code": "200",
        "network_protocol_version": "1.1",
    }  # fmt: skip
    calls = families["http_profiler_calls"]
    assert calls.type == "counter"
    assert [(each.name, each.labels["network_io_direction"], each.value)
            for each in calls.samples if each.labels["http_profiler_fate"] == "seen"] == [
        ("http_profiler_calls_total", "transmit", 3), ("http_profiler_calls_total", "receive", 4)
    ]  # fmt: skip
    assert families["http_profiler_bytes"].samples[2].labels["http_profiler_reason"] == "ring_full"


def test_spans() -> None:
    text = render(collected(), Exported(5, 3, 0, {"refused": 2}), False).decode()
    [spans] = [each for each in text_of(text) if each.name == "http_profiler_spans"]
    assert {each.labels["http_profiler_outcome"]: each.value for each in spans.samples} == {
        "sent": 3, "dropped refused": 2
    }  # fmt: skip


def test_exemplars() -> None:
    of = collected(
        ("server", side("server", {"headers": {"host": "a", "traceparent": TRACEPARENT}})),
        ("client", side("client")),
    )
    families = {each.name: each for each in openmetrics_of(render(of, None, True).decode())}
    [exemplar] = [each.exemplar for each in families[SERVER].samples if each.exemplar]
    assert exemplar.labels["trace_id"] == TRACE
    assert re.fullmatch("[0-9a-f]{16}", exemplar.labels["span_id"])
    assert (exemplar.value, float(exemplar.timestamp)) == (0.3, 1767225600.0)
    assert families[SERVER].unit == "seconds"
    [exemplar] = [each.exemplar for each in families[CLIENT].samples if each.exemplar]
    assert exemplar.labels["trace_id"] not in ("", TRACE)
    assert "trace_id" not in render(of, None, False).decode()


def test_hostile_labels() -> None:
    """What a peer or the user chose stays within its label."""
    evil = 'a"} 1\nevil 2\\'
    of = collected(
        ("client", side("client", {"comm": evil, "service": evil})),
        given={"le": "x", "__name__": "y", "1st": "z", "a.b": "1", "a-b": "2", "é": "\udcff"},
    )
    for families in (text_of(render(of, None, False).decode()),
                     openmetrics_of(render(of, None, True).decode())):  # fmt: skip
        [labels] = [s.labels for f in families for s in f.samples if s.name == f"{CLIENT}_count"]
        assert labels["service_name"] == evil
        assert (labels["attribute_le"], labels["a_b"]) == ("x", "1;2")


def test_bounded_series(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "SERIES_MAX", 3)
    of = collected(*(("client", side("client", {"headers": {"host": f"h{n}"}})) for n in range(10)))
    counts = [
        each
        for family in text_of(render(of, None, False).decode())
        for each in family.samples
        if each.name == f"{CLIENT}_count"
    ]
    assert [each.value for each in counts] == [1, 1, 1, 7]
    assert counts[-1].labels == {"otel_metric_overflow": "true"}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", False), ("*/*", False), ("text/plain", False), (ACCEPT, True),
        ("application/openmetrics-text", True), ("APPLICATION/OpenMetrics-Text; Q=0.5", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;q=0.2,text/plain;q=0.3", False),
        ("application/openmetrics-text;q=1.2.3", False), (";,;q=,,", False),
    ],
)  # fmt: skip
def test_accept(accept: str, expected: bool) -> None:
    assert prefers_openmetrics(accept) is expected


def test_formats(address: tuple[str, int]) -> None:
    status, kind, text = get(address)
    assert (status, kind) == (200, TEXT)
    assert samples(text)[f"{SERVER}_count"] == 1
    status, kind, text = get(address, accept=ACCEPT)
    assert (status, kind) == (200, OPENMETRICS)
    assert text.endswith("# EOF\n")
    assert list(openmetrics_of(text))
    assert get(address, method="HEAD")[::2] == (200, "")


def test_other_paths(address: tuple[str, int]) -> None:
    assert get(address, "/healthz") == (200, "text/plain; charset=utf-8", "ok\n")
    assert get(address, "/metrics?x=1")[0] == 200
    assert get(address, "/")[0] == 404
    assert get(address, method="POST")[0] == 405


def test_silent_capture(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prometheus, "HEALTHY_SECONDS", -1.0)
    assert get(address, "/healthz")[0] == 503
    assert get(address)[0] == 200


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"400"), (b"\r\n\r\n", b"400"),
        (b"GET /metrics\r\n\r\n", b"400"), (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),
        ((b"GET /" + b"x" * REQUEST_MAX)[:REQUEST_MAX], b"431"),
        (b"GET /metrics HTTP/1.1\r\nAccept: \xff\xfe\0;q=nan\r\n\r\n", b"200"),
        (b"GET /../etc/passwd HTTP/1.0\r\n\r\n", b"404"),
    ],
)  # fmt: skip
def test_garbage(address: tuple[str, int], request_bytes: bytes, status: bytes) -> None:
    with raw(address) as connection:
        connection.sendall(request_bytes)
        connection.shutdown(socket.SHUT_WR)
        assert rest_of(connection).split()[1] == status
    with raw(address) as connection:
        connection.sendall(request_bytes[:3])
    assert get(address)[0] == 200


def test_endless_request(address: tuple[str, int]) -> None:
    """What exceeds the limit is not read: the connection is reset."""
    with raw(address) as connection, pytest.raises(ConnectionError):
        while True:
            connection.sendall(b"x" * 65536)
    assert get(address)[0] == 200


def test_slow_clients(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """More clients than are served at once, which never finish their request, are sent away."""
    monkeypatch.setattr(prometheus, "REQUEST_SECONDS", 0.2)
    slow = [socket.create_connection(address, timeout=20) for _ in range(CONNECTIONS + 2)]
    try:
        for each in slow:
            each.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert get(address)[0] == 200
        assert all(rest_of(each).split()[1] == b"408" for each in slow)
    finally:
        for each in slow:
            each.close()


def test_client_that_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is closed in time, although the answer does not fit into the buffers."""
    monkeypatch.setattr(prometheus, "CONNECTION_SECONDS", 0.5)
    monkeypatch.setattr(prometheus, "render", lambda *_: b"x" * (1 << 26))
    monkeypatch.setattr(prometheus, "CONNECTIONS", 1)
    with closing(listen("0")) as listener:
        Server(listener, collected(), lambda: None).start()
        with raw(listener.getsockname()) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            assert get(listener.getsockname(), "/healthz")[0] == 200


def test_error_of_ours(address: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """No client gets a traceback or ends a thread."""
    with monkeypatch.context() as broken:
        broken.setattr(prometheus, "render", lambda *_: 1 / 0)
        for _ in range(2 * CONNECTIONS):
            assert get(address)[0] == 500
    assert get(address)[0] == 200


def test_rendered_once_in_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[bool] = []

    def render(*arguments: Any) -> bytes:
        made.append(arguments[-1])
        return b"x"

    monkeypatch.setattr(prometheus, "render", render)
    monkeypatch.setattr(prometheus, "_FRESH_SECONDS", 1000.0)
    with closing(listen("0")) as listener:
        Server(listener, collected(), lambda: None).start()
        for _ in range(5):
            get(listener.getsockname())
        get(listener.getsockname(), accept=ACCEPT)
    assert made == [False, True]


@pytest.mark.parametrize(
    ("given", "host"), [("0", "127.0.0.1"), (":0", "127.0.0.1"), ("0.0.0.0:0", "0.0.0.0"),
                        ("localhost:0", None), ("[::1]:0", "[::1]")],
)  # fmt: skip
def test_addresses(given: str, host: str | None) -> None:
    if host == "[::1]" and not Path("/proc/net/if_inet6").exists():
        pytest.skip("no IPv6 here")
    with closing(listen(given)) as listener:
        assert host is None or url_of(listener).startswith(f"http://{host}:")


@pytest.mark.parametrize("given", ["", ":", "host", "a:b", "1:2:3", "::1:9", "99999", "-1"])
def test_no_address(given: str) -> None:
    with pytest.raises(UsageError, match="give HOST:PORT or PORT"):
        listen(given)


def test_no_host() -> None:
    with pytest.raises(OutputError, match="no such host; give another address"):
        listen("name.invalid:0")
    with pytest.raises(OutputError, match="cannot listen there"):
        listen("203.0.113.7:0")


def test_address_in_use() -> None:
    """One line, before the probe is loaded."""
    with closing(listen("0")) as listener:
        port = str(listener.getsockname()[1])
        with capture("--prometheus", port) as process:
            _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    line = said.splitlines()[-1]
    assert line.startswith(f"http-profiler: --prometheus {port}: cannot listen there: Address alre")
    assert "loading" not in said


def test_not_for_a_replay() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "profiler.cli", "replay", str(DEMO / "capture"),
         "--prometheus", "0"],
        capture_output=True, text=True, env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "--prometheus is an option of http-profiler without a command, run" in done.stderr


def test_counters_grow() -> None:
    """Alone, without a Collector: two scrapes, and nothing about spans."""
    listener = listen("0")
    address = listener.getsockname()
    exporter = Exporter(
        None, redact=True, replay=False, user=None, say=print, max_bytes=0, listener=listener
    )

    def is_counted(count: int) -> bool:
        return samples(get(address)[2]).get(f"{SERVER}_count") == count

    try:
        for count in (1, 2):
            for kind in ("request", "response"):
                exporter.write(record(kind, "server", exchange=f"7-{count}", sequence=count))
            exporter.flush()
            until(partial(is_counted, count))
        assert "http_profiler_spans" not in get(address)[2]
        assert exporter.counts() is None
    finally:
        exporter.close()
    with pytest.raises(ConnectionRefusedError):
        get(address)


def served_at(process: subprocess.Popen[str]) -> tuple[str, int]:
    """Return where the metrics of a capture are, from what it printed."""
    assert process.stderr is not None
    while line := process.stderr.readline():
        if match := re.search(r"metrics are at http://(.*):(\d+)/metrics", line):
            return match[1], int(match[2])
    pytest.fail("not served")


def test_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --otlp, a capture serves durations, spans and the account."""
    given = {**environment(), "OTEL_RESOURCE_ATTRIBUTES": "site=a%20b"}
    monkeypatch.setattr("tests.unit.test_otlp_export.environment", lambda: given)
    more = ("--output", str(tmp_path / "lines.jsonl"), "--prometheus", "0")
    with mock_collector() as collector, capture("--otlp", collector.url, *more) as process:
        address = served_at(process)
        until(lambda: samples(get(address)[2]).get("http_profiler_spans_total", 0) >= 10)
        text = get(address)[2]
        assert 'site="a b"' in text
        keys = {a.key for each in collector.resource_spans for a in each.resource.attributes}
        assert "site" in keys
        found = samples(text)
        assert found[f"{SERVER}_count"] >= 1
        assert found["http_profiler_calls_total"] >= 7
        said = ended(process)
    assert "exported spans" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="needs libseccomp")
def test_confined(tmp_path: Path) -> None:
    """It serves as another user, without capabilities, all threads filtered."""
    more = ("--output", str(tmp_path / "lines.jsonl"), "--prometheus", "0")
    with capture(*more, user="nobody") as process:
        address = served_at(process)
        until(lambda: f"{CLIENT}_count" in samples(get(address)[2]))
        pid = child_of(process, "http-prof-otlp")
        for task in Path(f"/proc/{pid}/task").iterdir():
            text = (task / "status").read_text()
            status = dict(line.split(":", 1) for line in text.splitlines())
            assert status["Uid"].split()[0] == str(pwd.getpwnam("nobody").pw_uid)
            assert status["Seccomp"].strip() == "2"
            assert int(status["CapEff"], 16) == 0
        said = ended(process)
    assert "spans" not in said


def test_stopped_scraper_delays_nothing(tmp_path: Path) -> None:
    """Lines are written, and the capture ends in time, with clients that never finish."""
    output = tmp_path / "lines.jsonl"
    expected = (DEMO / "expected.jsonl").read_text().splitlines()
    with capture("--output", str(output), "--prometheus", "0") as process:
        address = served_at(process)
        slow = [socket.create_connection(address, timeout=20) for _ in range(3 * CONNECTIONS)]
        until(lambda: output.exists() and len(output.read_text().splitlines()) >= len(expected) - 1)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert time.monotonic() - begun < 10
        for each in slow:
            each.close()
    assert len(output.read_text().splitlines()) == len(expected)
