# SPDX-License-Identifier: Apache-2.0
"""``http-profiler inventory``: the services of a capture, their endpoints and calls."""

from __future__ import annotations

import argparse

from profiler.commands.options import add_captures, add_filters, add_redact, add_target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Prints the services of capture files as JSON: what each is, the endpoints that it "
        "serves, the schemas of their JSON bodies, and whom it calls. Contains no value of a "
        "header, a parameter or a body."
    )
    add_captures(parser)
    add_target(parser)
    add_filters(parser)
    add_redact(parser, default=True)


def run(options: argparse.Namespace) -> int:
    """Print the inventory; return the exit code."""
    import orjson

    from profiler.commands.opened import Opened, say
    from profiler.commands.progress import writing
    from profiler.exchanges.inventory import Inventory
    from profiler.exchanges.pair import Exchanges
    from profiler.exchanges.text import escaped
    from profiler.outputs.file import output
    from profiler.outputs.inventory import inventory_json

    opened = Opened(options, raw=False)
    exchanges = Exchanges(opened.records())
    with output(options.output) as file:
        inventory = Inventory(writing(exchanges, options.output))
        document = orjson.dumps(inventory_json(inventory), option=orjson.OPT_INDENT_2)
        file.write(escaped(document) + b"\n")
    left_out = ", ".join(f"{name} {n}" for name, n in inventory.left_out.items())
    if left_out:
        say(f"left out of the inventory: {left_out}")
    return opened.ended(exchanges)
