# SPDX-License-Identifier: Apache-2.0
"""The pipeline: damaged records, and the limits of each route."""

from __future__ import annotations

import ssl
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.errors import CaptureFileError, OutputError
from profiler.ingest import wire
from profiler.ingest.containers import Files
from profiler.ingest.http import Messages
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.wire import RECV, SEND
from profiler.schema import Record
from tests.unit.talk_tls import CLIENT, SERVER, contexts, talk
from tests.unit.wires import Wire, chunk


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b'{"send": 1}',
        b"[" * 5000,
        b"\xff",
        b'{"send": {"seen": {"calls": "x"}, "forwarded": {}, "filtered": {}, "lost": {}}}',
    ],
)
def test_damaged_counts_are_refused(document: bytes) -> None:
    class Sink:
        def write(self, record: object) -> None:
            raise AssertionError(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    with pytest.raises(CaptureFileError, match="counts are damaged"):
        pipeline.feed(wire.encode(wire.Counters(document)))


@pytest.mark.parametrize(("route", "reported"), [("socket", ["no_response"]), ("syscall", [])])
def test_a_response_is_missing_only_where_it_would_have_been_seen(
    route: str, reported: list[str]
) -> None:
    """The syscall route does not see what io_uring sends."""
    records: list[Record] = []

    class Sink:
        def write(self, record: Record) -> None:
            records.append(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64", route=route)
    client = Wire(socket=1)
    for item in (client.send(b"GET / HTTP/1.1\r\n\r\n"), client.end(RECV), client.end(SEND)):
        pipeline.feed(wire.encode(item))
    pipeline.finish()
    assert records[0]["type"] == "request"
    assert [record["incomplete"][0] for record in records[1:]] == reported


def test_a_session_applies_to_the_messages_after_it() -> None:
    """The socket that carries a session may become known after its first message."""
    records: list[Record] = []

    class Sink:
        def write(self, record: Record) -> None:
            records.append(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    stream = wire.TLS_STREAM | 5
    client = Wire(socket=stream)
    request = b"GET / HTTP/1.1\r\n\r\n"
    for socket in (0, 77):
        for item in (wire.Session(1, stream, socket), client.send(request)):
            pipeline.feed(wire.encode(item))
    assert [record.get("socket") for record in records] == [None, 77]
    assert [record["exchange"] for record in records] == [f"{stream}-1", f"{stream}-2"]
    assert {record["tls"]["library"] for record in records} == {"openssl"}


def test_the_hello_at_the_socket_describes_the_session() -> None:
    records: list[Record] = []

    class Sink:
        def write(self, record: Record) -> None:
            records.append(record)

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    spoken = talk(*contexts(ssl.TLSVersion.TLSv1_3, protocols=("h2", "http/1.1")))
    stream, socket, plain = wire.TLS_STREAM | 5, 77, 78
    request = b"GET / HTTP/1.1\r\n\r\n"
    # The hello of `plain` came to a port without TLS.
    for inode in (socket, plain):
        pipeline.feed(wire.encode(wire.Hello(RECV, inode, 0, spoken.bytes_of(CLIENT))))
        pipeline.feed(wire.encode(wire.Hello(SEND, inode, 0, spoken.bytes_of(SERVER))))
    pipeline.feed(wire.encode(wire.Session(1, stream, socket)))
    for inode in (stream, plain):
        pipeline.feed(wire.encode(Wire(socket=inode).send(request)))
    assert [record.get("tls") for record in records] == [
        {
            "library": "openssl",
            "version": "1.3",
            "sni": "example.org",
            "alpn": "http/1.1",
            "cipher": "TLS_AES_256_GCM_SHA384",
        },
        None,
    ]


class Broken(ValueError):
    """What a library might raise for bytes that it does not expect."""


def fed(
    monkeypatch: pytest.MonkeyPatch, items: list[wire.Chunk | wire.End], where: str
) -> tuple[Pipeline, list[Record]]:
    """Feed ``items`` while ``where`` raises for socket 1."""
    records: list[Record] = []

    class Sink:
        def write(self, record: Record) -> None:
            if where == "write" and record["socket"] == 1:
                raise Broken
            records.append(record)

    if where != "write":
        original = getattr(Messages, where)

        def failing(self: Messages, of: Any, *rest: Any) -> Any:
            if of == 1 or getattr(of, "payload", b"").startswith(b"broken"):
                raise Broken("x")
            return original(self, of, *rest)

        monkeypatch.setattr(Messages, where, failing)
    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    for item in items:
        pipeline.feed(wire.encode(item))
    pipeline.finish()
    return pipeline, records


@pytest.mark.parametrize("where", ["feed", "held", "finish", "write"])
def test_an_error_drops_only_its_connection(monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    bad, good = Wire(socket=1), Wire(socket=2)
    post = b"POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    items = [
        good.send(post + b"a"),
        bad.send(post),
        bad.send(b"broken"),
        good.send(b"a" * 99),
        good.send(post),
    ]
    pipeline, records = fed(monkeypatch, items, where)
    assert [r["bytes"] for r in records if r["socket"] == 2] == [140, 40]
    # What was open is written where that still works.
    open_ones = [r["incomplete"] for r in records if r["socket"] == 1]
    assert open_ones == ([] if where == "write" else [["undecodable"]])
    ((cause, number),) = pipeline.account.faults.items()
    assert cause.startswith("Broken (unit/test_pipeline.py:")
    assert number == (1 if where != "held" else 2)
    assert f"dropped by an error: {number}" in str(pipeline.account.lost_text)
    assert len(pipeline.memory) == 1  # the good one


def test_a_connection_whose_messages_cannot_be_written_either_is_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def give_up(*_: object) -> None:
        raise Broken

    monkeypatch.setattr(Messages, "give_up", give_up)
    items = [Wire(socket=1).send(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n")]
    pipeline, records = fed(monkeypatch, items, "held")
    assert records == []
    assert len(pipeline._messages) == len(pipeline._streams) == len(pipeline.memory) == 0
    assert len(pipeline.account.faults) == 1


def test_a_connection_that_was_dropped_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Wire(socket=1)
    get = b"GET / HTTP/1.1\r\n\r\n"
    items = [bad.send(get), bad.send(b"broken"), bad.send(get)]
    pipeline, records = fed(monkeypatch, items, "feed")
    assert [record["method"] for record in records] == ["GET", "GET"]
    assert sum(pipeline.account.faults.values()) == 1


def test_the_error_of_a_sink_is_not_hidden() -> None:
    class Sink:
        def write(self, record: Record) -> None:
            raise OutputError("full")

    pipeline = Pipeline(Settings(), Sink(), Processes(None), "x86_64")
    with pytest.raises(OutputError, match="full"):
        pipeline.feed(wire.encode(Wire().send(b"GET / HTTP/1.1\r\n\r\n")))
    assert pipeline.account.faults == {}


def test_a_recording_has_the_container_of_a_process(tmp_path: Path) -> None:
    id_ = "0123456789abcdef" * 4
    described = tmp_path / "var/lib/docker/containers" / id_ / "config.v2.json"
    described.parent.mkdir(parents=True)
    described.write_text('{"Name": "/web"}')
    cgroup = tmp_path / "cgroup" / f"docker-{id_}.scope"
    cgroup.mkdir(parents=True)
    (tmp_path / "100").mkdir()
    (tmp_path / "100" / "cgroup").write_text(f"0::/{cgroup.name}\n")
    introduced = wire.encode(wire.Process(100, 7, cgroup.stat().st_ino, 0, b""))
    message = wire.encode(chunk(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"))

    recorded: list[bytes] = []
    lines: list[Record] = []
    sink = SimpleNamespace(write=lines.append)
    recorder = SimpleNamespace(write=recorded.append)
    processes = Processes(tmp_path, cgroup.parent, Files(tmp_path))
    for pipeline, records in (
        (Pipeline(Settings(), sink, processes, "x86_64", recorder), [introduced, message]),
        (Pipeline(Settings(), sink, Processes(None), "x86_64"), recorded),
    ):
        for record in list(records):
            pipeline.feed(record)
        pipeline.finish()
    live, replayed = lines
    assert live == replayed
    assert live["container"] == {"id": id_, "name": "web", "runtime": "docker"}
