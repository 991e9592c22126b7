# SPDX-License-Identifier: Apache-2.0
"""The manual page from the argument parser: ``python -m packages.man > http-profiler.1``."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Iterator
from datetime import datetime, timezone

from packages.command_line import ENVIRONMENT, FILES, SIGNALS, exit_codes, groups_of
from profiler import __version__, cli
from profiler.commands.parser import commands_of

_CONFIGURATION = """\
An option can also be set in the environment or in a file. The first of these that sets it
wins: the command line, the environment, the user's file, the system's file, the default.
--config FILE replaces both files. The files are TOML. The key of an option is its long name
without the leading dashes. The options of a command are in a table with the command's name.
The variable of --max-body is HTTP_PROFILER_MAX_BODY, and that of report --max-body is
HTTP_PROFILER_REPORT_MAX_BODY. `http-profiler config` prints every key, and the values in force.
"""


def page(parser: argparse.ArgumentParser) -> str:
    """Return the manual page of a command line, for section 1."""
    return "\n".join(_page(parser)) + "\n"


def _page(parser: argparse.ArgumentParser) -> Iterator[str]:
    _without_colour(parser)
    name, description = parser.prog, parser.description or ""
    made = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), timezone.utc)
    date = f"{made:%Y-%m-%d}" if made.year > 1980 else ""
    yield f'.TH {name.upper()} 1 "{date}" "{name} {__version__}" "User Commands"'
    yield ".ad l"
    yield from (".SH NAME", f"{name} \\- {_text(description[:1].lower() + description[1:-1])}")
    commands = commands_of(parser)
    yield ".SH SYNOPSIS"
    for command in ("", *commands):
        yield f".B {name} {command}".rstrip()
        below = commands.get(command, parser)
        yield f"[{'options' if below is not parser else 'options] [command'}]"
        yield from (f".I {_text(each)}" for each in _positionals(below))
        yield ".br"
    yield from (".SH DESCRIPTION", _text(description))
    yield ".SH OPTIONS"
    yield from _options(parser, ".SS")
    yield ".SH COMMANDS"
    for command, below in commands.items():
        yield f".SS {name} {command}"
        yield _text(below.description or "")
        yield from _options(below, ".P\n.B")
        yield from _example(below.epilog)
    yield from (".SH CONFIGURATION", _text(_CONFIGURATION))
    yield ".SH EXIT STATUS"
    for code, meaning in exit_codes():
        yield from (".TP", f".B {code}", _text(meaning))
    yield ".SH ENVIRONMENT"
    for variable, meaning in ENVIRONMENT:
        yield from (".TP", f".B {variable}", _text(meaning))
    yield ".SH FILES"
    for path, meaning in FILES:
        yield from (".TP", f".I {_text(path)}", _text(meaning))
    yield ".SH SIGNALS"
    for signal, meaning in SIGNALS:
        yield from (".TP", f".B {signal}", _text(meaning))
    yield ".SH EXAMPLES"
    yield from _example(parser.epilog)


def _without_colour(parser: argparse.ArgumentParser) -> None:
    """Turn off colours: since Python 3.14 a parser uses them on a terminal."""
    for each in (parser, *commands_of(parser).values()):
        each.color = False  # type: ignore[attr-defined]


def _positionals(parser: argparse.ArgumentParser) -> list[str]:
    formatter = parser._get_formatter()
    return [
        formatter._format_args(action, str(action.metavar or action.dest))
        for action in parser._get_positional_actions()
        if not isinstance(action, argparse._SubParsersAction)
    ]


def _options(parser: argparse.ArgumentParser, heading: str) -> Iterator[str]:
    """The options by their groups; ``heading`` is the request that makes a group's title one."""
    for group in groups_of(parser):
        if group.title:
            yield f"{heading} {_text(group.title)}"
        if group.description:
            yield _text(group.description)
        for option in group.options:
            words = ", ".join(f"\\fB{_text(word)}\\fR" for word in option.words)
            value = f" \\fI{_text(option.value)}\\fR" if option.value else ""
            yield from (".TP", f"{words}{value}".lstrip(), _text(option.help))


def _example(epilog: str | None) -> Iterator[str]:
    if epilog:
        lines = [_line(line) for line in inspect.cleandoc(epilog).splitlines()]
        yield from (".P", ".EX", *(line or "\\&" for line in lines), ".EE")


def _text(text: str) -> str:
    """A paragraph in roff. Names and paths are not hyphenated."""
    words = (
        f"\\%{word}" if re.search(r"[_/]", word) else word for word in map(_line, text.split())
    )
    return _guarded(" ".join(words))


def _line(line: str) -> str:
    for character, written in (("\\", "\\e"), ("-", "\\-"), ("'", "\\(aq"), ("`", "\\(ga")):
        line = line.replace(character, written)
    return _guarded(line)


def _guarded(line: str) -> str:
    return f"\\&{line}" if line.startswith(".") else line


if __name__ == "__main__":
    print(page(cli.build_parser()), end="")
