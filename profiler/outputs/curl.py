# SPDX-License-Identifier: Apache-2.0
"""curl commands that repeat requests: a POSIX shell script with one command per request.

The server receives the same method, target, version, headers and content again, and nothing that
curl would add by itself. The request goes to the same place: the URL has the name that the request
used, ``--connect-to`` the address.

Captured text is hostile: each value is one quoted word of the shell, and a comment never ends its
line early. Characters that a terminal would execute or that hide the true text (control and
bidirectional characters) are written as octal numbers.

Differences: repeated headers stand together, chunk borders differ, a content coding that the
profiler has removed stays removed, and trailers are missing.
"""

from __future__ import annotations

import re
import shlex
from base64 import b64encode
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from profiler.exchanges.model import Exchange, absolute_url, authority, program, remote
from profiler.exchanges.read import body_bytes, header_fields
from profiler.exchanges.text import visible

if TYPE_CHECKING:
    from profiler.schema import Record

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
# A target that curl sends unchanged from a URL.
_PLAIN_TARGET = re.compile(r"/[!-\"$-\[\]-~]*")
# One argument of a command has at most 128 KiB (MAX_ARG_STRLEN in linux/binfmts.h).
_ARGUMENT_MAX = 100_000
_ADDED_BY_CURL = ("User-Agent", "Accept")
_VERSIONS = {"1.0": "--http1.0", "1.1": "--http1.1", "2": "--http2-prior-knowledge"}


def curl(exchanges: Iterable[Exchange]) -> Iterator[str]:
    """Yield the lines of a shell script that repeats each request."""
    yield "#!/bin/sh\n"
    for exchange in exchanges:
        yield "\n" + command(exchange)


def command(exchange: Exchange) -> str:
    """Return a comment and, where the request can be repeated, its command."""
    request, first, response = exchange.request, exchange.first, exchange.response
    status = response.get("status_code", "no response") if response else "no response"
    title = f"{first['timestamp']} {program(first) or 'unknown'} -> {status}"
    if request is None:
        return _comment(f"{title}: left out, the request was not seen")
    why = _unrepeatable(request)
    if why is not None:
        return _comment(f"{title}: left out, {why}")
    lines = _comment(title)
    if "incomplete" in request:
        lines += _comment(f"the request is incomplete: {', '.join(request['incomplete'])}")
    if "body" in request.get("redacted", ()):
        return _comment(f"{title}: left out, its body was redacted")
    body = body_bytes(request)
    words = [*_options(request), *_header_words(request, bool(body))]
    source = ""
    if body:
        if _is_plain(body):
            words.append(f"--data-raw {shlex.quote(body.decode())}")
        else:
            source = f"printf %s {b64encode(body).decode()} | base64 -d |\n"
            words.append("--data-binary @-")
    words.append(quote(_url(request)))
    return lines + source + " \\\n  ".join(words) + "\n"


def quote(text: str) -> str:
    """Return ``text`` as one word of a POSIX shell that is also safe to display."""
    if _is_readable(text):
        return shlex.quote(text)
    octal = "".join(
        char if char.isascii() and char.isalnum() else "".join(f"\\{b:03o}" for b in char.encode())
        for char in text
    )
    return f"\"$(printf '{octal}')\""


def _unrepeatable(request: Record) -> str | None:
    if "method" not in request or "url" not in request:
        return "method or target is unknown"
    if request["method"] == "CONNECT":
        return "it opens a tunnel"
    if request.get("http_version") not in _VERSIONS:
        return "its version is unknown"
    if not _TOKEN.fullmatch(request["method"]) or re.search(r"[\0\r\n]", request["url"]):
        return "its start line is invalid"
    for name, value in _fields(request):
        if not _TOKEN.fullmatch(name) or re.search(r"[\0\r\n]", value):
            return "a header is invalid"
    return None


def _options(request: Record) -> Iterator[str]:
    # Braces and brackets in a URL are not patterns, and "/../" stays.
    yield "curl --globoff --path-as-is"
    yield _VERSIONS[request["http_version"]]
    # With `--request HEAD` curl would wait for a body.
    yield "--head" if request["method"] == "HEAD" else f"--request {quote(request['method'])}"
    if not _PLAIN_TARGET.fullmatch(request["url"]):
        yield f"--request-target {quote(request['url'])}"
    path = request.get("dest_path")
    if path is not None:
        option = "--abstract-unix-socket" if path.startswith("@") else "--unix-socket"
        yield f"{option} {quote(path[1:] if path.startswith('@') else path)}"
        return
    address = remote(request)
    host = authority(request, request)
    if address is not None and address != (host if _has_port(host) else f"{host}:80"):
        yield f"--connect-to {quote(f'::{address}')}"


def _header_words(request: Record, has_body: bool) -> Iterator[str]:
    names = {name.lower() for name, _ in _fields(request)}
    decoded = "content-encoding" in names and "body_codings" not in request
    for name, value in _fields(request):
        lower = name.lower()
        # curl computes the length itself; a decoded body no longer has a coding.
        if lower == "content-length" or (lower == "content-encoding" and decoded and has_body):
            continue
        if lower == "host" and value == _curl_host(request):
            continue
        # "Name:" would remove the header.
        yield f"--header {quote(f'{name}: {value}' if value else f'{name};')}"
    added = [*_ADDED_BY_CURL, *(["Content-Type", "Expect"] if has_body else [])]
    if "host" not in names and ":authority" not in request.get("headers", {}):
        added.append("Host")
    for name in added:
        if name.lower() not in names:
            yield f"--header {quote(f'{name}:')}"


def _fields(request: Record) -> Iterator[tuple[str, str]]:
    for name, value in header_fields(request):
        # HTTP/2 has method, path and host in pseudo-headers.
        if request["http_version"] != "2" or not name.startswith(":"):
            yield name, value


def _url(request: Record) -> str:
    if _PLAIN_TARGET.fullmatch(request["url"]):
        return absolute_url(request, request)
    return f"http://{authority(request, request)}/"


def _curl_host(request: Record) -> str:
    host = authority(request, request)
    return host[:-3] if host.endswith(":80") else host


def _has_port(host: str) -> bool:
    return re.search(r":[0-9]+$", host) is not None


def _is_readable(text: str) -> bool:
    return visible(text) == text


def _is_plain(body: bytes) -> bool:
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return False
    return len(body) <= _ARGUMENT_MAX and all(
        _is_readable(line) for line in re.split("[\n\t]", text)
    )


def _comment(text: str) -> str:
    return f"# {visible(text)}\n"
