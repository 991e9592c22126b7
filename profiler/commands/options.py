"""The filter options of the command line, the same for every command that takes them.

What is not given is left out of the parsed options, so that an option before a command
is not overwritten by the command's default.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from profiler.exchanges import filters
from profiler.exchanges.filters import Filters

EXAMPLES = """\
filters:
  --cgroup /system.slice/shop.service --role client       what a service asks of others
  --user www-data --status 5xx                            what fails, request and response
  --host 'shop.example' --path '/api/*' --method POST     what is written
  --address 10.0.0.0/8 --min-latency 250ms --count 20     twenty messages that were slow
  --header authorization --header 'cookie=*session=*'     who shows a credential
"""


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the filter options; :func:`filters_of` reads them."""
    _add_of_messages(parser)
    _add_of_exchanges(parser)


def add_limits(parser: argparse.ArgumentParser, *, live: bool) -> None:
    """Add the options that end a capture by itself; ``--duration`` to a ``live`` one."""
    group = parser.add_argument_group("when to end")
    group.add_argument(
        "--count",
        type=_type(filters.count),
        default=argparse.SUPPRESS,
        metavar="N",
        help="after N messages (lines) were written",
    )
    if live:
        group.add_argument(
            "--duration",
            type=_type(filters.duration),
            default=argparse.SUPPRESS,
            metavar="TIME",
            help="after this time, such as 30s, 5m or 1h",
        )


def _add_of_messages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "which processes and connections",
        "Any option here and below may be repeated: one of its values has to fit. All options\n"
        "that are given have to. A GLOB of *, ? and [...] stands for the whole of a text.",
    )
    _add(group, "pid", filters.positive, "N", "what this process sends and receives")
    _add(group, "comm", filters.comm, "NAME", "threads of this name (the field `comm`)")
    _add(group, "cmdline", filters.glob, "GLOB", "processes with such arguments")
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
    _add_choice(group, "direction", filters.DIRECTIONS, "messages that a process sent, or received")
    _add_choice(group, "role", filters.ROLES, "messages as clients, or servers, saw them")


def _add_of_exchanges(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "which exchanges",
        "Of one that fits, request and responses are shown, of any other nothing.",
    )
    _add(group, "method", filters.method, "METHOD", "of the request")
    _add(group, "host", filters.host, "GLOB", "Host or :authority, with or without its port")
    _add(group, "path", filters.glob, "GLOB", "path of the request, without ?query")
    _add(group, "status", filters.status, "STATUS", "of a response: 404, 5xx, 400-499")
    _add(
        group,
        "header",
        filters.header,
        "NAME[=GLOB]",
        "a header or trailer of request or response",
    )
    group.add_argument(
        "--min-latency",
        type=_type(lambda text: filters.duration(text) * 1000),
        default=argparse.SUPPRESS,
        metavar="TIME",
        help="at least this long from request to response: 100ms, 2s",
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


def _add_choice(
    group: argparse._ActionsContainer, name: str, choices: tuple[str, ...], help_: str
) -> None:
    group.add_argument(
        f"--{name}", choices=choices, action="append", default=argparse.SUPPRESS, help=help_
    )


def _type(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Have argparse say what is wrong with a value, as ``read`` puts it."""

    def typed(text: str) -> Any:
        try:
            return read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed
