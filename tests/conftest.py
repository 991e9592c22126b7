# SPDX-License-Identifier: Apache-2.0
"""Options and groups for the whole suite."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

# One kernel of each generation that the socket route distinguishes.
DEFAULT_GUESTS = ("debian-12", "debian-13")


def pytest_configure() -> None:
    """Handle signals that the parent process ignored (a shell's ``&`` ignores SIGINT).

    Child processes inherit ignored signals, and a shell cannot trap a signal that was
    ignored when it started.
    """
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            interrupted = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if interrupted else signal.SIG_DFL)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--guest",
        action="append",
        metavar="NAME",
        help="guest of the end-to-end tests, may be repeated; see `python -m provisioning list` "
        f"(default: {' and '.join(DEFAULT_GUESTS)})",
    )
    parser.addoption(
        "--doctor-to",
        type=Path,
        metavar="DIRECTORY",
        help="store the doctor's report for each guest and route in DIRECTORY (tests/matrix.py)",
    )
    parser.addoption(
        "--minutes",
        type=float,
        default=60,
        help="duration of the soak (default: %(default)g)",
    )
