# SPDX-License-Identifier: Apache-2.0
"""A table of captures: the command, how it reports its start, and how to read its counts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from benchmarks.guest.inside.workloads import WORKLOADS

BASE, AGAIN = "base", "again"
"""No capture, measured before and after all others: the difference between the two is noise."""

PROFILER = ("http-profiler", "--output", "{directory}/out")

Counts = dict[str, int]


@dataclass(frozen=True)
class Capture:
    """One way to capture.

    When it captures, ``command`` prints ``ready`` to standard error (or output, whichever it
    uses); ``room`` are the options for buffers of 256 MiB. ``counted`` reads its result from
    the directory, where its output and errors are ``out`` and ``err``. ``ends`` is how often
    it sees each message; 0: it does not distinguish messages. A capture that starts slowly
    ``stays`` for all workloads; its result must then be complete when it has caught up.
    With ``has_tls`` it sees the plain text of TLS.
    """

    name: str
    what: str
    command: tuple[str, ...] = ()
    room: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()
    ready: str = ""
    counted: Callable[[Path], Counts] = lambda directory: {}
    ends: int = 0
    stays: bool = False
    only: tuple[str, ...] = tuple(WORKLOADS)
    has_tls: bool = False


def profiler_counts(directory: Path) -> Counts:
    """Count lines; quotes in a payload are escaped."""
    lines = incomplete = 0
    for line in _lines(directory / "out"):
        lines += 1
        incomplete += b'"incomplete":' in line
    return {"complete": lines - incomplete, "incomplete": incomplete}


def tcpdump_counts(directory: Path) -> Counts:
    """Read its final statistics."""
    said = (directory / "err").read_text()
    captured, dropped = (
        int(re.search(rf"(\d+) packets? {word}", said)[1])  # type: ignore[index]
        for word in ("captured", "dropped by kernel")
    )
    return {"packets": captured, "packets_lost": dropped}


def tshark_counts(directory: Path) -> Counts:
    """Count documents: a line for the index precedes each."""
    messages = sum(not line.startswith(b'{"index"') for line in _lines(directory / "out"))
    dropped = re.search(r"(\d+) packets? dropped", (directory / "err").read_text())
    return {"complete": messages, "packets_lost": int(dropped[1]) if dropped else 0}


def bpftrace_counts(directory: Path) -> Counts:
    """Count the lines that end a call, and the events that bpftrace reports as lost."""
    calls = sum(line.startswith(b"C ") for line in _lines(directory / "out"))
    said = (directory / "out").read_text() + (directory / "err").read_text()
    lost = re.findall(r"Lost (\d+) events", said)
    return {"calls": calls, "events_lost": sum(map(int, lost))}


# What other tools do: a probe at the entry that keeps the buffer, and one at the return.
URETPROBES = r"""
BEGIN { printf("\nT 0\n"); }
uprobe:libssl:SSL_read, uprobe:libssl:SSL_write { @buffer[tid] = arg1; }
uretprobe:libssl:SSL_read, uretprobe:libssl:SSL_write {
    if (@buffer[tid] && (int32)retval > 0) {
        printf("C %d %r\n", pid, buf(@buffer[tid], retval));
    }
    delete(@buffer[tid]);
}
"""


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from (line for line in file if line.strip())


def _profiler(name: str, what: str, *options: str, only: tuple[str, ...] = ()) -> Capture:
    return Capture(
        name,
        what,
        (*PROFILER, *options),
        room=("--ring-size", str(256 * 1024 * 1024)),
        ready="capturing",
        counted=profiler_counts,
        ends=2,
        stays=True,
        only=only or tuple(WORKLOADS),
        has_tls="--tls" in options,
    )


# Of the other workloads, none uses TLS.
ENCRYPTED = ("small", "https")
LOADED = tuple(name for name in WORKLOADS if name not in ("saturation", "connections", "start"))
COMPARED = (*LOADED, "saturation", "start")
# tshark prints each byte several times: with large bodies, or many records, that takes most
# of an hour here.
DISSECTED = tuple(name for name in COMPARED if name not in ("1m", "upload", "saturation", "https"))
# bpftrace prints each byte as text: with large bodies, or many records, that takes hours here.
PRINTED = ("small", "demo", "file-write", "file-read", "tls", "redis", "start")

CAPTURES = {
    capture.name: capture
    for capture in (
        Capture(BASE, "nothing", only=LOADED),
        _profiler("socket", "http-profiler, socket route", "--route", "socket"),
        _profiler("syscall", "http-profiler, syscall route", "--route", "syscall"),
        _profiler(
            "lossless",
            "http-profiler, socket route, `--lossless`",
            "--route",
            "socket",
            "--lossless",
            only=("saturation",),
        ),
        _profiler(
            "bpftrace",
            "http-profiler, bpftrace engine",
            "--engine",
            "bpftrace",
            only=PRINTED,
        ),
        _profiler(
            "max-body-0",
            "http-profiler, socket route, `--max-body 0`",
            "--route",
            "socket",
            "--max-body",
            "0",
            only=("1m",),
        ),
        _profiler(
            "tls",
            "http-profiler, socket route, `--tls`",
            "--route",
            "socket",
            "--tls",
            only=ENCRYPTED,
        ),
        Capture(
            "uretprobes",
            "uprobes and uretprobes of `SSL_read` and `SSL_write`, by bpftrace",
            ("bpftrace", "-B", "line", "-e", URETPROBES),
            environment=(("BPFTRACE_PERF_RB_PAGES", str(256 * 1024 * 1024 // 4096)),),
            ready="\nT ",
            counted=bpftrace_counts,
            only=ENCRYPTED,
        ),
        Capture(
            "tcpdump",
            "`tcpdump -w`",
            ("tcpdump", "-i", "lo", "-Z", "root", "-w", "{directory}/out.pcap"),
            room=("-B", str(256 * 1024)),
            ready="listening on",
            counted=tcpdump_counts,
            only=COMPARED,
        ),
        Capture(
            "tshark",
            "`tshark -Y http -T ek`",
            ("tshark", "-i", "lo", "-Y", "http", "-T", "ek"),
            room=("-B", "256"),
            ready="Capturing on",
            counted=tshark_counts,
            ends=1,
            only=DISSECTED,
        ),
        Capture(
            "probe",
            "`http-profiler probe --engine bpftrace`, run by bpftrace",
            ("bpftrace", "-B", "line", "{directory}/probe.bt"),
            environment=(("BPFTRACE_PERF_RB_PAGES", str(256 * 1024 * 1024 // 4096)),),
            # The heartbeat of the program's last probe.
            ready="\nT ",
            counted=bpftrace_counts,
            stays=True,
            only=PRINTED,
        ),
        Capture(AGAIN, "nothing, again", only=LOADED),
    )
}
