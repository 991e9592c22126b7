# SPDX-License-Identifier: Apache-2.0
"""Reads options from TOML files and environment variables.

An unknown name is an error, which suggests the closest option.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from profiler.commands.configuration.keys import PREFIX, Key, Keys, Value
from profiler.commands.parser import advice
from profiler.errors import ConfigurationError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SYSTEM_FILE = Path("/etc/http-profiler.toml")

FILE_VARIABLE = PREFIX + "CONFIG"

# The harness uses CACHE for its image cache, on the same machine. FASTPATH is not an option
# (ingest/fastpath.py).
_NOT_OURS = (FILE_VARIABLE, PREFIX + "CACHE", PREFIX + "FASTPATH")
# Older than the others, and used by other programs too.
_OLD_NAMES = {"OUTPUT_PATH": PREFIX + "OUTPUT"}

_SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True)
class Written:
    """A value and its source: a file's path, or ``$NAME``."""

    key: Key
    value: Value
    source: str

    def apply(self, options: argparse.Namespace) -> None:
        """Set it in ``options``. Raises ConfigurationError if the option refuses the value."""
        try:
            self.key.apply(self.value, options)
        except (argparse.ArgumentError, argparse.ArgumentTypeError) as error:
            reason = error.message if isinstance(error, argparse.ArgumentError) else error
            raise ConfigurationError(f"{self.source}: {self.key.name}: {reason}") from None


def read(keys: Keys, file: Path | None, environment: Mapping[str, str]) -> tuple[Written, ...]:
    """Return the values in effect; those of a single command come last.

    ``file`` is the one given by ``--config``. Raises ConfigurationError.
    """
    written: dict[tuple[str, str], Written] = {}
    for one in _all(keys, file, environment):
        written[one.key.command, one.key.name] = one
    return tuple(sorted(written.values(), key=lambda one: one.key.command != ""))


def is_option(variable: str) -> bool:
    """Whether an environment variable of this name is read."""
    return variable in _OLD_NAMES or (variable.startswith(PREFIX) and variable not in _NOT_OURS)


def _all(keys: Keys, file: Path | None, environment: Mapping[str, str]) -> Iterator[Written]:
    """Yield all values; later ones override earlier ones."""
    if file is None and environment.get(FILE_VARIABLE):
        file = Path(environment[FILE_VARIABLE])
    home = environment.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    for each in (file,) if file else (SYSTEM_FILE, Path(home, SYSTEM_FILE.name)):
        yield from _in_file(each, keys, may_be_missing=file is None)
    yield from _in_environment(keys, environment)


def _in_file(file: Path, keys: Keys, may_be_missing: bool) -> Iterator[Written]:
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except OSError as error:
        if may_be_missing and isinstance(error, (FileNotFoundError, NotADirectoryError)):
            return
        reason = f"{error.strerror}; correct its permissions, or choose another --config"
        raise ConfigurationError(f"cannot read {file}: {reason}") from error
    except ValueError as error:
        raise ConfigurationError(f"{file} is not TOML: {error}") from error
    for name, value in document.items():
        if name in keys and isinstance(value, dict):
            for below, inner in value.items():
                key = _known(below, keys[name], f"{file}, [{name}]")
                yield Written(key, _of_toml(key, inner, f"{file}, [{name}]"), str(file))
        else:
            key = _known(name, keys[""], str(file), commands=keys)
            yield Written(key, _of_toml(key, value, str(file)), str(file))


def _in_environment(keys: Keys, environment: Mapping[str, str]) -> Iterator[Written]:
    known = {key.variable: key for table in keys.values() for key in table.values()}
    for old, new in _OLD_NAMES.items():
        if environment.get(old):
            yield Written(known[new], [environment[old]], f"${old}")
    for name, text in environment.items():
        if text and name not in _OLD_NAMES and is_option(name):
            key = _known(name, known, "the environment")
            yield Written(key, _of_text(key, text), f"${name}")


def _of_toml(key: Key, value: object, where: str) -> Value:
    if key.is_switch:
        if isinstance(value, bool):
            return value
        raise ConfigurationError(f"{where}: {key.name}: must be true or false, not {value!r}")
    values = value if isinstance(value, list) and key.is_repeatable else [value]
    for each in values:
        if isinstance(each, bool) or not isinstance(each, (str, int, float)):
            wanted = (
                "a string, a number or a list," if key.is_repeatable else "a string or a number,"
            )
            raise ConfigurationError(f"{where}: {key.name}: must be {wanted} not {each!r}")
    return [str(each) for each in values]


# A condition keeps its spaces and quotes, so a variable holds only one.
_CONDITIONS = ("CONDITION", "EXPECTATION")


def _of_text(key: Key, text: str) -> Value:
    if key.is_switch:
        if text.lower() in _SWITCH:
            return _SWITCH[text.lower()]
        raise ConfigurationError(f"${key.variable}: must be true or false, not {text!r}")
    if not key.is_repeatable or key.action.metavar in _CONDITIONS:
        return [text]
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigurationError(f"${key.variable}: {error} in {text!r}") from error


def _known(name: str, known: Mapping[str, Key], where: str, commands: Iterable[str] = ()) -> Key:
    if name in known:
        return known[name]
    tables = {f"[{command}]" for command in commands if command}
    found = advice(name, [*known, *tables], "`http-profiler config` lists all")
    raise ConfigurationError(f"{where}: unknown name {name!r}; {found}")
