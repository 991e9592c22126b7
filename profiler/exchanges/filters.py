"""What of all messages is wanted: the values of the filter options, and how they are written.

The rule of all of them: of the values of one option any will do, and each option that is
given must be satisfied. What is not known satisfies none.

Who moved the bytes and between which ends can be told where they move: those options
(:data:`OF_CALLS`) reach the kernel where the engine can do that. The others
are about whole messages and exchanges, so ``selection.py`` applies them, and it can
apply all: a replay and the commands that read lines have no kernel to ask.

Functions here take the text of one value, and raise ValueError that says what is wrong.
"""

from __future__ import annotations

import pwd
import re
from dataclasses import dataclass, fields
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import PurePosixPath

COMM_MAX = 15
"""Bytes of a thread's name that the kernel keeps."""

DIRECTIONS = ("send", "recv")
ROLES = ("client", "server")

# The file system of cgroups, where it is mounted everywhere, and beside version 1.
_CGROUP_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_DURATION_MAX = 366 * 86400
_STATUS = re.compile(r"(?:([1-5])xx|([1-5]\d\d)(?:-([1-5]\d\d))?)", re.IGNORECASE)
# A field's name (RFC 9110, 5.6.2), or a pseudo-header's of HTTP/2.
_HEADER = re.compile(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Address:
    """A range of addresses, all 128 bits long: an IPv4 one is its IPv4-mapped one."""

    network: int
    mask: int

    def __contains__(self, address: int) -> bool:
        return address & self.mask == self.network


@dataclass(frozen=True)
class Filters:
    """The wanted values of each option; an option without any wants all."""

    pid: tuple[int, ...] = ()
    """Thread group ids."""

    comm: tuple[str, ...] = ()
    """Names of threads."""

    user: tuple[int, ...] = ()
    """Numbers of users."""

    cgroup: tuple[str, ...] = ()
    """Paths in the cgroup2 hierarchy, as in ``/proc/PID/cgroup``; those below them count too."""

    port: tuple[int, ...] = ()
    """Of either end."""

    address: tuple[Address, ...] = ()
    """Of either end."""

    cmdline: tuple[str, ...] = ()
    """Patterns of the arguments, joined by blanks."""

    direction: tuple[str, ...] = ()
    role: tuple[str, ...] = ()

    method: tuple[str, ...] = ()
    """In upper case."""

    host: tuple[str, ...] = ()
    """Patterns, in lower case, of what a request calls its host, with or without the port."""

    path: tuple[str, ...] = ()
    """Patterns of the request target's path, without the query."""

    status: tuple[tuple[int, int], ...] = ()
    """First and last of the status codes."""

    header: tuple[tuple[str, str], ...] = ()
    """Names in lower case, and patterns of a value."""

    min_latency: float | None = None
    """Milliseconds to the response's first byte."""

    def given(self) -> tuple[str, ...]:
        """The names of the options that are given."""
        values = ((field.name, getattr(self, field.name)) for field in fields(self))
        return tuple(name for name, value in values if value not in ((), None))


ALL = Filters()
"""Everything is wanted."""

OF_CALLS: tuple[str, ...] = ("pid", "comm", "user", "cgroup", "port", "address")
"""What can be told of a call that moves bytes."""


def pattern(glob: str) -> re.Pattern[str]:
    """Compile a pattern of ``*``, ``?`` and ``[...]`` that fits the whole of a text."""
    return re.compile(translate(glob))


def positive(text: str) -> int:
    """Read a process id."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < value < 2**31:
        raise ValueError(f"{text!r} is not a process id")
    return value


def port(text: str) -> int:
    """Read a port."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < value < 65536:
        raise ValueError(f"{text!r} is not a port (1 to 65535)")
    return value


def comm(text: str) -> str:
    """Read a thread's name."""
    name = text.encode(errors="surrogateescape")
    if not name or b"\0" in name:
        raise ValueError("the name of a thread is empty")
    if len(name) > COMM_MAX:
        cut = name[:COMM_MAX].decode(errors="ignore")
        raise ValueError(
            f"{text!r} is longer than the kernel keeps a name: it is {cut!r} there "
            "(--cmdline has the whole)"
        )
    return text


def user(text: str) -> int:
    """Read a user's number, or a name that this machine knows."""
    if text.isascii() and text.isdigit():
        if int(text) >= 2**32 - 1:
            raise ValueError(f"{text} is not a user's number")
        return int(text)
    try:
        return pwd.getpwnam(text).pw_uid
    except (KeyError, ValueError):
        raise ValueError(f"this machine has no user {text!r}") from None


def cgroup(text: str) -> str:
    """Read a control group: a directory below the mount, or the path that a record has."""
    path = text
    for mount in _CGROUP_MOUNTS:
        if text == mount or text.startswith(f"{mount}/"):
            path = text[len(mount) :] or "/"
            break
    parts = PurePosixPath(path).parts
    if not parts or "\0" in path or ".." in parts:
        raise ValueError(f"{text!r} is not the path of a control group, such as /system.slice")
    return "/" + str(PurePosixPath(path)).strip("/")


def address(text: str) -> Address:
    """Read an address, or a range of them as ADDRESS/BITS."""
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        raise ValueError(
            f"{text!r} is not an address or a range such as 10.0.0.0/8 or fd00::/8"
        ) from None
    given = text.partition("/")[0]
    if given.lower() != str(network.network_address) and "/" in text:
        whole = ip_network(given)
        if whole.network_address != network.network_address:
            raise ValueError(f"{text!r} has bits behind its mask: {network} is the range")
    return _mapped(network)


def _mapped(network: IPv4Network | IPv6Network) -> Address:
    first, mask = int(network.network_address), int(network.netmask)
    if network.version == 4:
        first |= 0xFFFF << 32
        mask |= (1 << 128) - (1 << 32)
    return Address(first, mask)


def glob(text: str) -> str:
    """Read a pattern."""
    if not text:
        raise ValueError("the pattern is empty: it would fit nothing")
    return text


def host(text: str) -> str:
    """Read a pattern of a host."""
    return glob(text).lower()


def method(text: str) -> str:
    """Read a method."""
    if not _METHOD.fullmatch(text):
        raise ValueError(f"{text!r} is not a method")
    return text.upper()


def status(text: str) -> tuple[int, int]:
    """Read a status, a class of them as ``5xx``, or a range as ``400-499``."""
    match = _STATUS.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a status: 404, 5xx and 400-499 are (100 to 599)")
    if match[1]:
        return int(match[1]) * 100, int(match[1]) * 100 + 99
    first, last = int(match[2]), int(match[3] or match[2])
    if last < first:
        raise ValueError(f"{text!r} ends before it begins")
    return first, last


def header(text: str) -> tuple[str, str]:
    """Read ``NAME`` or ``NAME=GLOB``."""
    name, equals, value = text.partition("=")
    if not _HEADER.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of a header")
    if equals and not value:
        raise ValueError(f"the pattern of {name} is empty: {name} alone fits any value")
    return name.lower(), value or "*"


def duration(text: str) -> float:
    """Read a length of time, as ``100ms``, ``30s``, ``5m`` or ``1h``; return seconds."""
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= _DURATION_MAX:
        raise ValueError(f"{text!r} is not a length of time: 100ms, 30s, 5m and 1h are")
    return seconds


def count(text: str) -> int:
    """Read how many."""
    value = int(text) if text.isascii() and text.isdigit() else 0
    if not 0 < value < 2**63:
        raise ValueError(f"{text!r} is not a number from 1 on")
    return value
