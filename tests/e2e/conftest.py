# SPDX-License-Identifier: Apache-2.0
"""A guest for each worker, and the traffic script in it.

Tests of one guest form one xdist group: with ``--dist loadgroup`` they run in
one worker, which boots that guest once.
"""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from profiler.accounting import SKIPPED_CALLS
from provisioning import Guest, GuestSpec, ProvisioningError, Running, build, machine
from provisioning.capacity import side_by_side
from provisioning.catalog import find_guest
from provisioning.errors import ArchiveUnreachable
from provisioning.providers import DEFAULT, choose_provider, guests_up
from tests.conftest import DEFAULT_GUESTS
from tests.e2e.capture import Capture, CaptureSkipped

TRAFFIC = "/tmp/traffic.py"
ROUTES = ("socket", "syscall")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """``-n auto``: a worker for each guest, as far as processors and memory go."""
    names = config.getoption("--guest") or DEFAULT_GUESTS
    try:
        return side_by_side([find_guest(name) for name in dict.fromkeys(names)])
    except ProvisioningError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_configure(config: pytest.Config) -> None:
    """Without --guest, use the guests that Vagrant or Lima has up: query once for all workers."""
    if hasattr(config, "workerinput"):
        return
    try:
        for name in config.option.guest or ():
            find_guest(name)
        config.option.guest = config.option.guest or guests_up()
    except ProvisioningError as error:
        raise pytest.UsageError(str(error)) from None


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    named = metafunc.config.getoption("--guest")
    if "guest" in metafunc.fixturenames:
        one = metafunc.definition.get_closest_marker("one_guest")
        _parametrize(metafunc, "guest", named or (one.args if one else DEFAULT_GUESTS))
    elif "system" in metafunc.fixturenames:
        # These tests boot their own guests, if any. Without --guest one stands for all.
        _parametrize(metafunc, "system", named or DEFAULT_GUESTS[-1:])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run a failed test again if the kernel skipped the probe in its capture."""
    for item in items:
        item.add_marker(pytest.mark.flaky(reruns=3, only_rerun=[CaptureSkipped]))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call() -> Generator[None, object, object]:
    """Raise CaptureSkipped for a failure that the account of the test's own captures excuses."""
    Capture.in_use.clear()
    try:
        return (yield)
    except Exception as error:
        if any(capture.excuses() for capture in Capture.in_use):
            raise CaptureSkipped(f"{SKIPPED_CALLS} in the capture of this test") from error
        raise


# The outermost wrapper: its line comes after all other summaries, right before the last line.
@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter,
) -> Generator[None, None, None]:
    """Print which tests were run again."""
    yield
    names = {report.nodeid: None for report in terminalreporter.stats.get("rerun", ())}
    terminalreporter.write_line(run_again(list(names)))


def run_again(names: Sequence[str]) -> str:
    """Return the last line but one of a run."""
    if not names:
        return "no test was run again"
    number = "1 test was" if len(names) == 1 else f"{len(names)} tests were"
    return f"{number} run again, because {SKIPPED_CALLS} in the capture: {', '.join(names)}"


def _parametrize(metafunc: pytest.Metafunc, fixture: str, names: Sequence[str]) -> None:
    guests = [pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in names]
    metafunc.parametrize(fixture, guests, indirect=True, scope="session")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the console when it was the machine that failed, not the test.

    Here and not later: a worker sends the report away as soon as it is made.
    """
    report = yield
    error = call.excinfo.value if call.excinfo else None
    if isinstance(error, ProvisioningError) and error.details:
        report.sections.append(("console of the machine", error.details))
    return report


def _build(name: str) -> None:
    try:
        build(name)
    except ArchiveUnreachable as error:
        # This is no result about the product, good or bad.
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def system(request: pytest.FixtureRequest) -> GuestSpec:
    """A guest that is built, not booted."""
    provider = choose_provider(guest=request.param)
    if provider != DEFAULT:
        pytest.skip(f"the machines of provider {provider} are not built here")
    _build(request.param)
    return find_guest(request.param)


@pytest.fixture(scope="session")
def guest(request: pytest.FixtureRequest) -> Iterator[Guest]:
    """A guest that is up, with the traffic script in it."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", f"pid{os.getpid()}")
    provider = choose_provider(guest=request.param)
    if provider == DEFAULT:
        _build(request.param)
    instance = f"{request.param}@{worker}"
    with machine(request.param, instance=instance, provider=provider) as booted:
        booted.push(Path(__file__).with_name("traffic.py"), TRAFFIC)
        yield booted


