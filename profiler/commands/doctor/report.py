# SPDX-License-Identifier: Apache-2.0
"""The findings as a table for people, and as JSON for programs and for bug reports.

The table is plain text without colour. ``!`` marks a row that is worse than expected on this
kernel. The JSON document is redacted (``redact.py``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from profiler import __version__
from profiler.accounting import Uncaptured
from profiler.commands.doctor.evaluate import Evaluation
from profiler.commands.doctor.machine import Machine
from profiler.commands.doctor.redact import redactor
from profiler.commands.doctor.script import ENDS

FORMAT = 1
"""The version of the JSON document; it changes if a field changes or is removed."""


@dataclass(frozen=True)
class Run:
    """The canary on one route; ``error`` is the reason if there are no results."""

    route: str
    evaluations: tuple[Evaluation, ...] = ()
    error: str | None = None
    messages: tuple[str, ...] = ()
    """What the profiler printed."""

    tls: bool = False
    """Whether it played the cases of ``--tls``."""

    @property
    def ok(self) -> bool:
        """Whether nothing is worse than expected."""
        return self.error is None and not any(j.worse for j in self.evaluations)


def to_json(
    machine: Machine, runs: Sequence[Run], uncaptured: Sequence[Uncaptured] = ()
) -> dict[str, Any]:
    """Return everything as one document, redacted."""
    redact = redactor()
    return {
        "format": FORMAT,
        "version": __version__,
        "ok": all(run.ok for run in runs),
        "machine": {
            **asdict(machine),
            "engines": machine.engines(),
            "routes": machine.routes(),
        },
        "runs": [
            {
                "route": run.route,
                "tls": run.tls,
                "ok": run.ok,
                "error": run.error and redact(run.error),
                "messages": [redact(message) for message in run.messages],
            }
            for run in runs
        ],
        "cases": [
            asdict(replace(evaluation, reason=redact(evaluation.reason)))
            for run in runs
            for evaluation in run.evaluations
        ],
        "uncaptured": [{**asdict(each), "reason": redact(each.reason)} for each in uncaptured],
    }


def to_text(machine: Machine, runs: Sequence[Run], uncaptured: Sequence[Uncaptured] = ()) -> str:
    """Return everything as lines of text."""
    parts = [_machine_text(machine), *map(_run_text, runs)]
    if uncaptured:
        rows = (("  ", f"{each.comm} (pid {each.pid})", each.reason) for each in uncaptured)
        parts.append("Running programs whose TLS is not captured\n" + _aligned(rows))
    return "\n\n".join(parts)


def _machine_text(machine: Machine) -> str:
    rows = [
        ("kernel", f"{machine.kernel}, {machine.architecture}"),
        ("distribution", _known(machine.distribution)),
        ("BTF", _known(machine.btf)),
        ("kernel headers", _known(machine.headers)),
        ("BPF ring buffer", _known(machine.ring_buffer)),
        ("lockdown", _known(machine.lockdown)),
        ("root", _known(machine.root)),
        ("capabilities", ", ".join(machine.capabilities) or "none that matter here"),
        ("Python", machine.python),
        ("BCC", machine.bcc or "not found"),
        ("bpftrace", machine.bpftrace or "not found"),
        ("TLS packages", _packages(machine.tls_packages)),
        ("functions", _hooks(machine.functions)),
        ("tracepoints", _hooks(machine.tracepoints)),
        *((f"{name} engine", verdict) for name, verdict in machine.engines().items()),
        *((f"{name} route", verdict) for name, verdict in machine.routes().items()),
    ]
    return "This machine\n" + _aligned(("  ", *row) for row in rows)


def _known(value: bool | str | None) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value or "unknown"


def _packages(versions: dict[str, str | None]) -> str:
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        return f"{', '.join(missing)} not found: install http-profiler[tls]"
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _hooks(there: dict[str, bool | None]) -> str:
    if None in there.values():
        return "unknown"
    missing = [name for name, value in there.items() if not value]
    found = f"{len(there) - len(missing)} of {len(there)}"
    return f"{found}, missing: {', '.join(missing)}" if missing else found


def _run_text(run: Run) -> str:
    title = f"The canary on the {run.route} route{' with --tls' if run.tls else ''}"
    if run.error:
        return f"{title}: no results: {run.error}"
    cases: dict[tuple[str, str], dict[str, Evaluation]] = {}
    for evaluation in run.evaluations:
        cases.setdefault((evaluation.group, evaluation.name), {})[evaluation.end] = evaluation
    rows: list[tuple[str, ...]] = [("  ", "", "case", *ENDS, "")]
    for (group, name), ends in sorted(cases.items(), key=lambda item: item[0][0]):
        mark = "! " if any(j.worse for j in ends.values()) else "  "
        rows.append((mark, group, name, *(ends[end].result for end in ENDS), _why(ends)))
    worse = sum(row[0] == "! " for row in rows)
    verdict = f"{len(cases)} cases; " + (
        f"{worse} worse than expected on this kernel, marked !" if worse else "all as expected"
    )
    return f"{title}\n{_aligned(rows)}\n{verdict}"


def _why(ends: dict[str, Evaluation]) -> str:
    reasons = {end: ends[end].reason for end in ENDS if ends[end].reason}
    if len(set(reasons.values())) == 1 and len(reasons) == len(ENDS):
        return reasons[ENDS[0]]
    return "; ".join(f"{end}: {reason}" for end, reason in reasons.items())


def _aligned(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as their widest cell; the first is a mark that needs no gap after it."""
    table = list(rows)
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = []
    for mark, *cells in table:
        padded = [cell.ljust(width) for cell, width in zip(cells, widths[1:])]
        lines.append((mark + "  ".join(padded)).rstrip())
    return "\n".join(lines)
