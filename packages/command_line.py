# SPDX-License-Identifier: Apache-2.0
"""The command line as data, for the manual page and ``docs/reference/options.md``.

Options come from the argument parser. What no parser knows is here: exit codes, environment
variables, files and signals.
"""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from typing import NamedTuple

from profiler import cli
from profiler.commands.configuration.written import FILE_VARIABLE, SYSTEM_FILE

# What argparse calls the groups that nobody named; Python 3.9 has the second.
_PLAIN = ("options", "optional arguments", "positional arguments")

ENVIRONMENT = (
    ("OUTPUT_PATH", "the same as --output"),
    (FILE_VARIABLE, "the same as --config"),
    ("HTTP_PROFILER_*", "any other option, see CONFIGURATION"),
    ("XDG_CONFIG_HOME", "directory of the user's configuration file, instead of ~/.config"),
    ("NO_COLOR", "no colours on a terminal, unless it is empty"),
    ("TMPDIR", "directory for the records of a capture file that is being read"),
)

FILES = (
    (str(SYSTEM_FILE), "configuration of the system"),
    (f"~/.config/{SYSTEM_FILE.name}", "configuration of the user"),
    ("/var/cache/http-profiler", "compiled probes; you can delete them at any time"),
    ("/var/cache/http-profiler-service", "the same for the systemd unit"),
    ("/var/log/http-profiler/http.jsonl", "the output of the systemd unit, if you start it"),
)

SIGNALS = (
    (
        "SIGINT, SIGTERM",
        "end the capture: what the kernel has handed over is written, and the summary printed; "
        "a second one ends the profiler at once",
    ),
    ("SIGUSR1", "print the summary so far and continue"),
)


class Option(NamedTuple):
    """An option or operand: its words, the placeholder of its value, its help."""

    words: tuple[str, ...]
    value: str
    help: str


class Group(NamedTuple):
    """Options under one title; the title is empty if nobody named the group."""

    title: str
    description: str
    options: tuple[Option, ...]


def groups_of(parser: argparse.ArgumentParser) -> Iterator[Group]:
    """Yield what the help of one command shows, without ``--help`` and the list of commands."""
    formatter = parser._get_formatter()
    for group in parser._action_groups:
        options = tuple(
            _option(action, formatter)
            for action in group._group_actions
            if action.help not in (argparse.SUPPRESS, None)
            and not isinstance(action, (argparse._HelpAction, argparse._SubParsersAction))
        )
        if options:
            title = "" if group.title in _PLAIN else group.title or ""
            yield Group(title, group.description or "" if title else "", options)


def exit_codes() -> list[tuple[str, str]]:
    """Return the codes and their meanings, as the docstring of the command line has them."""
    text = " ".join(inspect.cleandoc(cli.__doc__ or "").partition("Exit codes:")[2].split())
    return re.findall(r"(\d+) (.*?)(?:;\s(?=\d)|\.?$)", text)


def _option(action: argparse.Action, formatter: argparse.HelpFormatter) -> Option:
    value = ""
    if not action.option_strings or action.nargs != 0:
        value = formatter._format_args(action, formatter._get_default_metavar_for_optional(action))
    help_ = formatter._expand_help(action) if action.help else ""
    return Option(tuple(action.option_strings), value, help_)