@pytest.fixture
def token() -> str:
    """A word that no other test uses, which marks the traffic of this one."""
    return uuid.uuid4().hex[:12]


def traffic(guest: Guest, scenario: str, *arguments: object) -> dict[str, Any]:
    """Run a scenario of traffic.py in the guest to its end; return the facts it printed."""
    command = ["python3", TRAFFIC, scenario, *map(str, arguments)]
    return json.loads(guest.exec(command, timeout=120).stdout)


def stopped(guest: Guest) -> None:
    """Stop the profiler, so that it does not read its buffer.

    The pattern matches the sudo that started it too, which would otherwise stop with its
    command, or resume it.
    """
    guest.exec("sudo pkill -STOP -f 'http-profiler --outpu[t]'")


def continued(guest: Guest) -> None:
    """Resume all, the profiler first: sudo stops again while its command is stopped."""
    for pattern in ("/http-profiler --outpu[t]", "http-profiler --outpu[t]"):
        guest.exec(f"sudo pkill -CONT -f '{pattern}'")


@contextmanager
def background(
    guest: Guest, scenario: str, *arguments: object, **streams: Any
) -> Iterator[tuple[Running, dict[str, Any]]]:
    """Start a scenario that keeps running; yield it and the facts that it prints first."""
    command = ["python3", TRAFFIC, scenario, *map(str, arguments)]
    with guest.popen(command, stderr=None, **streams) as running:
        yield running, json.loads(running.stdout.readline())


@contextmanager
def held(
    guest: Guest, scenario: str, *arguments: object
) -> Iterator[tuple[dict[str, Any], Callable[[], None]]]:
    """Start a scenario that waits for a line; yield its facts, and a function that resumes it."""
    with background(guest, scenario, *arguments, stdin=subprocess.PIPE) as (running, facts):

        def resume() -> None:
            running.process.stdin.write(b"\n")
            running.process.stdin.flush()

        yield facts, resume


# Overlapping calls return in any order. Only the socket route knows their order in the stream; on
# the syscall route the messages are whole, but may be paired wrongly.
UNORDERED = ("threads", "syscall")


@dataclass
class Examination:
    """The doctor's results in a guest on one route."""

    guest: str
    route: str
    exit_code: int
    document: dict[str, Any]
    options: frozenset[str]
    """The ``CONFIG_`` options that the guest's kernel was built with."""

    @property
    def kernel(self) -> tuple[int, int]:
        """The release in the guest's row of guests.toml, not what the doctor reports."""
        major, minor = find_guest(self.guest).kernel.split(".")[:2]
        return int(major), int(minor or 0)  # a row may leave the second number open


@pytest.fixture(scope="session", params=ROUTES)
def examination(guest: Guest, request: pytest.FixtureRequest) -> Examination:
    """One run of the doctor for each guest and route, shared by all tests that use it."""
    route = request.param
    done = guest.exec(f"sudo http-profiler doctor --json --route {route}", check=False, timeout=600)
    assert done.stdout, done.stderr
    name = guest.name.partition("@")[0]
    directory = request.config.getoption("--doctor-to")
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.{route}.json").write_text(done.stdout)
    built = guest.exec("grep -hoP '^CONFIG_\\w+(?==[ym])' /boot/config-$(uname -r)").stdout
    options = frozenset(built.split())
    return Examination(name, route, done.returncode, json.loads(done.stdout), options)
