# SPDX-License-Identifier: Apache-2.0
"""bpftrace's output becomes the records that it represents, whatever bytes they contain."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.accounting import Count
from profiler.ingest.probe.generate_bpftrace import FATES, RECV_FATES
from profiler.ingest.probe.printed import Printed, read_escaped, read_hex
from profiler.ingest.wire import (
    AF_INET,
    AF_INET6,
    FLAG_AFTER_LOSS,
    FLAG_CONTINUED,
    FLAG_JOINED,
    FLAG_LIMIT,
    FLAG_UNREADABLE,
    RECV,
    SEND,
    Chunk,
    End,
    decode,
)

SECOND = 10**9
SENDTO = 44


def printf(text: str) -> bytes:
    return json.dumps({"type": "printf", "data": text + "\n"}).encode()


def map_line(name: str, values: dict[int, int]) -> bytes:
    data = {name: {str(key): value for key, value in values.items()}}
    return json.dumps({"type": "map", "data": data}).encode()


def printed_by_bpftrace(payload: bytes) -> str:
    """Format as %r does: printable ASCII unchanged, including the backslash."""
    return "".join(chr(b) if 32 <= b <= 126 else f"\\x{b:02x}" for b in payload)


class Bpftrace:
    """Writes the lines of one socket's calls as the program would print them."""

    def __init__(self, *, processors: int = 1, hexadecimal: bool = True) -> None:
        self.printed = Printed(processors, hexadecimal=hexadecimal)
        self.hexadecimal = hexadecimal
        self.ordinal = [0, 0]
        self.position = [0, 0]

    def feed(self, *lines: bytes, now: float = 0.0) -> None:
        for line in lines:
            self.printed.feed(line, now)

    def call(
        self,
        payload: bytes,
        *,
        size: int | None = None,
        pieces: Sequence[int] = (),
        piece: int = 100,
        time: int = SECOND,
        direction: int = SEND,
        family: int = AF_INET,
        joined: int = 0,
        comm: bytes = b"curl",
    ) -> list[bytes]:
        """Return the lines of one call; ``pieces`` are the numbers of missing ones."""
        size = len(payload) if size is None else size
        lines = []
        for n, at in enumerate(range(0, len(payload), piece)):
            part = payload[at : at + piece]
            text = part.hex() if self.hexadecimal else printed_by_bpftrace(part)
            if n not in pieces:
                lines.append(printf(f"P 65 {time:x} {at:x} {len(part):x} {text}"))
        v4 = family == AF_INET
        caller = [
            7, 4026531840, *((0x0100007F, 0) if v4 else (0, 1 << 56)),
            *((0x0200007F, 0) if v4 else (0, 2 << 56)),
            *(int.from_bytes(comm.ljust(16, b"\0")[at : at + 8], "little") for at in (0, 8)),
        ]  # fmt: skip
        call = [
            100, SENDTO * 2 + direction, 4242, self.position[direction], self.ordinal[direction],
            size, len(payload), family * 8 + (4 if joined else 0), 50000,
            int.from_bytes((80).to_bytes(2, "big"), "little"),
        ]  # fmt: skip
        for kind, words in (("B", caller), ("C", call)):
            lines.append(printf(" ".join([kind, *(f"{word:x}" for word in (0x65, time, *words))])))
        self.ordinal[direction] += 1
        self.position[direction] += size
        return lines

    def beat(self, time: int, cpu: int = 0) -> bytes:
        return printf(f"T {cpu:x} {time:x}")

    def count(self, calls: dict[int, int], sizes: dict[int, int]) -> list[bytes]:
        return [map_line("@calls", calls), map_line("@bytes", sizes), printf("S")]

    def chunks(self, *lines: bytes) -> list[Chunk]:
        self.feed(*lines)
        items = [decode(record) for record in self.printed.finish()]
        assert all(isinstance(item, Chunk) for item in items)
        return items  # type: ignore[return-value]


@given(st.binary(max_size=300))
def test_hexadecimal_is_exact_for_all_bytes(payload: bytes) -> None:
    assert read_hex(payload.hex(), len(payload)) == payload
    assert read_hex(payload.hex(), len(payload) + 1) is None


@given(
    st.lists(st.sampled_from([b"\\", b"x", b"0", b"a", b"\0", b"\xff", b"\\x00", b"\\x41", b" "]))
)
def test_escapes_are_exact_or_refused(parts: list[bytes]) -> None:
    payload = b"".join(parts)
    assert read_escaped(printed_by_bpftrace(payload), len(payload)) in (payload, None)


@given(st.binary(max_size=300))
def test_escapes_without_a_backslash_are_never_refused(payload: bytes) -> None:
    payload = payload.replace(b"\\", b"/")
    assert read_escaped(printed_by_bpftrace(payload), len(payload)) == payload


def test_ambiguous_escapes_are_refused() -> None:
    # One byte and four characters, or the reverse.
    assert read_escaped(printed_by_bpftrace(b"\0\\x00"), 5) is None


