# SPDX-License-Identifier: Apache-2.0
"""What runs without a command: a capture on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path

from profiler.commands.options import (
    DEFAULTS,
    EXAMPLES,
    add_filters,
    add_limits,
    add_output,
    add_probe,
    settings_of,
    size,
)
from profiler.ingest.settings import BUFFERS, TYPES

_EPILOG = """\
examples:
  sudo http-profiler --port 8080
  sudo http-profiler top
  sudo http-profiler --port 8080 --output http.jsonl
  sudo http-profiler --pid "$(pidof -s nginx)" | jq 'select(.status_code >= 500)'
  sudo http-profiler --record night.capture --output night.jsonl
  http-profiler replay night.capture
  http-profiler report http.jsonl --output report.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.description = (
        "Shows every HTTP request and response that any process on this machine "
        "sends or receives: one line per exchange on a terminal, JSON lines otherwise."
    )
    parser.epilog = _EPILOG + "\n" + EXAMPLES
    add_output(parser, DEFAULTS)
    add_filters(parser)
    add_limits(parser, live=True)
    how = parser.add_argument_group("probe and recording")
    add_probe(how, DEFAULTS.engine)
    how.add_argument(
        "--record",
        type=Path,
        metavar="PATH",
        help="also record the raw wire data to PATH, for `http-profiler replay`",
    )
    how.add_argument(
        "--ring-size",
        dest="ring_bytes",
        type=_ring_size,
        default=DEFAULTS.ring_bytes,
        metavar="BYTES",
        help="size of the buffer between kernel and profiler, a power of two, at least 65536; what "
        "does not fit is lost and reported (default: %(default)s)",
    )
    how.add_argument(
        "--buffer",
        choices=BUFFERS,
        help="buffer between kernel and profiler: the ring buffer, or the perf buffer for kernels "
        "before 5.8 (default: ring where the kernel has it)",
    )
    how.add_argument(
        "--types",
        choices=TYPES,
        help="source of the kernel's structure layouts: its BTF, or its headers, which "
        "compile slowly and support the syscall route only (default: btf if the kernel has it)",
    )
    how.add_argument(
        "--stats",
        type=Path,
        metavar="PATH",
        help="append the account to PATH as JSON lines, at an interval and at the end "
        "(SIGUSR1 prints it)",
    )
    how.add_argument(
        "--stats-interval",
        dest="stats_seconds",
        type=_positive_seconds,
        default=DEFAULTS.stats_seconds,
        metavar="SECONDS",
        help="interval of --stats (default: %(default)g)",
    )


def run(options: argparse.Namespace) -> int:
    """Capture until a signal or a limit ends it. Raises ProfilerError."""
    from profiler.ingest.session import capture

    capture(settings_of(options))
    return 0


def _ring_size(text: str) -> int:
    value = size(text)
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
