# SPDX-License-Identifier: Apache-2.0
"""Programs that wait for a protocol above TCP; the test stands in for the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.ingest.probe import attachments
from profiler.ingest.probe.attachments import Attachments
from profiler.ingest.probe.generate import FEXIT, Attachment
from profiler.ingest.probe.kernel import protocols_above_tcp

TLS = Attachment(FEXIT, "inet_sendmsg", "leave_function", protocol="tls")


@pytest.mark.parametrize(
    ("text", "there"),
    [("mptcp tls\n", {"mptcp", "tls"}), ("\n", set()), (None, None)],
)
def test_the_protocols_above_tcp(tmp_path: Path, text: str | None, there: set[str] | None) -> None:
    file = tmp_path / "tcp_available_ulp"
    if text is not None:
        file.write_text(text)
    assert protocols_above_tcp(file) == there


def test_a_program_is_attached_when_its_protocol_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[Attachment] = []
    there: set[str] | None = {"mptcp"}
    monkeypatch.setattr(attachments, "REFRESH_SECONDS", 0)
    monkeypatch.setattr(attachments, "protocols_above_tcp", lambda: there)
    monkeypatch.setattr(attachments, "attach", lambda program, a: attached.append(a) or program)
    made = Attachments()
    made.add(5, TLS)
    made.refresh()
    assert attached == []
    there = {"mptcp", "tls"}
    made.refresh()
    made.refresh()
    assert attached == [TLS]
    assert made.descriptors == [5]
    # A kernel that does not list its protocols: attached at once.
    there = None
    made.add(6, TLS)
    made.refresh()
    assert made.descriptors == [5, 6]
