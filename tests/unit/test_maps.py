# SPDX-License-Identifier: Apache-2.0
"""The parts of maps and buffers that can be tested without a kernel that creates them."""

from __future__ import annotations

import mmap
import os
import struct
import time
from pathlib import Path

import pytest

from profiler.errors import ProbeError
from profiler.ingest.probe import kernel
from profiler.ingest.probe.bcc import BccEngine
from profiler.ingest.probe.ignored import IgnoredConnections
from profiler.ingest.probe.load import with_maps
from profiler.ingest.probe.maps import ARRAY, Shape, described
from profiler.ingest.probe.order import Order
from profiler.ingest.probe.perf import Part
from profiler.ingest.probe.ring import RingBuffer, batch_bytes

PAGE = mmap.PAGESIZE


def load_constant(value: int, source: int = 0) -> bytes:
    """ld_imm64 into register 0."""
    low, high = value & 0xFFFFFFFF, value >> 32
    return struct.pack("=BBhIBBhI", 0x18, source << 4, 0, low, 0, 0, 0, high)


def test_a_map_is_described_by_a_constant() -> None:
    # As DEFINE_MAP in bpf/helpers.h defines it.
    value = 6 << 56 | 4 << 48 | 70000 << 24 | 65536
    assert described(load_constant(value)) == Shape(type=6, key=4, value=70000, entries=65536)


def test_another_form_is_refused() -> None:
    with pytest.raises(ProbeError, match="unexpected form"):
        described(struct.pack("=BBhiBBhi", 0xB7, 0, 0, 5, 0x95, 0, 0, 0))


def test_maps_are_written_over_their_numbers() -> None:
    constant = load_constant(1)
    code = load_constant(0, source=1) + constant + load_constant(1, source=1)
    assert with_maps(code, [7, 9]) == (
        load_constant(7, source=1) + constant + load_constant(9, source=1)
    )


