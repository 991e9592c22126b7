"""Arguments become Settings; errors become one line and an exit code.

Exit codes: 0 done; 1 it could not be done, with the reason on standard error;
2 the arguments are wrong, or what is written down in their place; 3 done, but of the
capture that was read some lines are damaged; 4 an assertion does not hold.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from profiler import __version__
from profiler.commands import add_commands, add_redact
from profiler.commands.attend import add_attend, attend
from profiler.commands.check import add_check
from profiler.commands.configuration import add_configuration, configured
from profiler.commands.options import EXAMPLES, add_filters, add_limits, filters_of
from profiler.commands.run.options import add_run
from profiler.errors import DAMAGED, ProfilerError
from profiler.ingest.probe import program_text
from profiler.ingest.session import capture, replay
from profiler.ingest.settings import (
    BUFFERS,
    CONNECTION_MEMORY,
    ENGINES,
    FORMATS,
    ROUTES,
    TYPES,
    Settings,
)

_DEFAULTS = Settings()

_EPILOG = """\
examples:
  sudo http-profiler --port 8080
  sudo http-profiler top
  sudo http-profiler --port 8080 --output http.jsonl
  sudo http-profiler --pid $(pidof -s nginx) | jq 'select(.status_code >= 500)'
  sudo http-profiler --record night.capture --output night.jsonl
  http-profiler replay night.capture
  http-profiler report http.jsonl --output report.html
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    return _exit_code(lambda: _main(arguments))


def _main(arguments: Sequence[str] | None) -> int:
    typed, command = _apart(sys.argv[1:] if arguments is None else arguments)
    options = configured(_parser, typed)
    options.argv = command
    if "run" in options:
        return int(options.run(options))
    return _run(options)


def _run(options: argparse.Namespace) -> int:
    # What a capture does not need is imported where it is asked for.
    settings = Settings(
        output=_output(getattr(options, "output", None)),
        format=getattr(options, "format", None),
        redact=getattr(options, "redact", None),
        filters=filters_of(options),
        duration=getattr(options, "duration", None),
        count=getattr(options, "count", None),
        max_body=options.max_body,
        max_memory=options.max_memory,
        max_connection_memory=options.max_connection_memory,
        route=getattr(options, "route", None),
        engine=options.engine,
        record=getattr(options, "record", None),
        ring_bytes=getattr(options, "ring_size", _DEFAULTS.ring_bytes),
        buffer=getattr(options, "buffer", None),
        types=getattr(options, "types", None),
        stats=getattr(options, "stats", None),
        stats_seconds=getattr(options, "stats_interval", _DEFAULTS.stats_seconds),
    )
    if options.command == "replay":
        replay(options.capture, settings)
    elif options.command == "top":
        return _top(options, settings)
    elif options.command == "doctor":
        from profiler.commands.doctor.examine import examine

        return examine(settings.route, settings.engine, options.json)
    elif options.command == "run":
        from profiler.commands.run.trace import run

        return run(options, settings)
    elif options.command == "attend":
        return attend(settings)
    elif options.command == "probe":
        print(program_text(settings), end="")
    else:
        capture(settings)
    return 0


def _top(options: argparse.Namespace, settings: Settings) -> int:
    # Needs a terminal, and what belongs to one.
    from profiler.commands.top.command import live, recorded

    if options.source is not None:
        return DAMAGED if recorded(options.source, settings) else 0
    live(settings)
    return 0


