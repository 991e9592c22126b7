"""The errors a user can cause: each says what happened, to what, and what to do.

The command line prints the text of a :class:`ProfilerError` as one line and
exits with its ``exit_code``; no traceback is shown for one.
"""

from __future__ import annotations


class ProfilerError(Exception):
    """Base of every error that is reported to the user as one line."""

    exit_code = 1


class CaptureFileError(ProfilerError):
    """A recorded capture is not ours, is of another version, or is cut off."""


class OutputError(ProfilerError):
    """The output cannot be opened or written."""


class ProbeError(ProfilerError):
    """The kernel probe cannot be loaded on this machine."""


class UnsupportedError(ProbeError):
    """The kernel lacks a feature that was asked for; the text names the first version with it."""
