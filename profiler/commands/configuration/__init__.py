# SPDX-License-Identifier: Apache-2.0
"""Options from configuration files and environment variables.

No option is named here. Keys, variables and the checks of values come from the argument parser, so
a new option gets all three. A mistake is an error for every command, even where another source
overrides it.

The first of these sets an option: the command line, the environment, the user's file, the system's
file, the default. ``--config FILE`` replaces both files.

``keys.py`` lists the possible keys, ``written.py`` reads the files and variables, ``show.py``
prints them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from profiler.commands.configuration.keys import Keys, keys_of
from profiler.commands.configuration.written import Written, read
from profiler.commands.parser import commands_of


@dataclass(frozen=True)
class Configuration:
    """Every option that is set, and its source."""

    keys: Keys
    written: tuple[Written, ...]
    """From files and variables; options of a command come after those for all commands."""

    given: Mapping[str, Any]
    """From the command line, by ``dest``."""


def add_option(parser: argparse.ArgumentParser) -> None:
    """Add ``--config``."""
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="read this configuration file instead of ~/.config/http-profiler.toml and "
        "/etc/http-profiler.toml",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments of the command ``config``; ``show.py`` implements it."""
    parser.description = (
        "Prints all options as a configuration file: the options in force with their "
        "source, the others with their default."
    )


def configured(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> argparse.Namespace:
    """Parse the command line, and fill in the options of files and environment.

    The result's ``configuration`` is a :class:`Configuration`. Raises ProfilerError.
    """
    options = parser.parse_args(arguments)
    keys = keys_of(parser)
    written = read(keys, getattr(options, "config", None), environment)
    given = _given(parser, arguments)
    command = options.command or ""
    # A command's own default wins over an option that is set for all commands.
    own = {key.action.dest for key in keys.get(command, {}).values() if command and key.has_default}
    for one in written:
        dest, where = one.key.action.dest, one.key.command
        one.apply(argparse.Namespace())
        if where == command or (not where and dest not in own):
            one.apply(options)
    vars(options).update(given)
    options.configuration = Configuration(keys, written, given)
    return options


def _given(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> dict[str, Any]:
    """Parse again without defaults: a parser does not distinguish a default from a given value."""
    defaults = {
        action: action.default
        for each in (parser, *commands_of(parser).values())
        for action in each._actions
        if action.option_strings
    }
    for action in defaults:
        action.default = argparse.SUPPRESS
    given = vars(parser.parse_args(arguments))
    for action, default in defaults.items():
        action.default = default
    return given
