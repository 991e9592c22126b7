# SPDX-License-Identifier: Apache-2.0
"""XML and HTML without their secrets, well-formed or not.

The content of an element with a secret name is replaced up to its end tag; without one, to the
end of the text. So are attributes with such a name, and the ``value`` of an element whose
``name`` is one: ``<input name="password" value="x">``, ``<param name="password">x</param>``.
After ``<key>password</key>`` the next content is a secret (property lists, XML-RPC).
"""

from __future__ import annotations

import re
from html import unescape
from typing import Callable

from profiler.exchanges.redact.names import Secrecy, hides, secrecy

# Each alternative ends at the end of the text at the latest: nothing is scanned twice.
_TOKEN = re.compile(
    r"<!--(?P<comment>.*?)(?:-->|\Z)|<!\[CDATA\[(?P<data>.*?)(?:\]\]>|\Z)"
    r"|<(?P<slash>/?)(?P<tag>[A-Za-z_][^\s/>]{0,256})(?P<attributes>[^>]*)>?"
    r"|(?P<text><?[^<]*)",
    re.DOTALL,
)
_ATTRIBUTE = re.compile(
    r"(?<![\w:.-])([\w:.-]{1,256})(\s{0,64}=\s{0,64})(\"[^\"]*(?:\"|\Z)|'[^']*(?:'|\Z)|[^\s\"'>]+)"
)
_LABELS = frozenset(["name", "key", "id"])
_LABELLED = frozenset(["value", "content"])
# Elements of HTML that have neither content nor an end tag.
_VOID = frozenset(["input", "meta", "img", "link"])

Change = Callable[[str], str]


def redacted(text: str, placeholder: Change, inner: Change) -> str:
    """Return markup without its secrets; ``inner`` redacts text that has no secret name."""
    return "".join(_Scan(placeholder, inner).pieces(text))


class _Scan:
    def __init__(self, placeholder: Change, inner: Change) -> None:
        self._placeholder = placeholder
        self._inner = inner
        self._hidden = ""
        """Name of the open element whose content is a secret."""
        self._depth = 0
        """How many elements of that name are open."""
        self._secrecy = Secrecy.NEVER
        self._content = ""
        self._next = Secrecy.NEVER
        """Of the next content, if a label came before it."""

    def pieces(self, text: str) -> list[str]:
        """Return the text in pieces, without its secrets."""
        found = []
        for match in _TOKEN.finditer(text):
            if match["tag"] is not None:
                found.append(self._element(match))
            else:
                group = "comment" if match["comment"] is not None else "data"
                group = group if match[group] is not None else "text"
                start, end = match.span(group)
                found += [
                    text[match.start() : start],
                    self._text(match[group], group == "text"),
                    text[end : match.end()],
                ]
        return found

    def _element(self, match: re.Match[str]) -> str:
        tag, attributes = match["tag"], match["attributes"]
        local = tag.rpartition(":")[2]
        if match["slash"]:
            if tag == self._hidden:
                self._depth -= 1
                if not self._depth:
                    self._hidden, self._secrecy = "", Secrecy.NEVER
            if local.lower() in _LABELS:
                self._next = secrecy(self._content.strip())
            return match[0]
        start, end = match.span("attributes")
        start, end = start - match.start(), end - match.start()
        is_open = not attributes.endswith("/")
        if tag == self._hidden:
            self._depth += is_open
        elif not self._hidden and is_open:
            self._open(tag, secrecy(local))
        label = Secrecy.NEVER
        changed = attributes
        if "=" in attributes:
            labels = {
                found[1].lower(): secrecy(_unquoted(found[3]))
                for found in _ATTRIBUTE.finditer(attributes)
                if found[1].lower() in _LABELS
            }
            label = next((one for one in labels.values() if one is not Secrecy.NEVER), label)
            is_named = labels.get("name") is Secrecy.ALWAYS and local.lower() not in _VOID
            if is_named and is_open and not self._hidden:
                self._open(tag, Secrecy.ALWAYS)
            changed = _ATTRIBUTE.sub(lambda found: self._attribute(found, label), attributes)
        return match[0][:start] + changed + match[0][end:]

    def _open(self, tag: str, found: Secrecy) -> None:
        if found is not Secrecy.NEVER:
            self._hidden, self._depth, self._secrecy = tag, 1, found

    def _attribute(self, match: re.Match[str], label: Secrecy) -> str:
        name, between, quoted = match.groups()
        local = name.rpartition(":")[2]
        value = _unquoted(quoted)
        found = secrecy(local)
        if found is Secrecy.NEVER and local.lower() in _LABELLED:
            found = label
        if found is Secrecy.NEVER and local.lower() not in _LABELS:
            found = self._secrecy
        changed = self._placeholder(value) if hides(found, value) else self._inner(value)
        if changed == value:
            return match[0]
        before = quoted[:1] if quoted[:1] in ("'", '"') else ""
        after = before if quoted.endswith(before) else ""
        changed = changed.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
        return name + between + before + changed.replace("'", "&#39;") + after

    def _text(self, text: str, is_escaped: bool) -> str:
        if is_escaped and text[:1] == "<":
            # A declaration, or a sign that begins no tag.
            return "<" + self._text(text[1:], is_escaped)
        stripped = text.strip()
        if not stripped:
            return text
        self._content = stripped
        found = self._secrecy
        if found is Secrecy.NEVER:
            found, self._next = self._next, Secrecy.NEVER
        value = unescape(stripped) if is_escaped and "&" in stripped else stripped
        changed = self._placeholder(value) if hides(found, value) else self._inner(value)
        if changed == value:
            return text
        if value != stripped:
            changed = changed.replace("&", "&amp;").replace("<", "&lt;")
        before, after = text.split(stripped, 1)
        return before + changed + after


def _unquoted(value: str) -> str:
    if value[:1] in ("'", '"'):
        value = value[1:-1] if len(value) > 1 and value[-1] == value[0] else value[1:]
    return unescape(value) if "&" in value else value
