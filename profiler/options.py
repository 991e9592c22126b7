"""The filter options of the command line, the same for every command that takes them.

What is not given is left out of the parsed options, so that an option before a command
is not overwritten by the command's default.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from profiler import filters
from profiler.filters import Filters


def add_call_filters(parser: argparse.ArgumentParser) -> None:
    """Add the options that say whose calls, and between which ends."""
    group = parser.add_argument_group(
        "which processes and connections",
        "Each may be repeated: any of its values will do. All options have to be satisfied.",
    )
    _add(group, "pid", filters.positive, "N", "what this process sends and receives")
    _add(group, "comm", filters.comm, "NAME", "threads of this name, the field `comm`")
    _add(group, "user", filters.user, "NAME", "processes of this user, a name or a number")
    _add(
        group,
        "cgroup",
        filters.cgroup,
        "PATH",
        "processes in this control group or below it, such as /system.slice/nginx.service, "
        "with or without /sys/fs/cgroup",
    )
    _add(group, "port", filters.port, "N", "connections with this port at either end")
    _add(
        group,
        "address",
        filters.address,
        "CIDR",
        "connections with such an address at either end: 10.0.0.0/8, ::1",
    )


def filters_of(options: argparse.Namespace) -> Filters:
    """Return what the options say."""
    given: dict[str, Any] = {}
    for field in fields(Filters):
        value = getattr(options, field.name, None)
        if value is not None:
            given[field.name] = tuple(value) if isinstance(value, list) else value
    return Filters(**given)


def _add(
    group: argparse._ActionsContainer,
    name: str,
    read: Callable[[str], Any],
    metavar: str,
    help_: str,
) -> None:
    group.add_argument(
        f"--{name}",
        type=_type(read),
        action="append",
        default=argparse.SUPPRESS,
        metavar=metavar,
        help=help_,
    )


def _type(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse say what is wrong with a value, as ``read`` puts it."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed
