"""Hooks and layout in, the source of a probe out.

The logic is C, in ``bpf/``. What differs between kernels and settings - struct
offsets, positions of parameters, filters, entry points - is written here as
macros before it and short functions after it. Apart from the files in ``bpf/``
nothing is read: the same input gives the same text.

The files are put into one text because BCC rewrites its map operations in the
main file only, never in an included one; ``#line`` keeps the compiler's
messages true.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from profiler.errors import UnsupportedError
from profiler.probe.hooks import BPF_DIRECTORY, FunctionHook, Hooks, SyscallHook
from profiler.probe.layout import Layout
from profiler.settings import Settings
from profiler.syscalls import NAMES

CONNECTIONS_MAX = 32768
PAGE_SIZE = 4096

_INCLUDE = re.compile(r'#include "(.+)"')


@dataclass(frozen=True)
class Attachment:
    """One function of the program and where it hooks on.

    ``kind`` is ``fentry``, ``fexit``, ``kprobe`` (``target`` is a kernel
    function) or ``tracepoint`` (``target`` is ``category:name``).
    """

    kind: str
    target: str
    function: str


@dataclass(frozen=True)
class Program:
    """The source for BCC, and what to attach where."""

    route: str
    source: str
    attachments: tuple[Attachment, ...]


def generate(
    route: str, hooks: Hooks, layout: Layout, settings: Settings, *, self_pid: int, machine: str
) -> Program:
    """Write the BCC program for ``route`` (``socket`` or ``syscall``).

    ``self_pid`` is the profiler's own process, which is left out; ``machine``
    is the architecture as ``uname -m`` says it. Raises UnsupportedError if
    this kernel lacks a hooked function, or this architecture a table of calls.
    """
    writers = {"socket": _socket_route, "syscall": _syscall_route}
    entries, attachments = writers[route](hooks, layout, machine)
    lines = [
        f"#define ROUTE_{route.upper()} 1",
        *_layout_macros(layout),
        *_settings_macros(settings, self_pid),
        *_with_includes("probe.bpf.c", set()),
        '#line 1 "entry points"',
        *entries,
    ]
    return Program(route, "\n".join(lines) + "\n", tuple(attachments))


def _with_includes(name: str, seen: set[str]) -> list[str]:
    """The lines of a file in ``bpf/``, each ``#include`` replaced by that file once."""
    seen.add(name)
    lines = [f'#line 1 "{name}"']
    for number, line in enumerate((BPF_DIRECTORY / name).read_text().splitlines(), 1):
        included = _INCLUDE.match(line)
        if not included:
            lines.append(line)
        elif included[1] not in seen:
            lines += [*_with_includes(included[1], seen), f'#line {number + 1} "{name}"']
        else:
            lines.append("")
    return lines


def _layout_macros(layout: Layout) -> list[str]:
    return [
        *(f"#define OFFSET_{name} {value}" for name, value in sorted(layout.offsets.items())),
        *(f"#define {name} {value}" for name, value in sorted(layout.enumerators.items())),
        *(f"#define HELPER_{name} {value}" for name, value in sorted(layout.helpers.items())),
        f"#define SIZE_pt_regs {layout.pt_regs_size}",
        # Used before Linux 5.15 only, where it is this on x86_64 and on arm64 with 4 KiB pages.
        "#define THREAD_SIZE 16384",
        f"#define ITER_TYPE_T {'u32' if layout.iter_type_has_direction else 'u8'}",
        f"#define ITER_DIRECTION_BIT {int(layout.iter_type_has_direction)}",
    ]


def _settings_macros(settings: Settings, self_pid: int) -> list[str]:
    return [
        f"#define SELF_PID {self_pid}",
        f"#define FILTER_PID(pid) ({_any_of('(pid)', settings.pids)})",
        "#define FILTER_PORT(local, remote) "
        + (
            f"({_any_of('(local)', settings.ports)} || {_any_of('(remote)', settings.ports)})"
            if settings.ports
            else "(1)"
        ),
        f"#define CALL_LIMIT {settings.call_limit}",
        f"#define CONNECTIONS_MAX {CONNECTIONS_MAX}",
        f"#define RING_PAGES {settings.ring_bytes // PAGE_SIZE}",
    ]


def _any_of(expression: str, values: Iterable[int]) -> str:
    return " || ".join(f"{expression} == {value}" for value in values) or "1"


