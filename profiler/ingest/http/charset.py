# SPDX-License-Identifier: Apache-2.0
"""The charset of a body (RFC 9110, 8.3.2): which bytes are text, and what text.

The charset of ``Content-Type`` applies, else UTF-8. If the bytes do not fit it, they are not text.
Nothing is guessed, and no character is replaced.

Many servers state a charset for everything they send, and an 8-bit charset decodes any bytes. So
bytes that never occur in text (*binary data bytes* of the MIME Sniffing Standard) count as a
mismatch too.

A label is looked up in a table, never in all of Python's codecs: some of those are not charsets,
and Python caches each name that it did not find.
"""

from __future__ import annotations

import codecs
import re
from encodings.aliases import aliases
from functools import lru_cache

# Python's codec -> the name of the charset that is applied, which Python knows too. As in the
# Encoding Standard, a charset is read as its superset where senders confuse them.
CHARSETS = {
    "utf_16": "utf-16le",
    "utf_16_le": "utf-16le",
    "utf_16_be": "utf-16be",
    "latin_1": "iso-8859-1",
    **{f"iso8859_{n}": f"iso-8859-{n}" for n in (*range(2, 12), *range(13, 17))},
    **{f"cp{n}": f"windows-{n}" for n in range(1250, 1259)},
    "cp866": "ibm866",
    "koi8_r": "koi8-r",
    "koi8_u": "koi8-u",
    "mac_roman": "macintosh",
    "cp874": "cp874",
    "windows_874": "cp874",
    "tis_620": "tis-620",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "gb18030": "gb18030",
    "big5": "big5",
    "big5hkscs": "big5-hkscs",
    "euc_jp": "euc-jp",
    "iso2022_jp": "iso-2022-jp",
    "shift_jis": "cp932",
    "cp932": "cp932",
    "euc_kr": "cp949",
    "cp949": "cp949",
}

_BYTE_ORDER_MARKS = {codecs.BOM_UTF16_LE: "utf-16le", codecs.BOM_UTF16_BE: "utf-16be"}

_PARAMETER = re.compile(r";[ \t]*charset[ \t]*=[ \t]*[\"']?([^\"';, \t]+)", re.IGNORECASE)
_NO_NAME = re.compile(r"[^0-9a-z]+")

# Types that are text by definition, whose byte order mark is reliable.
_TEXTUAL = re.compile(r"text/|[^;]*[/+](?:json|xml|javascript)[ \t]*(?:;|\Z)", re.IGNORECASE)

_BINARY = re.compile("[\0-\x08\x0b\x0e-\x1a\x1c-\x1f]")


def text_of(
    data: bytes, content_type: str | None = None, cut: bool = False
) -> tuple[str, str | None] | None:
    """Return ``data`` as text, and its charset if that is not UTF-8; ``None``: it is not text.

    ``cut`` data may end inside a character, which is then removed.
    """
    if content_type is not None:
        charset, textual = _reading_of(content_type)
        marked = _BYTE_ORDER_MARKS.get(data[:2]) if textual else None
        charset = marked or charset
        if charset is not None:
            text = _decode(data[2:] if marked else data, charset, cut)
            if text is not None:
                return text, charset
    try:
        return codecs.utf_8_decode(data, "strict", not cut)[0], None
    except UnicodeDecodeError:
        return None


def load_all() -> None:
    """Import the codecs of all charsets, for a process that later cannot read their files."""
    for charset in CHARSETS.values():
        codecs.lookup(charset)


@lru_cache(maxsize=128)
def _reading_of(content_type: str) -> tuple[str | None, bool]:
    """Return the stated charset, unless UTF-8 or unknown, and whether the type is textual."""
    parameter = _PARAMETER.search(content_type)
    if parameter is None:
        return None, _TEXTUAL.match(content_type) is not None
    label = _NO_NAME.sub("_", parameter[1].lower())
    return CHARSETS.get(aliases.get(label, label)), True


def _decode(data: bytes, charset: str, cut: bool) -> str | None:
    try:
        text = codecs.getincrementaldecoder(charset)().decode(data, not cut)
    except UnicodeDecodeError:
        return None
    return None if _BINARY.search(text) else text
