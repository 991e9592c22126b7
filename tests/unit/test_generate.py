from __future__ import annotations

import re
from dataclasses import replace

import pytest

from profiler.errors import UnsupportedError
from profiler.probe.generate import Program, generate
from profiler.probe.hooks import BPF_DIRECTORY, load_hooks
from profiler.probe.layout import FIELDS, Layout
from profiler.settings import Settings

DEFAULTS = Settings()
LAYOUT = Layout(
    offsets={name: 8 * i for i, name in enumerate([*FIELDS, "msghdr_iter_ubuf"])},
    enumerators={"ITER_IOVEC": 1, "ITER_UBUF": 0},
    helpers={"get_current_task_btf": 158, "task_pt_regs": 175},
    pt_regs_size=168,
    iter_type_has_direction=False,
    parameters={
        "tcp_sendmsg": ("sk", "msg", "size"),
        "tcp_recvmsg": ("sk", "msg", "len", "flags", "addr_len"),
        "tcp_close": ("sk", "timeout"),
    },
)


def program(
    route: str, settings: Settings = DEFAULTS, layout: Layout = LAYOUT, machine: str = "x86_64"
) -> Program:
    return generate(route, load_hooks(), layout, settings, self_pid=4711, machine=machine)


@pytest.mark.parametrize("route", ["socket", "syscall"])
def test_every_macro_that_the_c_code_uses_is_defined(route: str) -> None:
    source = program(route).source
    # FIELD(type, base, name) and its kin paste the offset's name together.
    used = set(re.findall(r"\b(OFFSET_[a-z]\w+)", source))
    used |= {f"OFFSET_{name}" for name in re.findall(r"FIELD\([^()]*?, (\w+)\)", source)}
    defined = set(re.findall(r"#define (OFFSET_\w+) ", source))
    assert len(used) > 20
    assert used - {"OFFSET_name"} <= defined


@pytest.mark.parametrize("route", ["socket", "syscall"])
def test_the_source_stands_alone(route: str) -> None:
    """BCC rewrites map operations in the main file only."""
    source = program(route).source
    assert "#include" not in source
    for header in BPF_DIRECTORY.glob("*.[hc]"):
        assert source.count(f'#line 1 "{header.name}"') == 1, header


def test_parameters_of_functions_are_found_by_name() -> None:
    source = program("socket").source
    assert "leave_function(ctx[0], ctx[1], ctx[3], (int)ctx[5], DIRECTION_RECV)" in source
    older = replace(
        LAYOUT,
        parameters={
            **LAYOUT.parameters,
            "tcp_recvmsg": ("sk", "msg", "len", "nonblock", "flags", "addr_len"),
        },
    )
    assert (
        "leave_function(ctx[0], ctx[1], ctx[4], (int)ctx[6],"
        in program("socket", layout=older).source
    )


def test_a_kernel_without_a_hooked_function_or_parameter_is_refused() -> None:
    without = {k: v for k, v in LAYOUT.parameters.items() if k != "tcp_recvmsg"}
    with pytest.raises(UnsupportedError, match="tcp_recvmsg"):
        program("socket", layout=replace(LAYOUT, parameters=without))
    renamed = {**LAYOUT.parameters, "tcp_sendmsg": ("sk", "message", "size")}
    with pytest.raises(UnsupportedError, match="no parameter 'msg'"):
        program("socket", layout=replace(LAYOUT, parameters=renamed))


def test_the_syscall_route_uses_the_machine_s_numbers() -> None:
    assert "case 45: /* recvfrom */" in program("syscall").source
    assert "case 207: /* recvfrom */" in program("syscall", machine="aarch64").source
    with pytest.raises(UnsupportedError, match="s390x"):
        program("syscall", machine="s390x")


def test_attachments() -> None:
    targets = {(a.kind, a.target) for a in program("socket").attachments}
    assert targets == {
        ("fexit", "tcp_sendmsg"),
        ("fexit", "tcp_recvmsg"),
        ("fentry", "tcp_close"),
    }
    syscall = program("syscall")
    targets = {(a.kind, a.target) for a in syscall.attachments}
    assert ("tracepoint", "syscalls:sys_enter_readv") in targets
    assert ("tracepoint", "syscalls:sys_exit_sendmsg") in targets
    assert ("kprobe", "tcp_close") in targets
    assert len(targets) == 2 * 8 + 1
    for attachment in syscall.attachments:
        assert f"int {attachment.function}(" in syscall.source
    # An exit is hooked before its entry: no call is left half seen.
    kinds = [a.target for a in syscall.attachments]
    assert kinds.index("syscalls:sys_exit_read") < kinds.index("syscalls:sys_enter_read")


def test_settings_reach_the_program() -> None:
    source = program("socket", Settings(ports=(80, 8080), pids=(7,), max_body=1000)).source
    assert "#define SELF_PID 4711" in source
    assert "#define FILTER_PID(pid) ((pid) == 7)" in source
    assert "(local) == 80 || (local) == 8080" in source
    assert "(remote) == 80 || (remote) == 8080" in source
    assert f"#define CALL_LIMIT {64 * 1024 + 1000}" in source
    everything = program("socket").source
    assert "#define FILTER_PID(pid) (1)" in everything
    assert "#define FILTER_PORT(local, remote) (1)" in everything
