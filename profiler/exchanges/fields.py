# SPDX-License-Identifier: Apache-2.0
"""The fields that a condition can use: their names, and where their values are.

A new field is one row of the table at the end. A field may have no value (no response was seen) or
several (a repeated header): a comparison holds if it holds for one of them. A value may still
arrive while an exchange is open, so each field defines when it is *known*: no other value follows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.exchanges import values
from profiler.exchanges.headers import values as header_values
from profiler.exchanges.model import (
    Exchange,
    Side,
    host,
    is_final,
    outcome,
    path_of,
    repeated_request,
    service,
    without_port,
)

if TYPE_CHECKING:
    from profiler.schema import Record


class View:
    """An exchange as one end saw it; what this end did not see is taken from the other.

    ``records`` are the messages whose process and addresses count: all of this end, or the one that
    a filter decides on. ``over``: no more messages of the exchange follow.
    """

    def __init__(self, exchange: Exchange, role: str, records: Sequence[Record], over: bool):
        side = exchange.client if role == "client" else exchange.server
        assert side is not None, "the end was seen"
        self.exchange = exchange
        self.side: Side = side
        self.role = role
        self.records = records
        self.over = over
        self.request = side.request or repeated_request(side) or exchange.asked
        self.responses = side.responses if side.response else (*side.interim, *_final(exchange))

    @property
    def final(self) -> Record | None:
        """The final response."""
        return self.responses[-1] if self.responses and is_final(self.responses[-1]) else None

    @cached_property
    def has_request(self) -> bool:
        """Whether nothing more about the request can follow."""
        return self.over or self.side.request is not None

    @property
    def is_answered(self) -> bool:
        """Whether no other response follows."""
        return self.over or self.final is not None

    @property
    def is_whole(self) -> bool:
        """Whether request and final response were seen."""
        return self.has_request and self.is_answered


def _final(exchange: Exchange) -> Iterator[Record]:
    if exchange.response is not None:
        yield exchange.response


def views(exchange: Exchange) -> list[View]:
    """Return a finished exchange as each end saw it; at least one view."""
    return [
        View(exchange, role, side.records, over=True)
        for role, side in (("client", exchange.client), ("server", exchange.server))
        if side is not None
    ]


ORDER = ("<", "<=", ">", ">=")
EQUAL = ("=", "!=")


@dataclass(frozen=True)
class Kind:
    """A kind of value: how it is written, and which operators it allows.

    ``read`` parses a value, and raises ValueError. ``same(wanted, value)`` implements ``=``, if
    that is not equality.
    """

    read: Callable[[str], Any]
    signs: tuple[str, ...] = EQUAL
    same: Callable[[Any, Any], bool] | None = None


def _choice(*words: str) -> Kind:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError(f"{text!r} is not one of {', '.join(words)}")
        return text

    return Kind(read)


def _in_cgroup(wanted: str, path: str) -> bool:
    return f"{path}/".startswith(f"{wanted.rstrip('/')}/")


TEXT = Kind(str, (*EQUAL, "~"))
HOST = Kind(str.lower, (*EQUAL, "~"))
METHOD = Kind(values.method, (*EQUAL, "~"))
COMM = Kind(values.comm, (*EQUAL, "~"))
NUMBER = Kind(values.number, (*EQUAL, *ORDER))
PID = Kind(values.pid, (*EQUAL, *ORDER))
PORT = Kind(values.port, (*EQUAL, *ORDER))
TIME = Kind(values.milliseconds, (*EQUAL, *ORDER))
STATUS = Kind(values.status, (*EQUAL, *ORDER), lambda wanted, code: wanted[0] <= code <= wanted[1])
USER = Kind(values.user)
CGROUP = Kind(values.cgroup, EQUAL, _in_cgroup)
ADDRESS = Kind(values.address, EQUAL, lambda wanted, number: number in wanted)
ROLE = _choice(*values.ROLES)
DIRECTION = _choice(*values.DIRECTIONS)
OUTCOME = _choice("ok", "failed", "unknown")
# Texts, which happen to be in the order of the versions.
TLS_VERSION = replace(_choice("1.0", "1.1", "1.2", "1.3"), signs=(*EQUAL, *ORDER))


class Field(NamedTuple):
    """A name that a condition may use."""

    name: str
    kind: Kind
    values: Callable[[View], Iterable[Any]]
    known: Callable[[View], bool] = lambda view: True


_HEADER = re.compile(r"header\.(:?[!#$%&'*+.^_`|~0-9A-Za-z-]+)")


def field_named(name: str) -> Field | None:
    """Return the field of that name; ``None`` if there is none."""
    match = _HEADER.fullmatch(name)
    if match is None:
        return FIELDS.get(name)
    header = match[1].lower()
    return Field(name, TEXT, lambda view: _header(view, header), _whole)


def _header(view: View, name: str) -> Iterator[str]:
    for record in (view.request, *view.responses):
        yield from header_values(record, name)


def _asked(view: View) -> bool:
    # A response repeats its request, so no more can follow about method and target.
    return view.has_request or bool(view.request)


def _request(view: View) -> bool:
    return view.has_request


def _answered(view: View) -> bool:
    return view.is_answered


def _whole(view: View) -> bool:
    return view.is_whole


def _of_request(key: str) -> Callable[[View], Iterable[Any]]:
    return lambda view: _value(view.request, key)


def _of_final(key: str) -> Callable[[View], Iterable[Any]]:
    return lambda view: _value(view.final, key)


def _of_messages(*keys: str) -> Callable[[View], Iterable[Any]]:
    return lambda view: (
        value for record in view.records for key in keys for value in _value(record, key)
    )


def _value(record: Record | None, key: str) -> Iterable[Any]:
    value = record.get(key) if record else None
    return () if value is None else (value,)


def _method(view: View) -> Iterator[str]:
    for method in _value(view.request, "method"):
        yield method.upper()


def _path(view: View) -> Iterator[str]:
    for target in _value(view.request, "url"):
        yield path_of(target)


def _host(view: View) -> Iterator[str]:
    """The host that the request names, else the server's address, with and without its port."""
    if "headers" in view.request:
        name = host(view.exchange).lower()
        yield from {name, without_port(name)}


