# SPDX-License-Identifier: Apache-2.0
"""Where spans are sent: ``--otlp URL``, and the variables of OpenTelemetry's specification.

https://opentelemetry.io/docs/specs/otel/protocol/exporter; a variable for traces, such as
``OTEL_EXPORTER_OTLP_TRACES_HEADERS``, is used instead of the general one.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit

from profiler.errors import UsageError
from profiler.outputs.otlp.spans import given_attributes

FROM_ENVIRONMENT = "env"
"""In place of a URL: take it from the environment."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")  # RFC 9110, 5.5
_DEFAULT_SECONDS = 10.0
_METRICS_SECONDS = 60.0


@dataclass(frozen=True)
class Endpoint:
    """A Collector, and what every request to it has."""

    scheme: str
    host: str
    port: int
    path: str
    """The path for traces."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    gzip: bool = True
    seconds: float = _DEFAULT_SECONDS
    """How long a request may take."""
    tls: ssl.SSLContext | None = None
    metrics_path: str | None = None
    """The path for metrics; ``None``: they are not wanted."""
    metrics_seconds: float = _METRICS_SECONDS
    """The interval between two exports of metrics."""

    @property
    def metrics(self) -> Endpoint | None:
        """The same for metrics."""
        return None if self.metrics_path is None else replace(self, path=self.metrics_path)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"


def endpoint(url: str, environment: Mapping[str, str]) -> Endpoint:
    """Return the endpoint of ``--otlp URL``. Raises UsageError.

    Files are read here: later, this process may be unable to.
    """

    def variable(name: str) -> str:
        traces = environment.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
        return traces or environment.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()

    is_whole = False
    if url == FROM_ENVIRONMENT:
        url = environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
        is_whole = bool(url)
        url = url or environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip()
        if not url:
            raise UsageError(
                "--otlp env: OTEL_EXPORTER_OTLP_ENDPOINT is not set; set it, or give the URL"
            )
    parts, port = _split(url)
    query = f"?{parts.query}" if parts.query else ""
    base = parts.path.rstrip("/")
    path = (parts.path if is_whole else f"{base}/v1/traces") + query
    wants_metrics = not is_whole and environment.get("OTEL_METRICS_EXPORTER", "").strip() != "none"
    interval = "OTEL_METRIC_EXPORT_INTERVAL"
    protocol = variable("PROTOCOL")
    if protocol not in ("", "http/protobuf"):
        raise UsageError(f"OTEL_EXPORTER_OTLP_PROTOCOL={protocol}: only http/protobuf is supported")
    compression = variable("COMPRESSION") or "gzip"
    if compression not in ("gzip", "none"):
        raise UsageError(f"OTEL_EXPORTER_OTLP_COMPRESSION={compression}: it is gzip or none")
    return Endpoint(
        parts.scheme,
        str(parts.hostname),
        port,
        path or "/",
        _headers(variable("HEADERS")),
        compression == "gzip",
        _seconds("OTEL_EXPORTER_OTLP_TIMEOUT", variable("TIMEOUT"), _DEFAULT_SECONDS),
        _tls(*map(variable, ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")))
        if parts.scheme == "https"
        else None,
        f"{base}/v1/metrics{query}" if wants_metrics else None,
        _seconds(interval, environment.get(interval, "").strip(), _METRICS_SECONDS),
    )


def resource_attributes(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that the user gave to every resource. Raises UsageError."""
    try:
        return given_attributes(
            environment.get("OTEL_RESOURCE_ATTRIBUTES", ""),
            environment.get("OTEL_SERVICE_NAME", ""),
        )
    except ValueError:
        raise UsageError("OTEL_RESOURCE_ATTRIBUTES is not a list of name=value") from None


def _split(url: str) -> tuple[SplitResult, int]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise UsageError(f"--otlp {url!r} is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"--otlp {url!r}: give a URL such as http://localhost:4318")
    if parts.username is not None or parts.password is not None:
        # It would be shown in the list of processes.
        raise UsageError("--otlp: put credentials into OTEL_EXPORTER_OTLP_HEADERS, not the URL")
    if not re.fullmatch(r"[\x21-\x7e]*", f"{parts.path}?{parts.query}{parts.hostname}"):
        raise UsageError(f"--otlp {url!r}: percent-encode what is not ASCII")
    if port is None:
        port = 443 if parts.scheme == "https" else 80
    return parts, port


def _headers(text: str) -> dict[str, str]:
    """Parse ``name=value,...`` with percent-encoded values; errors do not repeat the values."""
    headers = {}
    for number, pair in enumerate(filter(None, map(str.strip, text.split(","))), 1):
        name, equals, value = pair.partition("=")
        name, value = name.strip(), unquote(value.strip(), "latin-1")
        if not equals or not _TOKEN.fullmatch(name) or not _VALUE.fullmatch(value):
            raise UsageError(
                f"OTEL_EXPORTER_OTLP_HEADERS: entry {number} is not name=value, percent-encoded"
            )
        headers[name] = value
    return headers


def _seconds(name: str, text: str, default: float) -> float:
    """Parse the milliseconds of a variable."""
    if not text:
        return default
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 600_000:
        raise UsageError(f"{name}={text}: it is a number of milliseconds, up to 600000")
    return int(text) / 1000


def _tls(authority: str, certificate: str, key: str) -> ssl.SSLContext:
    name = "CERTIFICATE"
    try:
        context = ssl.create_default_context(cafile=authority or None)
        if certificate:
            name = "CLIENT_CERTIFICATE"
            context.load_cert_chain(certificate, key or None)
    except (OSError, ssl.SSLError) as error:
        path = authority if name == "CERTIFICATE" else certificate
        why = error.strerror if not isinstance(error, ssl.SSLError) else "it has no valid PEM"
        raise UsageError(f"OTEL_EXPORTER_OTLP_{name}: cannot use {path}: {why}") from None
    return context
