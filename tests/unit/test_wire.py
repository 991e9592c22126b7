# SPDX-License-Identifier: Apache-2.0
"""wire.py mirrors bpf/event.h: compared by parsing the header, so no compiler is needed."""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.errors import CaptureFileError
from profiler.ingest import wire
from profiler.ingest.probe.hooks import load_hooks
from profiler.ingest.settings import CALL_LIMIT, Settings
from profiler.ingest.wire import (
    Cgroup,
    Chunk,
    Clock,
    Counters,
    End,
    Item,
    Keys,
    Names,
    Process,
    Session,
    decode,
    encode,
)
from tests.unit.wires import chunk

HEADER = (Path(__file__).parents[2] / "bpf" / "event.h").read_text()

DEFINES = {
    name: int(value) for name, value in re.findall(r"^#define\s+(\w+)\s+(\d+)\b", HEADER, re.M)
}

TYPES = {"u8": "B", "u16": "H", "u32": "I", "s32": "i", "u64": "Q"}

# Names that differ in wire.py, to suit Python.
RENAMED = {"local_address": "local", "remote_address": "remote"}


def members(struct_name: str = "event") -> list[tuple[str, str, int]]:
    """(name, struct code, count) of each member of a structure."""
    body = re.search(rf"struct {struct_name} \{{(.*?)\n\}};", HEADER, re.S)
    assert body is not None
    found = re.findall(r"^\s*(\w+)\s+(\w+)(?:\[([^]]+)\])?;", body[1], re.M)
    return [
        (RENAMED.get(name, name), TYPES[type_], length(count) if count else 1)
        for type_, name, count in found
    ]


def length(expression: str) -> int:
    return sum(DEFINES.get(term) or int(term) for term in expression.split(" + "))


def test_chunk_has_the_members_of_struct_event_in_order() -> None:
    assert [name for name, _, _ in members()] == list(Chunk._fields)


def test_every_member_has_its_compiled_offset() -> None:
    header = members()[:-1]
    codes = [f"{count}s" if count > 1 else code for _, code, count in header]
    assert wire.EVENT.format == "=" + "".join(codes)
    # "@" aligns as the compiler does, "=" packs: without padding both give the same.
    for n in range(1, len(codes) + 1):
        layout = "".join(codes[:n])
        assert struct.calcsize("@" + layout) == struct.calcsize("=" + layout), header[n - 1]


@pytest.mark.parametrize(
    ("struct_name", "own", "skipped"),
    [
        ("process_event", wire.PROCESS_RECORD, "cmdline"),
        ("names_event", wire.NAMES_RECORD, None),
        ("tls_event", wire.SESSION_RECORD, None),
        ("handshake_event", wire.HANDSHAKE_RECORD, None),
    ],
)
def test_the_other_records_have_their_compiled_offsets(
    struct_name: str, own: struct.Struct, skipped: str | None
) -> None:
    codes = []
    for name, code, count in members(struct_name):
        if name == "unused":
            codes.append(f"{count}x")
        elif name != skipped:
            codes.append(f"{count}s" if count > 1 else code)
    assert own.format == "=" + "".join(codes)
    assert struct.calcsize("@" + "".join(codes)) == own.size


@pytest.mark.parametrize(
    ("define", "constant"),
    [
        ("EVENT_PROCESS", wire.PROCESS),
        ("EVENT_NAMES", wire.NAMES),
        ("EVENT_TLS", wire.SESSION),
        ("EVENT_HANDSHAKE", wire.HANDSHAKE),
        ("EVENT_HELLO", wire.HELLO),
        ("EVENT_CHUNK", wire.CHUNK),
        ("EVENT_END", wire.END),
        ("DIRECTION_SEND", wire.SEND),
        ("DIRECTION_RECV", wire.RECV),
        ("FLAG_JOINED", wire.FLAG_JOINED),
        ("FLAG_AFTER_LOSS", wire.FLAG_AFTER_LOSS),
        ("FLAG_UNREADABLE", wire.FLAG_UNREADABLE),
        ("FLAG_LIMIT", wire.FLAG_LIMIT),
        ("FLAG_CONTINUED", wire.FLAG_CONTINUED),
        ("FLAG_RESET", wire.FLAG_RESET),
        ("FLAG_EXIT", wire.FLAG_EXIT),
        ("FLAG_PASSED_OVER", wire.FLAG_PASSED_OVER),
    ],
)
def test_constants(define: str, constant: int) -> None:
    assert DEFINES[define] == constant


