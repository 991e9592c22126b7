# SPDX-License-Identifier: Apache-2.0
"""The possible keys: the options of the argument parser, by their long names.

A key's value is written as on the command line. It passes through the option's own type and
choices, and is stored where the option stores it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, Union

from profiler.commands.parser import commands_of

PREFIX = "HTTP_PROFILER_"

Value = Union[bool, list[str]]
"""For a switch, whether it is on; for any other option, the texts of its values."""


@dataclass(frozen=True)
class Key:
    """An option that may be set; ``command`` is empty for an option of all commands."""

    name: str
    command: str
    parser: argparse.ArgumentParser
    action: argparse.Action

    @property
    def is_switch(self) -> bool:
        """Whether the option takes no value."""
        return self.action.nargs == 0

    @property
    def is_repeatable(self) -> bool:
        """Whether it may be given several times."""
        return isinstance(self.action, argparse._AppendAction)

    @property
    def has_default(self) -> bool:
        """Whether it has a default."""
        return self.action.default is not argparse.SUPPRESS

    @property
    def variable(self) -> str:
        """The name of its environment variable."""
        words = f"{self.command}_{self.name}" if self.command else self.name
        return PREFIX + words.replace("-", "_").upper()

    def apply(self, value: Value, options: argparse.Namespace) -> None:
        """Set it in ``options`` as the parser would.

        Raises ArgumentError or ArgumentTypeError if the option refuses the value.
        """
        if hasattr(options, self.action.dest):
            # A repeated option would be appended to its present value.
            delattr(options, self.action.dest)
        if isinstance(value, bool):
            self._switch(value, options)
            return
        for text in value:
            self.action(self.parser, options, self._converted(text), f"--{self.name}")

    def _switch(self, on: bool, options: argparse.Namespace) -> None:
        word = f"--{self.name}" if on else f"--no-{self.name}"
        action = self.parser._option_string_actions.get(word)
        if action is not None:
            action(self.parser, options, [], word)
        elif self.has_default:
            setattr(options, self.action.dest, self.action.default)

    def _converted(self, text: str) -> Any:
        kind = self.action.type
        try:
            value = kind(text) if callable(kind) else text
        except (TypeError, ValueError):
            raise argparse.ArgumentTypeError(f"invalid value {text!r}") from None
        if self.action.choices is not None and value not in self.action.choices:
            known = ", ".join(map(str, self.action.choices))
            raise argparse.ArgumentTypeError(f"{text!r} is none of {known}")
        return value


Keys = dict[str, dict[str, Key]]
"""By command, then by name."""


def keys_of(parser: argparse.ArgumentParser) -> Keys:
    """Return the options that may be set in files and environment."""
    keys = {"": _keys_of_one(parser, "")}
    for command, below in commands_of(parser).items():
        keys[command] = _keys_of_one(below, command)
    return keys


def _keys_of_one(parser: argparse.ArgumentParser, command: str) -> dict[str, Key]:
    # One of these is required on the command line, whatever a file sets.
    demanded = [
        action
        for group in parser._mutually_exclusive_groups
        if group.required
        for action in group._group_actions
    ]
    found = {}
    for action in parser._actions:
        names = [word[2:] for word in action.option_strings if word.startswith("--")]
        if not names or action.required or action in demanded:
            continue
        if isinstance(action, (argparse._HelpAction, argparse._VersionAction)):
            continue
        # The key of `--no-x` is `x`. No file can choose which file is read.
        positive = names[0].removeprefix("no-")
        if f"--{positive}" in parser._option_string_actions and positive != names[0]:
            continue
        if names[0] not in ("config", "sample"):
            found[names[0]] = Key(names[0], command, parser, action)
    return found
