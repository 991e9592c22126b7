"""The offsets of the headers route, as far as no compiler is needed."""

from __future__ import annotations

import re
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.errors import UnsupportedError
from profiler.probe import headers
from profiler.probe.generate import generate
from profiler.probe.hooks import load_hooks
from profiler.settings import Settings


def fake_bcc(sources: list[str]) -> Any:
    """Stands in for BCC's compiler: the offset of the n-th function is 8 * n."""

    class Bpf:
        def __init__(self, text: str, cflags: list[str]) -> None:
            sources.append(text)
            self.names = re.findall(r"int (of_\w+)\(", text)

        def dump_func(self, name: bytes) -> bytes:
            move = struct.pack("=BBhi", 0xB7, 0, 0, 8 * self.names.index(name.decode()))
            return move + struct.pack("=BBhi", 0x95, 0, 0, 0)

        def cleanup(self) -> None:
            pass

    return SimpleNamespace(BPF=Bpf)


def on_kernel(monkeypatch: pytest.MonkeyPatch, release: str) -> tuple[headers.Layout, str]:
    sources: list[str] = []
    monkeypatch.setattr(headers.os, "uname", lambda: SimpleNamespace(release=release))
    return headers.read_layout_of_headers(fake_bcc(sources)), sources[0]


def test_the_syscall_route_has_all_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, _ = on_kernel(monkeypatch, "6.1.0-56-cloud-amd64")
    program = generate(
        "syscall", load_hooks(), layout, Settings(), self_pid=1, machine="x86_64"
    ).source
    used = {f"OFFSET_{name}" for name in re.findall(r"FIELD\([^()]*?, (\w+)\)", program)}
    defined = set(re.findall(r"#define (OFFSET_\w+) ", program))
    # FIELD's own definition and what only the socket route reads.
    others = {"OFFSET_name", "OFFSET_pt_regs_syscall"} | {u for u in used if "msghdr" in u}
    assert used - others <= defined


def test_members_that_had_another_name(monkeypatch: pytest.MonkeyPatch) -> None:
    old, source = on_kernel(monkeypatch, "5.4.0-150-generic")
    assert "offsetof(struct task_struct, real_start_time)" in source
    assert "__sk_flags_offset" in source
    assert old.helpers == {}
    new, source = on_kernel(monkeypatch, "6.12.117+deb13-cloud-amd64")
    assert "offsetof(struct task_struct, start_boottime)" in source
    assert "__sk_flags_offset" not in source
    assert new.helpers == {"ktime_get_boot_ns": 125, "ringbuf_output": 130, "check_mtu": 163}


def test_headers_that_do_not_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**_: object) -> None:
        raise RuntimeError("Failed to compile BPF module")

    with pytest.raises(UnsupportedError, match="linux-headers"):
        headers.read_layout_of_headers(SimpleNamespace(BPF=refuse))


def test_an_offset_in_another_form() -> None:
    with pytest.raises(UnsupportedError, match="offset"):
        headers._returned(struct.pack("=BBhi", 0x18, 0, 0, 4))
