# SPDX-License-Identifier: Apache-2.0
"""The options that several commands share, and the settings that they become.

An option that is not given is absent from the parsed options. So the default of a command does not
overwrite an option that stands before the command.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from profiler.errors import ProfilerError, UsageError
from profiler.exchanges import values
from profiler.exchanges.conditions import OPTIONS, Conditions, conditions
from profiler.ingest.settings import CONNECTION_MEMORY, ENGINES, FORMATS, ROUTES, Settings

if TYPE_CHECKING:
    from profiler.exchanges.query import Condition

STDOUT = Path("-")
DEFAULTS = Settings()

EXAMPLES = """\
filters:
  --cgroup /system.slice/shop.service --role client       requests that a service makes
  --user www-data --status 5xx                            failed exchanges of a user
  --host 'shop.example' --path '/api/*' --method POST     writes to an API
  --address 10.0.0.0/8 --min-latency 250ms --count 20     twenty messages of slow exchanges
  --header authorization --header 'cookie=*session=*'     exchanges with credentials
"""


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Add the filter options; :func:`conditions_of` reads them."""
    _add_of_messages(parser)
    _add_of_exchanges(parser)


def add_limits(parser: argparse.ArgumentParser, *, live: bool) -> None:
    """Add the options that end a capture by itself; ``--duration`` to a ``live`` one."""
    group = parser.add_argument_group("when to stop")
    group.add_argument(
        "--count",
        type=typed(values.count),
        default=argparse.SUPPRESS,
        metavar="N",
        help="end after N messages (lines) were written",
    )
    if live:
        group.add_argument(
            "--duration",
            type=typed(values.duration),
            default=argparse.SUPPRESS,
            metavar="TIME",
            help="end after this time, such as 30s, 5m or 1h",
        )


def settings_of(options: argparse.Namespace) -> Settings:
    """Return the settings that the options give; an option's ``dest`` is the setting's name."""
    given = {
        field.name: getattr(options, field.name)
        for field in fields(Settings)
        if field.name in options
    }
    if given.get("output") == STDOUT:
        del given["output"]
    given["where"] = conditions_of(options)
    if (given.get("tls") or given.get("tls_keys")) and given.get("redact") is None:
        # It shows what was meant to be secret.
        given["redact"] = True
    return Settings(**given)


SAMPLE = Path(__file__).parents[1] / "sample.jsonl.gz"


def add_captures(parser: argparse.ArgumentParser) -> None:
    """Add the operand of the commands that read capture files, and ``--sample``."""
    parser.add_argument(
        "captures",
        type=Path,
        nargs="*",
        metavar="CAPTURE",
        help="capture file: JSON lines, plain or compressed (gzip, zstd); `-` is standard input",
    )
    add_sample(parser)


def add_sample(parser: argparse._ActionsContainer) -> None:
    """Add ``--sample``, in place of a capture file."""
    parser.add_argument(
        "--sample",
        action="store_true",
        help="read the capture that comes with http-profiler: a minute of a small shop",
    )


def captures_of(options: argparse.Namespace) -> list[Path]:
    """Return the capture files to read. Raises UsageError without any."""
    captures: list[Path] = options.captures
    if options.sample and captures:
        raise UsageError(f"either --sample or a capture file ({captures[0]}), not both")
    if not options.sample and not captures:
        raise UsageError("no capture file: name one, or try --sample")
    return [SAMPLE] if options.sample else captures


def add_target(parser: argparse.ArgumentParser) -> None:
    """Add ``--output`` for the commands that write one file."""
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=STDOUT,
        metavar="PATH",
        help="write to PATH, created with mode 0600 (default: standard output)",
    )


def add_redact(
    parser: argparse._ActionsContainer, default: bool | str | None, where: str = ""
) -> None:
    """Add ``--redact`` and ``--no-redact``; ``where`` is when ``--redact`` is the default."""
    for name, value in (("--redact", True), ("--no-redact", False)):
        verb = "replace" if value else "show"
        is_default = value is default or bool(where and value)
        parser.add_argument(
            name,
            dest="redact",
            action="store_const",
            const=value,
            default=default,
            help=f"{verb} credentials, cookies and token parameters"
            + (" with placeholders; equal values get equal placeholders" if value else "")
            + (f" (default{where and ' ' + where})" if is_default else ""),
        )


