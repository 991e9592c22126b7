# SPDX-License-Identifier: Apache-2.0
"""check from the command line: exit code, messages, and the JUnit XML for CI."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from junitparser import JUnitXml

from profiler.exchanges.fields import FIELDS
from profiler.exchanges.query import parse_expectation
from profiler.exchanges.verify import Verdict
from profiler.outputs.junit import junit
from tests import sample_capture

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_capture.write(tmp_path_factory.mktemp("c") / "c.jsonl", 60)


def check(*arguments: object, stdin: bytes = b"") -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "profiler.cli", "check", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr.decode().splitlines()


def test_assertions_that_hold(capture: Path) -> None:
    options = ("--fail-if", "status=599", "--expect", "GET /healthz", "--expect", "* /v1/* >= 2")
    said = ["http-profiler: 3 of 3 assertions hold for 60 exchanges"]
    assert check(capture, *options) == (0, said)
    assert check("-", *options, stdin=capture.read_bytes()) == (0, said)


def test_assertions_that_do_not_hold(capture: Path) -> None:
    code, said = check(
        capture,
        *("--fail-if", "GET /healthz and status=200", "--fail-if", "status=599"),
        *("--expect", "DELETE /nothing"),
    )
    health = sum(
        record["type"] == "request" and record["url"] == "/healthz" and record["role"] == "client"
        for record in map(json.loads, capture.read_text().splitlines())
    )
    assert health > 0
    assert code == 4
    assert len(said) == health + 2
    assert all(
        line.startswith("http-profiler: fail-if GET /healthz and status=200: GET http://")
        for line in said[:health]
    )
    assert said[health:] == [
        "http-profiler: expect DELETE /nothing: matched 0 exchanges, expected >= 1",
        "http-profiler: 1 of 3 assertions hold for 60 exchanges",
    ]


def test_a_damaged_capture_is_reported_with_its_exit_code(capture: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "d.jsonl"
    damaged.write_bytes(capture.read_bytes() + b'{"cut')
    code, said = check(damaged, "--fail-if", "status=599", "--junit", tmp_path / "x.xml")
    assert code == 3
    assert said[0].startswith("http-profiler: d.jsonl: of ") and said[0].endswith(": is cut off)")
    assert ET.parse(tmp_path / "x.xml").findtext(".//system-err") in said[0]
    assert check(damaged, "--fail-if", "method=GET")[0] == 4


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ([], 2, "nothing to check"),
        (["--junit", "x.xml"], 2, "--junit needs"),
        (["--fail-if", "status>"], 2, "argument --fail-if: 'status>', column 8: a value is miss"),
        (["--expect", "GET"], 2, "argument --expect: 'GET', column 4: a path is missing"),
        (["--fail-if", "pid=1", "--junit", "/nowhere/x.xml"], 1, "cannot write /nowhere/x.xml"),
    ],
)
def test_trouble(options: list[str], code: int, words: str, capture: Path) -> None:
    returned, said = check(capture, *options)
    assert returned == code
    assert words in said[-1]


def test_no_capture(tmp_path: Path) -> None:
    code, said = check(tmp_path / "none", "--fail-if", "pid=1")
    assert code == 1 and len(said) == 1 and "cannot read" in said[0]
    (tmp_path / "empty").touch()
    code, said = check(tmp_path / "empty", "--fail-if", "pid=1")
    assert (code, said) == (0, ["http-profiler: 1 of 1 assertions hold for 0 exchanges"])


# The rules of the strictest JUnit XML schema in use: the attributes of each element in any
# order, its children in this order.
ELEMENTS: dict[str, tuple[set[str], str]] = {
    "testsuites": ({"name", "tests", "failures", "errors", "time"}, "testsuite"),
    "testsuite": (
        {"name", "package", "id", "timestamp", "hostname", "tests", "failures", "errors", "time"}
        | {"skipped"},
        "properties testcase system-out system-err",
    ),
    "properties": (set(), ""),
    "testcase": ({"name", "classname", "time"}, "failure"),
    "failure": ({"message", "type"}, ""),
    "system-out": (set(), ""),
    "system-err": (set(), ""),
}


def test_junit_xml_matches_the_schema(capture: Path, tmp_path: Path) -> None:
    path = tmp_path / "result.xml"
    hostile = 'path="]]>&<\x01\ud7ff"'
    options = ("--fail-if", hostile, "--fail-if", "status>=200", "--expect", "GET /nope")
    assert check(capture, *options, "--junit", path)[0] == 4
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    (suite,) = JUnitXml.fromfile(str(path))
    assert (suite.tests, suite.failures, suite.errors, suite.skipped) == (3, 2, 0, 0)
    passed, violated, missing = suite
    assert passed.is_passed and passed.name == hostile.replace("\x01", "⟨U+0001⟩")
    assert violated.name == "status>=200" and violated.classname == "http-profiler.fail-if"
    assert violated.result[0].text.count("\n") == 20
    assert missing.result[0].message == "matched 0 exchanges, expected >= 1"

    for element in ET.parse(path).iter():
        attributes, children = ELEMENTS[element.tag]
        assert set(element.attrib) == attributes
        order = [children.split().index(child.tag) for child in element]
        assert order == sorted(order)


def test_junit_reports_what_could_not_be_proven() -> None:
    verdict = Verdict("fail-if", "pid=1", failure="cannot be verified: x", unproven=True)
    failure = ET.fromstring(junit([verdict], ["a note"], 1.5)).find(".//failure")
    assert failure is not None and failure.get("type") == "unproven"


DOCUMENT = (Path(__file__).parents[2] / "docs" / "reference" / "query.md").read_text()


def rows(header: str) -> list[str]:
    table = DOCUMENT.partition(f"| {header} |\n")[2].partition("\n\n")[0]
    return [row.split(" | ")[0].strip("| ") for row in table.splitlines()[1:]]


def test_the_documented_conditions_are_understood() -> None:
    examples = rows("example | holds for")
    assert len(examples) == 14
    for example in examples:
        parse_expectation(example.strip("`"))


def test_the_documented_fields_are_complete() -> None:
    names = [name.strip("`") for row in rows("field | value") for name in row.split()]
    assert sorted(names) == sorted([*FIELDS, "header.NAME"])