def _socket_route(hooks: Hooks, layout: Layout, machine: str) -> tuple[list[str], list[Attachment]]:
    entries, attachments = [], []
    for hook in hooks.functions:
        parameters = layout.parameters.get(hook.name)
        if parameters is None:
            raise UnsupportedError(f"the socket route needs {hook.name}, which this kernel lacks")
        if hook.event == "close":
            kind, body = "fentry", f"close_socket({_parameter(hook, parameters, hook.socket)});"
        else:
            kind, body = "fexit", _leave_function(hook, parameters)
        # BCC takes the kind of a program from the beginning of its name, and each
        # version expects another beginning; only its macros know which.
        macro = {"fentry": "KFUNC_PROBE", "fexit": "KRETFUNC_PROBE"}[kind]
        entries.append(f"{macro}({hook.name}, void *{hook.socket})\n{{\n\t{body}\n\treturn 0;\n}}")
        attachments.append(Attachment(kind, hook.name, hook.name))
    return entries, attachments


def _leave_function(hook: FunctionHook, parameters: tuple[str, ...]) -> str:
    message = _parameter(hook, parameters, hook.message)
    flags = (
        _parameter(hook, parameters, hook.flags)
        if hook.flags
        else f"FIELD(u32, {message}, msghdr_msg_flags)"
    )
    # At the exit of a function its result follows its parameters.
    return (
        f"leave_function({_parameter(hook, parameters, hook.socket)}, {message}, {flags}, "
        f"(int)ctx[{len(parameters)}], DIRECTION_{str(hook.direction).upper()});"
    )


def _parameter(hook: FunctionHook, parameters: tuple[str, ...], name: str | None) -> str:
    if name not in parameters:
        raise UnsupportedError(
            f"{hook.name} of this kernel has no parameter {name!r} "
            f"(it has {', '.join(parameters)}): use --route syscall"
        )
    return f"ctx[{parameters.index(name)}]"


def _syscall_route(
    hooks: Hooks, layout: Layout, machine: str
) -> tuple[list[str], list[Attachment]]:
    try:
        numbers = {name: number for number, name in NAMES[machine].items()}
    except KeyError:
        raise UnsupportedError(
            f"the syscall route does not know the system calls of {machine} "
            f"(it knows those of {', '.join(NAMES)})"
        ) from None
    cases = "\n".join(_case(hook, numbers[hook.name]) for hook in hooks.syscalls)
    entries = [
        "int enter_hooked(struct sys_enter *ctx)\n{\n"
        "\tstruct pending call = {};\n"
        "\tswitch ((u32)ctx->number) {\n"
        f"{cases}\n"
        "\tdefault:\n\t\treturn 0;\n\t}\n"
        "\treturn enter_syscall(&call, ctx->arguments[0]);\n}"
    ]
    attachments = []
    for hook in hooks.syscalls:
        attachments += [
            Attachment("tracepoint", f"syscalls:sys_exit_{hook.name}", "leave_syscall"),
            Attachment("tracepoint", f"syscalls:sys_enter_{hook.name}", "enter_hooked"),
        ]
    for function in hooks.functions:
        if function.event == "close":
            name = f"enter_{function.name}"
            entries.append(
                f"int {name}(void *registers)\n{{\n"
                "\tclose_socket(*(u64 *)(registers + OFFSET_pt_regs_argument));\n"
                "\treturn 0;\n}"
            )
            attachments.append(Attachment("kprobe", function.name, name))
    return entries, attachments


def _case(hook: SyscallHook, number: int) -> str:
    # The kernel refuses to attach a program to a tracepoint whose context ends before
    # the last byte that the program loads from it. One program serves them all, so
    # arguments that some calls do not have are read by the helper instead.
    lines = [
        f"\tcase {number}: /* {hook.name} */",
        f"\t\tcall.direction = DIRECTION_{hook.direction.upper()};",
        f"\t\tcall.payload = PAYLOAD_{hook.payload.upper()};",
        f"\t\tcall.pointer = ctx->arguments[{hook.pointer}];",
    ]
    if hook.flags is not None:
        lines.append(f"\t\tcall.msg_flags = READ_KERNEL(u64, &ctx->arguments[{hook.flags}]);")
    return "\n".join([*lines, "\t\tbreak;"])
