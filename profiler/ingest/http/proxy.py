# SPDX-License-Identifier: Apache-2.0
"""The header that a proxy writes before the first byte of a connection (PROXY protocol).

It carries the addresses of the connection that the proxy accepted, so its source is the real
client. Version 1 is a line of text, version 2 is binary. A header that breaks the rules is none:
its bytes are then parsed as HTTP.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt
"""

from __future__ import annotations

import re
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from profiler.ingest.http.message import Proxy

# 2.1: the longest line.
_LINE_MAX = 107
_LINE = re.compile(
    rb"PROXY (?:UNKNOWN(?: [^\r\n]*)?|TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) "
    rb"(0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4}))\r\n"
)
_LINE_BEGINS = (b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN ", b"PROXY UNKNOWN\r\n")

# 2.2: signature, version and command, family and transport, length of what follows.
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_HEADER = struct.Struct("!12sBBH")
_IPV4 = struct.Struct("!4s4sHH")
_IPV6 = struct.Struct("!16s16sHH")
_ADDRESSES: dict[int, tuple[struct.Struct, type[IPv4Address] | type[IPv6Address]]] = {
    0x11: (_IPV4, IPv4Address),  # TCP over IPv4
    0x21: (_IPV6, IPv6Address),  # TCP over IPv6
}
_VERSION, _LOCAL, _PROXY = 0x20, 0, 1
# The extensions (2.2.1) that are defined take less.
_LENGTH_MAX = 4096


def parse(data: bytes) -> tuple[int, Proxy | None] | None:
    """Return the size of the header at the beginning of ``data``, and what it states of addresses.

    The size is 0 if more bytes are needed. ``None``: there is no header.
    """
    if data[:1] == b"P":
        return _parse_line(data)
    if data[:1] == b"\r":
        return _parse_binary(data)
    return None


def _parse_line(data: bytes) -> tuple[int, Proxy | None] | None:
    if not any(data.startswith(begin) or begin.startswith(data) for begin in _LINE_BEGINS):
        return None
    end = data.find(b"\n", 0, _LINE_MAX) + 1
    if not end:
        return (0, None) if len(data) < _LINE_MAX else None
    match = _LINE.fullmatch(data, 0, end)
    if match is None:
        return None
    version, source, dest, source_port, dest_port = (
        None if group is None else group.decode("ascii") for group in match.groups()
    )
    if version is None or source is None or dest is None:
        return end, None
    assert source_port is not None
    assert dest_port is not None
    try:
        addresses = ip_address(source), ip_address(dest)
    except ValueError:
        return None
    ports = int(source_port), int(dest_port)
    if any(address.version != int(version) for address in addresses) or max(ports) > 65535:
        return None
    return end, Proxy(str(addresses[0]), ports[0], str(addresses[1]), ports[1])


def _parse_binary(data: bytes) -> tuple[int, Proxy | None] | None:
    if not _SIGNATURE.startswith(data[: len(_SIGNATURE)]):
        return None
    if len(data) < _HEADER.size:
        return 0, None
    _, command, family, length = _HEADER.unpack_from(data)
    if command not in (_VERSION | _LOCAL, _VERSION | _PROXY) or length > _LENGTH_MAX:
        return None
    size = _HEADER.size + length
    if len(data) < size:
        return 0, None
    form = _ADDRESSES.get(family)
    # A local connection is the proxy's own; other families have no addresses that we know.
    if command == _VERSION | _LOCAL or form is None:
        return size, None
    layout, address = form
    if length < layout.size:
        return None
    source, dest, source_port, dest_port = layout.unpack_from(data, _HEADER.size)
    return size, Proxy(str(address(source)), source_port, str(address(dest)), dest_port)
