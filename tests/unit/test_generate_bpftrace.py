# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from profiler.errors import UnsupportedError
from profiler.exchanges.conditions import conditions
from profiler.ingest.probe.generate_bpftrace import FATES, RECV_FATES, Dialect, generate
from profiler.ingest.probe.hooks import SyscallHook, load_hooks
from profiler.ingest.probe.layout import Layout
from profiler.ingest.settings import Settings
from profiler.ingest.syscalls import NAMES
from tests.unit.test_generate import LAYOUT

VERSIONS = [(0, 11), (0, 14), (0, 17), (0, 19), (0, 23), (0, 27)]
HOOKS = load_hooks()


def program(
    version: tuple[int, int] = (0, 17),
    settings: Settings | None = None,
    layout: Layout = LAYOUT,
    machine: str = "x86_64",
    rows: tuple[SyscallHook, ...] = HOOKS.syscalls,
) -> str:
    return generate(
        replace(HOOKS, syscalls=rows),
        layout,
        settings or Settings(),
        Dialect(version),
        own_pids=[4711, 4712],
        machine=machine,
    )


def probe(text: str, name: str) -> str:
    """Return the part of the program from this probe to the next."""
    return re.split(r"\n(?=\S+\n?[/{])", text.split(f"\n{name}\n")[1])[0]


def row(**fields: object) -> SyscallHook:
    values = {"name": "read", "direction": "recv", "payload": "flat", "pointer": 1}
    return SyscallHook(**{**values, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("version", VERSIONS)
def test_every_row_of_the_table_is_hooked(version: tuple[int, int]) -> None:
    enter = probe(program(version), "tracepoint:raw_syscalls:sys_enter")
    numbers = {name: number for number, name in NAMES["x86_64"].items()}
    args = "args." if version >= (0, 19) else "args->"
    names = [hook.name for hook in HOOKS.syscalls]
    for name in names:
        assert f"$id == {numbers[name]}" in enter
        assert enter.count(f"// {name}\n") == 1
    # Each call once in the filter, and once where its arguments are taken.
    assert enter.count("$id == ") == 2 * len(set(names))
    # The kernel rejects the address of a member, which LLVM creates from two reads of it.
    reads = re.findall(re.escape(args) + r"[a-z]+(?:\[\d\])?", enter)
    assert len(reads) == len(set(reads))


@pytest.mark.parametrize("version", VERSIONS)
def test_braces_and_parentheses_are_balanced(version: tuple[int, int]) -> None:
    text = program(version, Settings(where=conditions(port=(80, 81), pid=(7, 8))))
    assert text.count("{") == text.count("}")
    assert text.count("(") == text.count(")")
    # A template tag that was not closed, or an unknown name.
    assert "{{" not in text and "{%" not in text and "None" not in text


def test_the_differences_between_versions() -> None:
    old, middle, new = program((0, 11)), program((0, 17)), program((0, 23))
    assert "args->ret" in middle and "args.ret" in new
    assert "nsecs(monotonic)" in new and "nsecs(" not in middle
    assert "delete(@sk[tid]);" in middle and "delete(@sk, tid);" in new
    assert "%rh" in middle and "%rh" not in old
    assert "uptr(" not in old and "uptr(" in middle
    # Numbers with sizes would overflow: there everything is made 64 bits wide.
    assert "$remote_port = (uint64)$sk->dport;" in new
    assert "$remote_port = $sk->dport;" in middle
    # Before 0.14 a number cannot be added to a pointer.
    assert "(struct hp_slot*)((uint64)$table->fd + 8 * $fd0)" in old
    assert "$slot0 = $table->fd + $fd0;" in middle


def test_limits_in_the_environment() -> None:
    old = Dialect((0, 17)).environment(16 * 1024 * 1024, 3)
    assert old["BPFTRACE_STRLEN"] == "128"
    # A power of two, for each processor.
    assert old["BPFTRACE_PERF_RB_PAGES"] == "1024"
    new = Dialect((0, 23)).environment(16 * 1024 * 1024, 3)
    assert new["BPFTRACE_MAX_STRLEN"] == "1008"
    assert new["BPFTRACE_PERF_RB_PAGES"] == "4096"


def test_structures_have_the_offsets_of_the_layout() -> None:
    text = program()
    structure = re.search(r"struct hp_table \{\n(.*?)\n\};", text, re.S)
    assert structure is not None
    start, end = LAYOUT.offsets["fdtable_max_fds"], LAYOUT.offsets["fdtable_fd"]
    assert start < end
    assert structure[1].split("\n") == [
        f"  char before_max_fds[{start}];",
        "  unsigned int max_fds;",
        f"  char before_fd[{end - start - 4}];",
        "  struct hp_slot * fd;",
    ]


def test_a_member_that_is_not_aligned_is_refused() -> None:
    odd = replace(LAYOUT, offsets={**LAYOUT.offsets, "task_struct_comm": 1001})
    with pytest.raises(UnsupportedError, match=r"hp_task\.comm"):
        program(layout=odd)


def test_filters() -> None:
    text = program(settings=Settings(where=conditions(port=(80,), pid=(7, 8))))
    assert "pid != 7 && pid != 8" in text
    # 80 in network order is 20480; a port that was released has 65536 added.
    assert "$local_port != 80 && $local_port != 86016 && $remote_port != 20480" in text
    assert "pid == 4711 || pid == 4712" in text
    assert "$remote_port !=" not in program()


@pytest.mark.parametrize(
    ("fields", "how"),
    [
        ({"payload": "flat", "direction": "send"}, 2),
        ({"payload": "flat", "direction": "recv"}, 1 + 2),
        ({"payload": "iovec"}, 1 + 2 + 4),
        ({"payload": "msghdr"}, 1 + 2 + 4 + 8),
        # Unreadable kinds of memory only advance the stream.
        ({"payload": "none"}, 1),
        ({"payload": "mmsghdr"}, 1 + 16),
    ],
)
def test_payloads(fields: dict[str, object], how: int) -> None:
    enter = probe(program(rows=(row(**fields),)), "tracepoint:raw_syscalls:sys_enter")
    assert f"    $how = {how};" in enter


def test_arguments_by_position() -> None:
    one = row(name="sendto", direction="send", pointer=2, flags=3)
    enter = probe(program(rows=(one,)), "tracepoint:raw_syscalls:sys_enter")
    for index in range(4):
        assert f"$argument{index} = args->args[{index}];" in enter
    assert "$fd = $argument0;" in enter and "$fd = $argument1;" not in enter
    assert "$pointer = $argument2;" in enter
    assert "$how = 2 + (($argument3 & 0xffffffff) << 8);" in enter


def test_a_descriptor_that_is_not_the_first_argument() -> None:
    one = SimpleNamespace(**{**vars(row()), "descriptor": 2})
    text = program(rows=(one,))  # type: ignore[arg-type]
    enter = probe(text, "tracepoint:raw_syscalls:sys_enter")
    assert "$argument2 = args->args[2];" in enter and "      $fd = $argument2;" in enter


def test_unknown_versions_and_layouts_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"0\.10 is too old"):
        program((0, 10))
    with pytest.raises(UnsupportedError, match="s390x"):
        program(machine="s390x")
    with pytest.raises(UnsupportedError, match="vmsplice"):
        program(rows=(row(name="vmsplice"),))


def test_fates_are_distinct_in_both_directions() -> None:
    assert len(set(FATES.values())) == len(FATES)
    assert max(FATES.values()) < RECV_FATES
