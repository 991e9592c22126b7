# SPDX-License-Identifier: Apache-2.0
"""The errors a user can cause. Each text states what happened, to what, and what to do.

The command line prints a :class:`ProfilerError` as one line without a traceback, and exits with its
``exit_code``.
"""

from __future__ import annotations

# Exit codes of commands that finished.
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
    """A configuration file or an environment variable is wrong."""

    exit_code = 2


class CaptureFileError(ProfilerError):
    """A capture file or recording has another format or version, or is cut off."""


class OutputError(ProfilerError):
    """The output cannot be opened or written."""


class OutputClosed(OutputError):
    """The reader closed the output, because it needs no more."""

    exit_code = 0


class UnsafeFile(OutputError):
    """An output must not be written to this file. The text gives the reason and advice."""


class ProbeError(ProfilerError):
    """The kernel probe cannot be loaded on this machine."""


class CommandError(ProfilerError):
    """The command of `run` cannot be started. The exit code is what a shell would return."""

    exit_code = 126

    def __init__(self, message: str, exit_code: int = exit_code) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class UnsupportedError(ProbeError):
    """This machine lacks a required feature.

    ``since`` is the first kernel version that has it, such as ``(5, 8)``, if the kernel lacks it;
    the text then names that version.
    """

    def __init__(self, message: str, since: tuple[int, int] | None = None) -> None:
        if since:
            message += f" (needs Linux {since[0]}.{since[1]} or newer)"
        super().__init__(message)
        self.since = since
