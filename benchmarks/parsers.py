# SPDX-License-Identifier: Apache-2.0
"""Parsers of heads with the same result: a start line and the fields of each head.

Those with a lenient mode use it.

``new(type)`` creates the state of one connection and returns a function that takes
bytes and returns the heads in them.
"""

from __future__ import annotations

from typing import Any, Callable

import h11
import httptools
import llhttp

from profiler.ingest.http import Message, Messages
from profiler.ingest.http.classify import REQUEST_LINE, start_line
from profiler.ingest.http.fields import _parse, decode, parse_fields
from profiler.ingest.http.http1 import _END_OF_HEAD
from profiler.ingest.http.message import REQUEST, RESPONSE, Type
from profiler.ingest.settings import Settings
from profiler.ingest.wire import RECV, SEND
from tests.unit.wires import Wire

Head = tuple[str, dict[str, Any]]
Feed = Callable[[bytes], "list[Head]"]


def _ours(fields_of: Callable) -> Callable[[Type], Feed]:  # type: ignore[type-arg]
    def new(type_: Type) -> Feed:
        def feed(data: bytes) -> list[Head]:
            start = start_line(data, 0, type_)
            assert start
            end = _END_OF_HEAD.search(data, start.end() - 1)
            assert end
            fields = fields_of(data[start.end() : end.end()])
            if start.re is REQUEST_LINE:
                method, target, _version = map(decode, start.groups())
                return [(f"{method} {target}", fields.headers)]
            _version, code, reason = map(decode, start.groups(b""))
            return [(f"{code} {reason}", fields.headers)]

        return feed

    return new


def messages(type_: Type) -> Feed:
    """The whole stage: also framing, pairing and the message itself."""
    wire, stage = Wire(), Messages(Settings())
    direction = SEND if type_ == REQUEST else RECV
    if direction == RECV:  # for the responses to HEAD
        stage.feed(wire.send(b"HEAD / HTTP/1.1\r\n\r\n" * 2))
    template = wire.send(b"") if direction == SEND else wire.recv(b"")

    def feed(data: bytes) -> list[Head]:
        chunk = template._replace(payload=data, size=len(data), captured=len(data))
        found = []
        for message in stage.feed(chunk):
            if isinstance(message, Message):
                head = message.head
                start = (
                    f"{head.method} {head.target}"
                    if head.method
                    else f"{head.status} {head.reason}"
                )
                found.append((start, head.fields.headers))
        return found

    return feed


class _Collector:
    """The callbacks of httptools."""

    def __init__(self, type_: Type) -> None:
        is_request = type_ == REQUEST
        self.found: list[Head] = []
        self._parser = (
            httptools.HttpRequestParser if is_request else httptools.HttpResponseParser
        )(self)
        self._is_request = is_request
        self._parser.set_dangerous_leniencies(*[True] * 10)
        self.on_message_begin()

    def on_message_begin(self) -> None:
        self._start = b""
        self._fields: dict[str, str] = {}

    def on_url(self, url: bytes) -> None:
        self._start += url

    on_status = on_url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields[decode(name).lower()] = decode(value)

    def on_headers_complete(self) -> None:
        parser = self._parser
        word = decode(parser.get_method()) if self._is_request else parser.get_status_code()
        self.found.append((f"{word} {decode(self._start)}", self._fields))

    def feed(self, data: bytes) -> list[Head]:
        self.found = []
        self._parser.feed_data(data)
        return self.found


def of_httptools(type_: Type) -> Feed:
    """One parser for the connection."""
    return _Collector(type_).feed


def _llhttp(base: type) -> type:
    class Collector(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.found: list[Head] = []
            self.on_message_begin()

        def on_message_begin(self) -> None:
            self._start = b""
            self._name = self._value = b""
            self._fields: dict[str, str] = {}

        def on_url(self, data: bytes) -> None:
            self._start += data

        on_status = on_url

        def on_header_field(self, data: bytes) -> None:
            self._name += data

        def on_header_value(self, data: bytes) -> None:
            self._value += data

        def on_header_value_complete(self) -> None:
            self._fields[decode(self._name).lower()] = decode(self._value)
            self._name = self._value = b""

        def on_headers_complete(self) -> None:
            word = self.method if base is llhttp.Request else self.status
            self.found.append((f"{word} {decode(self._start)}", self._fields))

    return Collector


_LLHTTP = {REQUEST: _llhttp(llhttp.Request), RESPONSE: _llhttp(llhttp.Response)}


def of_llhttp(type_: Type) -> Feed:
    """One parser for the connection."""
    parser = _LLHTTP[type_]()
    for name in dir(parser):
        if name.startswith("lenient_"):
            setattr(parser, name, True)

    def feed(data: bytes) -> list[Head]:
        found: list[Head] = []
        parser.found = found
        parser.execute(data)
        return found

    return feed


def of_h11(type_: Type) -> Feed:
    """The other end of the connection, which continues only after sending something itself."""
    is_request = type_ == REQUEST

    def feed(data: bytes) -> list[Head]:
        connection = h11.Connection(h11.SERVER if is_request else h11.CLIENT)
        connection.receive_data(data)
        found: list[Head] = []
        while not is_request:
            connection.send(h11.Request(method="HEAD", target="/", headers=_HOST))
            connection.send(h11.EndOfMessage())
            response = connection.next_event()
            fields = {decode(name): decode(value) for name, value in response.headers}
            found.append((f"{response.status_code} {decode(response.reason)}", fields))
            if not connection.trailing_data[0]:
                return found
            connection.next_event()
            connection.start_next_cycle()
        request = connection.next_event()
        if request is h11.NEED_DATA:
            return []
        fields = {decode(name): decode(value) for name, value in request.headers}
        return [(f"{decode(request.method)} {decode(request.target)}", fields)]

    return feed


_HOST = [("Host", "a")]

PARSERS: dict[str, Callable[[Type], Feed]] = {
    "ours, fields seen before": _ours(parse_fields),
    "ours, new fields": _ours(_parse),
    "our whole HTTP stage": messages,
    "httptools": of_httptools,
    "llhttp": of_llhttp,
    "h11": of_h11,
}
