# SPDX-License-Identifier: Apache-2.0
"""The one sanitiser: captured text, made safe to show on a terminal, in CSV, an error or a log.

Characters that would control a terminal, be invisible, or reverse the text around them (C0 and C1
controls, direction marks, characters without width) are shown as their number, ``⟨U+202E⟩``, as in
the report.
"""

from __future__ import annotations

import re

_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202f\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)
_MARK = r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]"
# More combining marks than any script puts on one letter would cover the lines above and below.
_MARKS = re.compile(f"(?<={_MARK * 4}){_MARK}")

# In UTF-8, a byte 0xC2 always begins a character: U+0080 to U+00BF.
_C1_LEAD = b"\xc2"
_C1 = re.compile(rb"\xc2[\x80-\x9f]")


def visible(text: str) -> str:
    """Return ``text`` with every control or invisible character as its number."""
    if text.isascii() and text.isprintable():
        return text
    return _MARKS.sub(_number, _UNSEEN.sub(_number, text))


def visible_lines(text: str) -> str:
    """Return a text of several lines, each ``visible``."""
    return "\n".join(map(visible, text.split("\n")))


def escaped(document: bytes) -> bytes:
    """Return JSON in UTF-8 with DEL and the controls of C1 as escapes, such as ``\\u009b``.

    The meaning is the same, but a terminal that the document is printed on does not obey it.
    orjson escapes the controls of C0 only, as RFC 8259 demands.
    """
    if _C1_LEAD in document:
        document = _C1.sub(lambda match: b"\\u00%02x" % match[0][1], document)
    return document.replace(b"\x7f", b"\\u007f") if b"\x7f" in document else document


def _number(match: re.Match[str]) -> str:
    return f"⟨U+{ord(match[0]):04X}⟩"
