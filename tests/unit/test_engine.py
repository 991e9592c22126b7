"""Programs that wait for a protocol above TCP; the kernel's part is played by the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.ingest.probe import bcc
from profiler.ingest.probe.bcc import BccEngine
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
    monkeypatch.setattr(bcc, "protocols_above_tcp", lambda: there)
    monkeypatch.setattr(bcc, "attach", lambda descriptor, hook: attached.append(hook) or descriptor)
    engine = BccEngine.__new__(BccEngine)
    engine._attached, engine._later = [], [(5, TLS)]
    engine._attach_later()
    assert attached == []
    there = {"mptcp", "tls"}
    engine._attach_later()
    engine._attach_later()
    assert attached == [TLS]
    assert engine._attached == [5]
    # A kernel that does not say: hooked at once.
    there, engine._later = None, [(6, TLS)]
    engine._attach_later()
    assert engine._attached == [5, 6]
