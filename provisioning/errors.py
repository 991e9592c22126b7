# SPDX-License-Identifier: Apache-2.0
"""The errors of the harness, separate from the failure of a test.

A guest that dies is a fault of the harness and must never look like a fault of the
product. Every error is one line: what happened, to what, and what to do. ``details``
holds a console or a log if there is one. The command line exits with ``exit_code``:
125 for the harness, a status that a command in a guest is unlikely to return.
"""

from __future__ import annotations


class ProvisioningError(Exception):
    """Base of every error of the harness."""

    exit_code = 125

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class CatalogError(ProvisioningError):
    """guests.toml is invalid."""

    exit_code = 2


class UnknownGuest(CatalogError):
    """guests.toml has no guest of this name."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"unknown guest {name!r}: guests.toml has {', '.join(known)}")


class ToolMissing(ProvisioningError):
    """The host lacks a program that is needed."""

    def __init__(self, tool: str, remedy: str) -> None:
        super().__init__(f"{tool} is not installed: {remedy}")


class ProviderUnavailable(ProvisioningError):
    """The requested provider cannot start a machine here."""


class ArchiveUnreachable(ProvisioningError):
    """A guest cannot be built because its package archive cannot be used."""


class BuildFailed(ProvisioningError):
    """A step of a build failed; ``details`` is the end of its log."""


class GuestError(ProvisioningError):
    """A problem with a running guest: not up, busy, or a file that cannot be copied."""


class CommandTimeout(GuestError):
    """A command in a guest did not end in time."""


class MachineLost(ProvisioningError):
    """The machine itself is gone or does not answer; ``details`` is the end of its console."""


class BootFailed(MachineLost):
    """The machine never came up; ``details`` is the end of its console."""
