# SPDX-License-Identifier: Apache-2.0
"""Every command in the documents: those that need no kernel are run, the others are parsed."""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from packages import documents
from profiler.accounting import FILTERED, LOST
from profiler.cli import build_parser
from profiler.commands.parser import commands_of
from profiler.ingest import stream
from profiler.ingest.http import content, message
from tests.sample_capture import write, write_stats

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

REPOSITORY = Path(__file__).parents[2]
RECORDED = REPOSITORY / "tests" / "replay" / "cases" / "demo" / "capture"
DOCUMENTS = sorted((REPOSITORY / "docs").rglob("*.md"))

# They read what is there; `top` wants a terminal (tests/unit and tests/e2e have one for it).
READERS = ("report", "export", "inventory", "query", "check", "replay", "probe", "schema", "config")
BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Before the name only what calls it.
CALL = re.compile(
    r"^(?:sudo |ssh \S+ sudo |/opt/http-profiler/bin/|v/bin/)*http-profiler\s(.*)", re.DOTALL
)


def commands() -> Iterator[pytest.param]:
    for document in (REPOSITORY / "README.md", *DOCUMENTS):
        for block in BLOCK.findall(document.read_text()):
            for line in statements(block):
                for part in re.split(r"\s\|\s", line):
                    call = CALL.match(part)
                    if call:
                        yield pytest.param(call[1], id=f"{document.name}: {part[:60]}")


def statements(block: str) -> Iterator[str]:
    """The block's commands, each in one piece: until quotes are closed and no backslash is left."""
    pending = ""
    for line in block.splitlines():
        pending += line.removesuffix("\\") + ("" if line.endswith("\\") else "\n")
        if line.endswith("\\"):
            continue
        with contextlib.suppress(ValueError):
            shlex.split(pending, comments=True)
            yield pending.strip()
            pending = ""


def words(call: str) -> list[str]:
    found = shlex.split(call.removesuffix("&").strip(), comments=True)
    if found[-1] == "&":
        found.pop()
    # Placeholders of a shell.
    return ["7" if word.startswith("$(") else word.replace("$USER", "root") for word in found]


@pytest.mark.parametrize("call", list(commands()))
def test_a_command_of_the_documents(call: str, tmp_path: Path) -> None:
    arguments = words(call)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            options = build_parser().parse_args(arguments)
    except SystemExit as end:
        assert end.code == 0  # --help, --version
        return
    if getattr(options, "command", None) not in READERS:
        return
    written = {
        value
        for option, value in zip(arguments, arguments[1:])
        if option in ("-o", "--output", "--record", "--junit")
    }
    for word in {*arguments} - written:
        if word.endswith(".stats"):
            write_stats(tmp_path / word)
        elif word.endswith(".keys"):
            (tmp_path / word).touch()
        elif word.endswith((".jsonl", "capture", ".gz", ".zst")):
            path = tmp_path / word
            path.parent.mkdir(parents=True, exist_ok=True)
            if word.endswith("capture"):
                shutil.copy(RECORDED, path)
            else:
                write(path, 300)
            if word.endswith(".gz"):
                path.write_bytes(gzip.compress(path.read_bytes()))
            elif word.endswith(".zst"):
                path.write_bytes(zstd.compress(path.read_bytes()))
    # From standard input, where the command reads that.
    lines = write(tmp_path / "standard-input", 300)
    with lines.open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "-m", "profiler.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    # 4: an assertion does not hold of lines that were made up.
    assert done.returncode in ((0, 4) if options.command == "check" else (0,)), done.stderr
    assert all((tmp_path / name).stat().st_size for name in written - {"-"})


@pytest.mark.parametrize("path", documents.renewed(), ids=lambda path: path.name)
def test_the_generated_parts_are_up_to_date(path: Path) -> None:
    renew = "python -m packages.documents"
    if path == documents.SCHEMA:
        renew += ", or http-profiler schema > docs/reference/record.schema.json"
    assert path.read_text("utf-8") == documents.renewed()[path], f"to renew it: {renew}"


