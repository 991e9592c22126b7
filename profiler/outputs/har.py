# SPDX-License-Identifier: Apache-2.0
"""HTTP Archive 1.2 (http://www.softwareishard.com/blog/har-12-spec/), which browsers open.

An entry is an exchange, as its client saw it if the client was seen. Fields that HAR lacks begin
with ``_``. An unknown value is -1 where HAR allows it, else absent. An exchange without a response
has status 0, as in the archives that browsers write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

import orjson

from profiler import __version__
from profiler.exchanges.headers import header
from profiler.exchanges.model import Exchange, absolute_url, program, remote
from profiler.exchanges.read import body_bytes, header_fields
from profiler.exchanges.text import escaped

if TYPE_CHECKING:
    from profiler.schema import Record

_Object = dict[str, Any]


def har(exchanges: Iterable[Exchange]) -> Iterator[bytes]:
    """Yield a HAR document in pieces. Exchanges whose request is unknown are skipped."""
    creator = orjson.dumps({"name": "http-profiler", "version": __version__})
    yield b'{"log":{"version":"1.2","creator":' + creator + b',"entries":['
    comma = b"\n"
    for exchange in exchanges:
        if is_known(exchange):
            yield comma + escaped(orjson.dumps(entry(exchange)))
            comma = b",\n"
    yield b"\n]}}\n"


def is_known(exchange: Exchange) -> bool:
    """Whether method and target of the request are known."""
    return "method" in exchange.asked and "url" in exchange.asked


def entry(exchange: Exchange) -> _Object:
    """Return the HAR entry of an exchange that ``is_known``."""
    first = exchange.first
    request, response = exchange.asked, exchange.response
    wait = receive = 0.0
    if response is not None:
        # By this end's clock, a response can begin before its request: never less than 0.
        wait = max(0.0, response.get("latency_ms", 0.0))
        receive = max(0.0, response.get("duration_ms", 0.0) - wait)
    found: _Object = {
        "startedDateTime": _milliseconds(first["timestamp"]),
        "time": wait + receive,
        "request": _request(request, first),
        "response": _response(response),
        "cache": {},
        # Both times begin at the request's first byte: sending it is part of `wait`.
        "timings": {"blocked": -1, "dns": -1, "connect": -1, "ssl": -1}
        | {"send": 0, "wait": wait, "receive": receive},
        "_role": first.get("role"),
        "_process": program(first),
        "_pid": first.get("pid"),
    }
    address = remote(first)
    if address is not None and "dest_path" not in first and "source_path" not in first:
        found["serverIPAddress"] = address.rpartition(":")[0].strip("[]")
    if "connection" in first:
        found["connection"] = first["connection"]
    if exchange.incomplete:
        found["_incomplete"] = list(exchange.incomplete)
        found["comment"] = f"incomplete: {', '.join(exchange.incomplete)}"
    elif response is None:
        found["comment"] = "no response was captured"
    return found


def _request(request: Record, first: Record) -> _Object:
    url = absolute_url(request, first)
    found = {
        "method": request["method"],
        "url": url,
        "httpVersion": _version(request.get("http_version", first.get("http_version"))),
        "cookies": _cookies(request),
        "headers": _headers(request),
        "queryString": [{"name": name, "value": value} for name, value in _query(url)],
        **_sizes(request),
    }
    if request.get("body"):
        found["postData"] = {
            "mimeType": header(request, "content-type") or "",
            "text": request["body"],
        }
        if "body_encoding" in request:
            found["postData"]["_encoding"] = "base64"
    return found


def _response(response: Record | None) -> _Object:
    if response is None:
        return {
            "status": 0,
            "statusText": "",
            "httpVersion": "",
            "cookies": [],
            "headers": [],
            "content": {"size": 0, "mimeType": "x-unknown"},
            "redirectURL": "",
            "headersSize": -1,
            "bodySize": -1,
        }
    size = len(body_bytes(response))
    content: _Object = {
        "size": size,
        "mimeType": header(response, "content-type") or "x-unknown",
        "text": response.get("body", ""),
    }
    if "body_encoding" in response:
        content["encoding"] = "base64"
    sizes = _sizes(response)
    if sizes["bodySize"] >= 0:
        content["compression"] = size - sizes["bodySize"]
    return {
        "status": response.get("status_code", 0),
        "statusText": response.get("reason", ""),
        "httpVersion": _version(response.get("http_version")),
        "cookies": _set_cookies(response),
        "headers": _headers(response),
        "content": content,
        "redirectURL": header(response, "location") or "",
        **sizes,
    }


def _sizes(record: Record) -> _Object:
    """Sizes of head and body for HTTP/1, if the bytes show the head's end; else -1, unknown."""
    raw = record.get("raw_payload", "")
    head, end, _ = raw.partition("\r\n\r\n")
    if not end or "raw_payload_encoding" in record or record.get("http_version") == "2":
        return {"headersSize": -1, "bodySize": -1}
    size = len(head.encode()) + len(end)
    return {"headersSize": size, "bodySize": max(0, record.get("bytes", size) - size)}


def _headers(record: Record) -> list[_Object]:
    return [{"name": name, "value": value} for name, value in header_fields(record)]


def _cookies(record: Record) -> list[_Object]:
    pairs = (pair.partition("=") for pair in (header(record, "cookie") or "").split("; "))
    return [{"name": name, "value": value} for name, equals, value in pairs if equals]


def _set_cookies(record: Record) -> list[_Object]:
    found = []
    for one in _headers(record):
        if one["name"].lower() != "set-cookie":
            continue
        first, *attributes = one["value"].split(";")
        name, _, value = first.partition("=")
        cookie: _Object = {"name": name.strip(), "value": value}
        for attribute in attributes:
            key, _, setting = attribute.strip().partition("=")
            key = key.lower()
            if key in ("path", "domain"):
                cookie[key] = setting
            elif key in ("httponly", "secure"):
                cookie["httpOnly" if key == "httponly" else key] = True
        found.append(cookie)
    return found


def _query(url: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(urlsplit(url).query, keep_blank_values=True)
    except ValueError:
        return []


def _version(version: str | None) -> str:
    return f"HTTP/{version}" if version else "unknown"


def _milliseconds(timestamp: str) -> str:
    # Every RFC 3339 parser accepts three digits.
    return f"{timestamp[:19]}.{timestamp[20:-1].ljust(3, '0')[:3]}Z"
