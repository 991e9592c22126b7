# SPDX-License-Identifier: Apache-2.0
"""A live capture in a terminal over ssh: lines for people, and `top`."""

from __future__ import annotations

import re

import pytest

from provisioning import Guest
from provisioning.capture import START_TIMEOUT
from tests.e2e.conftest import background, traffic
from tests.terminal import Terminal

pytestmark = pytest.mark.one_guest("debian-13")


def looking_on(guest: Guest, command: str) -> Terminal:
    terminal = Terminal([*guest.ssh("RequestTTY=force"), command], columns=120)
    terminal.seconds = START_TIMEOUT
    return terminal


def test_lines_and_top_of_a_live_capture(guest: Guest, token: str) -> None:
    with background(guest, "serve") as (_, server):
        port = server["port"]
        with looking_on(guest, f"sudo http-profiler --port {port}") as terminal:
            terminal.until("capturing")
            traffic(guest, "requests", "127.0.0.1", port, f"GET:/{token}?api_key=s3cret")
            # Both ends are one line, printed while the capture continues.
            text = terminal.until(f"/{token}")
            terminal.press("\x03")
            terminal.end()
        assert terminal.exit_code == 0
        assert text.count(token) == 1
        assert re.search(
            rf"traffic\.py→traffic\.py +GET +\S*/{token}\S* +200 +\d+ B +\S+ m?s", text
        )
        assert b"secrets are redacted" in terminal.sent and b"s3cret" not in terminal.sent
        assert b"wrote 2 requests and 2 responses" in terminal.sent

        with looking_on(guest, f"sudo http-profiler top --port {port}") as terminal:
            terminal.until("no exchanges yet")
            traffic(guest, "requests", "127.0.0.1", port, *[f"GET:/{token}-top"] * 5)
            terminal.until(f"GET 127.0.0.1:{port}/{token}-top")
            terminal.press("\t")
            terminal.until("traffic.py (server) pid")
            terminal.resize(40, 100)
            terminal.press("\r", "\r")
            terminal.until("HTTP/1.1 200 OK")
            terminal.press("q")
            text = terminal.end()
        assert terminal.exit_code == 0
        # The summary replaces the screen.
        assert "wrote 10 requests and 10 responses" in text