def test_every_command_has_its_options_on_the_page() -> None:
    page = documents.OPTIONS.read_text("utf-8")
    parser = build_parser()
    for name in (parser.prog, *commands_of(parser)):
        assert f"\n## {name}\n" in page
        assert f"<!-- options of {name}: made by" in page
    for part in ("commands", "exit codes", "environment", "files", "signals"):
        assert f"<!-- {part}: made by" in page


def test_every_default_is_documented() -> None:
    parser = build_parser()
    for one in (parser, *commands_of(parser).values()):
        for action in one._actions:
            # --no-redact has the default of its counterpart.
            is_counterpart = action.const is False
            if action.default in (None, argparse.SUPPRESS, False, []) or is_counterpart:
                continue
            assert "(default" in (action.help or ""), action.option_strings


LOSSES = (REPOSITORY / "docs" / "explanation" / "losses.md").read_text()


def first_cells(heading: str, header: str) -> list[str]:
    """The words in code of the first column of a table below a heading."""
    table = LOSSES.partition(f"\n{heading}")[2].partition(f"\n| {header} ")[2].partition("\n\n")[0]
    rows = (line.split(" | ")[0] for line in table.splitlines()[2:])
    return [word for row in rows for word in re.findall(r"`(\w+)`", row)]


def test_every_reason_of_the_account_is_explained() -> None:
    assert first_cells("**Filtered**", "reason") == list(FILTERED)
    assert first_cells("**Lost**", "reason") == list(LOST)


def test_every_reason_of_an_incomplete_message_is_explained() -> None:
    at_the_ends = (stream.BODY_LIMIT, stream.LOST, stream.CLOSED_EARLY, stream.RESET, stream.EXITED)
    in_http = (message.HEAD_LIMIT, message.MEMORY_LIMIT, message.UNDECODABLE, message.STREAM_LIMIT)
    others = (message.UNKNOWN_HEADER_STATE, message.NO_RESPONSE, content.DECODED_LIMIT)
    explained = first_cells("## Incomplete messages", "reason")
    assert sorted(explained) == sorted((*at_the_ends, *in_http, *others))


def test_the_documents_have_many_commands() -> None:
    """The search above finds them."""
    assert len(list(commands())) > 40


def test_the_figures_of_the_readme_are_those_of_the_page_on_performance() -> None:
    (told,) = re.findall(
        r"^What it costs.*?\n\n", (REPOSITORY / "README.md").read_text(), re.M | re.S
    )
    figures = re.findall(r"\d+(?:,\d{3})+", told)
    page = (REPOSITORY / "docs" / "explanation" / "performance.md").read_text()
    first = re.findall(r"^\| (?:added to client|its own processor).*$", page, re.M)
    assert len(first) == 2
    assert figures
    assert set(figures) <= set(re.findall(r"\d+(?:,\d{3})+", " ".join(first)))


RECIPES = (REPOSITORY / "docs" / "how-to" / "recipes.md").read_text()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A capture file with names of headers as many programs, and HTTP/1 and 2, spell them."""
    path = write(tmp_path / "http.jsonl", 300)
    with path.open("ab") as lines:
        for case in sorted((REPOSITORY / "tests" / "cases").glob("*/expected.jsonl")):
            lines.write(case.read_bytes())
    return path


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", RECIPES, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("sql", blocks("sql"))
def test_duckdb_opens_a_capture_file_as_it_is(sql: str, mixed: Path) -> None:
    assert duckdb.sql(sql.replace("http.jsonl", str(mixed))).fetchall()


@pytest.mark.parametrize("program", blocks("python"))
def test_python_opens_a_capture_file_as_it_is(program: str, mixed: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=mixed.parent, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_jq_opens_a_capture_file_as_it_is(mixed: Path) -> None:
    calls = [line for block in blocks("sh") for line in statements(block) if line.startswith("jq")]
    assert len(calls) == 2
    for call in calls:
        done = subprocess.run(
            ["sh", "-c", call], cwd=mixed.parent, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
