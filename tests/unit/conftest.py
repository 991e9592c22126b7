# SPDX-License-Identifier: Apache-2.0
"""Hypothesis without a deadline: machines that run tests may be slow and busy.

In CI the examples are the same in every run, so that a change does not fail because of a
bug that existed before it. Everywhere else they are new in every run.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from profiler.commands.configuration import written

settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("house")


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore what this machine's files and environment set for options."""
    for name in filter(written.is_option, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.delenv(written.FILE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", "/nonexistent")
    monkeypatch.setattr(written, "SYSTEM_FILE", Path("/nonexistent/http-profiler.toml"))


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Stop the clock of :mod:`profiler.outputs.jsonl`; return a function that moves it by 0.1 s."""
    tenths = 0

    def move() -> None:
        nonlocal tenths
        tenths += 1

    monkeypatch.setattr("profiler.outputs.jsonl.monotonic", lambda: tenths * 0.101)
    return move
