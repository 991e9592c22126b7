# SPDX-License-Identifier: Apache-2.0
"""The matrix: runs the end-to-end tests on every guest, and writes a page of the results.

``python -m tests.matrix`` (``tox -e matrix``) runs the suite, stores the doctor's reports of
each guest in ``output/matrix/``, and writes ``docs/reference/supported-kernels.md`` from
them. The page has only what a test saw. Arguments are passed to pytest. For guests that
were not run this time the page shows their previous results.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from provisioning.catalog import load_catalog

REPOSITORY = Path(__file__).resolve().parent.parent
SEEN = REPOSITORY / "output" / "matrix"
PAGE = REPOSITORY / "docs" / "reference" / "supported-kernels.md"

# The range of kernels; --guest can name guests of other distributions.
DISTRIBUTION = "debian"

ROUTES = ("socket", "syscall")
ENDS = ("send", "recv")


@dataclass(frozen=True)
class Seen:
    """The results of a run of the suite on one guest.

    ``selection`` is the arguments to pytest, which may include a selection of tests;
    ``tests`` counts outcomes by name (``passed``, ``failed``, ``skipped``), ``failures``
    names the tests; ``doctor`` is the doctor's document for each route that has one.
    ``unreachable`` is the reason if the guest could not be made.
    """

    guest: str
    date: str
    tests: dict[str, int]
    failures: list[str]
    doctor: dict[str, dict[str, Any]]
    selection: str = ""
    unreachable: str = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite, write the page; return pytest's exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("--guest", action="append", help="only this one; may be repeated")
    options, passed_on = parser.parse_known_args(arguments)
    guests = options.guest or the_range()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        command = [sys.executable, "-m", "pytest", "tests/e2e", "-n", "auto", "--dist", "loadgroup"]
        command += [word for guest in guests for word in ("--guest", guest)]
        command += ["--doctor-to", name, "--junitxml", str(directory / "junit.xml"), *passed_on]
        code = subprocess.run(command, cwd=REPOSITORY, check=False).returncode
        report = directory / "junit.xml"
        if not report.exists():
            return code or 1
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        SEEN.mkdir(parents=True, exist_ok=True)
        for guest in guests:
            seen = collect(guest, date, report.read_text(), directory, shlex.join(passed_on))
            (SEEN / f"{guest}.json").write_text(json.dumps(asdict(seen), indent=1))
    every = [Seen(**json.loads(path.read_text())) for path in SEEN.glob("*.json")]
    PAGE.write_text(page(every))
    print(f"written: {PAGE.relative_to(REPOSITORY)}")
    return code


def the_range() -> list[str]:
    """Return the guests for a release, by name: those for benchmarks repeat one."""
    return [
        spec.name
        for spec in load_catalog().values()
        if spec.distribution == DISTRIBUTION and not spec.benchmarks
    ]


def collect(guest: str, date: str, junit: str, directory: Path, selection: str = "") -> Seen:
    """Return the results of ``guest`` from a JUnit report and the doctor's documents."""
    tests: dict[str, int] = {}
    failures = []
    unreachable = ""
    for case in ElementTree.fromstring(junit).iter("testcase"):
        name = case.get("name", "")
        if not re.search(rf"[\[-]{re.escape(guest)}[\]-]", name):
            continue
        kinds = {child.tag for child in case}
        outcome = (
            "failed"
            if kinds & {"failure", "error"}
            else "skipped"
            if "skipped" in kinds
            else "passed"
        )
        tests[outcome] = tests.get(outcome, 0) + 1
        skipped = case.find("skipped")
        reason = "" if skipped is None else skipped.get("message", "")
        if f"{guest} is unreachable" in reason:
            unreachable = reason.partition(f"{guest} is ")[2]
        if outcome == "failed":
            failures.append(f"{case.get('classname', '').rpartition('.')[2]}::{name}")
    documents = {route: directory / f"{guest}.{route}.json" for route in ROUTES}
    doctor = {r: json.loads(path.read_text()) for r, path in documents.items() if path.exists()}
    return Seen(guest, date, tests, failures, doctor, selection, unreachable)


