# SPDX-License-Identifier: Apache-2.0
"""``http-profiler probe``: prints the program that would be loaded."""

from __future__ import annotations

import argparse

from profiler.commands.options import add_probe, settings_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = "Prints the program that would be loaded into this machine's kernel."
    add_probe(parser)


def run(options: argparse.Namespace) -> int:
    """Print the program. Raises ProfilerError."""
    from profiler.ingest.probe import program_text

    print(program_text(settings_of(options)), end="")
    return 0