def add_output(
    parser: argparse.ArgumentParser, defaults: Settings | None = None, *, live: bool = True
) -> None:
    """Add the output options, to a ``live`` capture those that need one.

    Without ``defaults``, an option that is not given is absent.
    """

    def default(name: str) -> object:
        return getattr(defaults, name) if defaults else argparse.SUPPRESS

    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="append lines to PATH, created with mode 0600; `-` is standard output "
        "(default: $OUTPUT_PATH if set, else standard output)",
    )
    group.add_argument(
        "--output-max-size",
        type=size,
        default=default("output_max_size"),
        metavar="BYTES",
        help="before the output file exceeds this size, rename it to PATH.1, PATH.1 to PATH.2 and "
        "so on, and begin a new one; 0 is no limit; standard output, pipes and devices have none "
        f"(default: {DEFAULTS.output_max_size})",
    )
    group.add_argument(
        "--output-files",
        type=typed(values.count),
        default=default("output_files"),
        metavar="N",
        help="keep this many renamed files; the oldest is overwritten "
        f"(default: {DEFAULTS.output_files})",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default=argparse.SUPPRESS,
        help="pretty: one line for each exchange, for people; jsonl: one JSON line for each "
        "message (default: pretty if lines go to a terminal, else jsonl)",
    )
    add_redact(group, argparse.SUPPRESS, "for pretty lines")
    group.add_argument(
        "--otlp",
        default=argparse.SUPPRESS,
        metavar="URL",
        help="also export spans and metrics to an OpenTelemetry Collector, by OTLP over HTTP, such "
        "as http://localhost:4318; `env`: to $OTEL_EXPORTER_OTLP_ENDPOINT; secrets are redacted "
        "unless --no-redact is given",
    )
    group.add_argument(
        "--otlp-queue",
        type=size,
        default=default("otlp_queue"),
        metavar="BYTES",
        help="spans that may wait for the Collector; beyond it they are dropped and counted "
        f"(default: {DEFAULTS.otlp_queue})",
    )
    if live:
        group.add_argument(
            "--prometheus",
            default=argparse.SUPPRESS,
            metavar="ADDR",
            help="also serve metrics to Prometheus at HOST:PORT, or at PORT of the loopback "
            "address: GET /metrics and /healthz",
        )
    group.add_argument(
        "--max-body",
        type=size,
        default=default("max_body"),
        metavar="BYTES",
        help="keep this much of each body; the rest of a longer one is counted, and the message is "
        f"incomplete with body_limit (default: {DEFAULTS.max_body})",
    )
    group.add_argument(
        "--max-memory",
        type=size,
        default=default("max_memory"),
        metavar="BYTES",
        help="memory that all open connections together may use; beyond it, the one that was idle "
        "longest is dropped, and its open messages are incomplete with memory_limit "
        f"(default: {DEFAULTS.max_memory})",
    )
    group.add_argument(
        "--max-connection-memory",
        type=size,
        default=default("max_connection_memory"),
        metavar="BYTES",
        help="the same for one connection "
        f"(default: {CONNECTION_MEMORY} plus four times --max-body)",
    )


def add_probe(group: argparse._ActionsContainer, engine: str = argparse.SUPPRESS) -> None:
    """Add the options that select what is loaded into the kernel."""
    group.add_argument(
        "--tls",
        action="store_true",
        default=argparse.SUPPRESS,
        help="capture HTTPS too: the plain text of processes that use OpenSSL, GnuTLS or Go, read "
        "at the functions that encrypt it; secrets are redacted unless --no-redact is given",
    )
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default=engine,
        help="what loads the probe: BCC, or bpftrace, which captures less of each message "
        f"(default: {DEFAULTS.engine})",
    )
    group.add_argument(
        "--route",
        choices=ROUTES,
        default=argparse.SUPPRESS,
        help="where to attach: the kernel's socket functions, or the tracepoints of system calls, "
        "the only route of bpftrace (default: the first that this kernel and engine support)",
    )
    group.add_argument(
        "--unprivileged-user",
        default=argparse.SUPPRESS,
        metavar="USER",
        help="user that parses and writes what was captured, without privileges; with root, that "
        "process keeps all privileges (default: http-profiler if there is such a user, else "
        "nobody)",
    )
    group.add_argument(
        "--lossless",
        action="store_true",
        default=argparse.SUPPRESS,
        help="run before other processes while the ring buffer between kernel and profiler "
        "fills: nothing is lost for lack of processor time, but what is captured is slowed down",
    )


