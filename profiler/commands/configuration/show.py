# SPDX-License-Identifier: Apache-2.0
"""Prints options as a configuration file: those in effect with their source, and every default."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from profiler.commands.configuration.keys import Key, Keys, Value

if TYPE_CHECKING:
    from profiler.commands.configuration import Configuration

_COMMAND_LINE = "the command line"

# Quoted so that it reads back as the same text.
_NUMBER = re.compile(r"0|[1-9][0-9]*|(?:0|[1-9][0-9]*)\.[0-9]*[1-9]|[1-9][0-9]*\.0")


def run(options: argparse.Namespace) -> int:
    """Print the options in effect."""
    print("\n".join(lines(options.configuration)))
    return 0


def lines(configuration: Configuration) -> Iterator[str]:
    """Yield a line for each option; options that are not set are comments."""
    written = {(one.key.command, one.key.name): one for one in configuration.written}
    for command, keys in configuration.keys.items():
        if command and keys:
            yield f"\n[{command}]"
        for name, key in keys.items():
            one = written.get((command, name))
            if not command and key.action.dest in configuration.given:
                value = configuration.given[key.action.dest]
                yield f"{name} = {_toml_of_given(value)}  # {_COMMAND_LINE}"
            elif one:
                yield f"{name} = {_toml(one.value, key.is_repeatable)}  # {one.source}"
            else:
                yield _default(key)


def template(keys: Keys, chosen: Mapping[str, object] | None = None) -> Iterator[str]:
    """Yield a configuration file that sets what is ``chosen``, and explains every key."""
    chosen = chosen or {}
    for command, table in keys.items():
        if command and table:
            yield f"\n[{command}]"
        for key in table.values():
            yield ""
            explained = (key.action.help or "") % {"default": key.action.default, "prog": ""}
            yield from textwrap.wrap(explained, 95, initial_indent="# ", subsequent_indent="# ")
            if not command and key.name in chosen:
                yield f"{key.name} = {_toml_of_given(chosen[key.name])}"
            else:
                yield _default(key)


def _default(key: Key) -> str:
    default = key.action.default
    if key.is_switch:
        return f"# {key.name} = {'true' if default is True else 'false'}"
    if not key.has_default or default is None:
        return f"# {key.name} ="
    return f"# {key.name} = {_toml_of_given(default)}"


def _toml(value: Value, is_list: bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    texts = [text if _NUMBER.fullmatch(text) else _quoted(text) for text in value]
    return f"[{', '.join(texts)}]" if is_list else texts[0]


def _toml_of_given(value: object) -> str:
    """Format a value of the command line, which is already converted."""
    if isinstance(value, bool):
        return _toml(value, False)
    if isinstance(value, (list, tuple)):
        return _toml([str(each) for each in value], True)
    return _toml([str(value)], False)


def _quoted(text: str) -> str:
    # TOML strings equal JSON strings, except for one character.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
