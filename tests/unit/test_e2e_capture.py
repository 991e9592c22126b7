# SPDX-License-Identifier: Apache-2.0
"""Which end-to-end tests are run again, and what their captures accept, with a fake profiler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from profiler.accounting import Account, Count, Direction, KernelAccount
from provisioning.guest import Address, Guest
from tests.e2e.capture import Capture, CaptureSkipped, skipped_calls
from tests.e2e.conftest import pytest_pyfunc_call, run_again

RECORD = {"timestamp": "2026-01-02T03:04:05.000000000Z", "type": "request", "url": "/"}

# Prints what is in ``lines`` and, on SIGUSR1 and at its end, what is in ``account``.
PROFILER = """#!/bin/sh
account() {{ cat {0}/account >&2; }}
trap account USR1
trap 'account; exit 0' INT TERM
cat {0}/lines > $2
echo capturing >&2
while :; do sleep 0.02; done
"""


class Here(Guest):
    """A guest that runs its commands on this machine."""

    def ssh(self, *_options: str) -> list[str]:
        return ["/bin/sh", "-c"]


@pytest.fixture
def capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Capture:
    for name, script in (
        ("sudo", '#!/bin/sh\nexec "$@"\n'),
        ("http-profiler", PROFILER.format(tmp_path)),
    ):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setattr("provisioning.capture.POLL_SECONDS", 0.02)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "lines").write_text(json.dumps(RECORD) + "\n")
    states(tmp_path, KernelAccount())
    here = Here("here", Address("127.0.0.1", 1, "tester", (), tmp_path / "control"))
    return Capture(here, output=str(tmp_path / "output"))


def states(directory: Path, account: KernelAccount) -> None:
    """Have the stand-in print this account, as the profiler does."""
    lines = [*Account(kernel=account).lines(), "peak resident memory 1 MiB"]
    (directory / "account").write_text("".join(f"http-profiler: {line}\n" for line in lines))


def lost(reason: str) -> KernelAccount:
    return KernelAccount(recv=Direction(lost={"ring_full": Count(), reason: Count(1, 20)}))


def fail() -> None:
    """Fail like a test that may have used captures."""
    running = pytest_pyfunc_call()
    next(running)
    running.throw(ValueError("it failed"))


def use_and_fail(capture: Capture, use: Callable[[Capture], object]) -> None:
    running = pytest_pyfunc_call()
    next(running)
    with capture:
        use(capture)
    running.throw(ValueError("it failed"))


@pytest.mark.parametrize("use", [Capture.records, Capture.stop])
@pytest.mark.parametrize("account", [KernelAccount(skipped=1), lost("skipped")])
def test_a_failure_is_excused_by_the_account_of_the_capture_used(
    capture: Capture, tmp_path: Path, account: KernelAccount, use: Callable[[Capture], object]
) -> None:
    states(tmp_path, account)
    with pytest.raises(CaptureSkipped) as caught:
        use_and_fail(capture, use)
    assert isinstance(caught.value.__cause__, ValueError)


@pytest.mark.parametrize("account", [KernelAccount(), lost("ring_full")])
def test_a_failure_is_not_excused_by_an_account_without_such_a_loss(
    capture: Capture, tmp_path: Path, account: KernelAccount
) -> None:
    states(tmp_path, account)
    with pytest.raises(ValueError, match="it failed"):
        use_and_fail(capture, Capture.records)


def test_a_capture_that_the_test_did_not_use_excuses_nothing(
    capture: Capture, tmp_path: Path
) -> None:
    states(tmp_path, KernelAccount(skipped=1))
    with capture:
        capture.records()
        with pytest.raises(ValueError, match="it failed"):
            fail()


def test_each_loss_of_a_running_capture_excuses_once(capture: Capture, tmp_path: Path) -> None:
    with capture:
        assert not capture.excuses()
        states(tmp_path, KernelAccount(skipped=2))
        assert [capture.excuses(), capture.excuses()] == [True, False]
        states(tmp_path, KernelAccount(skipped=3))
        assert [capture.excuses(), capture.excuses()] == [True, False]
        assert skipped_calls(capture.account()) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pid": "1"}, r"\$\.pid: '1' is not of type 'integer'"),
        ({"direction": "up"}, r"\$\.direction: 'up' is not one of \['send', 'recv'\]"),
        ({"unlisted": 1}, r"Additional properties .*'unlisted' was unexpected"),
    ],
)
def test_a_line_that_breaks_the_schema_fails_the_test(
    capture: Capture, tmp_path: Path, change: dict[str, object], reason: str
) -> None:
    line = json.dumps({**RECORD, **change})
    (tmp_path / "lines").write_text(f"{json.dumps(RECORD)}\n{line}\n")
    with pytest.raises(AssertionError, match=reason) as caught, capture:
        capture.wait_for(lambda _: True, 2)
    assert line in str(caught.value)


def test_a_line_that_the_test_did_not_read_is_validated_too(
    capture: Capture, tmp_path: Path
) -> None:
    (tmp_path / "lines").write_text("{}\n")
    with pytest.raises(AssertionError, match="'timestamp' is a required property"), capture:
        pass


def test_valid_lines_are_read(capture: Capture) -> None:
    with capture:
        assert capture.wait_for(lambda record: record["url"] == "/") == [RECORD]


def test_the_tests_that_were_run_again_are_named() -> None:
    assert run_again([]) == "no test was run again"
    assert run_again(["a"]).startswith("1 test was run again, because the kernel skipped the probe")
    assert run_again(["a", "b"]).startswith("2 tests were run again, because ")
    assert run_again(["a", "b"]).endswith(": a, b")
