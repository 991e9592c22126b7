# SPDX-License-Identifier: Apache-2.0
"""A mock of an OpenTelemetry Collector: it answers as a test says, and keeps what it accepted."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

Answer = Callable[[BaseHTTPRequestHandler], None]


class MockCollector:
    """Answers requests for traces with ``answers`` in their order, and accepts what comes after."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[dict[str, str]] = []
        self.paths: list[str] = []
        self.resource_spans: list[Any] = []
        self.resource_metrics: list[Any] = []
        """Of the last request."""
        self.metrics_status = 200
        self.released = threading.Event()
        """Ends the answer of :func:`hang`."""
        self.url = ""

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for each in self.resource_spans
            for scope in each.scope_spans
            for span in scope.spans
        ]

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers["Content-Length"]))
        if handler.path == "/v1/metrics":
            request = ExportMetricsServiceRequest.FromString(gzip.decompress(body))
            self.resource_metrics = list(request.resource_metrics)
            reply(handler, self.metrics_status)
            return
        self.requests.append(dict(handler.headers.items()))
        self.paths.append(handler.path)
        if self.answers:
            self.answers.pop(0)(handler)
            return
        if handler.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.resource_spans += ExportTraceServiceRequest.FromString(body).resource_spans
        reply(handler, 200)


def reply(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def answer(status: int, body: bytes = b"", **headers: str) -> Answer:
    return lambda handler: reply(handler, status, body, **headers)


def partial(rejected: int, text: str) -> Answer:
    response = ExportTraceServiceResponse()
    response.partial_success.rejected_spans = rejected
    response.partial_success.error_message = text
    return answer(200, response.SerializeToString())


def garbage(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")
    handler.close_connection = True


def close(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@contextmanager
def mock_collector(
    *answers: Answer, port: int = 0, tls: ssl.SSLContext | None = None
) -> Iterator[MockCollector]:
    collector = MockCollector(*answers)
    connections: list[socket.socket] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            connections.append(self.connection)

        def do_POST(self) -> None:
            collector.take(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    collector.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield collector
    finally:
        collector.released.set()
        server.shutdown()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        server.server_close()
        thread.join()
