# SPDX-License-Identifier: Apache-2.0
"""An exchange: its messages, when it failed, its host, path and service.

An exchange is a request with its responses, as its client, its server or both saw it. Every command
and output uses these functions, so that all give the same answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, cast
from urllib.parse import urlsplit

from profiler.exchanges.headers import header, values

if TYPE_CHECKING:
    from profiler.schema import Record

Outcome = Literal["ok", "failed", "unknown"]

NO_RESPONSE = "no_response"
"""In ``incomplete``: the connection, or its stream, ended before a response began."""


@dataclass(frozen=True)
class Side:
    """What one process sent and received of an exchange."""

    request: Record | None
    interim: tuple[Record, ...]
    """Responses before the final one: 1xx, and the 101 to h2c."""

    response: Record | None
    """The final response."""

    @property
    def records(self) -> tuple[Record, ...]:
        """All records in the order of the exchange; at least one."""
        request = (self.request,) if self.request else ()
        return (*request, *self.responses)

    @property
    def responses(self) -> tuple[Record, ...]:
        """The interim ones and the final one."""
        return (*self.interim, *((self.response,) if self.response else ()))


@dataclass(frozen=True)
class Exchange:
    """A request with its responses as the client, the server or both saw it."""

    client: Side | None
    server: Side | None

    @property
    def side(self) -> Side:
        """The client's, if it was seen: the client waits for all of it."""
        side = self.client or self.server
        assert side is not None, "an exchange has a record"
        return side

    @property
    def sides(self) -> tuple[Side, ...]:
        """The ends that were seen."""
        return tuple(side for side in (self.client, self.server) if side is not None)

    @property
    def first(self) -> Record:
        """The first record of :attr:`side`."""
        return self.side.records[0]

    @property
    def request(self) -> Record | None:
        """The request, from the client's side if it has one."""
        return next((side.request for side in self.sides if side.request is not None), None)

    @property
    def response(self) -> Record | None:
        """The final response, from the client's side if it has one."""
        return next((side.response for side in self.sides if side.response is not None), None)

    @property
    def asked(self) -> Record:
        """The request, or what a response repeats of it. May be empty."""
        return self.request or next(
            filter(None, map(repeated_request, self.sides)), cast("Record", {})
        )

    @property
    def is_tls(self) -> bool:
        """Whether its messages were encrypted, and captured with ``--tls``."""
        return "tls" in self.first

    @property
    def incomplete(self) -> tuple[str, ...]:
        """Why something is missing at either end, each reason once."""
        return tuple(dict.fromkeys(why for side in self.sides for why in reasons(side)))


def repeated_request(side: Side) -> Record | None:
    """Return a record of the request, made of what the responses repeat of it."""
    summary = next((one["request"] for one in side.responses if "request" in one), None)
    if summary is None:
        return None
    record: Record = {}
    if "method" in summary:
        record["method"] = summary["method"]
    if "url" in summary:
        record["url"] = summary["url"]
    if "host" in summary:
        record["headers"] = {"host": summary["host"]}
    return record


def reasons(side: Side) -> Iterator[str]:
    """Yield the reasons why messages of a side are incomplete."""
    for record in side.records:
        yield from record.get("incomplete", ())


def is_final(response: Record) -> bool:
    """Whether this is the last response to its request."""
    status = response.get("status_code", 200)
    # 101 ends HTTP on its connection (RFC 9110, 15.2.2), unless it switches to h2c: then the
    # response follows on stream 1 (RFC 7540, 3.2).
    return not 100 <= status < 200 or (status == 101 and response.get("upgrade") != "h2c")


def outcome(exchange: Exchange) -> Outcome:
    """Return whether an exchange failed.

    It failed if its status is 5xx, if its gRPC status is not 0, if it was reset, or if its
    connection ended without a response. ``unknown``: the response or its gRPC status was not seen,
    and nothing shows that there was none.
    """
    if any(_failed(record) for side in exchange.sides for record in side.records):
        return "failed"
    response = exchange.response
    if response is None:
        # The process, and with it the connection, ended before a response arrived.
        return "failed" if "exited" in exchange.incomplete else "unknown"
    is_cut_grpc = "incomplete" in response and _is_grpc(response)
    if "status_code" not in response or (is_cut_grpc and grpc_status(response) is None):
        return "unknown"
    return "ok"


def failed(exchange: Exchange) -> bool:
    """Whether the outcome of an exchange is ``failed``."""
    return outcome(exchange) == "failed"


def _failed(record: Record) -> bool:
    incomplete = record.get("incomplete", ())
    if NO_RESPONSE in incomplete:
        return True
    # RFC 9113, 8.1: after a whole response, NO_ERROR stops the rest of the request.
    if "reset" in incomplete and record.get("error_code") != "NO_ERROR":
        return True
    return record.get("status_code", 0) >= 500 or bool(grpc_status(record))


