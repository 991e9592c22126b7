# SPDX-License-Identifier: Apache-2.0
"""Captures in a program, with an engine that delivers a recording."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import profiler
from profiler.errors import ProfilerError
from profiler.exchanges.query import ConditionError

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests" / "replay" / "cases" / "demo"
EXPECTED = [json.loads(line) for line in (DEMO / "expected.jsonl").read_text().splitlines()]
COMMAND = (sys.executable, "-m", "tests.unit.stand_in_engine", str(DEMO / "capture"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture
def messages() -> Iterator[profiler.Messages]:
    with profiler.capture(command=COMMAND) as captured:
        yield captured


def said(record: profiler.commands.background.Record) -> tuple[object, ...]:  # type: ignore[name-defined]
    return tuple(record.get(name) for name in ("type", "exchange", "url", "status_code", "body"))


def test_everything_is_there_after_the_block() -> None:
    with profiler.capture(command=COMMAND) as messages:
        pass
    assert [said(record) for record in messages] == [said(record) for record in EXPECTED]
    assert len(messages) == len(EXPECTED)
    assert said(messages[-1]) == said(EXPECTED[-1])
    assert [said(record) for record in messages[2:4]] == [said(record) for record in EXPECTED[2:4]]
    with pytest.raises(IndexError):
        messages[len(EXPECTED)]


def test_everything_is_there_after_settling(messages: profiler.Messages) -> None:
    messages.settle()
    assert len(messages) == len(EXPECTED)
    messages.settle()
    assert len(messages.from_now()) == 0


def test_it_can_be_stopped(messages: profiler.Messages) -> None:
    messages.stop()
    assert [said(record) for record in messages.follow()] == [said(record) for record in EXPECTED]
    messages.stop()
    messages.settle()


def test_a_message_is_waited_for(messages: profiler.Messages) -> None:
    last = EXPECTED[-1]
    found = messages.wait_for(lambda record: said(record) == said(last))
    assert said(found) == said(last)
    with pytest.raises(TimeoutError, match=r"no such message within 0.1 s, among \d+"):
        messages.wait_for(lambda record: False, timeout=0.1)
    messages.stop()
    with pytest.raises(ProfilerError, match="the capture ended before a matching message was seen"):
        messages.wait_for(lambda record: False)


def test_messages_are_followed(messages: profiler.Messages) -> None:
    followed = messages.follow()
    assert [said(next(followed)) for _ in EXPECTED] == [said(record) for record in EXPECTED]
    messages.stop()
    assert next(followed, None) is None


def test_assertions(messages: profiler.Messages) -> None:
    urls = [record["url"] for record in EXPECTED if record["type"] == "request"]
    messages.expect(f"* {urls[0].partition('?')[0]}")
    messages.fail_if("status=599")
    with pytest.raises(
        AssertionError, match=r"^expect GET /nope: matched 0 exchanges, expected >= 1\n\("
    ):
        messages.expect("GET /nope")
    with pytest.raises(AssertionError, match=r"fail-if status>=200: \w+ http://.* 200 "):
        messages.fail_if("status>=200")
    with pytest.raises(ConditionError, match="column 8"):
        messages.fail_if("status=")
    # Everything before that moment, and nothing after it.
    later = messages.from_now()
    later.fail_if("status>=200")
    with pytest.raises(AssertionError, match="0 exchanges"):
        later.expect("* *")
    assert len(messages.exchanges()) == len(EXPECTED) / 4


def test_options_are_those_of_the_command_line(tmp_path: Path) -> None:
    record = tmp_path / "again"
    with profiler.capture(command=COMMAND, max_body=1, record=str(record), pid=None) as messages:
        messages.settle()
    assert record.stat().st_size
    assert any(message.get("incomplete") == ["body_limit"] for message in messages)


def test_configuration_files_are_only_read_on_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "http-profiler.toml").write_text("max-body = 1\n")
    for options, cut in (({}, False), ({"config": str(tmp_path / "http-profiler.toml")}, True)):
        with profiler.capture(command=COMMAND, **options) as messages:
            messages.settle()
        assert any("body_limit" in message.get("incomplete", ()) for message in messages) is cut


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"port": [80, 0]}, "argument --port: '0' is not a port"),
        ({"no_such": 1}, "there is no option --no-such"),
    ],
)
def test_wrong_options(options: dict[str, int], words: str) -> None:
    with pytest.raises(ProfilerError, match=words), profiler.capture(command=COMMAND, **options):
        raise AssertionError("it began")


def test_a_profiler_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STAND_IN_TROUBLE", "it needs what is not here")
    for command, words in (
        (COMMAND, r"^the capture ended: it needs what is not here$"),
        (["/no/such"], r"^cannot start /no/such: No such file"),
    ):
        with pytest.raises(ProfilerError, match=words), profiler.capture(command=command):
            raise AssertionError("it began")


def test_an_exception_is_the_users_own() -> None:
    with pytest.raises(ZeroDivisionError), profiler.capture(command=COMMAND) as messages:
        raise ZeroDivisionError
    assert len(messages) == len(EXPECTED)


def test_the_profiler_ends_however_its_program_ends() -> None:
    read, write = os.pipe()
    program = (
        "import os, signal, profiler\n"
        f"with profiler.capture(command={[*COMMAND]!r}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # The profiler inherits the pipe: the pipe ends when both processes are gone.
    with os.fdopen(read, "rb") as pipe:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", program], stderr=write, env=environment, check=False)
        os.close(write)
        pipe.read()


PLUGIN_TEST = """
import pytest

pytest_plugins = ["profiler.pytest_plugin"]

@pytest.fixture(scope="session")
def http_capture_options():
    return {{"command": {command!r}}}

def test_all(http_capture, http_messages):
    http_capture.settle()
    assert len(http_capture) == {count}
    assert len(http_messages) <= {count}

def test_nothing_since(http_messages):
    http_messages.settle()
    assert not http_messages
    http_messages.fail_if("status!=none")
"""


def test_the_fixture(tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(PLUGIN_TEST.format(command=[*COMMAND], count=len(EXPECTED)))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tmp_path,
            test,
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
