# SPDX-License-Identifier: Apache-2.0
"""Ciphertext and key lines through the pipeline, live and from a recording."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import CaptureFileError, UnsupportedError
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.read import Capture
from profiler.ingest import decryption, session, wire
from profiler.ingest.decryption import Decryption
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.probe.recording import Origin, Recorder
from profiler.ingest.process import Processes
from profiler.ingest.settings import Settings
from profiler.ingest.wire import RECV, SEND
from profiler.schema import Record
from tests.unit.talk_tls import CLIENT, REQUEST, RESPONSE, Talk, contexts, talk
from tests.unit.wires import Wire

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


class Kept:
    """A sink and a recorder that keep everything."""

    def __init__(self) -> None:
        self.lines: list[Record] = []
        self.records: list[bytes] = []

    def write(self, record: Any) -> None:
        (self.records if isinstance(record, bytes) else self.lines).append(record)


def both_ends(said: Talk) -> list[bytes]:
    """Return what the kernel forwards if both ends are on this machine."""
    client, server = Wire(1), Wire(2)
    ports = {"local_port": 443, "remote_port": 50000, "pid": 200}
    ports |= {"local": client.send(b"x").remote, "remote": client.send(b"x").local}
    client = Wire(1)
    client_ports = {"remote_port": 443}
    records = []
    for sender, data in said.moved:
        if sender == CLIENT:
            records += [client.send(data, **client_ports), server.recv(data, **ports)]
        else:
            records += [server.send(data, **ports), client.recv(data, **client_ports)]
    ends = [each.end(direction) for each in (client, server) for direction in (SEND, RECV)]
    return [wire.encode(item) for item in (*records, *ends)]


def run(
    records: Sequence[bytes], keys: Sequence[bytes], late: bool = False
) -> tuple[Kept, Pipeline]:
    kept = Kept()
    pipeline = Pipeline(
        *(Settings(), kept, Processes(None), "x86_64", kept), decryption=Decryption()
    )
    if not late:
        pipeline.learn(b"\n".join(keys))
    for record in records:
        pipeline.feed(record)
    if late:
        pipeline.learn(b"\n".join(keys))
    pipeline.finish()
    return kept, pipeline


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_both_ends_of_an_exchange_are_joined(version: ssl.TLSVersion, late: bool) -> None:
    said = talk(*contexts(version, protocols=("http/1.1",)), [(REQUEST, RESPONSE)] * 2)
    kept, pipeline = run(both_ends(said), said.keys, late)
    assert (pipeline.account.requests, pipeline.account.responses) == (4, 4)
    assert pipeline.account.incomplete == pipeline.account.not_decrypted == {}
    exchanges = Exchanges()
    for line in kept.lines:
        exchanges.add(line)
    pairs = list(exchanges)
    assert len(pairs) == 2
    for line in kept.lines:
        assert line["tls"]["library"] == "keys"
        assert line["tls"]["version"] == {TLS12: "1.2", TLS13: "1.3"}[version]
        assert (line["tls"]["alpn"], line["tls"]["sni"]) == ("http/1.1", "example.org")
        assert line["tls"]["cipher"].startswith("TLS_")
        assert line["socket"] in (1, 2)
        assert line["raw_payload"] in (REQUEST.decode(), RESPONSE.decode())
    positions = {(line["type"], line["sequence"]) for line in kept.lines}
    assert positions == {
        *(("request", 0), ("request", len(REQUEST))),
        *(("response", 0), ("response", len(RESPONSE))),
    }


def recorded(path: Path, records: Sequence[bytes]) -> Path:
    recorder = Recorder(path, Origin("x86_64", "6.1", "socket"))
    for record in records:
        recorder.write(record)
    recorder.close()
    return path


def test_a_recording_has_the_keys_that_were_used(tmp_path: Path) -> None:
    said, other = talk(*contexts(TLS13)), talk(*contexts(TLS13))
    kept, _ = run(both_ends(said), [*other.keys, *said.keys])
    items = [wire.decode(record) for record in kept.records]
    used = b"".join(item.lines for item in items if isinstance(item, wire.Keys)).splitlines()
    assert len(used) == len(set(used)) == 4
    assert set(used) < set(said.keys)
    output = tmp_path / "lines.jsonl"
    session.replay(recorded(tmp_path / "r", kept.records), Settings(output=output))
    assert list(Capture(output).records()) == kept.lines


def test_a_recording_without_keys_is_replayed_with_a_key_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = talk(*contexts(TLS13))
    kept, pipeline = run(both_ends(said), [])
    assert kept.lines == []
    assert list(pipeline.account.not_decrypted.values()) == [2]
    recording, log = recorded(tmp_path / "r", kept.records), tmp_path / "keys"
    log.write_bytes(b"# a comment\n" + b"\n".join(said.keys))
    output = tmp_path / "lines.jsonl"
    session.replay(recording, Settings(output=output), log)
    assert len(list(Capture(output).records())) == 4
    session.replay(recording, Settings(output=tmp_path / "other"))
    assert (
        "not decrypted: 2 TLS connections: its key is not in the key log" in capsys.readouterr().err
    )
    with pytest.raises(CaptureFileError, match=r"cannot read the key log .*absent: No such file"):
        session.replay(recording, Settings(output=output), tmp_path / "absent")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decryption, "find_spec", lambda _: None)
    said = talk(*contexts(TLS13))
    with pytest.raises(UnsupportedError, match=r"install http-profiler\[tls\]"):
        run(both_ends(said), said.keys)


def test_a_dropped_connection_is_forgotten_everywhere() -> None:
    said = talk(*contexts(TLS13))
    kept = Kept()
    pipeline = Pipeline(
        *(Settings(max_connection_memory=7000), kept, Processes(None), "x86_64"),
        decryption=Decryption(),
    )
    for record in both_ends(said):
        pipeline.feed(record)
    pipeline.finish()
    assert pipeline.account.given_up == 2
    assert pipeline.account.not_decrypted == {decryption.MEMORY: 2}
    assert pipeline.memory.total == 0


def test_an_error_drops_only_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    said = talk(*contexts(TLS13))
    original = Decryption.resume

    def failing(self: Decryption, socket: int) -> Any:
        if socket == 1:
            raise ValueError
        return original(self, socket)

    monkeypatch.setattr(Decryption, "resume", failing)
    kept, pipeline = run(both_ends(said), said.keys, late=True)
    assert {line["socket"] for line in kept.lines} == {2}
    assert sum(pipeline.account.faults.values()) == 1
