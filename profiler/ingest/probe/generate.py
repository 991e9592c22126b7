# SPDX-License-Identifier: Apache-2.0
"""Generates the source of a probe from the hooks and the kernel's layout.

The logic is C, in ``bpf/``. Macros before it (``macros.py``: struct offsets, filters) and
short entry points after it, generated here, adapt it to kernels and settings. Only the
files in ``bpf/`` are read, so the same input always gives the same source.

BCC compiles a single source text, so the files are joined. ``#line`` directives keep the
positions in the compiler's messages correct.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from typing import NamedTuple

from profiler.errors import UnsupportedError
from profiler.ingest.probe.calling import LOOK_FIRST, LOOK_SECOND, Calling, calling_of, position
from profiler.ingest.probe.hooks import (
    BPF_DIRECTORY,
    FunctionHook,
    Hooks,
    LibraryHook,
    SyscallHook,
)
from profiler.ingest.probe.inflight import CALLS as INFLIGHT_CALLS
from profiler.ingest.probe.layout import Layout
from profiler.ingest.probe.macros import (
    FILTER_PLACEHOLDER,
    filter_tests,
    has_raw_tracepoints,
    macros,
    setting_values,
)
from profiler.ingest.probe.maps import MAPS, SYSCALL_ROUTE_MAPS, TLS_MAPS
from profiler.ingest.settings import Settings
from profiler.ingest.syscalls import NAMES

_INCLUDE = re.compile(r'#include "(.+)"')

_LEAVE = "leave_function"
# Where no program can be preempted, programs that move data use the slot of their direction.
_SLOT_CLOSE = 2
# Shared: at a system call's entry a program only counts, at a close it only uses the workspace.
_SLOT_ENTER = _SLOT_CLOSE

# The programs of TLS libraries that can run on a CPU at once, because one preempts the other.
_TLS_SLOTS = 4

# Programs that record the start of a connection, or report a process.
_NO_WORKSPACE = re.compile("_(open|datagram)_")

# Kinds of attachment.
FENTRY, FEXIT, KPROBE = "fentry", "fexit", "kprobe"
RAW_TRACEPOINT, TRACEPOINT = "raw_tracepoint", "tracepoint"
UPROBE = "uprobe"


class Attachment(NamedTuple):
    """One function of the program and the target it is attached to.

    ``target`` is a kernel function for ``fentry``, ``fexit`` and ``kprobe``,
    ``category:name`` for ``tracepoint``, and a name alone for ``raw_tracepoint``. For ``uprobe``
    it is a function of a library, which is attached wherever a file has it.
    Several targets may share a function.
    """

    kind: str
    target: str
    function: str
    calling: Calling = Calling()
    """The target's calling convention, for a program that serves several targets."""
    protocol: str | None = None
    """If set, attached only once this protocol is available above TCP."""


class LibraryPrograms(NamedTuple):
    """What is attached to a function of a TLS library: at its entry, and at its returns."""

    library: str
    function: str
    entry: Attachment
    leave: Attachment | None = None
    """If set, attached to the function's RET instructions."""


class Program(NamedTuple):
    """The source for BCC, and what to attach where."""

    route: str
    source: str
    attachments: tuple[Attachment, ...]
    values: dict[int, int]
    """Placeholder -> value of the user's settings (``macros.py``), written at load time."""
    inflight: Attachment | None = None
    """Socket route: the attachment for calls that were already in flight (``inflight.py``)."""
    libraries: tuple[LibraryPrograms, ...] = ()
    """For each function of a TLS library, what is attached to it."""


def generate(
    route: str, hooks: Hooks, layout: Layout, settings: Settings, *, machine: str
) -> Program:
    """Generate the BCC program for ``route`` (``socket`` or ``syscall``).

    ``machine`` is the architecture as printed by ``uname -m``. Raises UnsupportedError if
    this kernel lacks a hooked function, or if no syscall table exists for ``machine``.
    """
    if not settings.tls:
        functions = tuple(hook for hook in hooks.functions if hook.event != "datagram")
        hooks = replace(hooks, functions=functions)
    writers = {"socket": _socket_route, "syscall": _syscall_route}
    entries, attachments = writers[route](hooks, layout, machine)
    if route == "socket":
        attachments += _inflight(hooks, layout)
    # A program at a system call's tracepoint is skipped while any other program runs.
    slots = _slots(attachments, route == "socket" and layout.preemptible)
    tls_slots = _TLS_SLOTS if layout.preemptible else 1
    library_entries, libraries = _libraries(hooks, layout) if settings.tls else ([], ())
    attachments = [
        a._replace(calling=a.calling._replace(slot=slot)) for a, slot in zip(attachments, slots)
    ]
    tests, filter_values = filter_tests(settings.filters)
    values = setting_values(settings) | {
        FILTER_PLACEHOLDER + n: value for n, value in enumerate(filter_values)
    }
    inflight = next((a for a in attachments if a.kind == FENTRY and a.function == _LEAVE), None)
    lines = [
        f"#define ROUTE_{route.upper()} 1",
        f"#define SLOTS {max(slots) + 1 + (tls_slots if settings.tls else 0)}",
        f"#define SLOT_TLS {max(slots) + 1}",
        f"#define TLS_SLOTS {tls_slots}",
        f"#define SLOT_ENTER {_SLOT_ENTER}",
        *(f"#define MAP_NUMBER_{name} {i}" for i, name in enumerate(maps_of(route, settings))),
        *macros(layout, settings, machine),
        *tests,
        *(_call_macros(hooks, machine) if route == "syscall" else []),
        *_with_includes("probe.bpf.c", set()),
        '#line 1 "entry points"',
        *entries,
        *library_entries,
    ]
    lasting = tuple(a for a in attachments if a is not inflight)
    return Program(route, "\n".join(lines) + "\n", lasting, values, inflight, libraries)


def maps_of(route: str, settings: Settings) -> tuple[str, ...]:
    """Return the names of the maps that a route's program uses, ordered by number."""
    maps = SYSCALL_ROUTE_MAPS if route == "syscall" else MAPS
    return (*maps, *TLS_MAPS) if settings.tls else maps


def of_libraries(program: Program) -> list[Attachment]:
    """Return what a program attaches to functions of TLS libraries."""
    rows = ((each.entry, each.leave) for each in program.libraries)
    return [attachment for row in rows for attachment in row if attachment]


def _with_includes(name: str, seen: set[str]) -> list[str]:
    """Return a file's lines, with the first ``#include`` of each file in ``bpf/`` expanded."""
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


def _slots(attachments: list[Attachment], preemptible: bool) -> list[int]:
    """Return the index of each program's workspace (``bpf/call.h``)."""
    if preemptible:
        number = count()
        return [0 if _NO_WORKSPACE.search(a.function) else next(number) for a in attachments]
    return [a.calling.direction if a.function == _LEAVE else _SLOT_CLOSE for a in attachments]


def _socket_route(hooks: Hooks, layout: Layout, machine: str) -> tuple[list[str], list[Attachment]]:
    entries: dict[str, str] = {}
    attachments = []
    for hook in hooks.functions:
        if hook.event == "inflight":
            continue
        parameters = layout.parameters.get(hook.name)
        if parameters is None:
            if hook.optional:
                continue
            raise UnsupportedError(
                f"the socket route needs {hook.name}, which this kernel lacks", since=(5, 5)
            )
        if hook.event in _AT_ENTRY:
            name, body = _at_entry(hook, parameters, "ctx[{}]")
            entries[f"fentry_{name}"] = f"int fentry_{name}(u64 *ctx)\n{body}"
            attachments.append(Attachment(FENTRY, hook.name, f"fentry_{name}"))
        else:
            calling = calling_of(hook, parameters)
            if hook.second and layout.preemptible:
                # The program attached last runs first.
                second = calling._replace(look=LOOK_SECOND)
                attachments.append(Attachment(FEXIT, hook.name, _LEAVE, second))
                calling = calling._replace(look=LOOK_FIRST)
            attachments.append(Attachment(FEXIT, hook.name, _LEAVE, calling, hook.protocol))
    return list(entries.values()), attachments


def _inflight(hooks: Hooks, layout: Layout) -> list[Attachment]:
    for hook in hooks.functions:
        parameters = layout.parameters.get(hook.name)
        if hook.event == "inflight" and parameters is not None:
            return [Attachment(FENTRY, hook.name, _LEAVE, calling_of(hook, parameters))]
    return []


# Go's functions find their thread, stack and parameters in other places.
_LEAVE_LIBRARY, _LEAVE_GO = "leave_library", "leave_go"
_GO = "go"
# The registers of a user program's parameters. The system calls' names serve for the first three.
_PARAMETERS = (
    *("pt_regs_argument0", "pt_regs_argument1", "pt_regs_argument2"),
    *("pt_regs_parameter3", "pt_regs_parameter4"),
)
_GO_PARAMETERS = ("pt_regs_go0", "pt_regs_go1")
_REGISTERS = (
    *(*_PARAMETERS, *_GO_PARAMETERS),
    *("pt_regs_result", "pt_regs_stack", "pt_regs_goroutine"),
)


def _libraries(hooks: Hooks, layout: Layout) -> tuple[list[str], tuple[LibraryPrograms, ...]]:
    if not all(name in layout.offsets for name in _REGISTERS):
        raise UnsupportedError("--tls needs the kernel's BTF, on x86_64 or arm64")
    result = "(s32)REGISTER(ctx, pt_regs_result)"
    entries = [
        _entry(_LEAVE_LIBRARY, f"leave_tls(ctx, {result}, TLS_OPENSSL)"),
        _entry(_LEAVE_GO, f"leave_tls(ctx, {result}, TLS_GO)"),
    ]
    found = []
    for hook in hooks.libraries:
        name = "enter_" + re.sub(r"\W+", "_", hook.function)
        entries.append(_entry(name, _call_of(hook)))
        entry = Attachment(UPROBE, hook.function, name)
        leave = None
        if hook.library == _GO and hook.event != "free":
            leave = Attachment(UPROBE, hook.function, _LEAVE_GO)
        elif hook.event in ("send", "recv"):
            leave = Attachment(UPROBE, hook.function, _LEAVE_LIBRARY)
        found.append(LibraryPrograms(hook.library, hook.function, entry, leave))
    return entries, tuple(found)


def _entry(name: str, call: str) -> str:
    return f"int {name}(void *ctx)\n{{\n\treturn {call};\n}}"


def _call_of(hook: LibraryHook) -> str:
    def register(position: int | None) -> str:
        parameters = _GO_PARAMETERS if hook.library == _GO else _PARAMETERS
        return "0" if position is None else f"REGISTER(ctx, {parameters[position]})"

    if hook.event == "free":
        return f"free_session(ctx, {register(0)})"
    if hook.event == "record":
        return f"write_record(ctx, {register(hook.buffer)}, {register(hook.length)})"
    direction = {"session": "NONE"}.get(hook.event, hook.event.upper())
    session = f"session_of_bio({register(0)})" if hook.session == "bio" else register(0)
    return (
        f"enter_tls(ctx, {session}, {register(hook.buffer)}, {register(hook.moved)}, "
        f"TLS_{hook.library.upper()}, DIRECTION_{direction})"
    )


_AT_ENTRY = {
    "open": "open_socket({socket})",
    "close": "close_socket(ctx, {socket}, CALLING(CALLING_SLOT))",
    "datagram": "report_datagram(ctx, {socket}, {message})",
}


def _at_entry(hook: FunctionHook, parameters: tuple[str, ...], parameter: str) -> tuple[str, str]:
    """Return the name and body of a program; ``parameter`` formats a parameter's position."""
    number = position(hook, parameters, hook.socket)
    values = {"socket": parameter.format(number)}
    if hook.message:
        values["message"] = parameter.format(position(hook, parameters, hook.message))
    call = _AT_ENTRY[hook.event].format(**values)
    return f"{hook.event}_{number}", f"{{\n\t{call};\n\treturn 0;\n}}"