def test_the_call_limit_is_the_sum_of_the_pieces() -> None:
    assert DEFINES["PIECES_MAX"] * DEFINES["PAYLOAD_MAX"] == CALL_LIMIT
    # The bytes of a single event are copied without checking the limit of a call.
    assert Settings(max_body=0).call_limit > DEFINES["PAYLOAD_MAX"]


def test_every_flag_of_the_kernel_is_known() -> None:
    kernel = {name for name in DEFINES if name.startswith(("FLAG_", "DIRECTION_"))}
    known = {name for name in vars(wire) if name.startswith("FLAG_")}
    assert kernel == known | {"DIRECTION_SEND", "DIRECTION_RECV"}


def test_every_tls_library_has_a_name() -> None:
    kernel = {name[4:].lower(): n for name, n in DEFINES.items() if name.startswith("TLS_")}
    assert {name: number for number, name in wire.LIBRARIES.items()} == kernel
    used = {hook.library for hook in load_hooks().libraries}
    assert used <= kernel.keys()


U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
POSITION = st.integers(0, 2**62)
CHUNKS = st.builds(
    chunk,
    payload=st.binary(max_size=64),
    direction=st.sampled_from([wire.SEND, wire.RECV]),
    syscall=st.integers(-1, 500),
    time=U64,
    pid=U32,
    socket=U64,
    position=POSITION,
    size=st.integers(64, 2**32 - 1),
    local_port=st.integers(0, 65535),
)
SUN_PATH = st.binary(max_size=108)
ITEMS = st.one_of(
    CHUNKS,
    st.builds(
        End,
        direction=st.sampled_from([0, 1]),
        time=U64,
        socket=U64,
        position=POSITION,
        flags=st.integers(0, 255),
    ),
    st.builds(Clock, kernel=U64, realtime=U64),
    st.builds(
        Process, pid=U32, start_time=U64, cgroup=U64, uid=U32, cmdline=st.binary(max_size=64)
    ),
    st.builds(
        Names, socket=U64, peer=U64, local=st.binary(max_size=108), remote=st.binary(max_size=108)
    ),
    st.builds(
        Session,
        library=st.sampled_from(sorted(wire.LIBRARIES)),
        stream=st.integers(wire.TLS_STREAM, 2**64 - 1),
        socket=U64,
    ),
    st.builds(
        wire.Hello,
        direction=st.sampled_from([0, 1]),
        socket=U64,
        position=POSITION,
        payload=st.binary(max_size=64),
    ),
    st.builds(Cgroup, id=U64, path=st.binary(max_size=64)),
    st.builds(wire.Workload, id=U64, document=st.binary(max_size=64)),
    st.builds(Counters, document=st.binary(max_size=64)),
    st.builds(Keys, lines=st.binary(max_size=64)),
)


@given(ITEMS)
def test_decode_is_the_inverse_of_encode(item: wire.Item) -> None:
    decoded = decode(encode(item))
    assert decoded == item
    assert type(decoded) is type(item)


@given(CHUNKS, st.data())
def test_a_truncated_chunk_is_an_error(item: Chunk, data: st.DataObject) -> None:
    record = encode(item)
    cut = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(CaptureFileError):
        decode(record[:cut])


def test_bytes_after_the_payload_are_not_part_of_it() -> None:
    assert decode(encode(chunk(b"abc")) + b"padding") == chunk(b"abc")


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_refused(record: bytes) -> None:
    try:
        item = decode(record)
    except CaptureFileError:
        return
    assert isinstance(item, get_args(Item))


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(CaptureFileError, match="unknown kind 77"):
        decode(bytes([77]) + bytes(200))


@pytest.mark.parametrize(
    "item",
    [
        chunk(b"ab", direction=2),
        chunk(b"ab", size=1),
        chunk(b"ab", position=2**64 - 1),
        wire.End(direction=0, time=1, socket=2, position=2**63),
        wire.End(direction=3, time=1, socket=2, position=3),
        wire.Session(library=9, stream=wire.TLS_STREAM, socket=2),
        wire.Session(library=1, stream=7, socket=2),
        wire.Hello(direction=2, socket=1, position=0, payload=b""),
        wire.Hello(direction=0, socket=1, position=2**63, payload=b""),
    ],
)
def test_impossible_values_are_refused(item: wire.Item) -> None:
    with pytest.raises(CaptureFileError, match="contradicts itself"):
        wire.decode(wire.encode(item))
