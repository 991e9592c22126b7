# SPDX-License-Identifier: Apache-2.0
"""``--sample``: the capture file that comes with the package, in every command that reads one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest

from packages.sample import shop
from profiler import cli, read
from profiler.commands.options import SAMPLE
from profiler.schema import json_schema
from provisioning.sources import copy_product, wheel_of
from tests.terminal import Terminal

FAILED = shop.VISITS // 2 // len(shop.CARDS)
"""Every second customer pays, and every third of these by the card that is declined."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory where only the wheel is installed, without its dependencies."""
    scratch = tmp_path_factory.mktemp("sample")
    wheel = wheel_of(copy_product(scratch / "sources"), scratch / "log")
    target = scratch / "installed"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    install = ["install", "--no-deps", "--no-index", "--target", str(target), str(wheel)]
    subprocess.run([*pip, *install], check=True)
    return target


def run(installed: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the installed command, which finds its modules there and not in the repository."""
    done = subprocess.run(
        [installed / "bin/http-profiler", *arguments],
        capture_output=True, text=True, check=False, cwd=installed,
        env={**os.environ, "PYTHONPATH": str(installed)},
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


def test_the_wheel_has_it(installed: Path) -> None:
    assert (installed / "profiler" / SAMPLE.name).read_bytes() == SAMPLE.read_bytes()


def test_the_installed_commands_agree(installed: Path) -> None:
    select = "select count(*) n from exchanges where failed"
    code, answer, _ = run(installed, "query", select, "--sample")
    assert (code, json.loads(answer)) == (0, {"n": 3 * FAILED})
    # The operand and the option in the other order.
    assert run(installed, "query", "--sample", select)[1] == answer
    code, _, printed = run(installed, "check", "--sample", "--fail-if", "failed")
    assert code == 4
    assert printed.count("fail-if failed: ") == 3 * FAILED
    script = run(installed, "export", "--curl", "--sample", "--where", "failed")[1]
    assert script.count("curl ") == 3 * FAILED
    code, page, printed = run(installed, "report", "--sample", "--where", "failed")
    assert (code, page[:15]) == (0, "<!doctype html>")
    assert f"{3 * FAILED} exchanges" in printed


def test_the_installed_top_agrees(installed: Path) -> None:
    _, answer, _ = run(installed, "query", "select count(*) n from exchanges", "--sample")
    exchanges = json.loads(answer)["n"]
    command = [str(installed / "bin/http-profiler"), "top", "--sample"]
    with Terminal(command, PYTHONPATH=str(installed)) as terminal:
        screen = terminal.until(f"{len(list(read(SAMPLE)))} lines of {SAMPLE.name}")
        assert f"{exchanges} exchanges" in screen
        assert f"failed {100 * 3 * FAILED / exchanges:.1f} %" in screen
        terminal.press("q")
        terminal.end()
    assert terminal.exit_code == 0


@pytest.mark.parametrize(
    "command", ["report", "export --curl", "check --fail-if failed", "query x"]
)
def test_one_capture_is_named(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(command.split()) == 2
    assert "no capture file: name one, or try --sample" in capsys.readouterr().err


def test_a_file_and_the_sample_exclude_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "--sample", "x.jsonl"]) == 2
    assert "either --sample or a capture file (x.jsonl), not both" in capsys.readouterr().err
    assert cli.main(["top", "--sample", "--from", "x.jsonl"]) == 2
    assert "argument --from: not allowed with argument --sample" in capsys.readouterr().err
