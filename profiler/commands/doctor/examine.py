# SPDX-License-Identifier: Apache-2.0
"""The examination: facts about the machine, then a profiler and a canary for each route.

Both run as child processes, so the program is examined as a user runs it. The order
matters: the canary opens its early connections, the profiler starts, the canary plays.
The kernel delivers records in order, so once the lines of the last exchange are written,
the profiler is stopped and its lines are evaluated.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from profiler.accounting import SKIPPED_CALLS, Uncaptured
from profiler.commands.configuration.written import is_option
from profiler.commands.doctor.canary import END
from profiler.commands.doctor.cases import KINDS
from profiler.commands.doctor.evaluate import Lines, Record, evaluate, name_of
from profiler.commands.doctor.machine import Machine, read_machine
from profiler.commands.doctor.report import Run, to_json, to_text
from profiler.commands.doctor.script import RECV, RESPONSE, Outcome, Sent, url
from profiler.commands.options import settings_of
from profiler.errors import ProfilerError
from profiler.ingest.settings import ROUTES

# Seconds. Starting compiles the probe, and --tls parses libraries: slow in an emulated machine.
START_TIMEOUT = 400.0
LINES_TIMEOUT = 30.0
STOP_TIMEOUT = 60.0
POLL_SECONDS = 0.1

CANARY_ERRORS = "canary-errors"

# Where `python -m profiler...` finds this very package, installed or not.
_ROOT = Path(__file__).resolve().parents[3]


class ExaminationError(ProfilerError):
    """The examination itself failed; the text names the step."""


def run(options: argparse.Namespace) -> int:
    """Examine this machine with these options; return the exit code."""
    settings = settings_of(options)
    return examine(settings.route, settings.engine, settings.tls, options.json)


def examine(route: str | None, engine: str | None, tls: bool, as_json: bool) -> int:
    """Examine this machine, print what was found, and return the exit code.

    ``route`` and ``engine`` are those of the command line; without a route, each is tried. ``tls``:
    ``--tls`` is tried too. The exit code is 0 if no result is worse than expected on this kernel,
    else 1.
    """
    machine = read_machine()
    routes = (route,) if route else ROUTES
    kinds = ("plain", "tls") if tls else ("plain",)
    runs = [_run(kind, each, engine, machine) for kind in kinds for each in routes]
    uncaptured = _survey() if tls and machine.root else []
    if as_json:
        print(json.dumps(to_json(machine, runs, uncaptured), indent=1))
    else:
        print(to_text(machine, runs, uncaptured))
    return 0 if all(run.ok for run in runs) else 1


def _survey() -> list[Uncaptured]:
    """Return the running processes whose TLS is not supported; none if that is not known."""
    command = [sys.executable, "-m", "profiler.commands.doctor.survey"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=_ROOT, timeout=START_TIMEOUT, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return []
    return [Uncaptured(**each) for each in json.loads(done.stdout)]


def _run(kind: str, route: str, engine: str | None, machine: Machine) -> Run:
    tls = kind == "tls"
    if not machine.root:
        error = "capturing needs root: run `sudo http-profiler doctor`"
        return Run(route, error=error, tls=tls)
    token = secrets.token_hex(4)
    messages: list[str] = []
    try:
        with tempfile.TemporaryDirectory(prefix="http-profiler-") as directory:
            outcomes, lines = _play(kind, route, engine, token, Path(directory), messages)
    except (ExaminationError, OSError) as error:
        return Run(route, error=str(error), messages=tuple(messages), tls=tls)
    skipped = any(SKIPPED_CALLS in line for line in messages)
    evaluations = [
        evaluation
        for case in KINDS[kind]
        for evaluation in evaluate(
            case, outcomes[case.name], lines, token, route, machine.version, skipped
        )
    ]
    return Run(route, tuple(evaluations), messages=tuple(messages), tls=tls)


def _play(
    kind: str,
    route: str,
    engine: str | None,
    token: str,
    directory: Path,
    messages: list[str],
) -> tuple[dict[str, Outcome], Lines]:
    """Run both; return the canary's outcomes and the lines. ``messages``: the profiler's own."""
    output, printed = directory / "lines.jsonl", directory / "printed"
    # Without the configuration for captures, which might filter out the canary.
    options = ["--config", os.devnull, "--output", str(output), "--route", route]
    if engine:
        options += ["--engine", engine]
    command = ["-m", "profiler.commands.doctor.canary", token, str(directory), kind]
    with _started(command, directory / CANARY_ERRORS) as canary:
        pids = _read_line(canary, directory)["pids"]
        if kind == "tls":
            options += ["--tls", "--no-redact"]
            # What other programs encrypt is none of the doctor's business.
            options += [word for pid in pids for word in ("--pid", str(pid))]
        with _started(["-m", "profiler.cli", *options], printed) as profiler:
            try:
                _wait_for_start(profiler, printed)
                outcomes = _play_cases(canary, directory)
                _wait_for_end(output, token)
                profiler.send_signal(signal.SIGINT)
                if profiler.wait(STOP_TIMEOUT):
                    text = printed.read_text(errors="replace")
                    raise ExaminationError(f"the profiler failed: {_last_line(text)}")
            except subprocess.TimeoutExpired:
                raise ExaminationError(
                    f"the profiler did not end within {STOP_TIMEOUT:.0f} s of SIGINT"
                ) from None
            finally:
                messages += printed.read_text(errors="replace").splitlines()
    return outcomes, Lines(_records(output))


@contextmanager
def _started(arguments: Sequence[str], errors: Path) -> Iterator[subprocess.Popen[str]]:
    """Run this Python with ``arguments``; whatever happens, the process has ended afterwards."""
    with errors.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=_ROOT,
            env={name: value for name, value in os.environ.items() if not is_option(name)},
            # Ctrl-C is for the doctor, which then ends both in order.
            start_new_session=True,
        )
    with process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for_start(profiler: subprocess.Popen[str], printed: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT
    while "capturing (" not in (text := printed.read_text(errors="replace")):
        if profiler.poll() is not None:
            raise ExaminationError(f"the profiler did not start: {_last_line(text)}")
        if time.monotonic() > deadline:
            raise ExaminationError(f"the profiler did not start within {START_TIMEOUT:.0f} s")
        time.sleep(POLL_SECONDS)


def _play_cases(canary: subprocess.Popen[str], directory: Path) -> dict[str, Outcome]:
    """Let the canary play every case; it bounds the time of each itself."""
    assert canary.stdin
    canary.stdin.write("\n")
    canary.stdin.flush()
    outcomes = {}
    while END.name not in outcomes:
        line = _read_line(canary, directory)
        sent = tuple(map(Sent.from_json, line["sent"]))
        outcomes[line["case"]] = Outcome(sent, line["unavailable"])
    return outcomes


def _read_line(canary: subprocess.Popen[str], directory: Path) -> dict[str, Any]:
    """Return the canary's next line."""
    assert canary.stdout
    line = canary.stdout.readline()
    if not line:
        complaint = _last_line((directory / CANARY_ERRORS).read_text(errors="replace"))
        raise ExaminationError(f"the canary ended early: {complaint}")
    return dict(json.loads(line))


def _wait_for_end(output: Path, token: str) -> None:
    """Wait for the last response as received. If it is missed, the results show it."""
    last = url(token, END.name, 2)
    deadline = time.monotonic() + LINES_TIMEOUT
    while time.monotonic() < deadline:
        for record in _records(output):
            if (record["type"], record["direction"], name_of(record)) == (RESPONSE, RECV, last):
                return
        time.sleep(POLL_SECONDS)


def _records(output: Path) -> list[Record]:
    """Return the records of the whole lines written so far."""
    lines = output.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("http-profiler: ") if lines else "it printed nothing"
