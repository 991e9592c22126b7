# SPDX-License-Identifier: Apache-2.0
"""What two sides send in turns, and how that is replayed through the stream and HTTP stages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Union

from hypothesis import strategies as st

from profiler.ingest.http import Message, Messages, NotHttp
from profiler.ingest.settings import Settings
from profiler.ingest.stream import Streams
from profiler.ingest.wire import FLAG_AFTER_LOSS, FLAG_JOINED, RECV, SEND, Chunk, End
from tests.unit.wires import SOCKET, Wire

DEFAULTS = Settings()


class Ask(NamedTuple):
    """The client's turn."""

    data: bytes


class Say(NamedTuple):
    """The server's turn."""

    data: bytes


class Lose(NamedTuple):
    """A hole of this many bytes; ``None``: of unknown size."""

    direction: int
    size: int | None


class Close(NamedTuple):
    direction: int


Turn = Union[Ask, Say, Lose, Close]


def play(
    turns: Iterable[Turn],
    cut: int | None = None,
    settings: Settings = DEFAULTS,
    joined: bool = False,
) -> list[Message | NotHttp]:
    """Replay ``turns`` as the client's socket; chunks are of ``cut`` bytes at most.

    ``joined``: the connection carried bytes before.
    """
    wire, streams, messages = Wire(), Streams(), Messages(settings)
    out: list[Message | NotHttp] = []

    def feed(item: Chunk | End) -> None:
        for event in streams.feed(item):
            out.extend(messages.feed(event))

    after_loss: set[int] = set()
    for turn in turns:
        if isinstance(turn, Close):
            feed(wire.end(turn.direction))
        elif isinstance(turn, Lose):
            if turn.size is not None:
                wire.lose(turn.direction, turn.size)
            else:
                wire.position[turn.direction] = 0
            after_loss.add(turn.direction)
        else:
            direction = SEND if isinstance(turn, Ask) else RECV
            move = wire.send if direction == SEND else wire.recv
            step = cut or max(1, len(turn.data))
            for at in range(0, len(turn.data), step):
                flags = FLAG_JOINED if joined else 0
                if direction in after_loss:
                    flags |= FLAG_AFTER_LOSS
                feed(move(turn.data[at : at + step], flags=flags))
                after_loss.discard(direction)
    out.extend(message for socket in messages.sockets() for message in messages.finish(socket))
    assert len(messages) == 0
    assert messages.held(SOCKET) == 0
    return out


def split(turn: Turn, data: st.DataObject) -> list[Turn]:
    if not isinstance(turn, (Ask, Say)):
        return [turn]
    places = data.draw(st.lists(st.integers(0, len(turn.data)), max_size=6).map(sorted))
    edges = [0, *places, len(turn.data)]
    return [type(turn)(turn.data[a:b]) for a, b in zip(edges, edges[1:])]
