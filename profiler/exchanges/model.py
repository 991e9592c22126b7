"""Who was asked, by which URL, and which program did it: read from the records of an exchange.

A Host header is what the client said; the address is where its bytes went. Both are
given as they are, and a Host header that is none (hostile bytes, blanks) is not used.
"""

from __future__ import annotations

import re
from typing import Any

from profiler.exchanges.criteria import path_of
from profiler.ingest.record import Record

# host [ ":" port ] (RFC 9110, 7.2; RFC 3986, 3.2.2), of the characters that names have in practice.
_AUTHORITY = re.compile(r"(?:[A-Za-z0-9._~-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_INTERPRETER = re.compile(
    r"(?:python|pypy|perl|ruby|node|nodejs|php|php-fpm|bash|sh|dash|java|deno|bun|lua|tclsh)[0-9.]*"
)

# A part of a path that names a thing, not a kind of thing: a number, a UUID, a long code.
_ID = re.compile(
    r"[0-9]+|[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
    r"|(?=[A-Za-z_-]*[0-9])[0-9a-fA-F]{8,}|(?=[^0-9]*[0-9])[A-Za-z0-9_=.~%-]{24,}"
)


def header(record: Record, name: str) -> str | None:
    """Return the first value of a header, whatever its spelling; ``None`` if there is none."""
    for key, value in record.get("headers", {}).items():
        if key.lower() == name:
            return (value[0] if value else None) if isinstance(value, list) else value
    return None


def remote(record: Record) -> str | None:
    """Return the server's address of a record, ``IP:PORT`` or a Unix socket's path."""
    asks = record["type"] == "request"
    return _end(record, "dest" if asks else "source")


def local(record: Record) -> str | None:
    """Return the client's address of a record, ``IP:PORT`` or a Unix socket's path."""
    asks = record["type"] == "request"
    return _end(record, "source" if asks else "dest")


def _end(record: Record, end: str) -> str | None:
    path: Any = record.get(f"{end}_path")
    if path is not None:
        return str(path)
    ip = record.get(f"{end}_ip")
    if ip is None:
        return None
    port = record.get(f"{end}_port")
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def authority(request: Record, seen: Record) -> str:
    """Return host and port of the request's URL.

    What the request says of it (Host, ``:authority``), else where it went. ``seen`` is
    a record of the exchange, which has the addresses.
    """
    for name in (":authority", "host"):
        said = header(request, name)
        if said and _AUTHORITY.fullmatch(said):
            return said
    address = remote(seen)
    return address if address and _AUTHORITY.fullmatch(address) else "localhost"


def absolute_url(request: Record, seen: Record) -> str:
    """Return the URL of a request, as absolute as its target and its Host header make it."""
    target = str(request.get("url", "/"))
    if request.get("method") == "CONNECT":
        return f"http://{target}/"
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", target):
        return target
    scheme = header(request, ":scheme")
    prefix = f"{scheme if scheme in ('http', 'https') else 'http'}://{authority(request, seen)}"
    return prefix + (target if target.startswith("/") else f"/{target}")


def template(target: str) -> str:
    """Return the path of a target with what looks like a name of one thing as ``{id}``."""
    return "/".join("{id}" if _ID.fullmatch(part) else part for part in path_of(target).split("/"))


def program(record: Record) -> str | None:
    """Return what the process is called: its program, of an interpreter the script it runs.

    ``comm`` is the name of one thread, and a server has many of them.
    """
    words = record.get("cmdline", "").split()
    if words:
        name = _base(words[0])
        if not _INTERPRETER.fullmatch(name):
            # nginx and others write a sentence over their arguments: "nginx: worker process".
            return name.rstrip(":") or record.get("comm")
        for before, word in zip(words, words[1:]):
            if word.startswith("-") and word not in ("-m", "-jar"):
                if word in ("-c", "-e"):
                    break
                continue
            if not word.startswith("-") and before not in ("-cp", "-classpath", "-W", "-X"):
                return _base(word) or name
        return name
    return record.get("comm")


def _base(word: str) -> str:
    return word.rstrip("/").rpartition("/")[2]
