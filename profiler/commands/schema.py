"""``http-profiler schema``: the JSON Schema of a record."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = "Prints the JSON Schema of a record, one line of the JSON output."


def run(_options: argparse.Namespace) -> int:
    """Print the schema."""
    import json

    from profiler.schema import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0
