# SPDX-License-Identifier: Apache-2.0
"""Endpoints: method, host and path, with ids in the path as ``{id}``."""

from __future__ import annotations

import re
from functools import lru_cache

from profiler.exchanges.model import Exchange, host, path_of


def endpoint(exchange: Exchange) -> str:
    """Return the endpoint of an exchange, such as ``GET shop.example/orders/{id}``."""
    asked = exchange.asked
    path = template(asked.get("url", ""))
    # The target of CONNECT, or one in absolute form, is not below the host.
    origin = host(exchange) if path[:1] in ("", "/", "*", "?") else ""
    return f"{asked.get('method', '')} {origin}{path}"


def template(target: str) -> str:
    """Return the path of a target, with ``{id}`` for each part that looks like an id."""
    path = path_of(target)
    return "/".join(map(_without_id, path.split("/"))) if path.startswith("/") else path


def is_id(name: str) -> bool:
    """Whether a name looks like the id of one thing, as a part of a path would."""
    return "{id}" in _without_id(name)


# Numbers and versions, dates and times, UUIDs, e-mail addresses.
_ID = re.compile(
    r"[0-9]+(?:[.,:][0-9]+)*"
    r"|[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?(?:T[0-9:.%A-Fa-f+-]+Z?)?|[0-9]{4}-W[0-9]{2}"
    r"|\{?[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\}?"
    r"|[^@]+(?:@|%40)[^@]+\.[^@]+"
)
# One piece of a name between dots: a hash, a word with a number, a slug with one, a random token.
_ID_PIECE = re.compile(
    r"(?=[A-Za-z]*[0-9])[0-9a-fA-F]{8,}|[0-9a-fA-F]{32,}|(?=[A-Z]*[0-9])[A-Z0-9]{6,}"
    r"|[A-Za-z]+[0-9]{2,}|[A-Za-z]+[-_:~][0-9]+"
    r"|[0-9]{2,}[-_][A-Za-z0-9_-]+|[A-Za-z0-9_-]+[-_][0-9]{2,}"
    r"|(?=(?:[^0-9]*[0-9]){2})(?=[^a-z]*[a-z])(?=[^A-Z]*[A-Z])[A-Za-z0-9_=~%-]{8,}"
    r"|(?=[^0-9]*[0-9])[A-Za-z0-9_=~%-]{24,}|[0-9]+"
)
# Pictures and documents: p3.jpg is one of many, like p356.jpg; app2.js is not.
_MEDIA = re.compile(
    "jpe?g|png|gif|webp|avif|svg|pdf|mp[34]|webm|ts|m4s|csv|txt|zip|gz", re.IGNORECASE
)
_MEDIA_PIECE = re.compile(rf"{_ID_PIECE.pattern}|[A-Za-z]*[0-9]+")
# Words that end in a number, but name a kind of thing, not one thing.
_WORD = re.compile(
    r"(?:api[-_]?)?v[0-9]+(?:[.][0-9]+)*|(?:sha|md|base|utf|iso|win|ipv|es|http|oauth|log|h|x|s)"
    r"[-_]?[0-9]{1,4}",
    re.IGNORECASE,
)


@lru_cache(maxsize=4096)
def _without_id(part: str) -> str:
    # Parameters of a segment (RFC 3986, 3.3), such as ;jsessionid=...
    part = part.partition(";")[0]
    if not part or _WORD.fullmatch(part):
        return part
    if _ID.fullmatch(part) or (len(part) >= 24 and _ID_PIECE.fullmatch(part.replace(".", "_"))):
        return "{id}"
    *names, last = part.split(".")
    pattern = _MEDIA_PIECE if _MEDIA.fullmatch(last) else _ID_PIECE
    ids = [pattern.fullmatch(name) for name in names] + [_ID_PIECE.fullmatch(last)]
    return ".".join("{id}" if is_id else name for name, is_id in zip([*names, last], ids))
