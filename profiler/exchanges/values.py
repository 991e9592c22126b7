# SPDX-License-Identifier: Apache-2.0
"""Parses the values of conditions and options: times, statuses, addresses, patterns.

Each function parses the text of one value. It raises ValueError, with a message for the user.
"""

from __future__ import annotations

import pwd
import re
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import PurePosixPath

COMM_MAX = 15
"""The number of bytes of a thread's name that the kernel keeps."""

DIRECTIONS = ("send", "recv")
ROLES = ("client", "server")

# The usual mount point of cgroup2, and the one beside version 1.
_CGROUP_MOUNTS = ("/sys/fs/cgroup/unified", "/sys/fs/cgroup")

_SECONDS = {"us": 1e-6, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(us|ms|s|m|h)")
_DURATION_MAX = 366 * 86400
_STATUS = re.compile(r"(?:([1-5])xx|([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?)", re.IGNORECASE)
# The name of a field (RFC 9110, 5.6.2), or of an HTTP/2 pseudo-header.
_HEADER = re.compile(r":?[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_METHOD = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@dataclass(frozen=True)
class Address:
    """A range of 128-bit addresses; IPv4 addresses are IPv4-mapped."""

    network: int
    mask: int

    def __contains__(self, address: int) -> bool:
        return address & self.mask == self.network


@lru_cache(maxsize=256)
def pattern(glob: str) -> re.Pattern[str]:
    """Compile a pattern of ``*``, ``?`` and ``[...]`` that must match the whole text."""
    return re.compile(translate(glob))


def is_pattern(glob: str) -> bool:
    """Whether a pattern can be compiled: Python 3.9 has no empty range such as ``[z-a]``."""
    try:
        pattern(glob)
    except re.error:
        return False
    return True


def number(text: str) -> int:
    """Read a number."""
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ValueError(f"{text!r} is not a number")
    return int(text)


def pid(text: str) -> int:
    """Read a process id."""
    return _between(1, 2**31 - 1, text, "a process id")


def port(text: str) -> int:
    """Read a port."""
    return _between(1, 65535, text, "a port (1 to 65535)")


def count(text: str) -> int:
    """Read a positive number."""
    return _between(1, 2**63 - 1, text, "a number from 1 on")


def _between(least: int, most: int, text: str, what: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else -1
    if not least <= value <= most:
        raise ValueError(f"{text!r} is not {what}")
    return value


def comm(text: str) -> str:
    """Read a thread's name."""
    name = text.encode(errors="surrogateescape")
    if not name or b"\0" in name:
        raise ValueError("the name of a thread is empty")
    if len(name) > COMM_MAX:
        cut = name[:COMM_MAX].decode(errors="ignore")
        raise ValueError(
            f"{text!r} is longer than a thread's name in the kernel, which cuts it to {cut!r} "
            "(--cmdline matches whole arguments)"
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
            raise ValueError(f"{text!r} has bits set after its mask: use {network}")
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
        raise ValueError("the pattern is empty: it would match nothing")
    if not is_pattern(text):
        raise ValueError(f"{text!r} is not a pattern")
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
        raise ValueError(f"{text!r} is not a status, such as 404, 5xx or 400-499")
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
        raise ValueError(f"the pattern of {name} is empty: use {name} alone to match any value")
    return name.lower(), value or "*"


def duration(text: str) -> float:
    """Read a length of time, as ``100ms``, ``30s``, ``5m`` or ``1h``; return seconds."""
    seconds = _seconds(text)
    if seconds <= 0:
        raise ValueError(f"{text!r} is not a length of time: {_TIMES}")
    return seconds


def milliseconds(text: str) -> float:
    """Read a duration, which may be ``0ms``; return milliseconds."""
    return _seconds(text) * 1000


_TIMES = "a number with us, ms, s, m or h, such as 250ms or 1.5s"


def _seconds(text: str) -> float:
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else -1.0
    if not 0 <= seconds <= _DURATION_MAX:
        raise ValueError(f"{text!r} is not a length of time: {_TIMES}")
    return seconds


def address_number(text: str) -> int:
    """Return an address as a 128-bit number, IPv4 in its mapped form; -1 if it is invalid."""
    try:
        parsed = ip_address(text)
    except ValueError:
        return -1
    value = int(parsed)
    return value | 0xFFFF << 32 if isinstance(parsed, IPv4Address) else value
