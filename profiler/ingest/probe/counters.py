"""The kernel's account of calls and bytes, by direction and fate.

``seen = forwarded + filtered + lost`` holds for calls and for bytes in each
direction; :meth:`Account.balanced` says whether it does. The reasons mirror the
enumerations of ``bpf/counters.h``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

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
LOST = ("ring_full", "unreadable", "no_socket", "table_full", "skipped")


class Tally(NamedTuple):
    """Calls and the bytes they moved."""

    calls: int = 0
    bytes: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum, by member."""
        return Tally(self.calls + other.calls, self.bytes + other.bytes)


_NOTHING = Tally()


@dataclass(frozen=True)
class Account:
    """What became of everything that moved in one direction."""

    seen: Tally = _NOTHING
    forwarded: Tally = _NOTHING
    filtered: dict[str, Tally] = field(default_factory=dict)
    lost: dict[str, Tally] = field(default_factory=dict)

    @property
    def all_filtered(self) -> Tally:
        """The sum over all reasons."""
        return _sum(self.filtered.values())

    @property
    def all_lost(self) -> Tally:
        """The sum over all reasons."""
        return _sum(self.lost.values())

    def balanced(self) -> bool:
        """Is everything that was seen accounted for?"""
        return self.seen == self.forwarded.plus(self.all_filtered).plus(self.all_lost)


@dataclass(frozen=True)
class Accounts:
    """Both directions."""

    send: Account
    recv: Account
    skipped: int = 0
    """Calls that were not even seen: the probe was at work on that CPU already."""

    def balanced(self) -> bool:
        """Does the equation hold in both directions?"""
        return self.send.balanced() and self.recv.balanced()

    def to_json(self) -> dict[str, Any]:
        """As nested objects; a tally is ``{"calls": n, "bytes": n}``."""

        def plain(value: Any) -> Any:
            if isinstance(value, Tally):
                return value._asdict()
            if isinstance(value, dict):
                return {key: plain(inner) for key, inner in value.items()}
            return value

        directions = {
            name: {key: plain(value) for key, value in vars(account).items()}
            for name, account in (("send", self.send), ("recv", self.recv))
        }
        return {**directions, "skipped": self.skipped}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Accounts:
        """The inverse of :meth:`to_json`."""

        def account(part: dict[str, Any]) -> Account:
            return Account(
                seen=Tally(**part["seen"]),
                forwarded=Tally(**part["forwarded"]),
                filtered={key: Tally(**value) for key, value in part["filtered"].items()},
                lost={key: Tally(**value) for key, value in part["lost"].items()},
            )

        return cls(account(document["send"]), account(document["recv"]), document["skipped"])


def _sum(tallies: Any) -> Tally:
    total = Tally()
    for tally in tallies:
        total = total.plus(tally)
    return total
