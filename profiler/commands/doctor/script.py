# SPDX-License-Identifier: Apache-2.0
"""The canary's messages: each can be generated again from its name alone.

Canary and doctor generate the same bytes. The canary reports only what is known at run
time (process, socket, address), and the doctor compares a body with the generated one,
not with a reported one.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

REQUEST, RESPONSE = "request", "response"
SEND, RECV = "send", "recv"
ENDS = (SEND, RECV)

# So small that a message fits into what the bpftrace engine copies.
BODY_SIZE = 32

NAME_HEADER = "x-canary"
"""Header of a response that repeats its request's URL: it identifies an unpaired response."""


@dataclass(frozen=True)
class End:
    """The process and the address at one end of a connection.

    ``pid`` is the kernel's number: 0 is the canary, ``None`` unknown (the doctor
    runs in a pid namespace). ``ip`` and ``port``, or ``path`` of a Unix
    socket (``@name`` if abstract, ``None`` if unnamed). ``socket`` and ``netns``
    are inodes.
    """

    pid: int | None
    socket: int
    netns: int
    ip: str | None = None
    port: int | None = None
    path: str | None = None


@dataclass(frozen=True)
class Sent:
    """One message that went from ``sender`` to ``receiver``; ``size`` is that of its body."""

    type: str
    number: int
    size: int
    sender: End
    receiver: End

    @property
    def label(self) -> str:
        """Its name in results, such as ``request 1``."""
        return f"{self.type} {self.number}"

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return {**vars(self), "sender": vars(self.sender), "receiver": vars(self.receiver)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Sent:
        """Read one back."""
        ends = {key: End(**document[key]) for key in ("sender", "receiver")}
        return cls(**{**document, **ends})


@dataclass(frozen=True)
class Outcome:
    """The outcome of a case in the canary: what was sent, or why it could not be."""

    sent: tuple[Sent, ...] = ()
    unavailable: str | None = None


def url(token: str, case: str, number: int) -> str:
    """Return the target of a request; ``token`` distinguishes runs."""
    return f"/{token}/{case}/{number}"


def body(case: str, type_: str, number: int, size: int) -> bytes:
    """Return ``size`` bytes of ASCII that no other message has."""
    return bytes(islice(cycle(f"{case} {type_} {number} ".encode()), size))


def message(token: str, case: str, type_: str, number: int, size: int) -> bytes:
    """Return the whole message, as it is on the wire."""
    name = url(token, case, number)
    start = f"POST {name} HTTP/1.1" if type_ == REQUEST else "HTTP/1.1 200 OK"
    header = "Host: canary" if type_ == REQUEST else f"{NAME_HEADER}: {name}"
    head = f"{start}\r\n{header}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body(case, type_, number, size)