def _syscall_route(
    hooks: Hooks, layout: Layout, machine: str
) -> tuple[list[str], list[Attachment]]:
    numbers = _numbers(machine)
    rows: dict[str, list[SyscallHook]] = {}
    for hook in hooks.syscalls:
        rows.setdefault(hook.name, []).append(hook)
    cases = "\n".join(_case(hooks_of, numbers[name]) for name, hooks_of in rows.items())
    entries = [
        "int enter_hooked(struct sys_enter *ctx)\n{\n"
        "\tstruct pending call = {}, other = {};\n"
        "\tu64 descriptor, other_descriptor = -1;\n"
        "\tswitch ((u32)ctx->number) {\n"
        f"{cases}\n"
        "\tdefault:\n\t\treturn 0;\n\t}\n"
        "\tif (is_narrow())\n\t\treturn 0;\n"
        "\tif (!enter_syscall(&call, descriptor) && other_descriptor != -1)\n"
        "\t\tenter_syscall(&other, other_descriptor);\n"
        "\treturn 0;\n}"
    ]
    attachments = []
    if has_raw_tracepoints(layout):
        attachments = [
            Attachment(RAW_TRACEPOINT, "sys_exit", "leave_syscall"),
            Attachment(RAW_TRACEPOINT, "sys_enter", "enter_hooked"),
        ]
        rows = {}
    for name, (hook, *_) in rows.items():
        tracepoint = hook.tracepoint or name
        attachments += [
            Attachment(TRACEPOINT, f"syscalls:sys_exit_{tracepoint}", "leave_syscall"),
            Attachment(TRACEPOINT, f"syscalls:sys_enter_{tracepoint}", "enter_hooked"),
        ]
    for function in hooks.functions:
        if function.event not in _AT_ENTRY:
            continue
        parameters = layout.parameters.get(function.name)
        if parameters is None:
            if function.optional:
                continue
            raise UnsupportedError(f"this kernel lacks {function.name}")
        name, body = _at_entry(
            function, parameters, "*(u64 *)((u64)ctx + OFFSET_pt_regs_argument{})"
        )
        source = f"int kprobe_{name}(void *ctx)\n{body}"
        if source not in entries:
            entries.append(source)
        attachments.append(Attachment(KPROBE, function.name, f"kprobe_{name}"))
    return entries, attachments


def _call_macros(hooks: Hooks, machine: str) -> list[str]:
    """Return the macros that test a syscall's number at its exit, on the syscall route."""
    numbers = _numbers(machine)
    tests = {
        "IS_HOOKED": dict.fromkeys(hook.name for hook in hooks.syscalls),
        "MAY_HAVE_WAITED": INFLIGHT_CALLS,
    }
    return [
        f"#define {test}(number) ({' || '.join(f'(number) == {numbers[n]}' for n in names)})"
        for test, names in tests.items()
    ]


def _numbers(machine: str) -> dict[str, int]:
    """Return the numbers of the system calls by name."""
    try:
        return {name: number for number, name in NAMES[machine].items()}
    except KeyError:
        raise UnsupportedError(
            f"the syscall route does not support {machine}: it runs on {', '.join(NAMES)}"
        ) from None


def _case(hooks: list[SyscallHook], number: int) -> str:
    lines = [f"\tcase {number}: /* {hooks[0].name} */"]
    # A call that moves data in both directions has a second row.
    for variable, descriptor, hook in zip(("call", "other"), _DESCRIPTORS, hooks):
        lines += [
            f"\t\t{variable}.direction = DIRECTION_{hook.direction.upper()};",
            f"\t\t{variable}.payload = PAYLOAD_{hook.payload.upper()};",
        ]
        if hook.pointer is not None:
            lines.append(f"\t\t{variable}.pointer = {_argument(hook.pointer)};")
        if hook.flags is not None:
            lines.append(f"\t\t{variable}.msg_flags = {_argument(hook.flags)};")
        lines.append(f"\t\t{descriptor} = {_argument(hook.descriptor)};")
    return "\n".join([*lines, "\t\tbreak;"])


_DESCRIPTORS = ("descriptor", "other_descriptor")


def _argument(number: int) -> str:
    # The kernel refuses to attach a program that loads bytes beyond the end of a tracepoint's
    # context. One program serves all calls, so a helper reads the arguments that some calls
    # do not have.
    return f"{'ARGUMENT' if number < 2 else 'LATER_ARGUMENT'}(ctx, {number})"
