# SPDX-License-Identifier: Apache-2.0
"""Is this the start of an HTTP/1 message?

The kernel forwards streams whose first bytes look like HTTP (a token, a space,
then a likely target). The strict rule is here: a stream is HTTP
only if it has a whole start line. A request line ends with ``HTTP/1.x``, and a
status line begins with it. Everything else about a start line is parsed as
leniently as RFC 9112, 3 allows: any token as method, any target, several
spaces, a bare LF, no reason. A line that breaks even these rules is reported
as far as it can be read, once the other direction shows that this is HTTP.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from profiler.ingest.http.fields import decode
from profiler.ingest.http.message import REQUEST, RESPONSE, Type

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110, 5.6.2

# RFC 9112, 3: method, target, version
REQUEST_LINE = re.compile(
    rb"(" + TOKEN + rb") +([^ \r\n](?:[^\r\n]*[^ \r\n])?) +HTTP/(1\.[0-9])[ \t]*\r?\n"
)  # fmt: skip

# RFC 9112, 4: version, status, reason
STATUS_LINE = re.compile(rb"HTTP/(1\.[0-9]) +([0-9]{3})(?:[ \t]([^\r\n]*))?\r?\n")

# What of a faulty start line can be read nevertheless. A status line that has a version and a
# status is read leniently: any case, "200ok", a bare CR (a space: RFC 9112, 2.2).
_FAULTY_REQUEST = re.compile(rb"(" + TOKEN + rb") +([^ \t\r\n]+)?[^\n]*\n")
_FAULTY_STATUS = re.compile(
    rb"HTTP/(?:(1\.[0-9])|[^ \t\r\n]*)(?:[ \t]+([0-9]{3})(?![0-9])([^\n]*)|(?=[ \t\r\n])[^\n]*)\n",
    re.IGNORECASE,
)

_LINES: dict[Type | None, tuple[re.Pattern[bytes], ...]] = {
    REQUEST: (REQUEST_LINE,),
    RESPONSE: (STATUS_LINE,),
    None: (REQUEST_LINE, STATUS_LINE),
}

# What such a line may look like while its end has not come. Only so many bytes
# are looked at: the first ones tell a binary protocol, the rest waits for its LF.
_LOOKED_AT = 64
_REQUEST_BEGINS = re.compile(TOKEN + rb"(?: [^\n]*)?\Z")
_STATUS_BEGINS = re.compile(rb"H(?:T(?:T(?:P(?:/[^\n]*)?)?)?)?\Z", re.IGNORECASE)

_BEGINNINGS = {
    REQUEST: (_REQUEST_BEGINS,),
    RESPONSE: (_STATUS_BEGINS,),
    None: (_REQUEST_BEGINS, _STATUS_BEGINS),
}


# RFC 9110, 9.3 and RFC 5789
_USUAL_METHODS = tuple(
    method + b" " for method in b"GET HEAD POST PUT DELETE CONNECT OPTIONS TRACE PATCH".split()
)


# The end of a body stands before a usual method. WebDAV's one (RFC 4918) only looks so.
_GLUED = re.compile(
    rb"(?!PROPPATCH\Z).+(?:" + b"|".join(method[:-1] for method in _USUAL_METHODS) + rb")\Z"
)


# The methods of IANA's registry. After a hole a call may begin inside one: then its tail, such as
# "ET", looks like a method. The tail of "UNLOCK" cannot be distinguished from "LOCK".
_METHODS = frozenset(
    b"ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK "
    b"MERGE MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH "
    b"POST PRI PROPFIND PROPPATCH PUT QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK "
    b"UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL".split()
)
_TAILS = {method[at:] for method in _METHODS for at in range(1, len(method))} - _METHODS


# Behind a start line: a field line, or what may become one, or the end of the head.
_FIELD_BEGINS = re.compile(rb"(?:" + TOKEN + rb"(?:[ \t]*:|[ \t]*\Z)|\r?\n|\r?\Z)")


def is_sure(start: re.Match[bytes]) -> bool:
    """Whether a match of :func:`start_line` is one even where it is not known what came before.

    A text that is being uploaded, a log say, may have lines that look like it.
    """
    if start.re is REQUEST_LINE:
        method, target = start[1], start[2]
        if b" " in target or method in _TAILS or _GLUED.match(method):
            return False
    return _FIELD_BEGINS.match(start.string, start.end()) is not None


class Start(NamedTuple):
    """What a start line states: ``type``, and what such a message has of the others.

    Of a faulty line some of them are not known.
    """

    type: Type
    version: str | None
    method: str | None
    target: str | None
    status: int | None
    reason: str | None


def start_of(line: bytes) -> Start | None:
    """Return what ``line``, with its LF, says if it is a start line."""
    return (_remembered if len(line) <= _REMEMBERED_SIZE else _parse)(line)


def _parse(line: bytes) -> Start | None:
    match = start_line(line, 0, None)
    if match is None:
        return None
    if match.re is REQUEST_LINE:
        method, target, version = map(decode, match.groups())
        return Start(REQUEST, version, method, target, None, None)
    version, code, reason = map(decode, match.groups(b""))
    return Start(RESPONSE, version, None, None, int(code), reason.strip(" \t"))


def faulty_request(line: bytes) -> Start:
    """Return what can be read of ``line``, with its LF, which is no request line."""
    match = _FAULTY_REQUEST.match(line)
    method, target = (None, None) if match is None else match.groups()
    return Start(
        REQUEST, None, None if method is None else decode(method),
        None if target is None else decode(target), None, None,
    )  # fmt: skip


def faulty_status(line: bytes) -> Start | None:
    """Return what can be read of ``line``, with its LF, if it is meant to be a status line."""
    match = _FAULTY_STATUS.match(line)
    if match is None:
        return None
    version, code, reason = match.groups()
    return Start(
        RESPONSE, None if version is None else version.decode(), None, None,
        None if code is None else int(code),
        None if code is None else decode(reason).replace("\r", " ").strip(" \t"),
    )  # fmt: skip


# Programs repeat themselves; the limits are those of ``fields.py``.
_remembered = lru_cache(maxsize=512)(_parse)
_REMEMBERED_SIZE = 1024


def begins_usual(data: bytes, at: int) -> bool:
    """Whether what stands at ``at``, if it is a request, may have one of the usual methods."""
    beginning = data[at : at + 8]
    return any(
        beginning.startswith(method) or method.startswith(beginning) for method in _USUAL_METHODS
    )


def start_line(data: bytes, at: int, type_: Type | None) -> re.Match[bytes] | None:
    """Match the start line at ``at``; ``type_`` is the only one accepted unless ``None``.

    The match's ``re`` is :data:`REQUEST_LINE` or :data:`STATUS_LINE`.
    """
    for line in _LINES[type_]:
        match = line.match(data, at)
        if match is not None:
            return match
    return None


def may_become_start_line(data: bytes, at: int, type_: Type | None) -> bool:
    """Whether what stands at ``at``, cut off before its LF, may become a start line."""
    if data.find(b"\n", at) >= 0:
        return False
    beginning = data[at : at + _LOOKED_AT]
    return any(pattern.match(beginning) for pattern in _BEGINNINGS[type_])
