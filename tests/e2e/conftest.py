"""A guest for each worker, and the traffic script in it.

Tests of one guest form one xdist group: with ``--dist loadgroup`` they run in
one worker, which boots that guest once.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from provisioning import Guest, GuestSpec, ProvisioningError, Running, build, machine
from provisioning.catalog import find_guest
from provisioning.errors import ArchiveUnreachable
from tests.conftest import DEFAULT_GUESTS

TRAFFIC = "/tmp/traffic.py"
ROUTES = ("socket", "syscall")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--guest")
    if "guest" in metafunc.fixturenames:
        _parametrize(metafunc, "guest", named or DEFAULT_GUESTS)
    elif "system" in metafunc.fixturenames:
        # It takes a minute and boots nothing: without a choice, one guest stands for all.
        _parametrize(metafunc, "system", named or DEFAULT_GUESTS[:1])


def _parametrize(metafunc: pytest.Metafunc, fixture: str, names: Sequence[str]) -> None:
    guests = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
    metafunc.parametrize(fixture, guests, indirect=True, scope="session")


def pytest_exception_interact(
    call: pytest.CallInfo[Any], report: pytest.CollectReport | pytest.TestReport
) -> None:
    """Show the console when it was the machine that failed, not the test."""
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, ProvisioningError) and error.details:
        report.sections.append(("console of the machine", error.details))


def _build(name: str) -> None:
    try:
        build(name)
    except ArchiveUnreachable as error:
        # Nothing is said about the product, good or bad.
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest) -> GuestSpec:
    """A guest that is built, not booted."""
    _build(request.param)
    return find_guest(request.param)


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest that is up, with the traffic script in it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", f"pid{os.getpid()}")
    _build(request.param)
    with machine(request.param, instance=f"{request.param}@{worker}") as booted:
        booted.push(Path(__file__).with_name("traffic.py"), TRAFFIC)
        yield booted


@pytest.fixture
def token() -> str:
    """A word that no other test uses, to tell one's own traffic by."""
    return uuid.uuid4().hex[:12]


def traffic(guest: Guest, scenario: str, *arguments: object) -> dict[str, Any]:
    """Run a scenario of traffic.py in the guest to its end; return the facts it printed."""
    command = ["python3", TRAFFIC, scenario, *map(str, arguments)]
    return json.loads(guest.exec(command, timeout=120).stdout)


@contextmanager
def background(
    guest: Guest, scenario: str, *arguments: object, **streams: Any
) -> Iterator[tuple[Running, dict[str, Any]]]:
    """Start a scenario that goes on; yield it and the facts that it prints first."""
    command = ["python3", TRAFFIC, scenario, *map(str, arguments)]
    with guest.popen(command, stderr=None, **streams) as running:
        yield running, json.loads(running.stdout.readline())
