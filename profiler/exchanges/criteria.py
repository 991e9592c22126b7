"""Does a message, or an exchange, satisfy a filter: one function for each option.

A message has an answer at once. An exchange may not be all there yet: then the answer
is ``None``, and it is asked again with more. What is not known satisfies no filter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

from profiler.exchanges.filters import Filters, pattern
from profiler.ingest.record import Record


class Known(NamedTuple):
    """What is known of an exchange so far, as one process saw it."""

    request: Record | None
    responses: tuple[Record, ...]
    """Interim ones too."""


MessageTest = Callable[[Record], bool]
ExchangeTest = Callable[[Known], Optional[bool]]

_PORT = re.compile(r":\d*$")


def message_tests(filters: Filters) -> dict[str, MessageTest]:
    """The tests of the options that are about one message: who moved it, and between which ends."""
    cmdlines = [pattern(glob) for glob in filters.cmdline]
    groups = [f"{path.rstrip('/')}/" for path in filters.cgroup]

    def has_cmdline(record: Record) -> bool:
        cmdline = record.get("cmdline")
        return cmdline is not None and any(each.fullmatch(cmdline) for each in cmdlines)

    def in_cgroup(record: Record) -> bool:
        path = record.get("cgroup")
        return path is not None and any(f"{path}/".startswith(group) for group in groups)

    def has_port(record: Record) -> bool:
        return any(record.get(f"{end}_port") in filters.port for end in ("source", "dest"))

    def has_address(record: Record) -> bool:
        ends = (record.get(f"{end}_ip") for end in ("source", "dest"))
        numbers = [_number(end) for end in ends if end is not None]
        return any(number in wanted for wanted in filters.address for number in numbers)

    return {
        "pid": lambda record: record.get("pid") in filters.pid,
        "comm": lambda record: record.get("comm") in filters.comm,
        "user": lambda record: record.get("uid") in filters.user,
        "cgroup": in_cgroup,
        "port": has_port,
        "address": has_address,
        "cmdline": has_cmdline,
        "direction": lambda record: record.get("direction") in filters.direction,
        "role": lambda record: record.get("role") in filters.role,
    }


def exchange_tests(filters: Filters) -> dict[str, ExchangeTest]:
    """The tests of the options that are about an exchange."""
    paths = [pattern(glob) for glob in filters.path]
    hosts = [pattern(glob) for glob in filters.host]
    headers = [(name, pattern(glob)) for name, glob in filters.header]

    def has_method(known: Known) -> bool | None:
        return _asked(known, "method", lambda method: method.upper() in filters.method)

    def has_path(known: Known) -> bool | None:
        return _asked(known, "url", lambda url: _fits_any(path_of(url), paths))

    def has_host(known: Known) -> bool | None:
        if known.request is None:
            return None
        said = (host.lower() for name in _HOST for host in _values(known.request, name))
        return any(_fits_any(host, hosts) or _fits_any(_PORT.sub("", host), hosts) for host in said)

    def has_status(known: Known) -> bool | None:
        codes = (response.get("status_code") for response in known.responses)
        if any(first <= code <= last for code in codes if code for first, last in filters.status):
            return True
        # No other response follows, whether the request is there yet or not.
        return False if any(map(is_final, known.responses)) else None

    def took(known: Known) -> bool | None:
        final = next(filter(is_final, known.responses), None)
        if final is None or filters.min_latency is None:
            return None
        latency = final.get("latency_ms")
        return latency is not None and latency >= filters.min_latency

    def has_header(known: Known) -> bool | None:
        records = (known.request, *known.responses) if known.request else known.responses
        for name, value in headers:
            if any(value.fullmatch(said) for record in records for said in _values(record, name)):
                return True
        return False if known.request and any(map(is_final, known.responses)) else None

    return {
        "method": has_method,
        "host": has_host,
        "path": has_path,
        "status": has_status,
        "header": has_header,
        "min_latency": took,
    }


_HOST = (":authority", "host")


def is_final(response: Record) -> bool:
    """Does no other response to the same request follow this one?"""
    status = response.get("status_code", 200)
    # HTTP/2 goes on behind a 101 to h2c, with the response.
    return bool(status >= 200 or (status == 101 and response.get("upgrade") != "h2c"))


def path_of(target: str) -> str:
    """Return the path of a request target: without query, scheme and host."""
    if not target.startswith("/"):
        try:
            parts = urlsplit(target)
        except ValueError:
            return target
        if parts.scheme and parts.netloc:
            return parts.path or "/"
    return re.split(r"[?#]", target, maxsplit=1)[0]


def _asked(known: Known, field: str, test: Callable[[str], bool]) -> bool | None:
    """Ask the request, or what a response tells of it."""
    told = known.request or next(
        (response["request"] for response in known.responses if "request" in response), None
    )
    if told is None:
        return None
    return field in told and test(told[field])


def _fits_any(text: str, patterns: list[re.Pattern[str]]) -> bool:
    return any(each.fullmatch(text) for each in patterns)


def _values(record: Record, name: str) -> Iterator[str]:
    """The values of a header, and of a trailer, whatever its spelling."""
    for part in ("headers", "trailers"):
        for key, value in record.get(part, {}).items():
            if key.lower() == name:
                yield from value if isinstance(value, list) else (value,)


def _number(address: str) -> int:
    """An address as 128 bits, an IPv4 one in its mapped form; one that is none is -1."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return -1
    number = int(parsed)
    return number | 0xFFFF << 32 if isinstance(parsed, IPv4Address) else number