def grpc_status(response: Record) -> int | None:
    """Return the status of a gRPC response, from its trailers or a trailers-only head.

    ``None`` if it has none; a status that is not a number counts as 2, UNKNOWN
    (https://grpc.io/docs/guides/status-codes).
    """
    value = next(values(response, "grpc-status"), None)
    if value is None or response["type"] != "response":
        return None
    return int(value) if value.isascii() and value.isdigit() and len(value) < 10 else 2


def _is_grpc(record: Record) -> bool:
    return (header(record, "content-type") or "").startswith("application/grpc")


# host [ ":" port ] (RFC 9110, 7.2; RFC 3986, 3.2.2), of the characters that names have in practice.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_PORT = re.compile(r":[0-9]*$")


def named_host(request: Record) -> str | None:
    """Return host and port that a request names (``:authority``, Host), if they are valid."""
    for name in (":authority", "host"):
        value = header(request, name)
        if value and _AUTHORITY.fullmatch(value):
            return value
    return None


def authority(request: Record, seen: Record) -> str:
    """Return host and port of a request's URL: those that it names, else the server's address.

    ``seen`` is a record of the exchange: it has the addresses.
    """
    address = remote(seen)
    fallback = address if address and _AUTHORITY.fullmatch(address) else "localhost"
    return named_host(request) or fallback


def host(exchange: Exchange) -> str:
    """Return host and port that the request names, else the server's address."""
    return named_host(exchange.asked) or remote(exchange.first) or ""


def without_port(host: str) -> str:
    """Return a host without its port."""
    return _PORT.sub("", host)


def service(exchange: Exchange) -> str:
    """Return the server's service or program if it was seen, else the host without its port."""
    server = service_of(exchange.server.records[0]) if exchange.server else None
    return server or without_port(host(exchange)).lower()


def service_of(record: Record) -> str | None:
    """Return the service of a record's process, else its program."""
    return record.get("service") or program(record)


def remote(record: Record) -> str | None:
    """Return the server's address of a record, ``IP:PORT`` or a Unix socket's path."""
    return _dest(record) if record["type"] == "request" else _source(record)


def local(record: Record) -> str | None:
    """Return the client's address of a record, ``IP:PORT`` or a Unix socket's path."""
    return _source(record) if record["type"] == "request" else _dest(record)


def _source(record: Record) -> str | None:
    ip, port = record.get("source_ip"), record.get("source_port")
    return record.get("source_path") or _address(ip, port)


def _dest(record: Record) -> str | None:
    ip, port = record.get("dest_ip"), record.get("dest_port")
    return record.get("dest_path") or _address(ip, port)


def _address(ip: str | None, port: int | None) -> str | None:
    if ip is None or port is None:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def url(exchange: Exchange) -> str:
    """Return the request's URL, as absolute as target, Host and addresses make it."""
    return absolute_url(exchange.asked, exchange.first)


def absolute_url(request: Record, seen: Record) -> str:
    """Return the URL of a request; ``seen`` as in :func:`authority`."""
    target = request.get("url", "/")
    if request.get("method") == "CONNECT":
        return f"http://{target}/"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", target):
        return target
    scheme = header(request, ":scheme")
    if scheme not in ("http", "https"):
        scheme = "https" if "tls" in seen else "http"
    prefix = f"{scheme}://{authority(request, seen)}"
    return prefix + (target if target.startswith("/") else f"/{target}")


def path_of(target: str) -> str:
    """Return the path of a request target: without query, scheme and host."""
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError:
            return target
        if parts.scheme and parts.netloc:
            return parts.path or "/"
    return re.split(r"[?#]", target, maxsplit=1)[0]


_INTERPRETER = re.compile(
    r"(?:python|pypy|perl|ruby|node|nodejs|php|php-fpm|bash|sh|dash|java|deno|bun|lua|tclsh)[0-9.]*"
)


def program(record: Record) -> str | None:
    """Return the name of the process: its program, or the script that an interpreter runs.

    ``comm`` is the name of one thread, and a server has many threads.
    """
    words = record.get("cmdline", "").split()
    if words:
        name = _base(words[0])
        if not _INTERPRETER.fullmatch(name):
            # nginx and others overwrite their arguments with a title: "nginx: worker process".
            return name.rstrip(":") or record.get("comm")
        for before, word in zip(words, words[1:]):
            if word.startswith("-") and word not in ("-m", "-jar"):
                if word in ("-c", "-e"):
                    break
                continue
            if not word.startswith("-") and before not in ("-cp", "-classpath", "-W", "-X"):
                return _base(word) or name
        return name
    return record.get("comm")


def _base(word: str) -> str:
    return word.rstrip("/").rpartition("/")[2]


_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", re.ASCII)


def nanoseconds(timestamp: str) -> int:
    """Return the nanoseconds since 1970 of a record's time. Raises ValueError."""
    # The range of 64-bit nanoseconds since 1970, also in databases.
    if _TIMESTAMP.fullmatch(timestamp) is None or not "1970" <= timestamp[:4] < "2262":
        raise ValueError(timestamp)
    return _second(timestamp[:19]) * 1_000_000_000 + int(timestamp[20:-1].ljust(9, "0") or 0)


@lru_cache(maxsize=64)
def _second(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp())
