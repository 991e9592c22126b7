# SPDX-License-Identifier: Apache-2.0
"""Writes what a recording's sockets sent as a packet capture, for other programs to read.

The format is that of libpcap (https://www.tcpdump.org/manpages/pcap-savefile.5.html), with
LINKTYPE_RAW. A packet has at most a maximum segment; there are neither handshakes nor
acknowledgements, which dissectors do not need.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from profiler.ingest import wire

_LINKTYPE_RAW = 101
_SEGMENT = 65495  # of the loopback interface: 65535 less two headers of 20
_PSH_ACK = 0x18


def write(records: Iterable[bytes], path: Path) -> int:
    """Write what was sent over TCP and IPv4 in ``records``; return the first receiver's port.

    A recording that is repeated has the same ends again, which would be retransmissions. So the
    second and third byte of its addresses count how often they began. Raises ValueError if there
    is nothing.
    """
    port = 0
    begun: Counter[tuple[bytes, int, bytes, int]] = Counter()
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, _LINKTYPE_RAW))
        for record in records:
            item = wire.decode(record)
            if not isinstance(item, wire.Chunk) or item.direction != wire.SEND:
                continue
            port = port or item.remote_port
            ends = item.local, item.local_port, item.remote, item.remote_port
            begun[ends] += item.position == 0
            number = begun[ends].to_bytes(2, "big")
            item = item._replace(
                local=_numbered(item.local, number), remote=_numbered(item.remote, number)
            )
            for at in range(0, len(item.payload), _SEGMENT):
                packet = _packet(item, at, item.payload[at : at + _SEGMENT])
                seconds, rest = divmod(item.time, 1_000_000_000)
                file.write(struct.pack("<IIII", seconds, rest // 1000, len(packet), len(packet)))
                file.write(packet)
    if not port:
        raise ValueError("the recording has nothing that was sent")
    return port


def _numbered(address: bytes, number: bytes) -> bytes:
    return address[:1] + number + address[3:4]


def _packet(chunk: wire.Chunk, at: int, data: bytes) -> bytes:
    ends = struct.pack(">HH", chunk.local_port, chunk.remote_port)
    sequence = (chunk.sequence + chunk.position + at) % 2**32
    tcp = ends + struct.pack(">IIBBHHH", sequence, 1, 5 << 4, _PSH_ACK, 65535, 0, 0)
    length = 20 + len(tcp) + len(data)
    ip = struct.pack(">BBHHHBBH", 0x45, 0, length, 0, 0, 64, 6, 0)
    return ip + chunk.local + chunk.remote + tcp + data
