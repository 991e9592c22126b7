# SPDX-License-Identifier: Apache-2.0
"""report, export and query from the command line: output, exit code, and one line per error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from profiler.errors import OutputError
from profiler.outputs.file import output
from tests import sample_capture

ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sample_capture.write(tmp_path_factory.mktemp("c") / "c.jsonl", 60)


def run(*arguments: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "profiler.cli", *map(str, arguments)],
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT,
        check=False,
    )


def said(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    return done.stderr.decode().splitlines()


COMMANDS = [
    ["report"],
    ["inventory"],
    ["export", "--har"],
    ["export", "--curl"],
    ["export", "--csv"],
    ["query", "select * from exchanges"],
]
# They do not show the secrets of a capture by default.
REDACTED = (["report"], ["inventory"])
name = " ".join


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_the_first_line_describes_the_redaction(command: list[str], capture: Path) -> None:
    for option, word in (("--redact", "redacted"), ("--no-redact", "shown")):
        done = run(*command, capture, option)
        assert done.returncode == 0
        assert said(done)[0].startswith(f"http-profiler: secrets are {word}")
    default = "redacted" if command in REDACTED else "shown"
    assert said(run(*command, capture))[0].startswith(f"http-profiler: secrets are {default}")


def test_invalid_counts(capture: Path, tmp_path: Path) -> None:
    stats = sample_capture.write_stats(tmp_path / "stats")
    # A truncated line is not the last count.
    with stats.open("a") as file:
        file.write('{"timestamp": "2026-')
    assert run("report", capture, "--stats", stats).returncode == 0
    (tmp_path / "empty").touch()
    for path, words in (
        (tmp_path / "none", "No such file or directory"),
        (tmp_path / "empty", "has no counts: name a file that --stats wrote"),
        (capture, "has no counts: name a file that --stats wrote"),
    ):
        done = run("report", capture, "--stats", path)
        assert done.returncode == 1 and not done.stdout
        [line] = said(done)
        assert words in line and str(path) in line


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command not in REDACTED], ids=name
)
def test_secrets_are_hidden_on_request(command: list[str], capture: Path) -> None:
    shown, hidden = run(*command, capture), run(*command, capture, "--redact")
    assert sample_capture.SECRET.encode() in shown.stdout
    assert sample_capture.SECRET.encode() not in hidden.stdout
    assert b"redacted-" in hidden.stdout


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_an_empty_capture_is_valid(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "c").touch()
    done = run(*command, tmp_path / "c")
    assert done.returncode == 0
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_the_undamaged_part_of_a_capture_is_used(
    command: list[str], capture: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "d.jsonl"
    damaged.write_bytes(b"{]\n" + capture.read_bytes() + b'{"cut')
    lines = capture.read_bytes().count(b"\n") + 2
    done = run(*command, damaged)
    assert done.returncode == 3
    assert said(done)[-1] == (
        f"http-profiler: d.jsonl: of {lines} lines, 2 damaged "
        f"(line 1: is not a JSON object; line {lines}: is cut off)"
    )
    if command != ["report"]:
        assert done.stdout == run(*command, capture).stdout


@pytest.mark.parametrize("command", COMMANDS, ids=name)
@pytest.mark.parametrize(
    ("content", "words"),
    [(b"hello\n", "is not a capture"), (b'{"format":"http-profiler capture"}\n', "replay")],
)
def test_files_that_are_not_captures(
    command: list[str], content: bytes, words: str, tmp_path: Path
) -> None:
    (tmp_path / "c").write_bytes(content)
    done = run(*command, tmp_path / "c")
    assert done.returncode == 1
    assert words in said(done)[-1] and len(said(done)) == 2
    assert done.stdout == b""


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_filters_choose_the_exchanges(command: list[str], capture: Path, tmp_path: Path) -> None:
    records = [json.loads(line) for line in capture.read_text().splitlines()]
    found = [r for r in records if r.get("status_code") in (303, 304)]
    whose = [tuple(map(r.get, ("exchange", "netns", "role"))) for r in found]
    chosen = [r for r in records if tuple(map(r.get, ("exchange", "netns", "role"))) in whose]
    assert 0 < len(chosen) < len(records)
    (tmp_path / capture.name).write_text("".join(json.dumps(record) + "\n" for record in chosen))
    done = run(*command, capture, "--status", "3xx")
    alone = run(*command, tmp_path / capture.name)
    assert done.returncode == 0
    left = len(records) - len(chosen)
    assert said(done)[1] == f"http-profiler: left out {left} messages (--status {left})"
    if command != ["report"]:  # its placeholders differ in each run
        assert sorted(done.stdout.splitlines()) == sorted(alone.stdout.splitlines()) != []
    if command[0] != "query":
        assert said(done)[-1] == said(alone)[-1]


def test_standard_input_and_output(capture: Path) -> None:
    done = run("export", "--csv", "-", stdin=capture.read_bytes())
    assert done.stdout == run("export", "--csv", capture).stdout != b""


@pytest.mark.parametrize("command", COMMANDS, ids=name)
def test_a_closed_pipe_is_no_error(command: list[str], tmp_path: Path) -> None:
    large = sample_capture.write(tmp_path / "large.jsonl", 600)
    # More than a pipe can buffer, so that the writer notices.
    profiler = subprocess.Popen(
        [sys.executable, "-m", "profiler.cli", *command, str(large)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    assert profiler.stdout and profiler.stderr
    profiler.stdout.read(1)
    profiler.stdout.close()
    errors = profiler.stderr.read().decode()
    assert profiler.wait() == 0, errors
    assert "Traceback" not in errors and "BrokenPipe" not in errors


@pytest.mark.parametrize("command", [*COMMANDS[:-1], ["export", "--parquet"]], ids=name)
def test_the_file_is_private_and_whole_or_absent(
    command: list[str], capture: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out"
    assert run(*command, capture, "-o", path).returncode == 0
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    (tmp_path / "none.jsonl").write_bytes(b"hello\n")
    assert run(*command, tmp_path / "none.jsonl", "-o", path).returncode == 1
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["none.jsonl", "out"]


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("/dev/full", "No space left on device"),
        ("{tmp}/no/such", "No such file or directory"),
        ("{tmp}", "Is a directory"),
        ("{capture}", "is the capture that is read"),
    ],
)
@pytest.mark.parametrize("command", COMMANDS[:-1], ids=name)
def test_output_that_cannot_be_written(
    command: list[str], target: str, words: str, capture: Path, tmp_path: Path
) -> None:
    before = capture.read_bytes()
    done = run(*command, capture, "-o", target.format(tmp=tmp_path, capture=capture))
    assert done.returncode == 1
    assert words in said(done)[-1] and "Traceback" not in done.stderr.decode()
    assert capture.read_bytes() == before


def test_a_partial_file_is_removed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("before")
    with pytest.raises(OutputError, match="No space"), output(tmp_path / "out") as file:
        file.write(b"half")
        raise OSError(28, "No space left on device")
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_text() == "before"


def test_no_room_for_buffered_records(capture: Path) -> None:
    done = subprocess.run(
        [
            "sh",
            "-c",
            'ulimit -f 8; exec "$@"',
            "sh",
            sys.executable,
            "-m",
            "profiler.cli",
            "export",
            "--har",
            str(capture),
        ],
        capture_output=True,
        env={**ENVIRONMENT, "PYTHONDONTWRITEBYTECODE": "1"},
        check=False,
    )
    assert done.returncode == 1
    assert "TMPDIR" in said(done)[-1] and "Traceback" not in done.stderr.decode()


def test_parquet_needs_a_file(capture: Path) -> None:
    done = run("export", "--parquet", capture)
    assert done.returncode == 2
    assert said(done)[-1].endswith("--parquet needs --output")


def test_a_query_and_a_wrong_one(capture: Path) -> None:
    done = run(
        "query", "select host, count(*) n from exchanges group by 1 order by 2 desc", capture
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(row["n"] for row in rows) >= 60
    done = run("query", "select nothing", capture)
    assert done.returncode == 1
    assert said(done)[-1].startswith("http-profiler: DuckDB: ")


def test_without_duckdb(capture: Path, tmp_path: Path) -> None:
    (tmp_path / "duckdb.py").write_text("raise ImportError")
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}:{ENVIRONMENT['PYTHONPATH']}"}
    for command in (["query", "select 1"], ["export", "--parquet", "-o", str(tmp_path / "x")]):
        done = subprocess.run(
            [sys.executable, "-m", "profiler.cli", *command, str(capture)],
            capture_output=True,
            env=environment,
            check=False,
        )
        assert done.returncode == 1
        assert said(done)[-1] == (
            "http-profiler: this needs DuckDB, which is not installed: "
            "pip install 'http-profiler[query]'"
        )
