# SPDX-License-Identifier: Apache-2.0
"""The offsets of the headers route, as far as they need no compiler."""

from __future__ import annotations

import re
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.errors import UnsupportedError
from profiler.ingest.probe import headers
from profiler.ingest.probe.generate import generate
from profiler.ingest.probe.hooks import load_hooks
from profiler.ingest.settings import Settings


def on_kernel(
    monkeypatch: pytest.MonkeyPatch, release: str, machine: str = "x86_64"
) -> tuple[headers.Layout, str]:
    """Use a stand-in for the compiler: the offset of the n-th function is 8 * n."""
    sources: list[str] = []

    def compile_functions(source: str, *_: Any, **__: Any) -> dict[str, bytes]:
        sources.append(source)
        return {
            name: struct.pack("=BBhi", 0xB7, 0, 0, 8 * n) + struct.pack("=BBhi", 0x95, 0, 0, 0)
            for n, name in enumerate(re.findall(r"int (of_\w+)\(", source))
        }

    monkeypatch.setattr(headers, "compiled_functions", compile_functions)
    monkeypatch.setattr(headers.platform, "machine", lambda: machine)
    monkeypatch.setattr(headers.os, "uname", lambda: SimpleNamespace(release=release))
    return headers.read_layout_of_headers(), sources[0]


def test_the_syscall_route_has_all_offsets(monkeypatch: pytest.MonkeyPatch) -> None:
    layout, _ = on_kernel(monkeypatch, "6.1.0-56-cloud-amd64")
    program = generate("syscall", load_hooks(), layout, Settings(), machine="x86_64").source
    used = {f"OFFSET_{name}" for name in re.findall(r"FIELD\([^()]*?, (\w+)\)", program)}
    defined = set(re.findall(r"#define (OFFSET_\w+) ", program))
    # FIELD's own definition, and what only the socket route reads.
    others = {"OFFSET_name", "OFFSET_pt_regs_syscall"} | {u for u in used if "msghdr" in u}
    assert used - others <= defined


def test_renamed_members(monkeypatch: pytest.MonkeyPatch) -> None:
    old, source = on_kernel(monkeypatch, "5.4.0-150-generic")
    assert "offsetof(struct task_struct, real_start_time)" in source
    assert "__sk_flags_offset" in source
    assert old.helpers == {}
    new, source = on_kernel(monkeypatch, "6.12.117+deb13-cloud-amd64")
    assert "offsetof(struct task_struct, start_boottime)" in source
    assert "__sk_flags_offset" not in source
    assert new.helpers == {
        "ktime_get_boot_ns": 125,
        "ringbuf_output": 130,
        "check_mtu": 163,
        "copy_from_user_task": 191,
    }
    older, _ = on_kernel(monkeypatch, "5.15.0-100-generic")
    assert {"check_mtu", "copy_from_user_task"} & set(older.helpers) == {"check_mtu"}


def test_the_registers_of_arm64(monkeypatch: pytest.MonkeyPatch) -> None:
    def expressions(machine: str) -> set[tuple[str, str]]:
        _, source = on_kernel(monkeypatch, "6.1.0-56-cloud-amd64", machine)
        return set(re.findall(r"of_(\w+)\(.*?(offsetof[^;]*)", source, re.DOTALL))

    x86, arm = expressions("x86_64"), expressions("aarch64")
    assert x86 - arm == {
        ("pt_regs_argument0", "offsetof(struct pt_regs, di)"),
        ("pt_regs_argument1", "offsetof(struct pt_regs, si)"),
    }
    assert arm - x86 == {
        ("pt_regs_argument0", "offsetof(struct pt_regs, regs)"),
        ("pt_regs_argument1", "offsetof(struct pt_regs, regs) + 8"),
    }


def test_an_offset_in_another_form(monkeypatch: pytest.MonkeyPatch) -> None:
    code = struct.pack("=BBhi", 0x18, 0, 0, 4)
    monkeypatch.setattr(
        headers, "compiled_functions", lambda _, names, *__, **___: dict.fromkeys(names, code)
    )
    with pytest.raises(UnsupportedError, match="offset"):
        headers.read_layout_of_headers()