def page(seen: Iterable[Seen]) -> str:
    """Return the text of the page."""
    guests = sorted(seen, key=lambda one: [int(n) for n in re.findall(r"\d+", one.guest)])
    parts = [
        "# Supported kernels",
        "`tox -e matrix` writes this page from the results of its tests: do not edit it. Each\n"
        "guest ran the end-to-end tests that the table names, and `http-profiler doctor` on both\n"
        "routes.",
        _table(
            ["guest", "date", "kernel", "BCC", "bpftrace", "tests", "results"], map(_facts, guests)
        ),
    ]
    for guest in guests:
        if guest.failures:
            names = "\n".join(f"- `{name}`" for name in guest.failures)
            parts.append(f"Failed on {guest.guest}:\n\n{names}")
    parts.append(
        "The tables below are the doctor's results. It sends two HTTP exchanges or more over each\n"
        "path and kind of socket, and checks the lines of the sender and of the receiver:\n\n"
        "- *captured*: every message has one line, whole, byte for byte, with the right process\n"
        "  and addresses.\n"
        "- *partial*: a line is incomplete and names the reason. The lines after it are right.\n"
        "- *missed*: a message has no line.\n"
        "- *wrong*: a line contradicts what was sent.\n"
        "- *unavailable*: the machine cannot run this case."
    )
    for route in ROUTES:
        for group, title in (("path", "paths"), ("socket", "sockets")):
            parts.append(f"## The {route} route: {title}")
            parts.append(_results([g for g in guests if route in g.doctor], route, group))
    return "\n\n".join(parts) + "\n"


def _facts(seen: Seen) -> list[str]:
    machine = next(iter(seen.doctor.values()), {}).get("machine", {})
    known = [machine.get(key) or "unknown" for key in ("kernel", "bcc", "bpftrace")]
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(seen.tests.items()))
    selected = selection(shlex.split(seen.selection))
    tests = f"`{shlex.join(selected)}`" if selected else "all"
    return [seen.guest, seen.date, *known, tests, seen.unreachable or counts or "none"]


def selection(arguments: Sequence[str]) -> list[str]:
    """Return pytest's arguments that may select tests: all except those for display."""
    shown = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for flag in ("-v", "-q", "-s", "-l"):
        shown.add_argument(flag, action="count")
    for option in ("-r", "--tb", "--color", "--durations"):
        shown.add_argument(option)
    return shown.parse_known_args(arguments)[1]


def _results(guests: list[Seen], route: str, group: str) -> str:
    cells: dict[str, dict[str, str]] = {}
    words: dict[str, str] = {}
    notes: dict[tuple[str, str], list[str]] = {}
    for guest in guests:
        ends: dict[str, dict[str, dict[str, Any]]] = {}
        for row in guest.doctor[route]["cases"]:
            if row["group"] == group:
                ends.setdefault(row["name"], {})[row["end"]] = row
                words[row["name"]] = row["what"]
        for name, rows in ends.items():
            number = ""
            note = (name, _reasons(rows))
            if note[1]:
                notes.setdefault(note, []).append(guest.guest)
                number = f" [{list(notes).index(note) + 1}]"
            cells.setdefault(name, {})[guest.guest] = _cell(rows) + number
    names = [guest.guest for guest in guests]
    table = _table(
        ["case", "what it is", *names],
        (
            [f"`{case}`", words[case], *(by_guest.get(n, "not run") for n in names)]
            for case, by_guest in cells.items()
        ),
    )
    if not notes:
        return table
    listed = (
        [str(number), f"`{case}`", reason, ", ".join(where)]
        for number, ((case, reason), where) in enumerate(notes.items(), 1)
    )
    return table + "\n\n" + _table(["note", "case", "reason", "guests"], listed)


def _reasons(rows: dict[str, dict[str, Any]]) -> str:
    reasons = [rows[end]["reason"] for end in ENDS]
    if len(set(reasons)) == 1:
        return reasons[0]
    return "; ".join(f"{end}: {reason}" for end, reason in zip(ENDS, reasons) if reason)


def _cell(rows: dict[str, dict[str, Any]]) -> str:
    results = [rows[end]["result"] for end in ENDS]
    if len(set(results)) == 1:
        return results[0]
    return ", ".join(f"{end} {result}" for end, result in zip(ENDS, results))


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    sys.exit(main())
