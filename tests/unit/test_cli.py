# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from profiler import cli
from profiler.errors import OutputClosed, ProbeError
from profiler.exchanges.conditions import conditions
from profiler.exchanges.query import parse
from profiler.ingest import session
from profiler.ingest.settings import Settings
from profiler.schema import json_schema

CAPTURE = Path(__file__).parents[1] / "replay" / "cases" / "demo" / "capture"


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Return what the command line would run, instead of a capture (which needs a guest)."""
    calls: list[Any] = []
    monkeypatch.setattr(session, "capture", lambda settings: calls.append(("capture", settings)))
    monkeypatch.setattr(
        session, "replay", lambda path, s, key_log: calls.append(("replay", path, s))
    )
    monkeypatch.delenv("OUTPUT_PATH", raising=False)
    return calls


def test_defaults(called: list[Any]) -> None:
    assert cli.main([]) == 0
    assert called == [("capture", Settings())]


def test_every_option(called: list[Any]) -> None:
    line = "--output o --port 80 --port 81 --pid 7 --max-body 9 --route syscall --record r "
    line += "--ring-size 65536 --engine bpftrace --max-memory 5 --max-connection-memory 4"
    line += " --where status=200 --output-max-size 6 --output-files 2"
    line += " --unprivileged-user daemon"
    assert cli.main(line.split()) == 0
    expected = Settings(
        output=Path("o"),
        where=conditions([parse("status=200")], port=[80, 81], pid=[7]),
        max_body=9,
        route="syscall",
        record=Path("r"),
        ring_bytes=65536,
        engine="bpftrace",
        max_memory=5,
        max_connection_memory=4,
        output_max_size=6,
        output_files=2,
        unprivileged_user="daemon",
    )
    assert called == [("capture", expected)]


@pytest.mark.parametrize(
    "line",
    [
        "probe --engine bpftrace --route syscall",
        "--engine bpftrace --route syscall probe",
        "--engine bpftrace probe --route syscall",
    ],
)
def test_probe_prints_the_program(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("profiler.ingest.probe.program_text", lambda s: f"{s.engine} {s.route}\n")
    assert cli.main(line.split()) == 0
    assert capsys.readouterr().out == "bpftrace syscall\n"


@pytest.mark.parametrize(
    ("line", "redact"),
    [("", None), ("--tls", True), ("--tls --no-redact", False), ("--no-redact", False)],
)
def test_secrets_are_hidden_with_tls(called: list[Any], line: str, redact: bool | None) -> None:
    assert cli.main(line.split()) == 0
    assert called == [("capture", Settings(tls="--tls" in line, redact=redact))]


def test_the_connection_limit_follows_the_body_limit(called: list[Any]) -> None:
    assert Settings(max_body=100).connection_memory == 4 * 1024 * 1024 + 400
    assert Settings(max_connection_memory=0).connection_memory == 0
    cli.main(["replay", "c", "--max-memory", "7"])
    assert called == [("replay", Path("c"), Settings(max_memory=7))]


@pytest.mark.parametrize("line", ["replay c --max-body 9", "--max-body 9 replay c"])
def test_replay(called: list[Any], line: str) -> None:
    assert cli.main(line.split()) == 0
    assert called == [("replay", Path("c"), Settings(max_body=9))]


def test_output_path_of_the_environment(called: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTPUT_PATH", "/tmp/from-environment")
    cli.main([])
    cli.main(["--output", "given"])
    cli.main(["--output", "-"])
    outputs = [settings.output for _, settings in called]
    assert outputs == [Path("/tmp/from-environment"), Path("given"), None]


@pytest.mark.parametrize(
    "line",
    ["--port 0", "--port 65536", "--port http", "--pid 0", "--pid -1", "--max-body -1",
     "--max-body 1k", "--ring-size 1000000", "--ring-size 4096",
     "--route tcp", "--engine perf", "--xyzzy", "--format html",
     "--output-files 0", "--output-max-size 1M"],
)  # fmt: skip
def test_wrong_arguments(called: list[Any], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    [said] = capsys.readouterr().err.splitlines()
    assert said.startswith("http-profiler: ")
    assert line.split()[0] in said
    assert called == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--prot 80", "there is no option --prot; did you mean --port?"),
        ("--prot=80 report x", "there is no option --prot; did you mean --port?"),
        ("-port 80", "there is no option -port; did you mean --port?"),
        ("--comm report --prot 8 probe", "there is no option --prot; did you mean --port?"),
        ("--xyzzy 5", "there is no option --xyzzy; `http-profiler --help` lists all"),
        ("report --maxbody 5 x", "there is no option --maxbody; did you mean --max-body?"),
        ("report x --zzz", "there is no option --zzz; `http-profiler report --help` lists all"),
        ("run --exepct GET -- ls", "there is no option --exepct; did you mean --expect?"),
        ("check --har x", "--har is an option of export"),
        ("--har x", "--har is an option of export"),
        ("config --ring-size 5", "--ring-size is an option of http-profiler without a command"),
        ("export --har x --junit y", "--junit is an option of check, run"),
        ("reprot x", "there is no command 'reprot'; did you mean report?"),
        ("--comm reprot reprot x", "there is no command 'reprot'; did you mean report?"),
        ("80", "there is no command '80'; `http-profiler --help` lists all"),
        ("attnd", "there is no command 'attnd'; `http-profiler --help` lists all"),
        ("-- report x", "there is no command '--'; `http-profiler --help` lists all"),
        ("report", "no capture file: name one, or try --sample"),
        ("replay x y", "unrecognized arguments: y"),
        ("--comm --prot", "argument --comm: expected one argument"),
        ("replay c --max-b x", "argument --max-body: 'x' is not a number of bytes"),
        ("run ls -l", "put the command after `--`: run [options] -- ls -l"),
    ],
)  # fmt: skip
def test_errors_in_arguments(
    called: list[Any], line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    assert capsys.readouterr() == ("", f"http-profiler: {said}\n")
    assert called == []


def test_options_may_be_abbreviated(called: list[Any]) -> None:
    assert cli.main(["--rec", "r", "--max-b=7", "replay", "c", "--max-bo", "9"]) == 0
    assert called == [("replay", Path("c"), Settings(max_body=9, record=Path("r")))]


def test_internal_options_are_hidden(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--help"])
    assert [cli.main([word]) for word in ("attnd", "--", "--attnd")] == [2, 2, 2]
    assert "attend" not in "".join(capsys.readouterr())
    calls: list[Settings] = []
    monkeypatch.setattr(session, "capture", lambda settings, *_: calls.append(settings))
    assert cli.main(["--port", "80", "attend"]) == 0
    assert calls == [Settings(where=conditions(port=[80]))]


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name or "none")
def test_a_command_takes_options_and_returns_a_code(command: cli.Command) -> None:
    module, _, name = command.run.partition(":")
    function = getattr(import_module(module), name)
    assert list(get_type_hints(function).values()) == [argparse.Namespace, int]


@pytest.mark.parametrize("command", cli.COMMANDS, ids=lambda command: command.name or "none")
def test_a_command_has_help(command: cli.Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main([*filter(None, [command.name]), "--help"])
    shown = capsys.readouterr()
    assert shown.out.startswith(f"usage: http-profiler {command.name}".rstrip())
    assert shown.err == ""


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert schema == json_schema()
    # Fields of a field have a meaning as well.
    assert "RFC 7301" in schema["properties"]["tls"]["properties"]["alpn"]["description"]


def test_ctrl_c_is_an_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: Settings) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "capture", interrupt)
    assert cli.main([]) == 130
    assert capsys.readouterr() == ("", "")


def test_an_error_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: Settings) -> None:
        raise ProbeError("what, where and what to do")

    monkeypatch.setattr(session, "capture", fail)
    assert cli.main([]) == 1
    assert capsys.readouterr().err == "http-profiler: what, where and what to do\n"


def test_a_closed_pipe_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def close(_: Settings) -> None:
        raise OutputClosed("standard output was closed by its reader")

    monkeypatch.setattr(session, "capture", close)
    assert cli.main([]) == 0
    assert capsys.readouterr().err == ""


def test_a_closed_pipe_is_no_error_when_printing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    line = [sys.executable, "-m", "profiler.cli", "config"]
    done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_capture_imports_nothing_for_other_commands(tmp_path: Path) -> None:
    others = {
        f"profiler.{name}"
        for name in (
            "commands.assertions", "commands.doctor.examine", "commands.opened",
            "commands.run.trace", "commands.top.command", "exchanges.read",
            "outputs.har", "outputs.report", "outputs.tables", "outputs.terminal", "schema",
        )
    }  # fmt: skip
    script = (
        "import sys; from profiler.cli import main; main(sys.argv[1:]); print(*sorted(sys.modules))"
    )
    line = [sys.executable, "-c", script, "replay", str(CAPTURE)]
    line += ["--output", str(tmp_path / "lines.jsonl")]
    loaded = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert "profiler.outputs.jsonl" in loaded.split()
    assert not others & set(loaded.split())
    assert all(map(find_spec, others))


def test_a_condition_is_shown_as_it_was_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A variable holds one condition with blanks and quotes; `config` prints it as valid TOML."""
    condition = 'failed and path="/a b"'
    monkeypatch.setenv("HTTP_PROFILER_WHERE", condition)
    assert cli.main(["config"]) == 0
    written = 'where = ["failed and path=\\"/a b\\""]'
    assert f"{written}  # $HTTP_PROFILER_WHERE" in capsys.readouterr().out
    monkeypatch.delenv("HTTP_PROFILER_WHERE")
    assert cli.main(["--where", condition, "config"]) == 0
    assert written in capsys.readouterr().out
