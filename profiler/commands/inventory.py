# SPDX-License-Identifier: Apache-2.0
"""``http-profiler inventory``: the services of a capture, their endpoints and calls."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from profiler.commands.options import add_captures, add_filters, add_redact, add_target
from profiler.errors import UsageError

if TYPE_CHECKING:
    from profiler.exchanges.inventory import Inventory

_NAMES_MAX = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Prints the services of capture files as JSON: what each is, the endpoints that it "
        "serves, the schemas of their JSON bodies, and whom it calls. Contains no value of a "
        "header, a parameter or a body."
    )
    kind = parser.add_mutually_exclusive_group()
    for name, what in (
        ("openapi", "print an OpenAPI 3.1 document of one service instead, see --service"),
        ("mermaid", "print a Mermaid flowchart of who calls whom instead"),
    ):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name, help=what)
    add_captures(parser)
    add_target(parser)
    add_filters(parser)
    add_redact(parser, default=True)


def run(options: argparse.Namespace) -> int:
    """Print the inventory; return the exit code."""
    from profiler.commands.opened import Opened, say
    from profiler.commands.progress import writing
    from profiler.exchanges.inventory import Inventory
    from profiler.exchanges.pair import Exchanges
    from profiler.outputs.file import output

    opened = Opened(options, raw=False)
    exchanges = Exchanges(opened.records())
    with output(options.output) as file:
        inventory = Inventory(writing(exchanges, options.output))
        file.write(_document(inventory, options.kind))
    left_out = ", ".join(f"{name} {n}" for name, n in inventory.left_out.items())
    if left_out:
        say(f"left out of the inventory: {left_out}")
    return opened.ended(exchanges)


def _document(inventory: Inventory, kind: str | None) -> bytes:
    import orjson

    from profiler.exchanges.text import escaped
    from profiler.outputs.inventory import inventory_json
    from profiler.outputs.mermaid import mermaid

    if kind == "mermaid":
        return "".join(mermaid(inventory)).encode()
    document = _openapi(inventory) if kind == "openapi" else inventory_json(inventory)
    return escaped(orjson.dumps(document, option=orjson.OPT_INDENT_2)) + b"\n"


def _openapi(inventory: Inventory) -> dict[str, Any]:
    from profiler.commands.opened import say
    from profiler.outputs.openapi import apis, openapi

    found = apis(inventory)
    if not found:
        raise UsageError("--openapi needs a request, but none was read; check the filters")
    if len(found) > 1:
        names = ", ".join(sorted(found)[:_NAMES_MAX]) + (", ..." if len(found) > _NAMES_MAX else "")
        raise UsageError(f"--openapi describes one service; select it with --service: {names}")
    [(name, endpoints)] = found.items()
    document, left_out = openapi(name, endpoints)
    if left_out:
        say(f"left out {left_out} endpoints that OpenAPI cannot describe")
    return document
