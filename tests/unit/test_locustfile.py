# SPDX-License-Identifier: Apache-2.0
"""The end of the load test, without Locust: nested calls simulate users."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from provisioning.host import REPOSITORY


class HttpUser:
    """The part of Locust's class in use; ``waiting`` runs while a user waits for a response."""

    def __init__(self, events: list[str], waiting: Callable[[str], None]) -> None:
        runner = SimpleNamespace(quit=lambda: events.append("quit"))
        self.environment = SimpleNamespace(runner=runner)
        self.client = SimpleNamespace(get=self._get)
        self._events = events
        self._waiting = waiting

    def _get(self, path: str, headers: dict[str, str]) -> None:
        self._events.append(f"asks {path}")
        self._waiting(path)
        self._events.append(f"has {path}")

    def stop(self) -> None:
        self._events.append("stop")


@pytest.fixture
def load_test(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Any]:
    """Load the file with this many requests."""
    events = SimpleNamespace(quitting=SimpleNamespace(add_listener=lambda function: function))
    for name, contents in {
        "gevent": {"spawn": lambda function: function()},
        "locust": {
            "HttpUser": HttpUser,
            "constant": lambda seconds: seconds,
            "events": events,
            "task": lambda function: function,
        },
        "locust.env": {"Environment": object},
    }.items():
        module = ModuleType(name)
        vars(module).update(contents)
        monkeypatch.setitem(sys.modules, name, module)

    def load(total: int) -> Any:
        monkeypatch.setenv("TOTAL_REQUESTS", str(total))
        path = REPOSITORY / "loadtest" / "locustfile.py"
        spec = importlib.util.spec_from_file_location("locustfile", path)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


def test_a_user_that_finds_all_sent_leaves_the_other_its_answer(load_test: Any) -> None:
    events: list[str] = []
    module = load_test(2)
    other = module.DemoUser(events, lambda path: None)

    def while_the_first_waits(path: str) -> None:
        other.next_request()
        other.next_request()

    module.DemoUser(events, while_the_first_waits).next_request()
    assert events == ["asks /", "asks /healthz", "has /healthz", "stop", "has /", "quit"]


def test_a_request_that_fails_is_over_too(load_test: Any) -> None:
    events: list[str] = []

    def fails(path: str) -> None:
        raise ValueError

    user = load_test(1).DemoUser(events, fails)
    with pytest.raises(ValueError):
        user.next_request()
    assert events == ["asks /", "quit"]


def test_zero_never_ends(load_test: Any) -> None:
    events: list[str] = []
    user = load_test(0).DemoUser(events, lambda path: None)
    for _ in range(2):
        user.next_request()
    assert events == ["asks /", "has /", "asks /healthz", "has /healthz"]
