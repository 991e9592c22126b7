# SPDX-License-Identifier: Apache-2.0
"""One definition of *failed*: check, pretty lines, top, report, CSV and SQL count the same."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from profiler import cli
from profiler.commands.top.model import Model
from profiler.exchanges.model import Exchange, Side, outcome
from profiler.exchanges.pair import Exchanges, Pairing
from profiler.exchanges.read import read
from profiler.exchanges.summary import summary
from profiler.outputs.report.data import OUTCOMES, Data

SAMPLE = Path(__file__).parents[1] / "samples" / "grpc.jsonl"
EXCHANGES, FAILED, UNKNOWN = 22, 7, 1


def test_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", str(SAMPLE), "--fail-if", "failed"]) == 4
    said = capsys.readouterr().err
    assert said.count("fail-if failed: ") == FAILED
    assert f"0 of 1 assertions hold for {EXCHANGES} exchanges" in said
    assert cli.main(["check", str(SAMPLE), "--expect", f"failed = {FAILED}"]) == 0
    assert cli.main(["check", str(SAMPLE), "--expect", f"outcome=unknown = {UNKNOWN}"]) == 0


def test_sql(capfd: pytest.CaptureFixture[str]) -> None:
    for sql in (
        "select count(*) as n from exchanges where failed",
        "select count(*) as n from exchanges where outcome = 'failed'",
    ):
        assert cli.main(["query", sql, str(SAMPLE)]) == 0
        assert json.loads(capfd.readouterr().out) == {"n": FAILED}


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "out.csv"
    assert cli.main(["export", "--csv", str(SAMPLE), "-o", str(path)]) == 0
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert (len(rows), sum(row["failed"] == "true" for row in rows)) == (EXCHANGES, FAILED)
    assert {row["service"] for row in rows} == {"cart"}


def test_top_and_lines_for_people() -> None:
    pairing, model = Pairing(0), Model(None, is_live=False)
    paired = [one for record in read(SAMPLE) for one in pairing.add(record)] + pairing.finish()
    for one in paired:
        model.add(one)
    assert (model.all.count, model.all.failed) == (EXCHANGES, FAILED)
    lines = [summary(one, None) for one in paired if one.state == "over"]
    assert sum(line.outcome == "failed" for line in lines) == FAILED
    assert [line.status_text for line in lines].count("none") == 2


def test_report() -> None:
    data = Data(0)
    list(data.blocks(Exchanges(read(SAMPLE))))
    outcomes = data.columns["outcome"]
    assert len(outcomes) == EXCHANGES
    assert outcomes.count(OUTCOMES.index("failed")) == FAILED
    assert outcomes.count(OUTCOMES.index("unknown")) == UNKNOWN


def response(status: int | None = 200, **more: Any) -> dict[str, Any]:
    record = {"type": "response", "timestamp": "2026-01-01T00:00:00Z", **more}
    return record if status is None else {**record, "status_code": status}


REQUEST = {"type": "request", "timestamp": "2026-01-01T00:00:00Z", "method": "GET", "url": "/"}
GRPC = {"content-type": "application/grpc"}


@pytest.mark.parametrize(
    ("request_", "answer", "expected"),
    [
        (REQUEST, response(200), "ok"),
        (REQUEST, response(404), "ok"),
        (REQUEST, response(500), "failed"),
        (REQUEST, response(599), "failed"),
        (REQUEST, None, "unknown"),
        (None, response(502), "failed"),
        ({**REQUEST, "incomplete": ["lost"]}, None, "unknown"),
        # The capture may have ended before the response.
        ({**REQUEST, "incomplete": ["closed_early"]}, None, "unknown"),
        ({**REQUEST, "incomplete": ["exited"]}, None, "failed"),
        ({**REQUEST, "incomplete": ["reset"]}, None, "failed"),
        (REQUEST, response(None, incomplete=["no_response", "closed_early"]), "failed"),
        (REQUEST, response(None, incomplete=["no_response", "exited"]), "failed"),
        (REQUEST, response(200, incomplete=["closed_early"]), "ok"),
        (REQUEST, response(200, incomplete=["reset"]), "failed"),
        (REQUEST, response(200, incomplete=["reset"], error_code="CANCEL"), "failed"),
        ({**REQUEST, "incomplete": ["reset"], "error_code": "NO_ERROR"}, response(200), "ok"),
        # HTTP/2 with unknown header state.
        (REQUEST, response(None, incomplete=["unknown_header_state"]), "unknown"),
        (REQUEST, response(200, headers=GRPC, trailers={"grpc-status": "0"}), "ok"),
        (REQUEST, response(200, headers=GRPC, trailers={"grpc-status": "13"}), "failed"),
        (REQUEST, response(200, headers={**GRPC, "grpc-status": "5"}), "failed"),
        (REQUEST, response(200, headers=GRPC, trailers={"grpc-status": "what"}), "failed"),
        (REQUEST, response(200, headers=GRPC, incomplete=["lost"]), "unknown"),
    ],
)
def test_outcomes(request_: Any, answer: Any, expected: str) -> None:
    side = Side(request_, (), answer)
    assert outcome(Exchange(side, None)) == expected
    assert outcome(Exchange(None, side)) == expected


def test_a_failure_at_one_end_is_a_failure() -> None:
    """The client closed the connection, although the server had responded."""
    gone = Side(REQUEST, (), response(None, incomplete=["no_response", "closed_early"]))  # type: ignore[arg-type]
    served = Side(REQUEST, (), response(200))  # type: ignore[arg-type]
    assert outcome(Exchange(gone, served)) == "failed"
    assert outcome(Exchange(Side(REQUEST, (), None), served)) == "ok"  # type: ignore[arg-type]
