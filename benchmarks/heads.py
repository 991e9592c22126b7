# SPDX-License-Identifier: Apache-2.0
"""Heads to parse: some as software sends them, some that only an observer must accept."""

from __future__ import annotations

from typing import NamedTuple

from profiler.ingest.http.message import REQUEST, RESPONSE, Type


def crlf(text: str) -> bytes:
    """Return ``text`` as a head."""
    return text.strip("\n").replace("\n", "\r\n").encode() + b"\r\n\r\n"


USUAL = {
    "curl GET": crlf("""
GET /healthz HTTP/1.1
Host: 127.0.0.1:8080
User-Agent: curl/8.14.1
Accept: */*
"""),
    "browser GET": crlf("""
GET /articles/2026/11/what-the-wire-says?utm_source=feed&page=2 HTTP/1.1
Host: www.example.org
Connection: keep-alive
Cache-Control: max-age=0
Sec-GPC: 1
Priority: u=0, i
TE: trailers
DNT: 1
Upgrade-Insecure-Requests: 1
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8
Sec-Fetch-Site: same-origin
Sec-Fetch-Mode: navigate
Sec-Fetch-User: ?1
Sec-Fetch-Dest: document
Referer: https://www.example.org/articles/
Accept-Encoding: gzip, deflate, br, zstd
Accept-Language: en-GB,en;q=0.9,de;q=0.8
Cookie: session=eyJpZCI6IjEyMzQ1Njc4OTAifQ.aSHkWQ.PZp1mJ0nq7tQx; theme=dark; consent=1
If-None-Match: "5f3a-64412aa0b2c80"
If-Modified-Since: Sun, 22 Nov 2026 16:00:00 GMT
"""),
    "requests POST": crlf("""
POST /echo HTTP/1.1
Host: 127.0.0.1:8080
User-Agent: python-requests/2.32.5
Accept-Encoding: gzip, deflate
Accept: */*
Connection: keep-alive
Content-Length: 0
Content-Type: application/json
"""),
    "nginx 200": crlf("""
HTTP/1.1 200 OK
Server: nginx/1.26.3
Date: Sun, 22 Nov 2026 17:19:49 GMT
Content-Type: text/html
Content-Length: 0
Last-Modified: Sun, 22 Nov 2026 16:00:00 GMT
Connection: keep-alive
ETag: "6921f3a0-267"
Accept-Ranges: bytes
"""),
    "gunicorn 200": crlf("""
HTTP/1.1 200 OK
Server: gunicorn
Date: Sun, 22 Nov 2026 17:19:49 GMT
Connection: keep-alive
Content-Type: application/json
Content-Length: 0
"""),
}


class Odd(NamedTuple):
    """``data`` and the heads in it: start line without version, and a field to find."""

    data: bytes
    starts: tuple[str, ...]
    field: tuple[str, str] | None = None


ODD = {
    "bare LF": Odd(b"GET /x HTTP/1.1\nHost: a\n\n", ("GET /x",), ("host", "a")),
    "folded field": Odd(
        b"GET /x HTTP/1.1\r\nHost: a\r\nA: b\r\n c\r\n\r\n", ("GET /x",), ("a", "b c")
    ),
    "space before the colon": Odd(
        b"GET /x HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n", ("GET /x",), ("a", "b")
    ),
    "a line that is no field": Odd(
        b"GET /x HTTP/1.1\r\nHost: a\r\njunk\r\nA: b\r\n\r\n", ("GET /x",), ("a", "b")
    ),
    "UTF-8 in a field": Odd(
        "GET /x HTTP/1.1\r\nHost: a\r\nA: ä\r\n\r\n".encode(), ("GET /x",), ("a", "ä")
    ),
    "ISO-8859-1 in a field": Odd(
        b"GET /x HTTP/1.1\r\nHost: a\r\nA: \xe4\r\n\r\n", ("GET /x",), ("a", "ä")
    ),
    "a control character in a field": Odd(
        b"GET /x HTTP/1.1\r\nHost: a\r\nA: b\x01\r\n\r\n", ("GET /x",), ("a", "b\x01")
    ),
    "any token as method": Odd(
        b"X-!pur_ge /x HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n", ("X-!pur_ge /x",)
    ),
    "a blank in the target": Odd(b"GET /a b HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n", ("GET /a b",)),
    "UTF-8 in the target": Odd("GET /ä HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n".encode(), ("GET /ä",)),
    "HTTP/1.1 without Host": Odd(b"GET /x HTTP/1.1\r\nA: b\r\n\r\n", ("GET /x",)),
    "several blanks": Odd(b"GET  /x  HTTP/1.1 \r\nHost: a\r\nA: b\r\n\r\n", ("GET /x",)),
    "empty lines before": Odd(b"\r\n\r\nGET /x HTTP/1.1\r\nHost: a\r\nA: b\r\n\r\n", ("GET /x",)),
    "a version to come": Odd(b"GET /x HTTP/1.9\r\nHost: a\r\nA: b\r\n\r\n", ("GET /x",)),
    "no reason, no blank": Odd(b"HTTP/1.1 404\r\nContent-Length: 0\r\n\r\n", ("404",)),
    "status 999": Odd(b"HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", ("999 Odd",)),
    "Content-Length twice": Odd(
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        ("POST /x",),
    ),
    "contradicting lengths": Odd(
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        ("POST /x",),
    ),
    "length and chunked": Odd(
        b"POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"0\r\n\r\n",
        ("POST /x",),
    ),
    "answers to HEAD, pipelined": Odd(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nHTTP/1.1 200 Second\r\n"
        b"Content-Length: 5\r\n\r\n",
        ("200 OK", "200 Second"),
    ),
}


def type_of(data: bytes) -> Type:
    """Return the type of the message that begins ``data``."""
    return RESPONSE if data.startswith(b"HTTP/") else REQUEST
