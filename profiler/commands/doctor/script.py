"""What the canary says: every message can be written again from its name alone.

Both processes know the script: the one that plays it and the one that judges.
So only facts that are found at run time (who, which socket, which address)
travel between them, and a body is compared with what it must be, not with what
somebody says it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

REQUEST, RESPONSE = "request", "response"
SEND, RECV = "send", "recv"
ENDS = (SEND, RECV)

# A message then fits into what the light engine can hold.
BODY_SIZE = 32

NAME_HEADER = "X-Canary"
"""Header of a response that repeats its request's URL: it names a response that is not paired."""


@dataclass(frozen=True)
class End:
    """Who holds one end of a connection, and where it is.

    ``pid`` is as the kernel numbers it: 0 is the canary, ``None`` not known (the
    doctor runs in a pid namespace). ``ip`` and ``port``, or ``path`` of a Unix
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
class Said:
    """One message that went from ``sender`` to ``receiver``; ``size`` is that of its body."""

    type: str
    number: int
    size: int
    sender: End
    receiver: End

    @property
    def label(self) -> str:
        """``request 1``: what it is called in results."""
        return f"{self.type} {self.number}"

    def to_json(self) -> dict[str, Any]:
        """Return what :meth:`from_json` takes."""
        return {**vars(self), "sender": vars(self.sender), "receiver": vars(self.receiver)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Said:
        """Read one back."""
        ends = {key: End(**document[key]) for key in ("sender", "receiver")}
        return cls(**{**document, **ends})


@dataclass(frozen=True)
class Outcome:
    """What became of a case in the canary: what was said, or why it could not be."""

    said: tuple[Said, ...] = ()
    unavailable: str | None = None


def url(token: str, case: str, number: int) -> str:
    """Return the target of a request; ``token`` tells one run from the next."""
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