@given(st.binary(min_size=1, max_size=500), st.integers(1, 500), st.booleans())
def test_a_call_is_one_chunk(payload: bytes, piece: int, hexadecimal: bool) -> None:
    if not hexadecimal:
        payload = payload.replace(b"\\", b"/")
    bpftrace = Bpftrace(hexadecimal=hexadecimal)
    (chunk,) = bpftrace.chunks(*bpftrace.call(payload, piece=piece))
    assert chunk.payload == payload
    assert chunk.size == chunk.captured == len(payload)
    assert chunk.flags == 0


@pytest.mark.parametrize("payload", [b" ", b"   ", b" x ", b"\n", b"\\"])
@pytest.mark.parametrize("hexadecimal", [True, False])
def test_a_piece_of_white_space(payload: bytes, hexadecimal: bool) -> None:
    bpftrace = Bpftrace(hexadecimal=hexadecimal)
    (chunk,) = bpftrace.chunks(*bpftrace.call(payload))
    assert chunk.payload == payload


def test_every_field() -> None:
    bpftrace = Bpftrace()
    bpftrace.printed.clock_offset = -1000
    first, second, third = bpftrace.chunks(
        *bpftrace.call(b"abc"),
        *bpftrace.call(b"d", time=2 * SECOND, direction=RECV, family=AF_INET6, joined=1),
        *bpftrace.call(b"ef", time=3 * SECOND, comm=b"a\0left over"),
    )
    assert first == Chunk(
        kind=1, direction=SEND, family=AF_INET, flags=0, syscall=SENDTO, time=SECOND - 1000,
        pid=100, tid=101, start_time=7, socket=4242, position=0, size=3, captured=3,
        netns=4026531840, sequence=0, local_port=50000, remote_port=80,
        local=bytes([127, 0, 0, 1]).ljust(16, b"\0"), remote=bytes([127, 0, 0, 2]).ljust(16, b"\0"),
        comm=b"curl".ljust(16, b"\0"), payload=b"abc",
    )  # fmt: skip
    assert (second.direction, second.flags, second.family) == (RECV, FLAG_JOINED, AF_INET6)
    assert second.local == bytes(15) + b"\1" and second.remote == bytes(15) + b"\2"
    assert third.position == 3
    assert third.comm == b"a".ljust(16, b"\0")


def test_a_released_port() -> None:
    bpftrace = Bpftrace()
    lines = bpftrace.call(b"x")
    swapped = 0x10000 + int.from_bytes((8080).to_bytes(2, "big"), "little")
    lines[-1] = lines[-1].replace(b" c350 ", b" %x " % swapped)
    assert bpftrace.chunks(*lines)[0].local_port == 8080


def test_beyond_the_limit() -> None:
    bpftrace = Bpftrace()
    first, second = bpftrace.chunks(
        *bpftrace.call(b"x" * 250, size=5000), *bpftrace.call(b"y", time=2 * SECOND)
    )
    assert (first.size, first.captured, first.flags) == (5000, 250, FLAG_LIMIT)
    assert (second.position, second.payload, second.flags) == (5000, b"y", 0)


def test_memory_that_cannot_be_read() -> None:
    bpftrace = Bpftrace()
    (chunk,) = bpftrace.chunks(*bpftrace.call(b"", size=5000))
    assert (chunk.size, chunk.captured, chunk.flags) == (5000, 0, FLAG_UNREADABLE)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ([0], [(0, 100, 0, 0), (100, 200, 200, FLAG_CONTINUED)]),
        ([1], [(0, 200, 100, 0), (200, 100, 100, FLAG_CONTINUED)]),
        ([2], [(0, 300, 200, 0)]),
        ([0, 1, 2], [(0, 300, 0, 0)]),
    ],
)
def test_a_lost_piece_is_a_hole(missing: list[int], expected: list[tuple[int, ...]]) -> None:
    bpftrace = Bpftrace()
    chunks = bpftrace.chunks(*bpftrace.call(bytes(300), pieces=missing))
    assert [(c.position, c.size, c.captured, c.flags) for c in chunks] == expected


def test_a_lost_piece_before_the_limit() -> None:
    bpftrace = Bpftrace()
    chunks = bpftrace.chunks(*bpftrace.call(bytes(200), pieces=[1], size=1000))
    assert [(c.position, c.size, c.captured, c.flags) for c in chunks] == [
        (0, 200, 100, 0),
        (200, 800, 0, FLAG_CONTINUED | FLAG_LIMIT),
    ]


@pytest.mark.parametrize("missing", [-1, -2])
def test_a_lost_call_leaves_its_mark(missing: int) -> None:
    bpftrace = Bpftrace()
    lines = bpftrace.call(b"lost")
    del lines[missing]
    (chunk,) = bpftrace.chunks(*lines, *bpftrace.call(b"next", time=2 * SECOND))
    assert (chunk.position, chunk.flags, chunk.payload) == (4, FLAG_AFTER_LOSS, b"next")


