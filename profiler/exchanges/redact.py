# SPDX-License-Identifier: Apache-2.0
"""Replaces secrets with placeholders; equal values get equal placeholders.

The *name* of a secret stays, its value is replaced. Names are those of headers (``Authorization``,
``Cookie`` ...) and of parameters (``access_token``, ``password`` ...). The same parameter names
count in a query, in a form, in JSON, as a header of that name and on a command line. A value
becomes ``redacted-`` and the beginning of its HMAC, with a random key that each run generates and
never stores. A reader of two placeholders learns whether the values were equal and nothing else,
not even by trying all short passwords.

Text that has the form of a token (a JSON Web Token, the keys of well-known services) is found
anywhere in a text: in a path, in a sentence, as a parameter that is just called ``key``.

Secrets in data that is not text, and secrets of an unknown form in an unknown place, are not found.
"""

from __future__ import annotations

import hmac
import re
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote_plus

from profiler.exchanges.headers import header

if TYPE_CHECKING:
    from profiler.schema import Headers, Record

# Names as `_plain` returns them: "X-Api-Key", "api_key" and "apiKey" are equal.
_SECRET_NAMES = frozenset(
    [
        "accesskey",
        "accesstoken",
        "apikey",
        "apisecret",
        "apitoken",
        "assertion",
        "auth",
        "authkey",
        "authorization",
        "authtoken",
        "awsaccesskeyid",
        "bearer",
        "clientassertion",
        "clientsecret",
        "cookie",
        "credential",
        "credentials",
        "csrf",
        "csrfmiddlewaretoken",
        "csrftoken",
        "forwardedauthorization",
        "idtoken",
        "jsessionid",
        "jwt",
        "amzcredential",
        "amzsecuritytoken",
        "amzsignature",
        "googcredential",
        "googsignature",
        "originalauthorization",
        "otp",
        "pass",
        "passcode",
        "passphrase",
        "passwd",
        "password",
        "phpsessid",
        "privatekey",
        "proxyauthorization",
        "pwd",
        "refreshtoken",
        "samlresponse",
        "secret",
        "secretkey",
        "securitytoken",
        "sessionid",
        "sessiontoken",
        "setcookie",
        "sig",
        "signature",
        "token",
        "xsrftoken",
    ]
)
# `; name=value` after a cookie in Set-Cookie (RFC 6265bis, 5.6): these attributes are not secret.
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
    ]
)
_CREDENTIALS = frozenset({"authorization", "proxyauthorization"})
# The values of these headers may be URLs, with parameters of their own.
_URL_HEADERS = frozenset(
    {"referer", "location", "contentlocation", "link", "refresh", "path", "originaluri"}
    | {"originalurl", "rewriteurl", "forwardeduri"}
)
# Each of these patterns reads a byte only a few times, whatever the text. In a query, a form, a
# fragment and on a command line. A value ends where the next begins.
_PARAMETER = re.compile(r"(?<![\w.\-\[\]%])([\w.\-\[\]%]{1,256})=([^&;#\s\"'<>]+)", re.ASCII)
_USERINFO = re.compile(r"(?<=://)[^/?#@\s\"'<>]+(?=@)")
# A member of a JSON object, a string or a number; the string may be cut off.
_MEMBER = re.compile(
    r'"([^"\\]{1,256})"(\s{0,64}:\s{0,64})(?:"((?:[^"\\]+|\\.)*)("|\\?$)|(-?\d[\d.eE+-]*))', re.S
)
# The name of a part of multipart/form-data (RFC 7578).
_PART_NAME = re.compile(r'\bname="?([^"\r\n;]{1,256})')
# The borders between arguments are lost, so the value after such a header's name extends to the #
# end.
_HEADER_ARGUMENT = re.compile(
    r"((?:proxy-)?authorization|(?:set-)?cookie)(\s*[:=]\s*)(.+)", re.I | re.S
)
_OPTION = re.compile(r"(?<!\S)(--?[A-Za-z][\w-]{0,256})(\s+)(?!-)(\S+)", re.ASCII)
_FIELD_ARGUMENT = re.compile(r"(?<![\w-])([A-Za-z][\w-]{0,256})(:\s+)(\S+)", re.ASCII)
# Tokens of a unique form. None may begin inside another word, so each is tried once.
_TOKEN = re.compile(
    r"(?<![A-Za-z0-9_-])(?:"
    r"eyJ[A-Za-z0-9_-]{10,8192}\.eyJ[A-Za-z0-9_-]{4,8192}\.[A-Za-z0-9_-]{16,8192}"  # RFC 7519
    r"|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|glpat-[A-Za-z0-9_-]{20,255}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,255}|[rs]k_live_[A-Za-z0-9]{16,255}"
    r"|A[KS]IA[0-9A-Z]{16}|AIza[A-Za-z0-9_-]{35}"
    r")(?![A-Za-z0-9_-])"
    r"|(?<=/bot)[0-9]{6,12}:[A-Za-z0-9_-]{35}(?![A-Za-z0-9_-])"
    r"|(?<=/services/)T[A-Z0-9]{8,12}/B[A-Z0-9]{8,12}/[A-Za-z0-9]{24}(?![A-Za-z0-9])",
    re.ASCII,
)
# The value of a parameter called `key`, unless it is the key of a table or a file.
_KEY = re.compile(
    r"(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])(?=[^0-9]*[0-9])[A-Za-z0-9_-]{24,255}|[0-9a-f]{32,255}",
    re.ASCII,
)
_WHOLE = re.compile(r"redacted-[0-9a-f]{16}")