def size(text: str) -> int:
    """Read a number of bytes."""
    value = int(text) if text.isascii() and text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes")
    return value


def _add_of_messages(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "processes and connections",
        "A filter may be repeated: one of its values must match. Different filters must all "
        "match. A GLOB (*, ? and [...]) must match the whole text.",
    )
    _add(group, "pid", "N", "this process")
    _add(group, "comm", "NAME", "threads of this name (the field `comm`)")
    _add(group, "cmdline", "GLOB", "processes whose arguments match, joined by spaces")
    _add(group, "user", "NAME", "processes of this user, by name or number")
    _add(
        group,
        "cgroup",
        "PATH",
        "processes in this control group or below it, such as /system.slice/nginx.service, "
        "with or without /sys/fs/cgroup in front",
    )
    _add(group, "container", "GLOB", "processes in a container with this name or id")
    _add(group, "pod", "GLOB", "processes in a pod with this name")
    _add(group, "namespace", "GLOB", "processes in pods of this namespace")
    _add(group, "port", "N", "connections with this port at either end")
    _add(
        group,
        "address",
        "CIDR",
        "connections with an address in this range at either end: 10.0.0.0/8, ::1",
    )
    _add_choice(
        group, "direction", values.DIRECTIONS, "messages that a process sent, or that it received"
    )
    _add_choice(group, "role", values.ROLES, "messages as seen by clients, or by servers")


def _add_of_exchanges(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "exchanges",
        "Request and responses of an exchange are kept or dropped together.",
    )
    _add(group, "service", "GLOB", "exchanges that this service answers")
    _add(group, "method", "METHOD", "method of the request")
    _add(group, "host", "GLOB", "host that the request names, with or without its port")
    _add(group, "path", "GLOB", "path of the request, without its query")
    _add(group, "status", "STATUS", "status of a response: 404, 5xx, 400-499")
    _add(group, "header", "NAME[=GLOB]", "header or trailer of the request or a response")
    group.add_argument(
        "--min-latency",
        type=typed(OPTIONS["min_latency"].read),
        default=argparse.SUPPRESS,
        metavar="TIME",
        help="at least this long from the request to the final response: 100ms, 2s",
    )
    group.add_argument(
        "--where",
        type=typed(_where),
        action="append",
        default=argparse.SUPPRESS,
        metavar="CONDITION",
        help="a condition of the query language (docs/reference/query.md), such as 'failed and not "
        "path=/healthz' or 'latency>100ms or service=cart'; several must all hold",
    )


def conditions_of(options: argparse.Namespace) -> Conditions:
    """Return the conditions that the filter options stand for."""
    given = {name: getattr(options, name, ()) for name in OPTIONS}
    if "min_latency" in options:
        given["min_latency"] = [options.min_latency]
    return conditions([one.condition for one in getattr(options, "where", ())], **given)


def _add(
    group: argparse._ActionsContainer,
    name: str,
    metavar: str,
    help_: str,
) -> None:
    group.add_argument(
        f"--{name}",
        type=typed(OPTIONS[name].read),
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


class Where(NamedTuple):
    """A condition, and the text as typed, which ``config`` prints."""

    text: str
    condition: Condition

    def __str__(self) -> str:
        return self.text


def _where(text: str) -> Where:
    from profiler.exchanges.query import parse

    return Where(text, parse(text))


def typed(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Wrap ``read`` so that argparse reports its error message."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except (ValueError, ProfilerError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert
