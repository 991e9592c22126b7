# SPDX-License-Identifier: Apache-2.0
"""Replaces secrets with placeholders: unreadable, and equal values still equal.

``names``      which names denote a secret
``shapes``     secrets that their form gives away
``loose``      names with values in plain text and in command lines
``json_text``  JSON
``markup``     XML and HTML

The name of a secret stays, its value goes. The same names count in a header, a URL, a form, JSON,
XML, plain text and on a command line. A placeholder is ``redacted-`` and the beginning of the
value's HMAC. The key is made for each run and stored nowhere: a reader of two placeholders sees
whether the values were equal, and cannot test guesses.

Text inside text is redacted too: a URL in a parameter, JSON in a form. Content that cannot be read
is removed, and the field ``redacted`` of the record names what was removed. ``headers``, ``body``
and ``raw_payload`` of a record never contradict each other: ``raw_payload`` is rebuilt from the
redacted parts, or removed.

The work is linear in the size of a record, whatever a peer sends.
"""

from __future__ import annotations

import hmac
import re
import secrets
from functools import partial
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from profiler.exchanges.headers import header
from profiler.exchanges.redact import json_text, loose, markup, shapes
from profiler.exchanges.redact.names import Secrecy, hides, is_random_segment, secrecy

if TYPE_CHECKING:
    from typing import Callable

    from profiler.schema import Headers, Record

    _Codec = Callable[[str], str]

# Attributes of a cookie (RFC 6265bis, 5.6), which are no secrets.
_ATTRIBUTES = frozenset(
    [
        "domain",
        "expires",
        "httponly",
        "max-age",
        "partitioned",
        "path",
        "priority",
        "samesite",
        "secure",
        "version",
    ]
)
_CREDENTIALS = frozenset(["authorization", "proxy-authorization", "authentication"])
_COOKIES = frozenset(["cookie", "cookie2"])
_SET_COOKIES = frozenset(["set-cookie", "set-cookie2"])
# Values of Sec-WebSocket-Protocol that name a protocol. Clients in browsers cannot set other
# headers, so they send credentials here.
_SUBPROTOCOLS = frozenset(
    [
        "actioncable-v1-json",
        "amqp",
        "base64",
        "binary",
        "chat",
        "graphql-transport-ws",
        "graphql-ws",
        "json",
        "mqtt",
        "mqttv3.1",
        "ocpp1.6",
        "ocpp2.0.1",
        "sip",
        "soap",
        "superchat",
        "v10.stomp",
        "v11.stomp",
        "v12.stomp",
        "v4.channel.k8s.io",
        "v5.channel.k8s.io",
        "vite-hmr",
        "wamp.2.json",
        "wamp.2.msgpack",
        "xmpp",
    ]
)
_AUTHORITIES = frozenset([":authority", "host", "forwarded-host", "x-forwarded-host", "origin"])
_TARGETS = frozenset([":path", "referer", "location", "content-location", "x-original-url"])
# What separates the parts of a URL. A semicolon may be part of a value.
_SEPARATOR = re.compile(r"([?&#]|;(?=[\w.\-\[\]%]{1,256}=))")
_PARAMETER_NAME = re.compile(r"[\w.\-\[\]%+ ]{1,256}")
_IS_URL = re.compile(r"(?:[a-z][a-z0-9+.-]{0,32}:/)?/[^\s\"'<>]*", re.IGNORECASE)
_PLAIN = re.compile(r"[^=:@{<%\\&]{0,11}")
_CLOSED = re.compile(r"[^%\\{\[<=:&]*")
_PART_NAME = re.compile(r"\bname\*?=(?:[\w-]*'[\w-]*')?\"?([^\"\r\n;]{1,256})", re.IGNORECASE)
_PART_TYPE = re.compile(r"^content-type:[ \t]*([^\r\n]{1,256})", re.IGNORECASE | re.MULTILINE)
_PART_CODED = re.compile(r"^content-transfer-encoding:[ \t]*base64", re.IGNORECASE | re.MULTILINE)
_HEAD_END = re.compile(r"\r?\n\r?\n")
_BOUNDARY = re.compile(r";\s*boundary=(?:\"([^\"]{1,70})\"|([^\s;]{1,70}))", re.IGNORECASE)
_EVENT_DATA = re.compile(r"(data:)( ?)([^\r\n]*)")
_WHOLE = re.compile(r"redacted-[0-9a-f]{16}")
_HEADER_LINE = re.compile(r"([^:\s][^:\r\n]*):[ \t]*([^\r\n]*?)[ \t]*")
# Text in text in text: what is nested deeper is replaced whole.
_DEPTH_MAX = 4
_COMMAND_LINES_MAX = 256


