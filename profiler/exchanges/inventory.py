# SPDX-License-Identifier: Apache-2.0
"""The services of a capture: what each is, what it serves, and whom it calls.

A service is known by its name: that of the record (``service``), else the program. An end whose
records are missing has the name that ``peer`` of the other end gives. Ends without a name, on other
machines or left out by a filter, share one entry, ``external``.

Names, types and counts are kept, never the value of a header, a parameter or a body. Each table is
bounded; ``left_out`` counts what exceeds a bound.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote_plus

import orjson

from profiler.exchanges.body_schema import BodySchema, Limit
from profiler.exchanges.endpoint import is_id, template
from profiler.exchanges.headers import header
from profiler.exchanges.latencies import Latencies
from profiler.exchanges.model import (
    Exchange,
    Side,
    failed,
    local,
    program,
    service,
    service_of,
    without_port,
)

if TYPE_CHECKING:
    from profiler.schema import Record

SERVICES_MAX = 200
ENDPOINTS_MAX = 300
"""Endpoints of one service."""
CALLS_MAX = 600
"""Calls of one service: combinations of callee, method and path."""
NAMES_MAX = 50
"""Names in one list, such as the programs of a service or the parameters of an endpoint."""

_NAME_MAX = 100
# type "/" subtype (RFC 9110, 8.3.1).
_MEDIA_TYPE = re.compile(r"[\w!#$%&'*+.^`|~-]+/[\w!#$%&'*+.^`|~-]+", re.ASCII)

Names = dict[str, None]
"""An ordered set of at most :data:`NAMES_MAX` names."""


@dataclass
class Messages:
    """The requests of an endpoint, or its responses of one status."""

    count: int = 0
    with_content: int = 0
    """Those with a media type."""

    content: dict[str, BodySchema | None] = field(default_factory=dict)
    """The media types of their content, with the schemas of JSON."""

    def add(self, messages: list[Record], limit: Limit) -> None:
        """Count a message as one or both ends saw it."""
        self.count += 1
        whole = next((one for one in messages if "incomplete" not in one), messages[0])
        media_type = (header(whole, "content-type") or "").partition(";")[0].strip().lower()
        if not _MEDIA_TYPE.fullmatch(media_type):
            return
        self.with_content += 1
        if media_type not in self.content and len(self.content) >= NAMES_MAX:
            return
        schema = self.content.setdefault(media_type, None)
        if not _is_json(media_type):
            return
        body = _whole_body(whole)
        if body is None:
            return
        if schema is None and limit.takes(0):
            schema = self.content[media_type] = BodySchema()
        if schema is not None:
            schema.add(body[0], limit)


@dataclass
class Endpoint:
    """A method and a path of a service, with ids in the path as ``{id}``."""

    method: str
    path: str
    host: str
    """Of an external service, else empty."""

    count: int = 0
    failed: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    """Milliseconds, as the client saw them if it was seen."""

    parameters: Names = field(default_factory=dict)
    """Names of parameters of the query."""

    requests: Messages = field(default_factory=Messages)
    responses: dict[int, Messages] = field(default_factory=dict)
    """Final responses, by status."""

    def add(self, exchange: Exchange, limit: Limit) -> None:
        """Count an exchange."""
        self.count += 1
        self.failed += failed(exchange)
        for name in _parameters(exchange.asked.get("url", "")):
            _note(self.parameters, name)
        requests = [side.request for side in exchange.sides if side.request is not None]
        if requests:
            self.requests.add(requests, limit)
        responses = [side.response for side in exchange.sides if side.response is not None]
        for response in responses[:1]:
            if "latency_ms" in response:
                self.latencies.add(response["latency_ms"])
            status = response.get("status_code", 0)
            # Three digits (RFC 9110, 15).
            if 100 <= status <= 999:
                self.responses.setdefault(status, Messages()).add(responses, limit)


@dataclass
class Call:
    """What a service requests from another one."""

    service: str | None
    """The name of that service; ``None`` if it is external."""

    host: str
    """The host of an external service, else empty."""

    method: str
    path: str
    count: int = 0
    failed: int = 0


@dataclass
class Service:
    """What is known of the processes that share a name."""

    name: str
    programs: Names = field(default_factory=dict)
    containers: Names = field(default_factory=dict)
    images: Names = field(default_factory=dict)
    pods: Names = field(default_factory=dict)
    """``namespace/name``, or the name of a pod without a namespace."""

    units: Names = field(default_factory=dict)
    addresses: Names = field(default_factory=dict)
    """Of external ends: IP addresses of clients, and hosts of servers."""

    endpoints: dict[tuple[str, str, str], Endpoint] = field(default_factory=dict)
    calls: dict[tuple[str, str, str, str], Call] = field(default_factory=dict)

    def note(self, record: Record) -> None:
        """Remember what a record shows of its process."""
        container, pod = record.get("container", {}), record.get("pod", {})
        namespace = pod.get("namespace")
        pod_name = pod.get("name", "")
        # Outside of containers and pods, a service is named by its unit.
        unit = None if container or pod else record.get("service")
        for names, name in (
            (self.programs, program(record)),
            (self.containers, container.get("name") or container.get("id")),
            (self.images, container.get("image")),
            (self.pods, f"{namespace}/{pod_name}" if namespace else pod_name),
            (self.units, f"{unit}.service" if unit else None),
        ):
            if name:
                _note(names, name)


class Inventory:
    """Collects the exchanges of a capture."""

    def __init__(self, exchanges: Iterable[Exchange] = ()) -> None:
        self.services: dict[str, Service] = {}
        self.external = Service("external")
        self._limit = Limit()
        self._left_out: Counter[str] = Counter()
        for exchange in exchanges:
            self.add(exchange)

    @property
    def left_out(self) -> dict[str, int]:
        """Counts of what is missing.

        Exchanges beyond a bound (``services``, ``endpoints``, ``calls``), responses whose request
        was not seen (``unknown_requests``), and values of bodies that no schema describes
        (``values``).
        """
        values = {"values": self._limit.left_out} if self._limit.left_out else {}
        return {**self._left_out, **values}

    def add(self, exchange: Exchange) -> None:
        """Count an exchange at its server and at its client."""
        asked = exchange.asked
        if "method" not in asked or "url" not in asked:
            self._left_out["unknown_requests"] += 1
            return
        server = self._end(exchange.server, exchange.client)
        client = self._end(exchange.client, exchange.server)
        if server is None or client is None:
            self._left_out["services"] += 1
            return
        host = ""
        if server is self.external:
            host = service(exchange)
            _note(server.addresses, host)
        if client is self.external:
            _note(client.addresses, without_port(local(exchange.first) or ""))
        method, path = asked["method"], template(asked["url"])
        self._serve(server, exchange, method, path, host)
        self._call(client, server, exchange, method, path, host)

    def _end(self, side: Side | None, other: Side | None) -> Service | None:
        """Return the service at one end; ``None`` if there are too many."""
        record = side.records[0] if side is not None else _peer(other)
        name = service_of(record)
        if not name:
            return self.external
        found = self.services.get(name)
        if found is None:
            if len(self.services) >= SERVICES_MAX:
                return None
            found = self.services[name] = Service(name)
        found.note(record)
        return found

    def _serve(
        self, server: Service, exchange: Exchange, method: str, path: str, host: str
    ) -> None:
        key = method, path, host
        endpoint = server.endpoints.get(key)
        if endpoint is None:
            if len(server.endpoints) >= ENDPOINTS_MAX:
                self._left_out["endpoints"] += 1
                return
            endpoint = server.endpoints[key] = Endpoint(*key)
        endpoint.add(exchange, self._limit)

    def _call(
        self,
        client: Service,
        server: Service,
        exchange: Exchange,
        method: str,
        path: str,
        host: str,
    ) -> None:
        name = None if server is self.external else server.name
        key = name or "", host, method, path
        call = client.calls.get(key)
        if call is None:
            if len(client.calls) >= CALLS_MAX:
                self._left_out["calls"] += 1
                return
            call = client.calls[key] = Call(name, host, method, path)
        call.count += 1
        call.failed += failed(exchange)


def _peer(side: Side | None) -> Record:
    """Return what the records of a side show of the other end, as a record of that end."""
    for record in side.records if side is not None else ():
        if "peer" in record:
            peer = record["peer"]
            shown = {name: peer[name] for name in ("container", "pod", "service") if name in peer}
            return cast("Record", {**shown, **peer.get("process", {})})
    return {}


def _is_json(media_type: str) -> bool:
    # RFC 6839, 3.1.
    return media_type == "application/json" or media_type.endswith("+json")


def _whole_body(record: Record) -> tuple[object] | None:
    """Return the value of a JSON body in a tuple; ``None`` if it is not whole or not JSON."""
    body = record.get("body")
    if not body or "incomplete" in record or "body_encoding" in record or "body_codings" in record:
        return None
    try:
        return (orjson.loads(body),)
    except orjson.JSONDecodeError:
        return None


def _parameters(target: str) -> Iterator[str]:
    """Yield the names of a query's parameters; a name alone may be a value."""
    query = target.partition("?")[2].partition("#")[0]
    for parameter in query.split("&", NAMES_MAX)[:NAMES_MAX]:
        name, equals, _ = parameter.partition("=")
        name = unquote_plus(name)
        if name and equals and not is_id(name):
            yield name


def _note(names: Names, name: str) -> None:
    if len(names) < NAMES_MAX and 0 < len(name) <= _NAME_MAX:
        names[name] = None
