# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from profiler.ingest.probe.order import Order
from profiler.ingest.wire import RECV, Process, encode
from tests.unit.wires import Wire, chunk


def at(time: int) -> bytes:
    return encode(chunk(b"x", time=time))


def test_records_of_several_cpus_are_sorted_by_time() -> None:
    assert Order().arrange([at(5), at(9), at(2), at(7)], polled=100) == [at(2), at(5), at(7), at(9)]


def test_records_newer_than_the_poll_wait_for_the_next() -> None:
    order = Order()
    assert order.arrange([at(12), at(5)], polled=10) == [at(5)]
    # An older record, which another CPU wrote while the first CPU's buffer was polled.
    assert order.arrange([at(11)], polled=20) == [at(11), at(12)]
    assert order.rest() == []


def test_nothing_waits_forever() -> None:
    order = Order()
    order.arrange([at(12)], polled=10)
    assert order.rest() == [at(12)]
    assert order.rest() == []


def test_introductions_come_first() -> None:
    introduction = encode(Process(1, 2, 3, 4, b"x\0"))
    assert Order().arrange([at(1), introduction, at(0)], polled=5) == [introduction, at(0), at(1)]


def test_ends_are_ordered_too() -> None:
    wire = Wire()
    sent, end = encode(wire.send(b"x")), encode(wire.end(RECV))
    assert Order().arrange([end, sent], polled=2**63) == [sent, end]


@given(st.lists(st.integers(0, 50), max_size=20), st.lists(st.integers(0, 50), max_size=5))
def test_every_record_comes_out_once_in_order(times: list[int], polls: list[int]) -> None:
    order, out = Order(), []
    for polled in sorted(polls):
        early = [time for time in times if time < polled]
        times = [time for time in times if time >= polled]
        out += order.arrange([at(time) for time in early], polled)
    out += order.arrange([at(time) for time in times], 1000)
    assert out == sorted(out, key=lambda record: record[8:16][::-1])
    assert order.rest() == []