def _service(view: View) -> Iterator[str]:
    if _asked(view):
        yield service(view.exchange)


def _container(view: View) -> Iterator[str]:
    for container in _of_messages("container")(view):
        yield from _values(container, "name", "id")


def _of_pod(key: str) -> Callable[[View], Iterable[Any]]:
    return lambda view: (value for pod in _of_messages("pod")(view) for value in _values(pod, key))


def _values(part: dict[str, Any], *keys: str) -> Iterator[Any]:
    return (part[key] for key in keys if key in part)


def _interim(view: View) -> Iterator[int]:
    for response in view.responses:
        if response is not view.final:
            yield from _value(response, "status_code")


def _outcome(view: View) -> Iterator[str]:
    found = outcome(view.exchange)
    # A failure is final, unless a response may still follow the end of the request.
    is_sure = view.final is not None or "exited" not in view.exchange.incomplete
    if view.is_whole or (found == "failed" and is_sure):
        yield found


def _bytes(view: View) -> Iterator[int]:
    sizes = (*_value(view.request, "bytes"), *_value(view.final, "bytes"))
    if sizes and view.is_whole:
        yield sum(sizes)


def _role(view: View) -> Iterator[str]:
    for record in view.records:
        yield record.get("role", view.role)


def _address(view: View) -> Iterator[int]:
    return map(values.address_number, _of_messages("source_ip", "dest_ip")(view))


def _of_tls(key: str) -> Callable[[View], Iterable[Any]]:
    return lambda view: (value for one in TLS.values(view) for value in _value(one, key))


def _sni(view: View) -> Iterator[str]:
    return map(str.lower, _of_tls("sni")(view))


def _incomplete(view: View) -> Iterable[str]:
    return view.exchange.incomplete


TLS = Field("tls", TEXT, _of_messages("tls"))
"""Whether there is TLS: its value is an object, so a condition can only be that it has one."""

FIELDS = {
    field.name: field
    for field in (
        Field("status", STATUS, _of_final("status_code"), _answered),
        Field("interim", STATUS, _interim, _answered),
        Field("latency", TIME, _of_final("latency_ms"), _answered),
        Field("duration", TIME, _of_final("duration_ms"), _answered),
        Field("method", METHOD, _method, _asked),
        Field("url", TEXT, _of_request("url"), _asked),
        Field("path", TEXT, _path, _asked),
        Field("host", HOST, _host, _request),
        Field("service", TEXT, _service, _request),
        Field("outcome", OUTCOME, _outcome, _whole),
        Field("incomplete", TEXT, _incomplete, _whole),
        Field("bytes", NUMBER, _bytes, _whole),
        Field("request_bytes", NUMBER, _of_request("bytes"), _request),
        Field("response_bytes", NUMBER, _of_final("bytes"), _answered),
        Field("pid", PID, _of_messages("pid")),
        Field("comm", COMM, _of_messages("comm")),
        Field("cmdline", TEXT, _of_messages("cmdline")),
        Field("user", USER, _of_messages("uid")),
        Field("cgroup", CGROUP, _of_messages("cgroup")),
        Field("container", TEXT, _container),
        Field("pod", TEXT, _of_pod("name")),
        Field("namespace", TEXT, _of_pod("namespace")),
        Field("port", PORT, _of_messages("source_port", "dest_port")),
        Field("address", ADDRESS, _address),
        Field("direction", DIRECTION, _of_messages("direction")),
        Field("role", ROLE, _role),
        Field("tls.library", TEXT, _of_tls("library")),
        Field("tls.version", TLS_VERSION, _of_tls("version")),
        Field("tls.sni", HOST, _sni),
        Field("tls.alpn", TEXT, _of_tls("alpn")),
        Field("tls.cipher", TEXT, _of_tls("cipher")),
    )
}
