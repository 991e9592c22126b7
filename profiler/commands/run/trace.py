# SPDX-License-Identifier: Apache-2.0
"""Implements ``http-profiler run``, and chooses its exit code.

A failure of the command takes precedence, then one of the profiler (125), then one of an assertion.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pwd
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from profiler.accounting import Account
from profiler.commands.assertions import Assertions, assertions_of
from profiler.commands.opened import say
from profiler.commands.options import settings_of
from profiler.commands.run.cgroup import Cgroup
from profiler.commands.run.child import Child
from profiler.commands.run.command import Command
from profiler.commands.run.key_log import KeyLogFile
from profiler.errors import VIOLATED, CommandError, ProbeError, ProfilerError, UsageError
from profiler.exchanges.fields import FIELDS
from profiler.exchanges.pair import Exchanges
from profiler.exchanges.query import Comparison
from profiler.exchanges.redact import Redactor
from profiler.exchanges.summary import describe
from profiler.ingest.probe.cgroups import cgroup_of, mounted_at
from profiler.ingest.session import capture
from profiler.ingest.settings import Settings
from profiler.outputs import Sink
from profiler.outputs.choice import Choice, choose
from profiler.privileges.helper import Helper

if TYPE_CHECKING:
    from profiler.schema import Record

TROUBLE = 125
_INTERRUPTED = 130


def run(options: argparse.Namespace) -> int:
    """Trace ``options.argv``; return the exit code."""
    settings = settings_of(options)
    assertions = assertions_of(options)
    if options.misplaced or not options.argv:
        command = " ".join(options.misplaced) or "CMD"
        raise UsageError(f"put the command after `--`: run [options] -- {command}")
    if settings.filters.cgroup:
        raise UsageError(
            "--cgroup cannot be combined with run: the command gets a cgroup of its own"
        )
    if settings.tls and settings.tls_keys:
        raise UsageError("--tls-keys cannot be combined with --tls: both show the same messages")
    try:
        _check_privilege(options.run_as)
        cgroup = Cgroup(mounted_at() or Path("/sys/fs/cgroup"), cgroup_of("self") or "/")
    except ProfilerError as error:
        say(str(error))
        return TROUBLE
    helper = Helper()
    remove_cgroup = helper.offer(cgroup.remove)
    if assertions.junit:
        assertions.junit.share(helper)
    with contextlib.closing(helper):
        try:
            with _key_log(options, settings, helper) as key_log:
                return _traced(options, settings, assertions, cgroup, helper, key_log)
        except ProbeError as error:
            say(str(error))
            return TROUBLE
        finally:
            try:
                for line in remove_cgroup():
                    say(line)
            except ProbeError as error:
                say(f"kept {cgroup.directory}: {error}")


@contextlib.contextmanager
def _key_log(
    options: argparse.Namespace, settings: Settings, helper: Helper
) -> Iterator[KeyLogFile | None]:
    """Yield a key log for the command, if ``--tls-keys`` is given. Raises ProbeError."""
    if not settings.tls_keys:
        yield None
        return
    key_log = KeyLogFile(options.run_as)
    remove = helper.offer(key_log.remove)
    try:
        yield key_log
    finally:
        try:
            remove()
        except ProbeError as error:
            say(f"kept {key_log.directory}, which has keys: {error}")


def _traced(
    options: argparse.Namespace,
    settings: Settings,
    assertions: Assertions,
    cgroup: Cgroup,
    helper: Helper,
    key_log: KeyLogFile | None,
) -> int:
    started = time.monotonic()
    own = Comparison(FIELDS["cgroup"], "=", cgroup.path)
    written = _output(options, settings)
    sinks = [written.sink] if written else []
    exchanges = Exchanges() if assertions or not sinks else None
    account = command = trouble = None
    try:
        variables = key_log.variables if key_log else {}
        child = Child(options.argv, cgroup, options.run_as, variables)
        command = Command(child)
        command.share(helper)
        account = capture(
            replace(settings, where=settings.where.and_("cgroup", own), program=child.path),
            Choice(_Kept(sinks, exchanges), written.redactor if written else None),
            command,
            helper,
            key_log,
        )
    except CommandError as error:
        say(str(error))
        return error.exit_code
    except ProfilerError as error:
        trouble = error
    if trouble and trouble.exit_code:
        say(str(trouble))
    if command is None or not command.started:
        return TROUBLE if trouble else _INTERRUPTED
    if not command.ended:
        account = None  # It does not cover all that the command does.
    try:
        code = command.wait()
    except ProbeError as error:
        # Nobody knows the exit code: the helper was the command's parent.
        trouble = trouble or error
        code = 0
    holds = True
    if exchanges is not None and assertions:
        holds = _verify(options, assertions, exchanges, account, time.monotonic() - started)
    elif exchanges is not None:
        _summarize(exchanges)
    if trouble and trouble.exit_code:
        return code or TROUBLE
    return code or (0 if holds else VIOLATED)


def _summarize(exchanges: Exchanges) -> None:
    redactor = Redactor()
    for exchange in exchanges:
        say(describe(exchange, redactor))


def _verify(
    options: argparse.Namespace,
    assertions: Assertions,
    exchanges: Exchanges,
    account: Account | None,
    seconds: float,
) -> bool:
    lost = account.lost_text if account else "the capture ended before the command"
    notes = [f"the capture is incomplete: {lost}"] if lost else []
    if account and account.skipped_text:
        notes.append(f"the capture may be incomplete: {account.skipped_text}")
    return assertions.verify(exchanges, notes, None if options.allow_lost else lost, seconds)


class _Kept:
    """Writes to all sinks, and collects the exchanges that assertions need."""

    def __init__(self, sinks: list[Sink], exchanges: Exchanges | None) -> None:
        self._sinks = sinks
        self._exchanges = exchanges

    def share(self, helper: Helper) -> None:
        for sink in self._sinks:
            sink.share(helper)

    def write(self, record: Record) -> None:
        for sink in self._sinks:
            sink.write(record)
        if self._exchanges is not None:
            self._exchanges.add(record)

    def flush(self) -> None:
        for sink in self._sinks:
            sink.flush()

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()


def _output(options: argparse.Namespace, settings: Settings) -> Choice | None:
    """Open the output, if any: standard output is the command's, unless ``--output -`` is given."""
    if settings.output is not None or getattr(options, "output", None) == Path("-"):
        form = settings.format or "jsonl"
        return choose(settings.output, form, settings.redact, time.time_ns, settings.rotation)
    return None


def _check_privilege(user: pwd.struct_passwd | None) -> None:
    if os.geteuid() != 0:
        raise ProbeError("tracing a command needs root: `sudo http-profiler run -- ...`")
    name = os.environ.get("SUDO_USER", "root")
    if user is None and name != "root":
        say(f"the command runs as root; `--as {name}` runs it as you")
