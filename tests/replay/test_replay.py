# SPDX-License-Identifier: Apache-2.0
"""Recordings from real kernels give the lines that were reviewed.

A case is a folder with ``capture`` and ``expected.jsonl``. To add a case, add these files
(``record.py`` makes them).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import CaptureFileError
from profiler.exchanges.conditions import conditions
from profiler.ingest import wire
from profiler.ingest.pipeline import Pipeline
from profiler.ingest.probe.recording import Recording
from profiler.ingest.process import Processes
from profiler.ingest.session import replay
from profiler.ingest.settings import Settings
from profiler.schema import Record

CASES = sorted((Path(__file__).parent / "cases").iterdir())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_the_expected_lines(case: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    replay(case / "capture", Settings(output=output))
    assert lines(output) == lines(case / "expected.jsonl")


def run(case: Path, records: list[bytes]) -> list[Record]:
    """Run the records through the pipeline, in place of the recording's."""
    written: list[Record] = []

    class Sink:
        write = staticmethod(written.append)

    pipeline = Pipeline(
        Settings(), Sink(), Processes(None), Recording(case / "capture").origin.machine
    )
    for record in records:
        pipeline.feed(record)
    pipeline.finish()
    assert not pipeline.account.faults, pipeline.account.faults
    return written


def test_the_same_messages_byte_by_byte(case: Path) -> None:
    """Splitting every chunk into bytes does not change a message's content."""
    records = list(Recording(case / "capture").records())
    cut = []
    for record in records:
        item = wire.decode(record)
        if not isinstance(item, wire.Chunk):
            cut.append(record)
            continue
        for i in range(len(item.payload)):
            piece = item.payload[i : i + 1]
            cut.append(
                wire.encode(
                    item._replace(position=item.position + i, size=1, captured=1, payload=piece)
                )
            )
    assert run(case, cut) == run(case, records)


def test_any_one_record_may_be_missing(case: Path) -> None:
    """Then no message is invented: each one is the beginning of one of the whole run's."""
    records = list(Recording(case / "capture").records())
    whole = [record["raw_payload"] for record in run(case, records)]
    chunks = [i for i, r in enumerate(records) if isinstance(wire.decode(r), wire.Chunk)]
    for missing in chunks:
        for message in run(case, without(records, missing)):
            assert any(raw.startswith(message["raw_payload"]) for raw in whole)


def without(records: list[bytes], missing: int) -> list[bytes]:
    """As if the ring buffer had been full: the kernel reports it in the stream's next chunk."""
    lost = wire.decode(records[missing])
    assert isinstance(lost, wire.Chunk)
    left = records[:missing]
    told = False
    for record in records[missing + 1 :]:
        item = wire.decode(record)
        if isinstance(item, wire.Chunk) and not told:
            same = (item.socket, item.direction) == (lost.socket, lost.direction)
            if same:
                told = True
                record = wire.encode(item._replace(flags=item.flags | wire.FLAG_AFTER_LOSS))
        left.append(record)
    return left


def test_reports_connections_dropped_for_their_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Path(__file__).parent / "cases" / "threads"
    replay(case / "capture", Settings(output=tmp_path / "out.jsonl", max_memory=3000))
    said = capsys.readouterr().err
    (count,) = re.findall(r"dropped (\d+) connections that held too much memory", said)
    assert int(count) > 0
    replay(case / "capture", Settings(output=tmp_path / "out.jsonl"))
    assert "dropped" not in capsys.readouterr().err


def test_a_truncated_capture_gives_its_whole_messages(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, cut = tmp_path / "out.jsonl", tmp_path / "cut"
    data = (case / "capture").read_bytes()
    cut.write_bytes(data[:-10])  # inside the final counts
    with pytest.raises(CaptureFileError, match="cut off"):
        replay(cut, Settings(output=output))
    assert lines(output) == lines(case / "expected.jsonl")
    assert "wrote" in capsys.readouterr().err


def test_filters_choose_among_the_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Path(__file__).parent / "cases" / "demo"
    expected = lines(case / "expected.jsonl")

    def replayed(**wanted: Any) -> list[dict[str, Any]]:
        output = tmp_path / "out.jsonl"
        output.unlink(missing_ok=True)
        replay(case / "capture", Settings(output=output, where=conditions(**wanted)))
        return lines(output)

    posts = [r for r in expected if (r.get("method") or r["request"]["method"]) == "POST"]
    assert 0 < len(posts) < len(expected)
    assert replayed(method=("POST",)) == posts
    left = len(expected) - len(posts)
    assert f"left out {left} messages (--method {left})" in capsys.readouterr().err
    # A request waits for its response: in each exchange the order is the same.
    got = replayed(method=("POST",), status=((200, 200),), role=("client",))
    wanted = [r for r in posts if r["role"] == "client"]
    assert sorted(got, key=json.dumps) == sorted(wanted, key=json.dumps) != []
    assert [r["type"] for r in got] == ["request", "response"] * (len(got) // 2)
    # Filters that the kernel applies in a capture are applied here.
    server = {r["pid"] for r in expected if r["role"] == "server"}
    assert {r["role"] for r in replayed(pid=tuple(server))} == {"server"}


def test_no_more_lines_than_requested(
    case: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out.jsonl"
    whole = lines(case / "expected.jsonl")
    few = min(3, len(whole))
    replay(case / "capture", Settings(output=output, count=few))
    assert lines(output) == whole[:few]
    requests = sum(line["type"] == "request" for line in whole[:few])
    said = capsys.readouterr().err
    assert f"wrote {requests} requests and {few - requests} responses" in said