class FakeRing:
    """Writes as the kernel does, to a file in place of a ring buffer's memory.

    The kernel maps a second copy of the data after the first; here it is written
    explicitly.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.descriptor = os.memfd_create("ring")
        os.ftruncate(self.descriptor, 2 * PAGE + 2 * size)
        self.end = 0

    def write(self, record: bytes, flags: int = 0) -> None:
        self.commit(self.reserve(record, flags), len(record) | flags)

    def reserve(self, record: bytes, flags: int = 0) -> int:
        at = self.end
        self._store(at, struct.pack("=II", len(record) | 1 << 31, 0) + record)
        self.end += (8 + len(record) + 7) & ~7
        os.pwrite(self.descriptor, struct.pack("=Q", self.end), PAGE)
        return at

    def commit(self, at: int, length: int) -> None:
        self._store(at, struct.pack("=I", length))

    def consumed(self) -> int:
        return int(struct.unpack("=Q", os.pread(self.descriptor, 8, 0))[0])

    def _store(self, at: int, data: bytes) -> None:
        for i, byte in enumerate(data):
            position = (at + i) % self.size
            for copy in (position, position + self.size):
                os.pwrite(self.descriptor, bytes([byte]), 2 * PAGE + copy)


@pytest.fixture
def ring(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeRing, RingBuffer]:
    # epoll cannot wait for a file.
    monkeypatch.setattr("profiler.ingest.probe.ring.select.epoll", _NoEpoll)
    fake = FakeRing(PAGE)
    return fake, RingBuffer(fake.descriptor, PAGE)


class _NoEpoll:
    """Remembers the timeouts of its polls."""

    def __init__(self) -> None:
        self.waited: list[float] = []

    def register(self, *_: object) -> None:
        pass

    def poll(self, seconds: float) -> None:
        self.waited.append(seconds)

    def close(self) -> None:
        pass


def test_records_in_their_order(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, buffer = ring
    assert buffer.poll(0) == []
    fake.write(b"one")
    fake.write(b"another")
    assert buffer.poll(0) == [b"one", b"another"]
    assert fake.consumed() == fake.end
    assert buffer.poll(0) == []


def test_only_a_batch_is_taken_without_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """The probe wakes the reader when a batch is complete (``output()`` in bpf/call.h)."""
    epoll = _NoEpoll()
    monkeypatch.setattr("profiler.ingest.probe.ring.select.epoll", lambda: epoll)
    fake = FakeRing(PAGE)
    buffer = RingBuffer(fake.descriptor, PAGE)
    record = bytes(batch_bytes(PAGE) // 2 - 8)  # half a batch, with its header
    fake.write(record)
    assert buffer.poll(100) == [record]
    assert epoll.waited == [0.1]
    fake.write(record)
    fake.write(record)
    assert buffer.poll(100)
    assert epoll.waited == [0.1]


def test_reading_waits_for_a_record_being_written(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, buffer = ring
    fake.write(b"first")
    before = fake.end
    second = fake.reserve(b"second")
    fake.write(b"third")
    assert buffer.poll(0) == [b"first"]
    assert fake.consumed() == before
    fake.commit(second, len(b"second"))
    assert buffer.poll(0) == [b"second", b"third"]


def test_a_discarded_record_is_skipped(ring: tuple[FakeRing, RingBuffer]) -> None:
    fake, buffer = ring
    fake.write(b"thrown away", flags=1 << 30)
    fake.write(b"kept")
    assert buffer.poll(0) == [b"kept"]


def test_round_and_round(ring: tuple[FakeRing, RingBuffer]) -> None:
    """Records cross the end of the ring, and no batch keeps the ring full for long."""
    fake, buffer = ring
    written: list[bytes] = []
    seen: list[bytes] = []
    for i in range(200):
        record = bytes([i]) * (1 + i * 7 % 300)
        written.append(record)
        fake.write(record)
        assert fake.end - fake.consumed() <= PAGE
        if i % 5 == 4:
            while batch := buffer.poll(0):
                assert sum(map(len, batch[:-1])) < PAGE // 8
                seen += batch
    assert seen == written


def _sees_another(positions: memoryview, least: int) -> bool:
    """Read until the value has changed often; return whether it was ever below ``least``."""
    last = changes = 0
    for _ in range(3_000_000):
        value = positions[0]
        if value < least:
            return True
        changes += value != last
        last = value
        if changes > 5000:
            break
    return False


def test_positions_are_written_in_one_store() -> None:
    """Another CPU sees the old value or the new one.

    The kernel took a position of 0 for a full ring, or for room that there was not.
    """
    with mmap.mmap(-1, PAGE) as memory, kernel.words(memory) as positions:
        positions[0] = 1 << 40
        child = os.fork()
        if not child:
            os._exit(_sees_another(positions, 1 << 40))
        pid = status = 0
        while not pid:
            for _ in range(1000):
                positions[0] += 8
            pid, status = os.waitpid(child, os.WNOHANG)
    assert status == 0


def test_a_perf_sample_across_the_end_of_its_ring() -> None:
    size = PAGE
    memory = mmap.mmap(-1, PAGE + size)
    part = Part(memory)
    raw = bytes(range(100))
    sample = struct.pack("=I", len(raw)) + raw
    record = struct.pack("=IHH", 9, 0, 8 + len(sample)) + sample
    start = size - 56  # the record is 112 bytes long
    lost = struct.pack("=IHH", 2, 0, 24) + bytes(16)
    ring = bytearray(size)
    for i, byte in enumerate(lost + record):
        ring[(start - 24 + i) % size] = byte
    memory[PAGE:] = bytes(ring)
    memory[1024:1040] = struct.pack("=QQ", 3 * size + start + len(record), 3 * size + start - 24)
    assert part.take() == [raw]
    assert struct.unpack("=Q", memory[1032:1040]) == (3 * size + start + len(record),)
    assert part.take() == []


class MappedMap:
    """An array map whose memory is a file in memory."""

    is_mapped = True
    shape = Shape(ARRAY, 4, 8, 1024)

    def __init__(self) -> None:
        self.descriptor = os.memfd_create("array")
        os.truncate(self.descriptor, 2 * PAGE)

    def entries(self) -> dict[int, int]:
        data = os.pread(self.descriptor, 2 * PAGE, 0)
        return {n: inode for n, (inode,) in enumerate(struct.iter_unpack("=Q", data)) if inode}


class WrittenMap:
    """An array map of a kernel that cannot map it."""

    is_mapped = False
    shape = Shape(ARRAY, 4, 8, 1024)

    def __init__(self) -> None:
        self.written: list[tuple[bytes, bytes]] = []

    def write(self, key: bytes, value: bytes) -> None:
        self.written.append((key, value))


def test_an_ignored_connection_is_written_to_mapped_memory() -> None:
    mapped = MappedMap()
    ignored = IgnoredConnections(mapped)  # type: ignore[arg-type]
    assert not ignored.needs_privileges
    for inode in (5, 1024 + 7, (1 << 63) + 1023):
        ignored.add(inode)
    assert mapped.entries() == {5: 5, 7: 1024 + 7, 1023: (1 << 63) + 1023}
    # Of two with the same entry, the last one counts.
    ignored.add(2048 + 5)
    assert mapped.entries()[5] == 2048 + 5
    ignored.close()
    os.close(mapped.descriptor)


def test_an_old_kernel_needs_a_call_to_ignore_a_connection() -> None:
    written = WrittenMap()
    ignored = IgnoredConnections(written)  # type: ignore[arg-type]
    assert ignored.needs_privileges
    ignored.add(1024 + 7)
    assert written.written == [(struct.pack("=I", 7), struct.pack("=Q", 1024 + 7))]


@pytest.mark.parametrize(
    ("text", "numbers"), [("0", [0]), ("0-3", [0, 1, 2, 3]), ("0-1,4,6-7", [0, 1, 4, 6, 7])]
)
def test_the_processors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, numbers: list[int]
) -> None:
    (tmp_path / "online").write_text(text + "\n")
    monkeypatch.setattr(kernel, "Path", lambda path: tmp_path / Path(path).name)
    assert kernel.cpus("online") == numbers


def test_the_end_waits_for_a_record_that_is_still_being_written(
    ring: tuple[FakeRing, RingBuffer], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake, buffer = ring
    place = fake.reserve(b"late")
    fake.write(b"next")
    polls = 0

    def poll(milliseconds: int) -> list[bytes]:
        nonlocal polls
        polls += 1
        if polls == 3:
            fake.commit(place, len(b"late"))
        return RingBuffer.poll(buffer, milliseconds)

    monkeypatch.setattr(buffer, "poll", poll)
    engine = BccEngine.__new__(BccEngine)
    engine.clock = time.CLOCK_MONOTONIC
    engine._buffer, engine._libraries = buffer, None
    engine._order, engine._precedence = Order(), None
    engine._detach = lambda: None
    assert engine.stop() == [b"late", b"next"]