class Redactor:
    """Replaces the secrets of records; the placeholders of two redactors have nothing in common."""

    def __init__(self, key: bytes | None = None) -> None:
        """``key`` is for tests; without it the placeholders cannot be made again."""
        self._key = key or secrets.token_bytes(32)
        # A process sends more than one message.
        self._command_lines: dict[str, str] = {}

    def placeholder(self, value: str) -> str:
        """Return what stands for ``value``; the same for the same."""
        if not value or _WHOLE.fullmatch(value):
            return value
        digest = hmac.digest(self._key, value.encode("utf-8", "surrogatepass"), "sha256")
        return f"redacted-{digest[:8].hex()}"

    def record(self, record: Record) -> Record:
        """Return a copy of a line's record without its secrets.

        ``body`` is removed if it is no text, ``raw_payload`` if it is not exactly the text of the
        record's other fields. ``redacted`` names what was removed.
        """
        redacted = cast("Record", {**record})
        removed = []
        for name in ("headers", "trailers"):
            if name in record:
                redacted[name] = self.headers(record[name])
        if "url" in record:
            redacted["url"] = self.url(record["url"])
        if "reason" in record:
            redacted["reason"] = self.text(record["reason"])
        if "request" in record:
            asked = redacted["request"] = {**record["request"]}
            if "url" in asked:
                asked["url"] = self.url(asked["url"])
            if "host" in asked:
                asked["host"] = self._authority(asked["host"])
        if "sni" in record.get("tls", {}):
            redacted["tls"] = {**record["tls"], "sni": self._authority(record["tls"]["sni"])}
        if "cmdline" in record:
            redacted["cmdline"] = self.command_line(record["cmdline"])
        if record.get("body"):
            if _is_opaque(record):
                removed.append("body")
                del redacted["body"]
                redacted.pop("body_encoding", None)
            else:
                content_type = header(record, "content-type") or ""
                redacted["body"] = self.text(record["body"], content_type)
        if record.get("raw_payload"):
            raw = self._raw(record, redacted) if "body" not in removed else None
            if raw is None:
                removed.append("raw_payload")
                del redacted["raw_payload"]
                redacted.pop("raw_payload_encoding", None)
            else:
                redacted["raw_payload"] = raw
        if removed:
            redacted["redacted"] = removed
        return redacted

    def headers(self, headers: Headers) -> Headers:
        """Return header fields without their secrets: a scheme and a cookie's name stay."""
        return {
            name: [self.header(name, one) for one in value]
            if isinstance(value, list)
            else self.header(name, value)
            for name, value in headers.items()
        }

    def header(self, name: str, value: str) -> str:
        """Return one header's value without its secrets."""
        lower = name.lower()
        if lower in _CREDENTIALS:
            return self._credentials(value)
        if lower in _COOKIES:
            return "; ".join(self._cookie(pair) for pair in value.split("; "))
        if lower in _SET_COOKIES:
            return self._set_cookie(value)
        if lower == "sec-websocket-protocol":
            return ", ".join(
                one if one.lower() in _SUBPROTOCOLS else self.placeholder(one)
                for one in map(str.strip, value.split(","))
            )
        if lower in _AUTHORITIES:
            return self._authority(value)
        if hides(secrecy(name), value):
            return self.placeholder(value)
        return self.url(value) if lower in _TARGETS else self._inner(value, 0)

    def url(self, url: str) -> str:
        """Return a URL or request target without user information and secret parameters."""
        return self._shapes(self._url(url, 0))

    def command_line(self, text: str) -> str:
        """Return arguments that were joined by blanks without their secrets."""
        found = self._command_lines.get(text)
        if found is None:
            found = loose.arguments(text, self.placeholder, self._credentials, self._loose)
            if len(self._command_lines) >= _COMMAND_LINES_MAX:
                self._command_lines.clear()
            self._command_lines[text] = found
        return found

    def text(self, text: str, content_type: str = "") -> str:
        """Return a body's text without secret members, secret fields of forms and known tokens."""
        return self._shapes(self._fields(text, content_type, 0))

    def _shapes(self, text: str) -> str:
        return shapes.replaced(text, self.placeholder)

    def _loose(self, text: str) -> str:
        text = loose.userinfo(text, self.placeholder)
        return self._shapes(loose.assignments(text, self.placeholder))

    def _inner(self, text: str, depth: int) -> str:
        """Redact a text that is part of another one."""
        if _PLAIN.fullmatch(text):
            return text
        if depth > _DEPTH_MAX:
            return text if _CLOSED.fullmatch(text) else self.placeholder(text)
        return self._shapes(self._fields(text, "", depth))

    def _fields(self, text: str, content_type: str, depth: int) -> str:
        kind = content_type.partition(";")[0].strip().lower()
        inner = partial(self._inner, depth=depth + 1)
        if kind.startswith("multipart/"):
            return self._multipart(text, content_type, depth)
        if kind == "text/event-stream":
            return self._events(text, depth)
        if kind == "application/x-www-form-urlencoded" or (not kind and _is_form(text)):
            return self._form(text, depth)
        start = text[:256].lstrip()[:1]
        if "json" in kind or start in ("{", "["):
            return json_text.redacted(text, self.placeholder, inner)
        if kind.endswith(("xml", "html")) or start == "<":
            return markup.redacted(text, self.placeholder, inner)
        if not kind and _IS_URL.fullmatch(text):
            return self._url(text, depth)
        return self._loose(text)

    def _url(self, url: str, depth: int) -> str:
        path, *rest = _SEPARATOR.split(loose.userinfo(url, self.placeholder))
        parts = [self._path(path)]
        for separator, part in zip(rest[::2], rest[1::2]):
            name, equals, value = part.partition("=")
            parts.append(separator)
            parts.append(
                name + equals + self._parameter(name, value, depth, unquote_plus, quote)
                if equals and value
                else self._decoded(part, depth, unquote, quote)
            )
        return "".join(parts)

    def _path(self, path: str) -> str:
        # A random segment after /reset-password/ is what resets it.
        segments = path.split("/")
        for number, segment in enumerate(segments[1:], 1):
            before = secrecy(segments[number - 1])
            if before is Secrecy.ALWAYS and is_random_segment(segment):
                segments[number] = self.placeholder(segment)
        return "/".join(segments)

    def _form(self, text: str, depth: int) -> str:
        fields = []
        for field in text.split("&"):
            name, equals, value = field.partition("=")
            fields.append(
                name + equals + self._parameter(name, value, depth, unquote_plus, quote_plus)
                if equals
                else self._decoded(field, depth, unquote_plus, quote_plus)
            )
        return "&".join(fields)

    def _parameter(self, name: str, value: str, depth: int, decode: _Codec, encode: _Codec) -> str:
        decoded = decode(value) if "%" in value or "+" in value else value
        if hides(secrecy(name), decoded):
            return self.placeholder(decoded)
        return self._decoded(value, depth, decode, encode)

    def _decoded(self, value: str, depth: int, decode: _Codec, encode: _Codec) -> str:
        decoded = decode(value) if "%" in value or "+" in value else value
        changed = self._inner(decoded, depth + 1)
        if changed == decoded:
            return value
        return changed if decoded == value else encode(changed)

    def _multipart(self, text: str, content_type: str, depth: int) -> str:
        named = _BOUNDARY.search(content_type[:1024])
        boundary = f"--{named[1] or named[2]}" if named else text.partition("\n")[0].rstrip("\r\n")
        if not boundary.startswith("--") or boundary not in text:
            # Only what follows a boundary can be read.
            return self.placeholder(text)
        before, *parts = text.split(boundary)
        return boundary.join([self._loose(before), *(self._part(part, depth) for part in parts)])

    def _part(self, part: str, depth: int) -> str:
        end = _HEAD_END.search(part)
        if end is None:
            return self._loose(part)
        head, value = part[: end.start()], part[end.end() :]
        tail = value[len(value.rstrip("\r\n")) :]
        value = value[: len(value) - len(tail)]
        name = _PART_NAME.search(head[:4096])
        kind = _PART_TYPE.search(head[:4096])
        if (name and hides(secrecy(name[1]), value)) or _PART_CODED.search(head[:4096]):
            value = self.placeholder(value)
        elif depth < _DEPTH_MAX:
            value = self._fields(value, kind[1] if kind else "", depth + 1)
        else:
            value = self.placeholder(value)
        return head + end[0] + value + tail

    def _events(self, text: str, depth: int) -> str:
        """Redact an event stream: the data of an event is in one line or several."""
        lines: list[str] = []
        data: list[str] = []

        def end() -> None:
            if data:
                whole = self._inner("\n".join(data), depth + 1)
                lines.extend(f"data: {line}" for line in whole.split("\n"))
                data.clear()

        is_crlf = "\r\n" in text[:4096]
        for line in (text.replace("\r\n", "\n") if is_crlf else text).split("\n"):
            found = _EVENT_DATA.fullmatch(line)
            if found is not None:
                data.append(found[3])
            else:
                end()
                lines.append(self._loose(line))
        end()
        return ("\r\n" if is_crlf else "\n").join(lines)

    def _authority(self, value: str) -> str:
        user, at, host = value.rpartition("@")
        scheme, slashes, user = user.rpartition("//")
        hidden = scheme + slashes + self.placeholder(user) + at if at else ""
        return self._shapes(hidden + host)

    def _credentials(self, value: str) -> str:
        scheme, blank, rest = value.partition(" ")
        if rest and scheme.lower() in loose.SCHEMES:
            return scheme + blank + self.placeholder(rest)
        return self.placeholder(value)

    def _cookie(self, pair: str) -> str:
        name, equals, value = pair.partition("=")
        return name + equals + self.placeholder(value) if equals else self.placeholder(pair)

    def _set_cookie(self, value: str) -> str:
        first, *attributes = value.split(";")
        return ";".join(
            [self._cookie(first)]
            + [
                one
                if one.partition("=")[0].strip().lower() in _ATTRIBUTES
                else self.placeholder(one)
                for one in attributes
            ]
        )

    def _raw(self, record: Record, redacted: Record) -> str | None:
        """Return ``raw_payload`` rebuilt from redacted fields; ``None`` if it differs from them.

        It differs if it is binary or chunked, or if its head was parsed leniently.
        """
        if "raw_payload_encoding" in record or record.get("http_version") not in ("1.0", "1.1"):
            return None
        head, end, body = record["raw_payload"].partition("\r\n\r\n")
        if not end or (body and body != record.get("body")):
            return None
        start, *lines = head.split("\r\n")
        first = self._start_line(start, record, redacted)
        found: dict[str, list[str]] = {}
        hidden = redacted.get("headers", {})
        pieces = []
        for line in lines:
            field = _HEADER_LINE.fullmatch(line)
            if field is None:
                return None
            name, value = field.groups()
            values = found.setdefault(name.lower(), [])
            shown = hidden.get(name.lower(), [])
            shown = shown if isinstance(shown, list) else [shown]
            if len(values) >= len(shown):
                return None
            pieces.append(line[: field.start(2)] + shown[len(values)] + line[field.end(2) :])
            values.append(value)
        stated = {
            name: value if isinstance(value, list) else [value]
            for name, value in record.get("headers", {}).items()
        }
        if first is None or found != stated:
            return None
        return "\r\n".join([first, *pieces]) + end + (redacted["body"] if body else "")

    def _start_line(self, line: str, record: Record, redacted: Record) -> str | None:
        version = f"HTTP/{record['http_version']}"
        if record.get("type") == "request":
            method = record.get("method", "")
            if line == f"{method} {record.get('url')} {version}":
                return f"{method} {redacted['url']} {version}"
            return None
        status = f"{version} {record.get('status_code')}"
        if line == f"{status} {record.get('reason')}":
            return f"{status} {redacted['reason']}"
        return line if line == status else None


