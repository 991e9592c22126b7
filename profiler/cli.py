# SPDX-License-Identifier: Apache-2.0
"""The table of commands. Errors become one line and an exit code.

Exit codes: 0 done; 1 not done, and standard error has the reason; 2 wrong arguments, a wrong
condition or a wrong configuration; 3 done, but some lines of a capture file could not be read;
4 an assertion does not hold; 130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NamedTuple

from profiler import __version__
from profiler.commands import (
    attend,
    capture,
    check,
    configuration,
    export,
    inventory,
    probe,
    query,
    replay,
    report,
    schema,
)
from profiler.commands.doctor import options as doctor
from profiler.commands.parser import Parser, mistake
from profiler.commands.run import options as run
from profiler.commands.top import options as top
from profiler.errors import ProfilerError, UsageError
from profiler.exchanges.text import visible_lines


class Command(NamedTuple):
    """A command; the one without a name runs if the user names none."""

    name: str
    help: str
    """Empty if the help does not show the command."""
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: str
    """``module:function``, loaded when the command runs; takes the options, returns the code."""


COMMANDS = (
    Command("", "", capture.add_arguments, "profiler.commands.capture:run"),
    Command(
        "replay",
        "replay a recording through the same pipeline, without a kernel",
        replay.add_arguments,
        "profiler.commands.replay:run",
    ),
    Command(
        "probe",
        "print the program that would be loaded; does not need root",
        probe.add_arguments,
        "profiler.commands.probe:run",
    ),
    Command(
        "doctor",
        "print what this machine offers, and test what is captured on it",
        doctor.add_arguments,
        "profiler.commands.doctor.examine:run",
    ),
    Command(
        "top",
        "show live endpoints, processes and connections, full screen",
        top.add_arguments,
        "profiler.commands.top.command:run",
    ),
    Command(
        "report",
        "make a page of capture files: one HTML file that needs no network",
        report.add_arguments,
        "profiler.commands.report:run",
    ),
    Command(
        "export",
        "convert capture files to HAR, curl commands, CSV or Parquet",
        export.add_arguments,
        "profiler.commands.export:run",
    ),
    Command(
        "inventory",
        "print the services of capture files, their endpoints and calls",
        inventory.add_arguments,
        "profiler.commands.inventory:run",
    ),
    Command(
        "query",
        "query capture files with SQL (needs the extra `query`)",
        query.add_arguments,
        "profiler.commands.query:run",
    ),
    Command(
        "check",
        "check assertions on capture files: exit code and JUnit XML",
        check.add_arguments,
        "profiler.commands.assertions:check",
    ),
    Command(
        "run",
        "trace only a command and its children; return its exit code",
        run.add_arguments,
        "profiler.commands.run.trace:run",
    ),
    Command("attend", "", attend.add_arguments, "profiler.commands.attend:run"),
    Command(
        "schema",
        "print the JSON Schema of a record",
        schema.add_arguments,
        "profiler.commands.schema:run",
    ),
    Command(
        "config",
        "print which options are in force, and their source",
        configuration.add_arguments,
        "profiler.commands.configuration.show:run",
    ),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return _exit_code(lambda: _main(sys.argv[1:] if arguments is None else arguments))


def build_parser() -> argparse.ArgumentParser:
    """Return a new parser for the command line."""
    parser = Parser(prog="http-profiler")
    parser.add_argument("--version", action="version", version=f"http-profiler {__version__}")
    configuration.add_option(parser)
    first, *others = COMMANDS
    first.add_arguments(parser)
    commands = parser.add_subparsers(dest="command", metavar="command")
    for command in others:
        # argparse would print a help of None.
        shown: dict[str, Any] = {"help": command.help} if command.help else {}
        command.add_arguments(commands.add_parser(command.name, **shown))
    return parser


def _main(arguments: Sequence[str]) -> int:
    typed, command = _apart(arguments)
    parser = build_parser()
    try:
        options = configuration.configured(parser, typed)
    except UsageError as error:
        raise UsageError(mistake(parser, typed) or str(error)) from None
    options.argv = command
    [chosen] = (each for each in COMMANDS if each.name == (options.command or ""))
    module, _, function = chosen.run.partition(":")
    code: int = getattr(import_module(module), function)(options)
    return code


def _apart(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Split the arguments at `--`: the profiler's own, and the command line that `run` starts."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "run" in arguments[:end]:
        return arguments[:end], arguments[end + 1 :]
    return arguments, ()


def _exit_code(run: Callable[[], int]) -> int:
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader has gone. At exit, Python would try to write the rest.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ProfilerError as error:
        if error.exit_code:
            print(f"http-profiler: {visible_lines(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
