# SPDX-License-Identifier: Apache-2.0
"""The account of a capture: what was seen, forwarded, filtered and lost, and what was written.

``seen = forwarded + filtered + lost`` holds for calls and for bytes in each direction. ``seen`` is
counted where a call is first inspected, and the others where its fate is decided, so the equation
is a check. Some calls are undecided until a capture has ended.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from profiler.errors import CaptureFileError

# The reasons of the enumerations in bpf/counters.h, in their order.
FILTERED = (
    "self",
    "pid",
    "comm",
    "user",
    "cgroup",
    "port",
    "address",
    "not_http",
    "not_stream",
    "call_limit",
    "kernel",
    "discarded",
    "max_body",
)
LOST = ("ring_full", "unreadable", "no_socket", "table_full", "skipped", "share")

SKIPPED_CALLS = "the kernel skipped the probe"


@dataclass(frozen=True)
class Count:
    """A number of calls, and the bytes they moved."""

    calls: int = 0
    bytes: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.calls + other.calls, self.bytes + other.bytes)

    def __sub__(self, other: Count) -> Count:
        return Count(self.calls - other.calls, self.bytes - other.bytes)

    def __str__(self) -> str:
        return f"{self.calls}/{self.bytes}"


_NOTHING = Count()


@dataclass(frozen=True)
class Direction:
    """The fate of everything that moved in one direction."""

    seen: Count = _NOTHING
    forwarded: Count = _NOTHING
    filtered: dict[str, Count] = field(default_factory=dict)
    lost: dict[str, Count] = field(default_factory=dict)

    def balanced(self) -> bool:
        """Whether everything that was seen is accounted for."""
        return self.seen == sum((*self.filtered.values(), *self.lost.values()), self.forwarded)

    def __str__(self) -> str:
        return (
            f"seen {self.seen} = forwarded {self.forwarded}"
            f" + filtered {_by_reason(self.filtered)} + lost {_by_reason(self.lost)}"
        )


def _by_reason(counts: dict[str, Count]) -> str:
    named = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count != _NOTHING)
    return f"{sum(counts.values(), _NOTHING)}" + (f" ({named})" if named else "")


@dataclass(frozen=True)
class Sides:
    """Both directions."""

    send: Direction = field(default_factory=Direction)
    recv: Direction = field(default_factory=Direction)


@dataclass(frozen=True)
class Uncaptured:
    """A process with encrypted traffic whose plain text is not captured, or not whole."""

    pid: int
    comm: str
    reason: str
    """Why, and what to do: one line."""


@dataclass(frozen=True)
class KernelAccount:
    """What the probe counted in both directions."""

    send: Direction = field(default_factory=Direction)
    recv: Direction = field(default_factory=Direction)
    skipped: int = 0
    """Calls that were not seen, because the probe was already running on that CPU."""
    tls: Sides | None = None
    """The plain text that TLS libraries moved (--tls)."""
    uncaptured: tuple[Uncaptured, ...] = ()
    """Processes whose encrypted traffic was noticed (--tls)."""

    def balanced(self) -> bool:
        """Whether the equation holds in both directions."""
        sides = (self.send, self.recv, *((self.tls.send, self.tls.recv) if self.tls else ()))
        return all(side.balanced() for side in sides)

    def to_json(self) -> dict[str, Any]:
        """Return nested objects; a count is ``{"calls": n, "bytes": n}``."""
        document = asdict(self)
        if self.tls is None:
            del document["tls"]
        if not self.uncaptured:
            del document["uncaptured"]
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> KernelAccount:
        """The inverse of :meth:`to_json`. Raises LookupError, TypeError or AttributeError."""

        def counts(part: dict[str, Any]) -> dict[str, Count]:
            return {reason: Count(**count) for reason, count in part.items()}

        def direction(part: dict[str, Any]) -> Direction:
            moved = Count(**part["seen"]), Count(**part["forwarded"])
            return Direction(*moved, counts(part["filtered"]), counts(part["lost"]))

        def sides(part: dict[str, Any]) -> tuple[Direction, Direction]:
            return direction(part["send"]), direction(part["recv"])

        tls = Sides(*sides(document["tls"])) if "tls" in document else None
        uncaptured = tuple(Uncaptured(**each) for each in document.get("uncaptured", ()))
        account = cls(*sides(document), document["skipped"], tls, uncaptured)
        account.balanced()  # Raises TypeError if a count is not a number.
        return account


@dataclass(frozen=True)
class Exported:
    """What became of the spans (--otlp): ``spans = sent + dropped + waiting``."""

    spans: int = 0
    """Spans that were made, one for each end of an exchange."""
    sent: int = 0
    waiting: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    """Reason -> spans that were not delivered."""
    left_out: int = 0
    """Ends of exchanges without a span, because they export telemetry themselves."""
    messages_dropped: int = 0
    """Messages that the process that exports could not take in time, or at all."""

    def balanced(self) -> bool:
        """Whether every span is accounted for."""
        return self.spans == self.sent + self.waiting + sum(self.dropped.values())

    def __str__(self) -> str:
        dropped = ", ".join(f"{reason} {n}" for reason, n in self.dropped.items() if n)
        return (
            f"spans {self.spans} = sent {self.sent} + dropped {sum(self.dropped.values())}"
            + (f" ({dropped})" if dropped else "")
            + f" + waiting {self.waiting}"
            + (f"; left out {self.left_out} exports of telemetry" if self.left_out else "")
            + (f"; not exported: {self.messages_dropped} messages" if self.messages_dropped else "")
        )


# So many processes with one reason are named; the others are counted.
_NAMED_MAX = 5


def _by_cause(processes: Iterable[Uncaptured]) -> list[str]:
    """Return a line for each reason."""
    named: dict[str, list[str]] = {}
    for each in processes:
        named.setdefault(each.reason, []).append(f"{each.comm} (pid {each.pid})")
    return [
        f"TLS not captured: {', '.join(names[:_NAMED_MAX])}"
        + (f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else "")
        + f": {reason}"
        for reason, names in named.items()
    ]


@dataclass
class Account:
    """The counts of a capture so far; the pipeline counts what it writes here."""

    requests: int = 0
    responses: int = 0
    incomplete: dict[str, int] = field(default_factory=dict)
    """Reason -> messages with that reason."""
    given_up: int = 0
    """Connections that were dropped to stay within the limits of memory."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Filter -> messages that were not written because of it."""
    undecided: int = 0
    """Exchanges that were left out because too many were waiting for a filter's decision."""
    faults: dict[str, int] = field(default_factory=dict)
    """Cause -> connections that were dropped because of this error of the profiler."""
    not_decrypted: dict[str, int] = field(default_factory=dict)
    """Cause -> TLS connections that were not decrypted, or not to their end (--tls-keys)."""
    kernel: KernelAccount | None = None
    final: bool = False
    """The capture has ended."""
    fast: int = 0
    """Messages whose lines the native fast path wrote; they count above, too."""
    exported: Exported | None = None
    """What became of the spans, with ``--otlp``."""

    @property
    def messages(self) -> int:
        """The number of messages that were written."""
        return self.requests + self.responses

    @property
    def lost_text(self) -> str | None:
        """A description of the captured traffic that is missing; ``None`` if none is.

        ``unreadable`` bytes (pages of a file that sendfile sends) do not count: the messages that
        contain them report it themselves, and the others are whole.
        """
        if self.kernel is None:
            lost = ["the kernel's counts are missing"]
        else:
            sides = [self.kernel.send, self.kernel.recv]
            if self.kernel.tls:
                sides += [self.kernel.tls.send, self.kernel.tls.recv]
            reasons = (item for side in sides for item in side.lost.items())
            calls = sum(count.calls for reason, count in reasons if reason != "unreadable")
            lost = [f"lost calls: {calls}"] if calls else []
        if self.given_up:
            lost.append(f"dropped connections: {self.given_up}")
        if self.faults:
            lost.append(f"connections dropped by an error: {sum(self.faults.values())}")
        if self.undecided:
            lost.append(f"undecided exchanges that were left out: {self.undecided}")
        return "; ".join(lost) or None

    @property
    def skipped_text(self) -> str | None:
        """A description of calls of any process that were skipped; ``None`` if none was.

        If a TCP connection moves more data after a skipped call, the gap is detected and counted as
        ``lost``.
        """
        if self.kernel is None or not self.kernel.skipped:
            return None
        return f"{SKIPPED_CALLS} for {self.kernel.skipped} calls of this machine"

    def left_out(self) -> list[str]:
        """Return lines about what the filters dropped."""
        lines = []
        if self.dropped:
            reasons = ", ".join(
                f"--{name.replace('_', '-')} {number}" for name, number in self.dropped.items()
            )
            lines.append(f"left out {sum(self.dropped.values())} messages ({reasons})")
        if self.undecided:
            lines.append(
                f"left out {self.undecided} exchanges that had not ended, because too many were "
                "waiting: some might have matched the filters"
            )
        return lines

    def lines(self) -> list[str]:
        """Return the summary of a capture."""
        incomplete = ", ".join(f"{reason} {n}" for reason, n in sorted(self.incomplete.items()))
        lines = [
            f"wrote {self.requests} requests and {self.responses} responses"
            + (f"; incomplete: {incomplete}" if incomplete else ""),
            *self.left_out(),
        ]
        if self.fast:
            lines.append(f"{self.fast} of {self.messages} messages took the fast path")
        if self.given_up:
            lines.append(
                f"dropped {self.given_up} connections that held too much memory "
                "(--max-memory, --max-connection-memory)"
            )
        lines += [
            f"dropped {number} connections because of an error ({cause}): please report this as a "
            "bug of http-profiler"
            for cause, number in self.faults.items()
        ]
        lines += [
            f"not decrypted: {number} TLS connections: {cause}"
            for cause, number in self.not_decrypted.items()
        ]
        if self.exported:
            lines.append(f"exported {self.exported}")
        if self.kernel:
            lines += [f"send calls/bytes: {self.kernel.send}"]
            lines += [f"recv calls/bytes: {self.kernel.recv}"]
            if self.kernel.tls:
                lines += [f"TLS send calls/bytes: {self.kernel.tls.send}"]
                lines += [f"TLS recv calls/bytes: {self.kernel.tls.recv}"]
            lines += _by_cause(self.kernel.uncaptured)
            if self.kernel.skipped:
                lines.append(
                    f"{SKIPPED_CALLS} for {self.kernel.skipped} calls: the data they moved is "
                    "missing, and messages around that time may be wrong"
                )
        if self.final and not all(each.balanced() for each in (self.kernel, self.exported) if each):
            lines.append("the counts do not add up: please report this as a bug of http-profiler")
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return a line of the ``--stats`` file, without its time."""
        written = asdict(replace(self, kernel=None, exported=None))
        final = written.pop("final")
        del written["kernel"], written["exported"]
        account = {"account": self.kernel.to_json()} if self.kernel else {}
        exported = {"exported": asdict(self.exported)} if self.exported else {}
        return {"final": final, "written": written, **exported, **account}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Account:
        """The inverse of :meth:`to_json`, for a line with the kernel's account."""
        kernel = KernelAccount.from_json(document["account"])
        exported = Exported(**document["exported"]) if "exported" in document else None
        final = document["final"] is True
        return cls(**document["written"], kernel=kernel, final=final, exported=exported)

    def to_report(self) -> dict[str, Any] | None:
        """Return a row per fate: its name and reason, then calls and bytes, sent and received."""
        if self.kernel is None:
            return None
        send, recv = self.kernel.send, self.kernel.recv
        rows: list[list[Any]] = []
        for fate in ("seen", "forwarded"):
            rows.append([fate, "", *astuple(getattr(send, fate)), *astuple(getattr(recv, fate))])
        for fate in ("filtered", "lost"):
            sent, received = getattr(send, fate), getattr(recv, fate)
            for reason in {**sent, **received}:
                counts = sent.get(reason, _NOTHING), received.get(reason, _NOTHING)
                if any(numbers := [number for count in counts for number in astuple(count)]):
                    rows.append([fate, reason, *numbers])
        return {"rows": rows, "skipped": self.kernel.skipped, "final": self.final}


def read(path: Path) -> Account:
    """Return the account in the last whole line of a ``--stats`` file. Raises CaptureFileError."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise CaptureFileError(f"cannot read {path}: {error.strerror}") from error
    for line in reversed(lines):
        try:
            return Account.from_json(orjson.loads(line))
        except orjson.JSONDecodeError:
            continue  # A line that was being written when the machine went down.
        except (AttributeError, KeyError, TypeError):
            break
    raise CaptureFileError(f"{path} has no counts: name a file that --stats wrote")