def is_harmless(name: str) -> bool:
    """Whether values of a name are redacted only because of what they contain."""
    return secrecy(name) is Secrecy.NEVER and name.lower() != "sec-websocket-protocol"


def is_placeholder(text: str) -> bool:
    """Whether a text is a placeholder, of this run or of the one that wrote the capture."""
    return _WHOLE.fullmatch(text) is not None


def described(redactor: Redactor | None, is_recording: bool = False) -> str:
    """Return the words of the first line on standard error: what is done about secrets."""
    if redactor is None:
        return "secrets are shown as they were sent (--redact hides them)"
    return (
        "secrets are redacted: credentials, cookies and token parameters (--no-redact shows them)"
        + ("; the recording is not redacted" if is_recording else "")
    )


def _is_opaque(record: Record) -> bool:
    """Whether the body is no text in which a secret could be found."""
    if record.get("body_encoding") == "base64" or record.get("body_codings"):
        return True
    content_type = (header(record, "content-type") or "").lower()
    return content_type.startswith("application/grpc-web-text")


def _is_form(text: str) -> bool:
    name, equals, _ = text[:1024].partition("=")
    return (
        bool(equals)
        and _PARAMETER_NAME.fullmatch(name) is not None
        and re.search(r"[\s<>{}\"]", text[:1024]) is None
    )
