# SPDX-License-Identifier: Apache-2.0
"""The fixture ``http_messages``: the HTTP messages on this machine while a test ran.

The root ``conftest.py`` enables it, so that nothing changes for users who installed the profiler
for other reasons::

    pytest_plugins = ["profiler.pytest_plugin"]

The probe is attached once per session; each test sees only its own messages.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from profiler.commands.background import Messages, capture


@pytest.fixture(scope="session")
def http_capture_options() -> dict[str, Any]:
    """Arguments of ``profiler.capture()``; override them, for example with ``{"port": 8080}``."""
    return {}


@pytest.fixture(scope="session")
def http_capture(http_capture_options: dict[str, Any]) -> Iterator[Messages]:
    """The messages of the whole session."""
    with capture(**http_capture_options) as messages:
        yield messages


@pytest.fixture
def http_messages(http_capture: Messages) -> Messages:
    """The messages since the test began."""
    return http_capture.from_now()
