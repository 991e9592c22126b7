# SPDX-License-Identifier: Apache-2.0
"""A real OpenTelemetry Collector, made of Go modules by its own builder.

``builder.yaml`` lists the modules. The first build takes some minutes; the binary is kept in the
cache of the guests and is linked statically, so it runs in each of them.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from provisioning.cache import cache_directory, digest, locked, made_aside

VERSION = "v0.161.0"
_CONFIGURATION = Path(__file__).with_name("builder.yaml")
_LIMIT = 60.0


def binary() -> Path:
    """Return the Collector, built on first use. It needs Go."""
    directory = cache_directory() / "collector"
    name = digest({"version": VERSION, "text": _CONFIGURATION.read_text()})
    final = directory / name
    with locked(directory / f"{name}.lock"):
        if not final.exists():
            go = shutil.which("go")
            assert go, "the Collector is built with Go 1.25 or newer: install it"
            with made_aside(final) as aside:
                builder = f"go.opentelemetry.io/collector/cmd/builder@{VERSION}"
                subprocess.run(
                    [go, "run", builder, "--config", _CONFIGURATION.resolve()],
                    cwd=aside,
                    env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false"},
                    check=True,
                )
    return final / "built" / "collector"


def configuration(port: int, file: str, forward: str = "") -> str:
    """Return a configuration: listen on loopback, write spans to ``file`` or forward them."""
    kept = {"path": file, "append": True, "flush_interval": "50ms"}
    exporter = {"otlphttp": {"endpoint": forward}} if forward else {"file": kept}
    metrics = (
        {"otlphttp": exporter["otlphttp"]}
        if forward
        else {"file/metrics": {**kept, "path": f"{file}.metrics"}}
    )
    document = {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{port}"}}}},
        "exporters": {**exporter, **metrics},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": list(exporter)},
                "metrics": {"receivers": ["otlp"], "exporters": list(metrics)},
            },
        },
    }
    return json.dumps(document)  # which is YAML, too


def spans_in(lines: Iterable[str]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield spans and the attributes of their resources, as the file exporter wrote them."""
    for line in lines:
        for each in json.loads(line)["resourceSpans"]:
            for scope in each["scopeSpans"]:
                for span in scope["spans"]:
                    yield span, attributes(each["resource"])


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    """Return attributes by name; integers are strings in OTLP's JSON."""
    return {
        each["key"]: int(value) if kind == "intValue" else value
        for each in of.get("attributes", ())
        for kind, value in each["value"].items()
    }


class Collector:
    """A Collector on this machine, which can be stopped and started again."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file = directory / "spans.jsonl"
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            self.port = unused.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it accepts connections."""
        path = self._directory / "collector.yaml"
        path.write_text(configuration(self.port, str(self._file)))
        log = (self._directory / "collector.log").open("ab")
        with log:
            self._process = subprocess.Popen([binary(), "--config", path], stderr=log, stdout=log)
        limit = time.monotonic() + _LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None and time.monotonic() < limit, self.log
                time.sleep(0.02)

    def stop(self) -> None:
        """Stop it as a service manager does; it writes what it has accepted."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_LIMIT)
            self._process = None

    @property
    def log(self) -> str:
        """What it printed."""
        return (self._directory / "collector.log").read_text()

    def metrics(self) -> dict[str, dict[str, Any]]:
        """Return the last value of each metric that it wrote, by its name."""
        text = self._file.with_name("spans.jsonl.metrics").read_text()
        return {
            metric["name"]: metric
            for each in json.loads(text.splitlines()[-1])["resourceMetrics"]
            for scope in each["scopeMetrics"]
            for metric in scope["metrics"]
        }

    def spans(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Return the spans that it wrote, and the attributes of their resources."""
        text = self._file.read_text() if self._file.exists() else ""
        return list(spans_in(text[: text.rfind("\n") + 1].splitlines()))
