# SPDX-License-Identifier: Apache-2.0
"""``--sample``: the capture file that comes with the package, in every command that reads one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from packages.sample import shop
from profiler import cli, read
from profiler.commands.options import SAMPLE
from profiler.schema import json_schema

FAILED = shop.VISITS // 2 // len(shop.CARDS)
"""Every second customer pays, and every third of these by the card that is declined."""


def run(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "profiler.cli", *arguments],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_each_line_is_a_record_and_whole() -> None:
    validator = jsonschema.Draft202012Validator(json_schema())
    records = list(read(SAMPLE))
    assert len(records) > 500
    for record in records:
        validator.validate(record)
        assert "incomplete" not in record


def test_what_it_shows() -> None:
    records = list(read(SAMPLE))
    assert {record["comm"] for record in records} == {*shop.PORTS, "customers", "monitor"}
    # One failure, seen at each of the three services that it passes.
    # Without a message the status stands in the only head (gRPC's Trailers-Only).
    failed = [record for record in records if record["headers"].get("grpc-status") == "9"]
    assert len(failed) == 2 * FAILED
    slow = [record for record in records if record.get("latency_ms", 0) > shop.SLOW_SECONDS * 1000]
    assert f"/v1/items/{shop.SLOW_ITEM}" in {record["request"]["url"] for record in slow}


def test_no_secret_is_in_it() -> None:
    tokens = [record["headers"].get("authorization", "") for record in read(SAMPLE)]
    assert any(tokens)
    assert all(token.startswith("Bearer redacted-") for token in tokens if token)


def test_the_commands_agree() -> None:
    code, answer, _ = run("query", "select count(*) n from exchanges where failed", "--sample")
    assert (code, json.loads(answer)) == (0, {"n": 3 * FAILED})
    # The operand and the option in the other order.
    assert run("query", "--sample", "select count(*) n from exchanges where failed")[1] == answer
    code, _, said = run("check", "--sample", "--fail-if", "failed")
    assert code == 4
    assert said.count("fail-if failed: ") == 3 * FAILED
    assert run("export", "--curl", "--sample", "--where", "failed")[1].count("curl ") == 3 * FAILED
    code, page, said = run("report", "--sample", "--where", "failed")
    assert (code, page[:15]) == (0, "<!doctype html>")
    assert f"{3 * FAILED} exchanges" in said


@pytest.mark.parametrize(
    "command", ["report", "export --curl", "check --fail-if failed", "query x"]
)
def test_one_capture_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 2
    assert "no capture file: name one, or try --sample" in capsys.readouterr().err


def test_it_does_not_stand_beside_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["report", "--sample", "x.jsonl"]) == 2
    assert "either --sample or a capture file (x.jsonl), not both" in capsys.readouterr().err
