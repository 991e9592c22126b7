# SPDX-License-Identifier: Apache-2.0
"""JSON text without its secrets: any depth, any white space, whole or cut off.

The text is scanned, not parsed: a body that was cut off is no JSON, and what is no secret must
keep its spelling. Strings are decoded first, so an escape hides no name and no value. Each string
is redacted as a text of its own, which may be JSON again. Several documents in a row are allowed.

In ``{"name": "password", "value": "x"}`` the value is a secret, in either order.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Callable

from profiler.exchanges.redact.names import Secrecy, hides, secrecy

# A string with its colon is a name. A string may be cut off.
_TOKEN = re.compile(
    r'("(?:[^"\\]+|\\.)*(?:"|\\?\Z))(\s{0,64}:)?|[{}\[\],:]|[^\s{}\[\],:"]+', re.DOTALL
)
# One that is valid, one that was cut off, or the start of one that JSON does not know.
_ESCAPE = re.compile(r'\\(u[0-9a-fA-F]{4}|["\\/bfnrt])|\\(?:u[0-9a-fA-F]{0,3})?\Z|\\')
_LABELS = frozenset(["name", "key", "field", "header", "headername"])
_LABELLED = frozenset(["value", "val", "content"])
_LITERALS = frozenset(["true", "false", "null"])
# No parser in use accepts more. What is nested deeper is not read, so it is replaced whole.
_DEPTH_MAX = 500

Change = Callable[[str], str]


@dataclass
class _Frame:
    """An object or array that is open, or the text around all of them."""

    inherited: Secrecy
    """Of what contains it: everything in ``credentials`` is a secret."""
    member: Secrecy = Secrecy.NEVER
    """Of the member whose value comes next."""
    name: str = ""
    label: Secrecy = Secrecy.NEVER
    """Of the name that the object's member ``name`` has as its value."""
    labelled: tuple[int, int, str] | None = None
    """Where the value for that name is, and what it is."""

    @property
    def secrecy(self) -> Secrecy:
        return self.inherited if self.member is Secrecy.NEVER else self.member


def redacted(text: str, placeholder: Change, inner: Change) -> str:
    """Return JSON without its secrets; ``inner`` redacts a string that has no secret name."""
    scan = _Scan(placeholder, inner)
    for match in _TOKEN.finditer(text):
        if not scan.take(match):
            scan.replace(match.start(), len(text), f'"{placeholder(text[match.start() :])}"')
            break
    return scan.result(text)


class _Scan:
    def __init__(self, placeholder: Change, inner: Change) -> None:
        self._placeholder = placeholder
        self._inner = inner
        self._frames = [_Frame(Secrecy.NEVER)]
        self._replaced: dict[int, tuple[int, str]] = {}
        self._last = ""

    def take(self, match: re.Match[str]) -> bool:
        """Take one token; return whether it is nested no deeper than allowed."""
        token, frame = match[0], self._frames[-1]
        if match[1] is not None:
            if match[2] is not None:
                self._name(_decoded(match[1]))
            else:
                self._string(match.start(), match[1])
        elif token in ("{", "["):
            if len(self._frames) > _DEPTH_MAX:
                return False
            self._frames.append(_Frame(frame.secrecy))
        elif token in ("}", "]"):
            if len(self._frames) > 1:
                self._close(self._frames.pop())
            self._frames[-1].member = Secrecy.NEVER
        elif token == ",":
            frame.member, frame.name = Secrecy.NEVER, ""
        elif token == ":":
            self._name(self._last)
        else:
            self._bare(match.start(), token)
        return True

    def replace(self, start: int, end: int, text: str) -> None:
        """Note what replaces a stretch of the text."""
        self._replaced[start] = end, text

    def result(self, text: str) -> str:
        """Return the text with all that was replaced."""
        for frame in self._frames:
            self._close(frame)
        pieces, last = [], 0
        for start, (end, piece) in sorted(self._replaced.items()):
            pieces += [text[last:start], piece]
            last = end
        return "".join([*pieces, text[last:]])

    def _name(self, name: str) -> None:
        frame = self._frames[-1]
        frame.name = name.lower()
        frame.member = secrecy(name)
        if frame.name in _LABELLED and frame.label is not Secrecy.NEVER:
            frame.member = frame.label

    def _string(self, start: int, token: str) -> None:
        frame, value = self._frames[-1], _decoded(token)
        self._last = value
        end = '"' if len(token) > 1 and token.endswith('"') else ""
        if not value:
            return
        if hides(frame.secrecy, value):
            self.replace(start, start + len(token), f'"{self._placeholder(value)}{end}')
            return
        self._label(frame, start, start + len(token), value)
        changed = self._inner(value)
        if changed != value:
            self.replace(start, start + len(token), _encoded(changed)[:-1] + end)

    def _bare(self, start: int, token: str) -> None:
        frame = self._frames[-1]
        self._last = token
        if token in _LITERALS:
            return
        end = start + len(token)
        if hides(frame.secrecy, token):
            self.replace(start, end, f'"{self._placeholder(token)}"')
            return
        self._label(frame, start, end, token)
        changed = self._inner(token)
        if changed != token:
            is_number = token[0].isdigit()
            self.replace(start, end, f'"{changed}"' if is_number else changed)

    def _label(self, frame: _Frame, start: int, end: int, value: str) -> None:
        if frame.name in _LABELS:
            frame.label = secrecy(value)
        elif frame.name in _LABELLED:
            frame.labelled = start, end, value

    def _close(self, frame: _Frame) -> None:
        if frame.labelled is not None and hides(frame.label, frame.labelled[2]):
            start, end, value = frame.labelled
            self.replace(start, end, f'"{self._placeholder(value)}"')


def _decoded(token: str) -> str:
    raw = token[1:-1] if len(token) > 1 and token.endswith('"') else token[1:]
    if "\\" not in raw:
        return raw
    try:
        return str(json.loads(f'"{raw}"', strict=False))
    except ValueError:
        return str(json.loads(f'"{_ESCAPE.sub(_repaired, raw)}"', strict=False))


def _repaired(match: re.Match[str]) -> str:
    """Return an escape that JSON knows; one that was cut off is left out."""
    if match[1]:
        return match[0]
    return "" if match.end() == len(match.string) else r"\\"


def _encoded(text: str) -> str:
    # A lone surrogate has no UTF-8: only its escape can be written.
    is_escaped = re.search("[\ud800-\udfff]", text) is not None
    return json.dumps(text, ensure_ascii=is_escaped)