def test_lines_leave_in_the_order_of_their_times() -> None:
    bpftrace = Bpftrace(processors=2)
    take = bpftrace.printed.take
    late = bpftrace.call(b"1", time=SECOND)
    early = bpftrace.call(b"2", time=2 * SECOND)
    bpftrace.feed(*early, bpftrace.beat(10 * SECOND, 0), now=1.0)
    assert take(1.0) == []  # the other processor has not reported its time
    bpftrace.feed(*late, bpftrace.beat(3 * SECOND // 2, 1), now=1.1)
    assert [decode(r).payload for r in take(1.1)] == [b"1"]  # type: ignore[union-attr]
    bpftrace.feed(bpftrace.beat(9 * SECOND, 1), now=1.2)
    assert [decode(r).payload for r in take(1.2)] == [b"2"]  # type: ignore[union-attr]


def test_the_caller_is_known_before_the_record_leaves() -> None:
    bpftrace = Bpftrace(processors=2)
    bpftrace.feed(*bpftrace.call(b"1"), *bpftrace.call(b"2", time=2 * SECOND))
    assert bpftrace.printed.take(0.0) == []
    assert bpftrace.printed.met() == [(100, 7)]
    assert bpftrace.printed.met() == []


def test_a_silent_processor_delays_nothing() -> None:
    bpftrace = Bpftrace(processors=2)
    bpftrace.feed(bpftrace.beat(1, 0), bpftrace.beat(1, 1), now=1.0)
    assert bpftrace.printed.take(1.0) == []
    bpftrace.feed(*bpftrace.call(b"x"), bpftrace.beat(2 * SECOND, 0), now=4.0)
    assert len(bpftrace.printed.take(4.0)) == 1


def test_ends() -> None:
    bpftrace = Bpftrace()
    bpftrace.feed(printf(f"E 1 {SECOND:x} 1092 c"))
    (record,) = bpftrace.printed.finish()
    assert decode(record) == End(RECV, SECOND, 4242, 12)


def test_attached_when_first_and_last_probe_have_printed() -> None:
    bpftrace = Bpftrace()
    bpftrace.feed(b'{"type": "attached_probes", "data": {"probes": 8}}', b"")
    assert not bpftrace.printed.attached
    bpftrace.feed(bpftrace.beat(SECOND))
    assert not bpftrace.printed.attached
    # On an idle machine there is nothing to count yet.
    bpftrace.feed(printf("S"))
    assert bpftrace.printed.attached
    assert bpftrace.printed.other_lines == []


def test_messages_of_bpftrace_are_kept() -> None:
    bpftrace = Bpftrace()
    bpftrace.feed(b'{"type": "helper_error", "data": {"msg": "x"}}', b"not JSON")
    assert len(bpftrace.printed.other_lines) == 2


def seen_and_forwarded(calls: int, size: int, direction: int = SEND) -> tuple[dict, dict]:
    base = RECV_FATES * direction
    seen, forwarded, port = (base + FATES[name] for name in ("seen", "forwarded", "port"))
    return (
        {seen: calls + 2, forwarded: calls, port: 2},
        {seen: size + 20, forwarded: size, port: 20},
    )


def test_the_account() -> None:
    bpftrace = Bpftrace()
    bpftrace.feed(
        *bpftrace.call(b"abc", direction=RECV), *bpftrace.count(*seen_and_forwarded(1, 3, RECV))
    )
    bpftrace.printed.finish()
    account = bpftrace.printed.account()
    assert account.balanced()
    assert account.recv.forwarded == Count(1, 3)
    assert account.recv.filtered["port"] == Count(2, 20)
    assert account.send.seen == Count()


def test_the_account_of_lost_lines() -> None:
    bpftrace = Bpftrace()
    lost = bpftrace.call(bytes(50))
    kept = bpftrace.call(bytes(300), pieces=[1], time=2 * SECOND)
    assert lost
    bpftrace.feed(*kept, *bpftrace.count(*seen_and_forwarded(2, 350)))
    bpftrace.printed.finish()
    # A difference that bpftrace does not report is an error, and is visible.
    assert not bpftrace.printed.account().balanced()
    bpftrace.feed(b'{"type": "lost_events", "data": {"events": 3}}')
    send = bpftrace.printed.account().send
    assert send.balanced()
    assert send.forwarded == Count(0, 200)
    assert send.lost["ring_full"] == Count(2, 150)


def test_an_ignored_socket_is_dropped_and_counted_until_it_ends() -> None:
    bpftrace = Bpftrace()
    bpftrace.printed.ignore(4242)
    bpftrace.feed(*bpftrace.call(b"abc"), *bpftrace.count(*seen_and_forwarded(1, 3)))
    assert bpftrace.printed.finish() == []
    send = bpftrace.printed.account().send
    assert send.balanced()
    assert send.filtered["not_http"] == Count(1, 3)
    bpftrace.feed(printf("E 1 1 1092 0"))
    assert len(bpftrace.printed.finish()) == 1
    bpftrace.feed(*bpftrace.call(b"another socket with its inode"))
    assert len(bpftrace.printed.finish()) == 1
