# SPDX-License-Identifier: Apache-2.0
"""The argument parser, and one-line explanations of arguments that it refuses."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from profiler.errors import UsageError


class Parser(argparse.ArgumentParser):
    """A parser that raises UsageError, and keeps the line breaks of multi-line texts."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=_Formatter, **options)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(message)


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        text = text if "\n" in text else textwrap.fill(text, width)
        return super()._fill_text(text, width, indent)


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of the commands that the help lists, by name."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return {shown.dest: action.choices[shown.dest] for shown in action._choices_actions}
    return {}


def advice(name: str, known: Iterable[str], otherwise: str) -> str:
    """Suggest the known name closest to ``name``; return ``otherwise`` if none is close."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise


def mistake(parser: argparse.ArgumentParser, words: Sequence[str]) -> str | None:
    """Describe the first of the refused ``words`` that is an unknown option or command, if any.

    argparse cannot: it mistakes the value of an unknown option for a command.
    """
    return _mistake(parser, words, parser)


def _mistake(
    parser: argparse.ArgumentParser, words: Sequence[str], root: argparse.ArgumentParser
) -> str | None:
    operand, *_ = [*parser._get_positional_actions(), None]
    rest = iter(words)
    for word in rest:
        option = None if word == "--" else parser._parse_optional(word)
        if option is None:
            if isinstance(operand, argparse._SubParsersAction):
                below = operand.choices.get(word)
                return _mistake(below, [*rest], root) if below else _no_command(word, root)
            if word == "--" or (operand and operand.nargs == argparse.REMAINDER):
                return None
            continue
        # Since Python 3.12, a list of all options that it may abbreviate.
        action, *_, value = option[0] if isinstance(option, list) else option
        if action is None:
            return _no_option(word.partition("=")[0], parser, root)
        if action.nargs is None and value is None:
            next(rest, None)
    return None


def _no_command(name: str, root: argparse.ArgumentParser) -> str:
    found = advice(name, commands_of(root), f"`{root.prog} --help` lists all")
    return f"there is no command {name!r}; {found}"


def _no_option(name: str, parser: argparse.ArgumentParser, root: argparse.ArgumentParser) -> str:
    every = {f"{root.prog} without a command": root, **commands_of(root)}
    owners = [whose for whose, one in every.items() if name in one._option_string_actions]
    if owners:
        return f"{name} is an option of {', '.join(owners)}"
    found = advice(name, parser._option_string_actions, f"`{parser.prog} --help` lists all")
    return f"there is no option {name}; {found}"
