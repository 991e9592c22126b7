# SPDX-License-Identifier: Apache-2.0
"""Names with their values in a text without a known form, and in a command line.

``password=x``, ``password: "x"``, ``Authorization: Bearer x``: a name, a sign, and the value, to
the end of the word, of the quotation or of the line. Only secret names consume their value, so
that in ``next=/a?token=x`` the inner name counts too.
"""

from __future__ import annotations

import re
from typing import Callable

from profiler.exchanges.redact.names import Secrecy, hides, secrecy

Change = Callable[[str], str]

SCHEMES = frozenset(
    [
        "apikey",
        "aws4-hmac-sha256",
        "basic",
        "bearer",
        "digest",
        "dpop",
        "gnap",
        "hawk",
        "hoba",
        "mutual",
        "negotiate",
        "ntlm",
        "token",
        "vapid",
    ]
)
"""Schemes of ``Authorization`` (RFC 9110, 11.1, and in use): the word stays."""

# A name cannot begin inside a word, so each is tried once, in each of at most 256 lengths.
_NAME = re.compile(
    r"(?<![\w.\-\[\]%])([\w.\-\[\]%]{1,256})(\\{0,8}[\"']?[ \t]{0,16}(?:=>?|:)[ \t]{0,16})"
)
_QUOTED = re.compile(r"\"(?:[^\"\\]+|\\.)*(?:\"|\\?\Z)|'(?:[^'\\]+|\\.)*(?:'|\\?\Z)", re.DOTALL)
_ESCAPED = re.compile(r"\\{1,8}[\"'](?:[^\"'\\]+|\\{1,8}(?![\"'\\]))*", re.DOTALL)
_WORD = re.compile(r"[^&;#\s\"'<>]+")
_LINE = re.compile(r"[^&\r\n]+")
# It ends where the next name may begin: "key=key=key=..." is read once.
_ITEM = re.compile(r"[^&;#\s\"'<>=]+=*")
_OPENING = re.compile(r"\\+[\"']")
_MARGIN = 64
_SCHEME = re.compile(rf"(?:{'|'.join(sorted(SCHEMES))})[ \t]+", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=//)[^/?#\s\"'<>]+(?=@)")

_HEADER_ARGUMENT = re.compile(
    r"((?:proxy-)?authorization|(?:set-)?cookie2?)(\s*[:=]\s*)(.+)", re.IGNORECASE | re.DOTALL
)
_OPTION = re.compile(r"(?<!\S)(--?[A-Za-z][\w-]{0,256})(\s+)(?!--)(\S+)", re.ASCII)
_FIELD = re.compile(r"(?<![\w-])([A-Za-z][\w-]{0,256})(:\s+)(\S+)", re.ASCII)
_USER = re.compile(r"(?<!\S)(-u\s*|--(?:proxy-)?user[ =])(?!\d+:\d+(?:\s|\Z))([^\s:/]+:\S+)")
# The argument of -p is a password, but for ports and paths.
_SHORT = re.compile(r"(?<!\S)(-p\s+)(?![\d:.,/-]+(?:tcp|udp)?(?:\s|\Z)|[./~-])(\S+)")
_PASS = re.compile(r"(?<!\S)(pass:)(\S+)")  # openssl-passphrase-options(1)
# Programs and the short options by which they take a password or cookies.
_PROGRAMS = (
    (re.compile(r"\b(?:mysql|mariadb|sshpass)"), re.compile(r"(?<!\S)(-p)(\S+)")),
    (re.compile(r"\bcurl\b"), re.compile(r"(?<!\S)(-b\s*)(\S+)")),
    (re.compile(r"\bredis-cli"), re.compile(r"(?<!\S)(-a\s+)(\S+)")),
    (re.compile(r"\bldap[a-z]+\b"), re.compile(r"(?<!\S)(-w\s*)(\S+)")),
)


def userinfo(text: str, placeholder: Change) -> str:
    """Return a text without the ``user:password@`` of its URLs."""
    return _USERINFO.sub(lambda m: placeholder(m[0]), text) if "@" in text else text


def assignments(text: str, placeholder: Change) -> str:
    """Return a text without the values of secret names."""
    if "=" not in text and ":" not in text:
        return text
    pieces, last = [], 0
    for match in _NAME.finditer(text):
        if match.start() < last:
            continue
        name, sign = match.groups()
        found = secrecy(name)
        if found is Secrecy.NEVER:
            continue
        span = _value(text, match, sign, found is Secrecy.ALWAYS)
        if span is None:
            continue
        start, end = span
        value = text[start:end]
        if not hides(found, value):
            continue
        pieces += [text[last:start], placeholder(value)]
        last = end
    return "".join([*pieces, text[last:]]) if pieces else text


def _value(text: str, match: re.Match[str], sign: str, is_whole: bool) -> tuple[int, int] | None:
    """Return where the value is, without its quotation marks."""
    start = match.end()
    quoted = _QUOTED.match(text, start)
    if quoted is not None:
        closed = quoted.end() - start > 1 and text[quoted.end() - 1] == text[start]
        return start + 1, quoted.end() - closed
    escaped = _ESCAPED.match(text, start)
    if escaped is not None:
        opening = _OPENING.match(text, start)
        return opening.end() if opening else start, escaped.end()
    if sign.endswith(":"):
        # `auth:8080` is a host with its port.
        return None
    scheme = _SCHEME.match(text, start)
    start = scheme.end() if scheme else start
    if not is_whole:
        word = _ITEM.match(text, start)
    elif _begins_line(text, match.start()):
        word = _LINE.match(text, start)
    else:
        word = _WORD.match(text, start)
    return word.span() if word else None


def _begins_line(text: str, position: int) -> bool:
    """Whether nothing but a margin, the dash of a list or `export` comes before it."""
    least = max(0, position - _MARGIN)
    begin = text.rfind("\n", least, position) + 1
    if not begin and least:
        return False
    return text[begin:position].strip(" \t-") in ("", "export")


def arguments(text: str, placeholder: Change, credentials: Change, url: Change) -> str:
    """Return the arguments of a process, joined by blanks, without their secrets.

    ``credentials`` redacts the value of ``Authorization``; ``url`` what is left.
    """
    rest = ""
    header = _HEADER_ARGUMENT.search(text)
    if header is not None:
        # Arguments have lost their borders: the value may go to the end.
        rest = header[1] + header[2] + credentials(header[3])
        text = text[: header.start()]

    def named(match: re.Match[str]) -> str:
        name, between, value = match.groups()
        if hides(secrecy(name), value):
            return name + between + placeholder(value)
        return match[0]

    def second(match: re.Match[str]) -> str:
        return match[1] + placeholder(match[2])

    text = _FIELD.sub(named, _OPTION.sub(named, text))
    for pattern in (_USER, _SHORT, _PASS):
        text = pattern.sub(second, text)
    for program, pattern in _PROGRAMS:
        if program.search(text):
            text = pattern.sub(second, text)
    return url(text) + rest
