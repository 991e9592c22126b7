# SPDX-License-Identifier: Apache-2.0
"""Shell completion from the argument parser: ``python -m packages.completion bash``."""

from __future__ import annotations

import argparse
from pathlib import Path

import shtab

from profiler import cli
from profiler.commands.parser import commands_of

SHELLS = ("bash", "zsh", "fish")


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script for ``shell``, one of SHELLS."""
    for each in (parser, *commands_of(parser).values()):
        for action in each._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return str(shtab.complete(parser, shell))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python -m packages.completion")
    arguments.add_argument("shell", choices=SHELLS)
    print(completion(cli.build_parser(), arguments.parse_args().shell), end="")
