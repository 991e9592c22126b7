# SPDX-License-Identifier: Apache-2.0
"""Formats the results as Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Callable

from benchmarks.guest.plan import (
    ADDED,
    AGAIN,
    BASE,
    CAPTURES,
    MEMORY,
    OWN,
    START,
    WORKLOADS,
    Measurement,
)
from benchmarks.guest.results import Results

BEGIN = "<!-- written by `tox -e bench`, do not edit: -->"
END = "<!-- until here -->"

ENDS = 4
"""The lines of an exchange: a request and a response, at both the sending and receiving end."""

NOT_MEASURED = "-"

Row = list[str]


def replaced(text: str, generated: str) -> str:
    """Return a document with ``generated`` between the two marks, appended if it has no marks."""
    part = f"{BEGIN}\n\n{generated.strip()}\n\n{END}"
    if BEGIN not in text:
        return f"{text.rstrip()}\n\n{part}\n".lstrip()
    head, _, rest = text.partition(BEGIN)
    return head + part + rest.partition(END)[2]


def page(results: Results) -> str:
    """Return the page of all results."""
    dates = sorted({run["date"] for run in results.runs.values()})
    parts = [
        "## In a guest",
        f"Measured {' to '.join(dict.fromkeys((dates[0], dates[-1])))} by `tox -e bench`."
        if dates
        else "Nothing was measured.",
        _goals(results),
        "### How it is measured",
        HOW,
        _workloads(results),
        _facts(results),
        "### Instructions added to the target",
        _table(results, ADDED, _added, extra=("base", "noise")),
        "### Instructions of the capture's BPF programs",
        _table(results, ADDED, lambda of, run, _: _number(run["programs"])),
        "### Instructions of the capture itself",
        _table(results, OWN, lambda of, run, _: _number(run["own"])),
        "### Slower, with the capture on the same processor",
        _table(results, OWN, _slower),
        "### Messages",
        _table(results, OWN, lambda of, run, one: _counts(run)),
        "### Memory and start",
        _memory(results),
    ]
    parts += _failures(results)
    return "\n\n".join(part for part in parts if part) + "\n"


HOW = """\
The guest has one processor, and a nanosecond of its clock is one instruction (QEMU's
`-icount shift=0,sleep=off`). So the figures do not depend on the host. Each figure is for one
round of the workload: server and client, user space and kernel, both ends captured.

A round is the difference between two runs of the client, one with three times as many rounds
as the other. So the start of the client does not count. There are three such pairs (one for
`saturation`). The added cost is their median, and *slower* is their mean. *Noise* is the
difference between two measurements without a capture, one before and one after all others.

The emulator executes a string copy as one instruction per byte. So each copied byte costs an
instruction, whoever copies it. A real processor copies many bytes in one cycle.

- *Added to the target*: the capture runs only when nobody else wants the processor
  (`SCHED_IDLE`), and its own instructions are subtracted. So this is what the kernel does for
  the capture in the captured processes. Buffers have 256 MiB. The figure includes how often
  the processes take turns, which differs between boots: a slower server finds more to do when
  it resumes.
- *BPF programs*: the part of this that the programs themselves ran, by the kernel's statistics
  (`kernel.bpf_stats_enabled`), in a separate run. It does not depend on who takes turns with
  whom. It excludes what the kernel does to start a program.
- *The capture itself*: the processor time of its processes, at normal priority and with its
  own defaults, until it has caught up.
- *Slower*: in that run, the extra duration of a round while the capture runs, in percent of
  the base. If the ring can hold everything, as with `small`, chance decides: it depends on the
  share that the reader gets meanwhile.
- *Messages*: in that run, whole / incomplete / lost, of those that were sent and received.