def _apart(arguments: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """The profiler's own arguments, and those of the command that `run` is given behind `--`."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if "run" in arguments[:end]:
        return arguments[:end], arguments[end + 1 :]
    return arguments, ()


def _exit_code(run: Callable[[], int]) -> int:
    try:
        code = run()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Who read it has gone. Python would try to write the rest at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ProfilerError as error:
        if error.exit_code:
            print(f"http-profiler: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


def _output(option: Path | None) -> Path | None:
    """``-`` is standard output."""
    return None if option == Path("-") else option


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="http-profiler",
        description="Shows every HTTP request and response that any process on this machine "
        "sends or receives: a line for each exchange on a terminal, else JSON lines.",
        epilog=_EPILOG + "\n" + EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"http-profiler {__version__}")
    _add_output_options(parser, _DEFAULTS)
    add_filters(parser)
    add_limits(parser, live=True)
    how = parser.add_argument_group("how")
    _add_probe_options(how, _DEFAULTS.engine)
    how.add_argument(
        "--record",
        type=Path,
        metavar="PATH",
        help="also write the raw capture to PATH, for `http-profiler replay`",
    )
    how.add_argument(
        "--ring-size",
        type=_ring_size,
        default=_DEFAULTS.ring_bytes,
        metavar="BYTES",
        help="size of the buffer between kernel and profiler, a power of two from 65536 on: "
        "what it cannot hold in a burst is lost, and said (default: %(default)s)",
    )
    how.add_argument(
        "--buffer",
        choices=BUFFERS,
        help="what carries the records: the ring buffer, or the perf buffer of kernels before 5.8 "
        "(default: the ring buffer where there is one)",
    )
    how.add_argument(
        "--types",
        choices=TYPES,
        help="where the kernel's structures are described: its BTF, or its headers, which serve "
        "the syscall route only and take the compiler long (default: BTF if the kernel has it)",
    )
    how.add_argument(
        "--stats",
        type=Path,
        metavar="PATH",
        help="append the counts to PATH as JSON lines, at an interval and at the end "
        "(SIGUSR1 prints them)",
    )
    how.add_argument(
        "--stats-interval",
        type=_positive_seconds,
        default=_DEFAULTS.stats_seconds,
        metavar="SECONDS",
        help="that interval (default: %(default)g)",
    )
    commands = parser.add_subparsers(dest="command", metavar="command")
    replayed = commands.add_parser(
        "replay",
        help="run a recorded capture through the same pipeline, without a kernel",
        description="Writes the JSON lines of a capture that --record wrote.",
    )
    replayed.add_argument("capture", type=Path, metavar="CAPTURE")
    add_filters(replayed)
    add_limits(replayed, live=False)
    shown = commands.add_parser(
        "probe",
        help="print the program that would be loaded; needs no root",
        description="Prints the program that would be loaded into this machine's kernel.",
    )
    # Left out unless given, so that an option before the command is not overwritten.
    _add_probe_options(shown, argparse.SUPPRESS)
    _add_output_options(replayed, None)
    _add_doctor(
        commands.add_parser(
            "doctor",
            help="say what this machine has, and try what is captured on it",
            description="Prints the facts of this machine that matter to the profiler. Then sends "
            "known HTTP messages over every path and kind of socket, captures them, and says which "
            "were captured, partial or missed, and why. Exit code 1 if anything is worse than this "
            "kernel should give.",
        )
    )
    _add_top(
        commands.add_parser(
            "top",
            help="show endpoints, processes and connections live, on the whole screen",
            description="Shows what is captured, live: rates, errors and latencies by endpoint, "
            "process or connection, down to one exchange with its headers and body.",
            epilog="examples:\n  sudo http-profiler top --port 8080\n"
            "  ssh shop.example sudo http-profiler | http-profiler top --from -",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    add_commands(commands)
    add_check(commands)
    traced = add_run(commands)
    _add_output_options(traced, None)
    add_filters(traced)
    _add_probe_options(traced, argparse.SUPPRESS)
    add_attend(commands)
    add_configuration(parser, commands)
    return parser


def _add_doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--route", choices=ROUTES, default=argparse.SUPPRESS, help="try only this one"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=argparse.SUPPRESS,
        help=f"try this engine (default: {_DEFAULTS.engine})",
    )


def _add_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="CAPTURE",
        help="show a file of JSON lines, `-` is standard input, instead of capturing",
    )
    add_redact(parser, argparse.SUPPRESS, "here")
    add_filters(parser)
    add_limits(parser, live=True)
    _add_probe_options(parser, argparse.SUPPRESS)


def _add_output_options(parser: argparse.ArgumentParser, defaults: Settings | None) -> None:
    """Without ``defaults`` what is not given is left out."""

    def default(name: str) -> object:
        return getattr(defaults, name) if defaults else argparse.SUPPRESS

    group = parser.add_argument_group("output")
    group.add_argument(
        "--output",
        type=Path,
        default=argparse.SUPPRESS,
        metavar="PATH",
        help="append lines to PATH, created with mode 0600; `-` is standard output "
        "(default: $OUTPUT_PATH, else standard output)",
    )
    group.add_argument(
        "--format",
        choices=FORMATS,
        default=argparse.SUPPRESS,
        help="a line for each exchange, for people, or a line of JSON for each message "
        "(default: pretty on a terminal, else jsonl)",
    )
    add_redact(group, argparse.SUPPRESS, "where lines are pretty")
    group.add_argument(
        "--max-body",
        type=_size,
        default=default("max_body"),
        metavar="BYTES",
        help="bytes of each body that are kept; of longer ones the rest is counted and the "
        f"message says body_limit (default: {_DEFAULTS.max_body})",
    )
    group.add_argument(
        "--max-memory",
        type=_size,
        default=default("max_memory"),
        metavar="BYTES",
        help="memory that all open connections together may hold: beyond it the one that has been "
        "idle for longest is given up, counted, and its open messages say memory_limit "
        f"(default: {_DEFAULTS.max_memory})",
    )
    group.add_argument(
        "--max-connection-memory",
        type=_size,
        default=default("max_connection_memory"),
        metavar="BYTES",
        help="the same for one connection "
        f"(default: {CONNECTION_MEMORY} and four times --max-body)",
    )


def _add_probe_options(group: argparse._ActionsContainer, engine: str) -> None:
    group.add_argument(
        "--engine",
        choices=ENGINES,
        default=engine,
        help="what loads the probe: BCC, or bpftrace, which copies less of each message "
        f"(default: {_DEFAULTS.engine})",
    )
    group.add_argument(
        "--route",
        choices=ROUTES,
        default=argparse.SUPPRESS,
        help="where to hook: the kernel's TCP functions or the system calls' tracepoints, "
        "bpftrace's only way (default: the first that this kernel and engine offer)",
    )


def _size(text: str) -> int:
    value = int(text) if text.isascii() and text.isdigit() else -1
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of bytes")
    return value


def _ring_size(text: str) -> int:
    value = _size(text)
    if value & (value - 1) or not 64 * 1024 <= value <= 1024**3:
        raise argparse.ArgumentTypeError(f"{text!r} is not a power of two from 65536 to 1073741824")
    return value


def _positive_seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0.1 to 86400)")
    return value


if __name__ == "__main__":
    sys.exit(main())