class Redactor:
    """Replaces the secrets of records; placeholders of two redactors are unrelated."""

    def __init__(self, key: bytes | None = None) -> None:
        """``key`` is for tests; without it, the placeholders cannot be reproduced."""
        self._key = key or secrets.token_bytes(32)

    def placeholder(self, value: str) -> str:
        """Return the placeholder for ``value``; equal values get equal placeholders."""
        if not value or _WHOLE.fullmatch(value):
            return value
        digest = hmac.digest(self._key, value.encode("utf-8", "surrogatepass"), "sha256")
        return f"redacted-{digest[:8].hex()}"

    def record(self, record: Record) -> Record:
        """Return a copy of a line's record without its secrets.

        ``raw_payload`` is kept only if it is the text of an HTTP/1 message whose body needs no
        decoding. Otherwise it is removed, because its secrets cannot be found.
        """
        redacted = cast("Record", {**record})
        if "headers" in record:
            redacted["headers"] = self.headers(record["headers"])
        if "trailers" in record:
            redacted["trailers"] = self.headers(record["trailers"])
        if "url" in record:
            redacted["url"] = self.url(record["url"])
        if "request" in record and "url" in record["request"]:
            redacted["request"] = {**record["request"], "url": self.url(record["request"]["url"])}
        if "cmdline" in record:
            redacted["cmdline"] = self.command_line(record["cmdline"])
        if "body" in record and record.get("body_encoding") != "base64":
            redacted["body"] = self.text(record["body"], header(record, "content-type") or "")
        if "raw_payload" in record:
            self._raw(redacted, record)
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
        plain = _plain(name)
        if plain in _CREDENTIALS:
            scheme, blank, rest = value.partition(" ")
            return scheme + blank + self.placeholder(rest) if rest else self.placeholder(value)
        if plain == "cookie":
            return "; ".join(self._cookie(pair) for pair in value.split("; "))
        if plain == "setcookie":
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
        if plain in _SECRET_NAMES:
            return self.placeholder(value)
        return self.url(value) if plain in _URL_HEADERS else self._tokens(value)

    def url(self, url: str) -> str:
        """Return a URL or request target without user information and secret parameters."""
        if "=" in url:
            url = self._parameters(url)
        if "@" in url:
            url = _USERINFO.sub(lambda m: self.placeholder(m[0]), url)
        return self._tokens(url)

    def command_line(self, text: str) -> str:
        """Return arguments that were joined by blanks without their secrets."""
        rest = ""
        header = _HEADER_ARGUMENT.search(text)
        if header is not None:
            rest = header[1] + header[2] + self._scheme(header[3])
            text = text[: header.start()]
        text = _OPTION.sub(self._named, text)
        text = _FIELD_ARGUMENT.sub(self._named, text)
        return self.url(text) + rest

    def text(self, text: str, content_type: str = "") -> str:
        """Return a body's text without secret members, secret fields of forms and known tokens."""
        return self._tokens(self._fields(text, content_type))

    def _fields(self, text: str, content_type: str) -> str:
        kind = content_type.partition(";")[0].strip().lower()
        if kind == "multipart/form-data":
            boundary = "\r\n" + text.partition("\r\n")[0]
            return boundary.join(map(self._part, text.split(boundary)))
        if kind == "application/x-www-form-urlencoded" or (not kind and _is_form(text)):
            return self._parameters(text)
        if kind.endswith("json") or text[:256].lstrip()[:1] in ("{", "["):
            return _MEMBER.sub(self._member, text)
        return text

    def _scheme(self, value: str) -> str:
        scheme, blank, rest = value.partition(" ")
        known = scheme.lower() in ("basic", "bearer", "digest", "negotiate", "token")
        return (
            scheme + blank + self.placeholder(rest) if known and rest else self.placeholder(value)
        )

    def _cookie(self, pair: str) -> str:
        name, equals, value = pair.partition("=")
        return name + equals + self.placeholder(value) if equals else self.placeholder(pair)

    def _tokens(self, text: str) -> str:
        return _TOKEN.sub(lambda m: self.placeholder(m[0]), text)

    def _parameters(self, text: str) -> str:
        return _PARAMETER.sub(self._parameter, text)

    def _parameter(self, match: re.Match[str]) -> str:
        name, value = match.groups()
        if _is_secret(name) or (_plain(name) == "key" and _KEY.fullmatch(value)):
            return f"{name}={self.placeholder(value)}"
        return match[0]

    def _member(self, match: re.Match[str]) -> str:
        name, between, string, end, number = match.groups()
        if not _is_secret(name):
            return match[0]
        if number is not None:
            return f'"{name}"{between}"{self.placeholder(number)}"'
        return f'"{name}"{between}"{self.placeholder(string)}{end}'

    def _part(self, part: str) -> str:
        head, end, value = part.partition("\r\n\r\n")
        name = _PART_NAME.search(head[:4096])
        return head + end + self.placeholder(value) if name and _is_secret(name[1]) else part

    def _named(self, match: re.Match[str]) -> str:
        name, between, value = match.groups()
        return name + between + self.placeholder(value) if _is_secret(name) else match[0]

    def _raw(self, redacted: Record, record: Record) -> None:
        raw = record["raw_payload"]
        head, end, body = raw.partition("\r\n\r\n")
        plain = (
            record.get("raw_payload_encoding") is None
            and record.get("http_version") in ("1.0", "1.1")
            # Otherwise `raw_payload` differs from `body`: it is chunked, or in another charset.
            and (not body or body == record.get("body"))
        )
        if not plain:
            redacted.pop("raw_payload")
            redacted.pop("raw_payload_encoding", None)
            return
        start, *lines = head.split("\r\n")
        redacted["raw_payload"] = (
            "\r\n".join([self.url(start), *map(self._line, lines)])
            + end
            + self.text(body, header(record, "content-type") or "")
        )

    def _line(self, line: str) -> str:
        name, colon, value = line.partition(":")
        stripped = value.strip(" \t")
        if not stripped:
            return line
        before, after = value.split(stripped, 1)
        return name + colon + before + self.header(name, stripped) + after


def described(redactor: Redactor | None) -> str:
    """Return the first line on standard error: how secrets are treated."""
    if redactor is None:
        return "secrets are shown as they were sent (--redact hides them)"
    return (
        "secrets are redacted: credentials, cookies and token parameters (--no-redact shows them)"
    )


def _is_form(text: str) -> bool:
    return "=" in text[:256] and not re.search(r"[\s<>{}\"]", text[:1024])


@lru_cache(maxsize=4096)
def _plain(name: str) -> str:
    letters = re.sub(r"[^a-z0-9]", "", name.lower())
    return letters[1:] if name[:2].lower() == "x-" else letters


@lru_cache(maxsize=4096)
def _is_secret(name: str) -> bool:
    # a[password] and user.password are passwords too.
    parts = re.split(r"[\[\].]+", unquote_plus(name))
    return any(_plain(part) in _SECRET_NAMES for part in parts if part)