These are the workloads and the versions:\
"""


def _workloads(results: Results) -> str:
    measured = {one.workload for one in results.runs}
    rows = [
        [f"`{workload.name}`", workload.what, workload.unit]
        for workload in WORKLOADS.values()
        if workload.name in measured and START not in workload.metrics
    ]
    return _markdown(["workload", "what it does", "a round is one"], rows) if rows else ""


def _facts(results: Results) -> str:
    rows = [list(fact) for fact in results.facts.items()]
    return _markdown(["measured with", "version"], rows) if rows else ""


def _goals(results: Results) -> str:
    def added(workload: str, capture: str) -> float | None:
        run = _run(results, ADDED, workload, capture)
        base = _run(results, ADDED, workload, BASE)
        return run["target"] - base["target"] if run and base else None

    def share(workload: str, capture: str) -> float | None:
        more, base = added(workload, capture), _run(results, ADDED, workload, BASE)
        return None if more is None or base is None else 100 * more / base["target"]

    def value(metric: str, workload: str, key: str, per: float = 1.0) -> float | None:
        run = _run(results, metric, workload, "socket")
        return run[key] / per if run else None

    def lost(capture: str) -> str:
        run = _run(results, OWN, "saturation", capture)
        return _number(run and _lost(run))

    rows = [
        ("added to a request, socket route", "3,000", _signed(added("small", "socket"))),
        ("added to a request, syscall route", "9,000", _signed(added("small", "syscall"))),
        ("added to an HTTPS request, `--tls`", "20,000", _signed(added("https", "tls"))),
        ("added to a file `write`, socket route", "5", _signed(added("file-write", "socket"))),
        (
            "the profiler itself, per message (small)",
            "25,000",
            _number(value(OWN, "small", "own", ENDS)),
        ),
        ("messages lost at saturation", "-", lost("socket")),
        ("messages lost at saturation, `--lossless`", "0", lost("lossless")),
        (
            "responses of 1 MB with `--max-body 0`: added to the target",
            "2 %",
            _percent(share("1m", "max-body-0")),
        ),
        (
            "resident memory, 1,000 open connections",
            "150 MiB",
            _mebibytes(value(MEMORY, "connections", "memory")),
        ),
        (
            "from start to capturing, compiled before",
            "10 s",
            _seconds(value(START, "start", "second")),
        ),
        (
            "from start to capturing, the first time",
            "10 s",
            _seconds(value(START, "start", "first")),
        ),
    ]
    return _markdown(["what", "goal: at most", "measured"], [list(row) for row in rows])


Cell = Callable[[Results, Any, Measurement], str]


def _table(results: Results, metric: str, cell: Cell, extra: tuple[str, ...] = ()) -> str:
    measured = [one for one in results.runs if one.metric == metric]
    captures = [
        name
        for name in CAPTURES
        if name not in (BASE, AGAIN) and any(one.capture == name for one in measured)
    ]
    rows = []
    for workload in WORKLOADS.values():
        if not any(one.workload == workload.name for one in measured):
            continue
        row = [f"`{workload.name}`"]
        if extra:
            base = _run(results, ADDED, workload.name, BASE)
            again = _run(results, ADDED, workload.name, AGAIN)
            row.append(_number(base and base["target"]))
            row.append(_signed(base and again and again["target"] - base["target"]))
        for name in captures:
            one = Measurement(metric, workload.name, name)
            run = results.runs.get(one)
            row.append(
                NOT_MEASURED
                if run is None
                else "failed"
                if "error" in run
                else cell(results, run, one)
            )
        rows.append(row)
    header = ["workload", *extra, *(CAPTURES[name].what for name in captures)]
    return _markdown(header, rows) if rows else "Not measured."


def _added(results: Results, run: Any, one: Measurement) -> str:
    base = _run(results, ADDED, one.workload, BASE)
    lost = " (with losses)" if _lost(run) else ""
    return NOT_MEASURED if base is None else _signed(run["target"] - base["target"]) + lost


def _slower(results: Results, run: Any, one: Measurement) -> str:
    workload = "small" if one.workload == "saturation" else one.workload
    base = _run(results, ADDED, workload, BASE)
    return NOT_MEASURED if base is None else _percent(100 * (run["busy"] / base["target"] - 1))


def _counts(run: Any) -> str:
    if "packets" in run:
        return f"{run['packets']:,} packets, {run['packets_lost']:,} lost"
    if "calls" in run:
        return f"{run['calls']:,} calls, {run['events_lost']:,} events lost"
    return f"{run['complete']:,} / {run.get('incomplete', 0):,} / {_lost(run):,}"


def _lost(run: Any) -> int:
    if "complete" in run:
        missing: int = run["expected"] - run["complete"] - run.get("incomplete", 0)
        return missing
    return int(run.get("packets_lost", 0) + run.get("events_lost", 0))


def _memory(results: Results) -> str:
    rows = []
    for name, capture in CAPTURES.items():
        started = _run(results, START, "start", name)
        small = _run(results, OWN, "small", name)
        connected = _run(results, MEMORY, "connections", name)
        if started or small or connected:
            rows.append(
                [
                    capture.what,
                    _seconds(started and started["first"]),
                    _seconds(started and started["second"]),
                    _mebibytes(small and small["memory"]),
                    _mebibytes(connected and connected["memory"]),
                ]
            )
    header = ["capture", "first start", "second start", "memory, `small`", "1,000 connections"]
    return _markdown(header, rows) if rows else ""


def _failures(results: Results) -> list[str]:
    failed = {one: run["error"] for one, run in results.runs.items() if "error" in run}
    lines = [f"- {one}: {' '.join(error.split())}" for one, error in failed.items()]
    return ["Failed:\n\n" + "\n".join(lines)] if lines else []


def _run(results: Results, metric: str, workload: str, capture: str) -> Any:
    run = results.runs.get(Measurement(metric, workload, capture))
    return None if run is None or "error" in run else run


def _number(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def _signed(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:+,.0f}"


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1f} %"


def _seconds(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.1f} s"


def _mebibytes(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value / 1024:.0f} MiB"


def _markdown(header: Row, rows: Iterable[Row]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
