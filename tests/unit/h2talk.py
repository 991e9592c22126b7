# SPDX-License-Identifier: Apache-2.0
"""Real HTTP/2 for the tests: what a client and a server of the ``h2`` library send."""

from __future__ import annotations

import base64

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes

from tests.unit.turns import Ask, Say, Turn

Headers = list[tuple[str, str]]


def asking(path: str = "/", method: str = "GET", *more: tuple[str, str]) -> Headers:
    """The fields of a request."""
    return [
        (":method", method),
        (":scheme", "http"),
        (":authority", "a.example"),
        (":path", path),
        ("user-agent", "t"),
        *more,
    ]


def answering(status: int = 200, *more: tuple[str, str]) -> Headers:
    """The fields of a response."""
    return [(":status", str(status)), ("server", "s"), *more]


class Talk:
    """A connection; each :meth:`turn` is one call of one side, in ``turns``."""

    def __init__(self, greeted: bool = True, **settings: int) -> None:
        """``settings`` are the server's initial ones, by name of :class:`SettingCodes`."""
        # h2 4.3, the last version for Python 3.9, requires a path in CONNECT.
        lax = {"validate_inbound_headers": False, "validate_outbound_headers": False}
        self.client = H2Connection(H2Configuration(client_side=True, **lax))
        self.server = H2Connection(H2Configuration(client_side=False, **lax))
        for name, value in settings.items():
            self.server.local_settings[SettingCodes[name]] = value
        self.turns: list[Turn] = []
        if greeted:
            self.client.initiate_connection()
            self.server.initiate_connection()
            self.turn()

    def upgrade(self) -> bytes:
        """Begin on stream 1, as after an HTTP/1 request; return its HTTP2-Settings."""
        settings = self.client.initiate_upgrade_connection()
        assert settings is not None
        self.server.initiate_upgrade_connection(settings)
        base64.urlsafe_b64decode(settings + b"==")
        return settings

    def turn(self) -> None:
        """Let each side send its pending bytes and receive the other's, until none are left."""
        while True:
            asked = self.client.data_to_send()
            if asked:
                self.turns.append(Ask(asked))
                self.server.receive_data(asked)
            said = self.server.data_to_send()
            if said:
                self.turns.append(Say(said))
                self.client.receive_data(said)
            if not asked and not said:
                return

    def exchange(
        self, path: str = "/", body: bytes = b"", answer: bytes = b"ok", status: int = 200
    ) -> int:
        """Make a whole exchange; return its stream."""
        stream = self.client.get_next_available_stream_id()
        method = "POST" if body else "GET"
        self.client.send_headers(stream, asking(path, method), end_stream=not body)
        if body:
            self.data(self.client, stream, body)
        self.turn()
        self.server.send_headers(stream, answering(status), end_stream=not answer)
        if answer:
            self.data(self.server, stream, answer)
        self.turn()
        return stream

    def data(self, side: H2Connection, stream: int, body: bytes) -> None:
        """Send ``body`` in frames of the largest permitted size, and end the stream."""
        other = self.server if side is self.client else self.client
        while True:
            size = min(side.max_outbound_frame_size, side.local_flow_control_window(stream))
            piece, body = body[:size], body[size:]
            side.send_data(stream, piece, end_stream=not body)
            if not body:
                return
            self.turn()
            other.increment_flow_control_window(len(piece))
            other.increment_flow_control_window(len(piece), stream)
            self.turn()
