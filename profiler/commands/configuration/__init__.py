# SPDX-License-Identifier: Apache-2.0
"""Options that are written down: configuration files and environment variables.

The rule: no option is named here. Keys, variables and the checks of their values are
those of the argument parser, so an option that is added there has all three. What is
wrong is an error whichever command is run, also where something else overrides it.

In force is the first of: the command line, the environment, the user's file, the
system's file, the default. ``--config FILE`` is read instead of both files.

``keys.py`` has what may be written down, ``written.py`` reads it, ``show.py`` prints it.
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
    """Everything that was asked for, and where."""

    keys: Keys
    written: tuple[Written, ...]
    """What is written down, those of a command behind those that stand before one."""

    given: Mapping[str, Any]
    """What the command line itself gives, by ``dest``."""


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
    """Describe the arguments of the command ``config``; ``show.py`` has what it does."""
    parser.description = (
        "Prints all options as a configuration file: the options in force with their "
        "source, the others with their default."
    )


def configured(
    parser: argparse.ArgumentParser,
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] = os.environ,
) -> argparse.Namespace:
    """Parse the command line, and put in what it leaves open and is written down elsewhere.

    ``configuration`` of what is returned is the :class:`Configuration`. Raises ProfilerError.
    """
    options = parser.parse_args(arguments)
    keys = keys_of(parser)
    written = read(keys, getattr(options, "config", None), environment)
    given = _given(parser, arguments)
    command = options.command or ""
    # What a command has a default of its own for, it does not take from before it.
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
    """Parse again, without defaults: a parser does not tell them from what was given."""
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
