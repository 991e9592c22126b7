# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause: each says what happened, to what, and what to do.

The command line prints the text of a :class:`ProfilerError` as one line and
exits with its ``exit_code``; no traceback is shown for one.
"""

from __future__ import annotations

# Exit codes of commands that were done.
DAMAGED = 3
"""Some lines of the capture could not be read."""
VIOLATED = 4
"""An assertion does not hold."""


class ProfilerError(Exception):
    """Base of every error that is reported to the user as one line."""

    exit_code = 1


class UsageError(ProfilerError):
    """The arguments are wrong."""

    exit_code = 2


class ConfigurationError(ProfilerError):
    """A configuration file or an environment variable is wrong: as a wrong argument is."""

    exit_code = 2


class CaptureFileError(ProfilerError):
    """A recorded capture is not ours, is of another version, or is cut off."""


class OutputError(ProfilerError):
    """The output cannot be opened or written."""


class OutputClosed(OutputError):
    """Whoever read the output has gone: a way to say that it was enough."""

    exit_code = 0


class ProbeError(ProfilerError):
    """The kernel probe cannot be loaded on this machine."""


class UnsupportedError(ProbeError):
    """This machine lacks a feature that was asked for.

    ``since`` is the first kernel version that has it, such as ``(5, 8)``, where it is
    the kernel that lacks it; the text then names it.
    """

    def __init__(self, message: str, since: tuple[int, int] | None = None) -> None:
        if since:
            message += f" (Linux has it from {since[0]}.{since[1]} on)"
        super().__init__(message)
        self.since = since
