# SPDX-License-Identifier: Apache-2.0
"""``http-profiler schema``: the JSON Schema of a record."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = "Prints the JSON Schema of a record, one line of the JSON output."


def run(_options: argparse.Namespace) -> int:
    """Print the schema."""
    print(document(), end="")
    return 0


def document() -> str:
    """Return the text of ``docs/reference/record.schema.json``."""
    import json

    from profiler.schema import json_schema

    return f"{json.dumps(json_schema(), indent=2)}\n"
