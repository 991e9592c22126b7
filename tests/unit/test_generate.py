# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from dataclasses import replace

import pytest

from profiler.errors import UnsupportedError
from profiler.exchanges.conditions import conditions
from profiler.exchanges.values import address
from profiler.ingest.probe.generate import Program, generate, maps_of, of_libraries
from profiler.ingest.probe.hooks import BPF_DIRECTORY, load_hooks
from profiler.ingest.probe.layout import FIELDS, OPTIONAL_FIELDS, Layout
from profiler.ingest.probe.macros import FILTER_PLACEHOLDER, SETTING_PLACEHOLDER, can_fetch_and_add
from profiler.ingest.probe.maps import TLS_MAPS
from profiler.ingest.probe.ring import batch_bytes
from profiler.ingest.settings import CALL_LIMIT, Settings

DEFAULTS = Settings()
SENDERS = ("inet_sendmsg", "inet6_sendmsg", "unix_stream_sendmsg")
RECEIVERS = ("inet_recvmsg", "inet6_recvmsg", "unix_stream_recvmsg")
LAYOUT = Layout(
    offsets={name: 8 * i for i, name in enumerate([*FIELDS, *OPTIONAL_FIELDS])},
    enumerators={"ITER_IOVEC": 1, "ITER_UBUF": 0},
    helpers={"get_current_task_btf": 158, "task_pt_regs": 175},
    pt_regs_size=168,
    iter_type_has_direction=False,
    parameters={
        "tcp_sendmsg_locked": ("sk", "msg", "size"),
        **dict.fromkeys(SENDERS, ("sock", "msg", "size")),
        **dict.fromkeys(RECEIVERS, ("sock", "msg", "size", "flags")),
        "tcp_splice_read": ("sock", "ppos", "pipe", "len", "flags"),
        "unix_stream_splice_read": ("sock", "ppos", "pipe", "size", "flags"),
        "inet_release": ("sock",),
        "unix_release": ("sock",),
        "unix_stream_connect": ("sock", "uaddr", "addr_len", "flags"),
        "unix_accept": ("sock", "newsock", "arg"),
        "unix_socketpair": ("socka", "sockb"),
        "udp_sendmsg": ("sk", "msg", "len"),
    },
)


def program(
    route: str, settings: Settings = DEFAULTS, layout: Layout = LAYOUT, machine: str = "x86_64"
) -> Program:
    return generate(route, load_hooks(), layout, settings, machine=machine)


@pytest.mark.parametrize("route", ["socket", "syscall"])
@pytest.mark.parametrize("tls", [False, True])
def test_every_macro_that_the_c_code_uses_is_defined(route: str, tls: bool) -> None:
    source = program(route, Settings(tls=tls)).source
    # FIELD(type, base, name) and similar macros paste the offset's name together.
    used = set(re.findall(r"\b(OFFSET_[a-z]\w+)", source))
    for macro in ("FIELD", "REGISTER"):
        used |= {f"OFFSET_{name}" for name in re.findall(rf"{macro}\([^()]*?, (\w+)\)", source)}
    defined = set(re.findall(r"#define (OFFSET_\w+) ", source))
    assert len(used) > 20
    assert used - {"OFFSET_name"} <= defined


@pytest.mark.parametrize("route", ["socket", "syscall"])
def test_the_source_stands_alone(route: str) -> None:
    """BCC compiles a text, not files."""
    source = program(route).source
    assert "#include" not in source
    for header in BPF_DIRECTORY.glob("*.[hc]"):
        assert source.count(f'#line 1 "{header.name}"') == 1, header


def callings_of(layout: Layout, function: str) -> list[list[int]]:
    attachments = program("socket", layout=layout).attachments
    return [list(a.calling) for a in attachments if a.target == function]


def test_parameters_of_functions_are_found_by_name() -> None:
    # direction; socket, message, flags; the number of parameters: the result comes after them;
    # level; look; slot
    assert callings_of(LAYOUT, "inet_sendmsg") == [[0, 0, 1, 0xFF, 3, 1, 0, 0]]
    assert callings_of(LAYOUT, "tcp_sendmsg_locked") == [[0, 0, 1, 0xFF, 3, 2, 0, 0]]
    assert callings_of(LAYOUT, "unix_stream_sendmsg") == [[0, 0, 1, 0xFF, 3, 0, 0, 0]]
    assert callings_of(LAYOUT, "inet_recvmsg") == [[1, 0, 1, 3, 4, 0, 0, 1]]
    assert callings_of(LAYOUT, "tcp_splice_read") == [[1, 0, 0xFF, 0xFF, 5, 0, 0, 1]]
    other = {**LAYOUT.parameters, "inet_recvmsg": ("flags", "sock", "size", "new", "msg")}
    layout = replace(LAYOUT, parameters=other)
    assert callings_of(layout, "inet_recvmsg") == [[1, 1, 4, 0, 5, 0, 0, 1]]


def test_with_preemption_two_programs_use_two_slots() -> None:
    layout = replace(LAYOUT, preemptible=True)
    # The first program is attached last, so it runs first.
    for function in ("tcp_sendmsg_locked", "inet_recvmsg", "inet6_recvmsg"):
        second, first = callings_of(layout, function)
        assert (second[:6], second[6], first[6]) == (first[:6], 2, 1)
    assert [calling[6] for calling in callings_of(layout, "inet_sendmsg")] == [0]
    found = program("socket", layout=layout)
    slots = [a.calling.slot for a in found.attachments if "open" not in a.function]
    assert slots == list(range(len(slots)))
    assert f"#define SLOTS {len(slots)}\n" in found.source
    # On a tracepoint no other program runs at the same time.
    assert "#define SLOTS 3\n" in program("syscall", layout=layout).source


def test_one_program_serves_all_functions_that_move_data() -> None:
    functions = {a.target: a.function for a in program("socket").attachments}
    assert {functions[name] for name in (*SENDERS, *RECEIVERS)} == {"leave_function"}
    assert functions["inet_release"] == functions["unix_release"]
    assert functions["unix_stream_connect"] != functions["unix_accept"]


def test_a_kernel_without_a_hooked_function_or_parameter_is_refused() -> None:
    without = {k: v for k, v in LAYOUT.parameters.items() if k != "inet_recvmsg"}
    with pytest.raises(UnsupportedError, match="inet_recvmsg"):
        program("socket", layout=replace(LAYOUT, parameters=without))
    renamed = {**LAYOUT.parameters, "inet_sendmsg": ("sock", "message", "size")}
    with pytest.raises(UnsupportedError, match="no parameter 'msg'"):
        program("socket", layout=replace(LAYOUT, parameters=renamed))


def test_an_optional_function_is_hooked_where_it_exists() -> None:
    def targets(layout: Layout) -> set[str]:
        return {a.target for a in program("socket", layout=layout).attachments}

    pages = ("sock", "page", "offset", "size", "flags")
    older = replace(LAYOUT, parameters={**LAYOUT.parameters, "inet_sendpage": pages})
    assert targets(older) - targets(LAYOUT) == {"inet_sendpage"}


@pytest.mark.parametrize(
    ("kernel_has", "asked", "ring"),
    [(True, None, True), (True, "perf", False), (False, None, False)],
)
def test_the_buffer(kernel_has: bool, asked: str | None, ring: bool) -> None:
    helpers = {"ringbuf_output": 130} if kernel_has else {}
    source = program("socket", Settings(buffer=asked), replace(LAYOUT, helpers=helpers)).source
    assert ("#define HAS_RING_BUFFER 1" in source) == ring


def test_a_missing_ring_buffer() -> None:
    with pytest.raises(UnsupportedError, match=r"needs Linux 5\.8 or newer") as raised:
        program("socket", Settings(buffer="ring"), replace(LAYOUT, helpers={}))
    assert raised.value.since == (5, 8)


def test_the_protocol_of_a_socket_was_a_byte_once() -> None:
    def width(kind: int, protocol: int) -> str:
        offsets = {**LAYOUT.offsets, "sock_sk_type": kind, "sock_sk_protocol": protocol}
        source = program("socket", layout=replace(LAYOUT, offsets=offsets)).source
        return source.split("#define SK_PROTOCOL_T ")[1].split()[0]

    assert width(538, 540) == "u16"  # 5.10
    assert width(542, 540) == "u16"  # 7.2
    assert width(522, 521) == "u8"  # 5.4


def test_the_syscall_route_uses_the_machine_s_numbers() -> None:
    assert "case 45: /* recvfrom */" in program("syscall").source
    assert "case 207: /* recvfrom */" in program("syscall", machine="aarch64").source
    with pytest.raises(UnsupportedError, match="s390x"):
        program("syscall", machine="s390x")


@pytest.mark.parametrize("route", ["socket", "syscall"])
@pytest.mark.parametrize(
    ("machine", "helpers", "at_once"),
    [
        ("x86_64", {}, False),
        ("x86_64", {"check_mtu": 163}, True),
        # Linux 5.12 to 5.17 on arm64
        ("aarch64", {"check_mtu": 163}, False),
        ("aarch64", {"check_mtu": 163, "copy_from_user_task": 191}, True),
    ],
)
def test_adding_and_fetching_at_once(
    route: str, machine: str, helpers: dict[str, int], at_once: bool
) -> None:
    layout = replace(LAYOUT, helpers=helpers)
    source = program(route, layout=layout, machine=machine).source
    assert ("#define FETCH_AND_ADD 1" in source) == at_once
    assert can_fetch_and_add(layout, machine) == at_once


def test_attachments() -> None:
    targets = {(a.kind, a.target) for a in program("socket").attachments}
    opens = {"unix_stream_connect", "unix_accept", "unix_socketpair"}
    assert targets == {
        *(("fexit", f) for f in ("tcp_sendmsg_locked", *SENDERS, *RECEIVERS)),
        *(("fexit", f) for f in ("tcp_splice_read", "unix_stream_splice_read")),
        *(("fentry", f) for f in ("inet_release", "unix_release", *opens)),
    }
    # Both ends of a pair.
    assert [a.target for a in program("socket").attachments].count("unix_socketpair") == 2
    syscall = program("syscall")
    targets = {(a.kind, a.target) for a in syscall.attachments}
    assert ("tracepoint", "syscalls:sys_enter_readv") in targets
    assert ("tracepoint", "syscalls:sys_exit_sendmsg") in targets
    assert ("tracepoint", "syscalls:sys_enter_sendfile64") in targets
    assert ("kprobe", "inet_release") in targets
    assert len(targets) == 2 * 14 + 5
    for attachment in syscall.attachments:
        assert f"int {attachment.function}(" in syscall.source
    # An exit is hooked before its entry: no call is seen at its entry only.
    kinds = [a.target for a in syscall.attachments]
    assert kinds.index("syscalls:sys_exit_read") < kinds.index("syscalls:sys_enter_read")


def test_with_typed_tracepoints_two_programs_see_all_system_calls() -> None:
    layout = replace(LAYOUT, tracepoints={"sys_enter": 1, "sys_exit": 2})
    found = program("syscall", layout=layout)
    raw = [a.target for a in found.attachments if a.kind == "raw_tracepoint"]
    # An exit is hooked before its entry: no call is seen at its entry only.
    assert raw == ["sys_exit", "sys_enter"]
    assert not any(a.kind == "tracepoint" for a in found.attachments)
    assert "#define RAW_TRACEPOINTS 1\n" in found.source
    assert "RAW_TRACEPOINTS 1" not in program("syscall").source


def test_calls_that_matter_at_their_end() -> None:
    source = program("syscall").source
    assert "#define MAY_HAVE_WAITED(number) ((number) == 0 || (number) == 45)\n" in source
    hooked = source.split("#define IS_HOOKED(number) ")[1].split("\n")[0]
    assert len(re.findall(r"\(number\) == \d+", hooked)) == 14


@pytest.mark.parametrize(
    ("helpers", "tracepoints", "kept"),
    [
        ({"task_storage_get", "check_mtu"}, True, True),
        # 5.11 has it for LSM programs only.
        ({"task_storage_get"}, True, False),
        ({"task_storage_get", "check_mtu"}, False, False),
    ],
)
def test_a_call_in_progress_is_kept_with_its_thread(
    helpers: set[str], tracepoints: bool, kept: bool
) -> None:
    layout = replace(
        LAYOUT,
        helpers={**LAYOUT.helpers, **dict.fromkeys(helpers, 1)},
        tracepoints={"sys_enter": 1, "sys_exit": 2} if tracepoints else {},
    )
    source = program("syscall", layout=layout).source
    assert ("#define PENDING_IN_TASK 1\n" in source) == kept


def test_numbers_become_pointers_where_the_kernel_casts_them() -> None:
    layout = replace(LAYOUT, casts={"file": 7, "socket": 8, "tcp_sock": 9}, cast_function=4711)
    source = program("syscall", layout=layout).source
    assert "#define CAST_FUNCTION 4711\n" in source
    assert "#define TYPE_tcp_sock 9\n" in source
    assert "#define CAST_FUNCTION" not in program("syscall").source
    without_bodies = program("syscall", Settings(max_body=0), layout).source
    assert "#define CAST_FUNCTION" not in without_bodies


@pytest.mark.parametrize("route", ["socket", "syscall"])
def test_with_a_key_log_whole_calls_of_tls_are_forwarded(route: str) -> None:
    settings = Settings(max_body=100)
    without, given = program(route, settings), program(route, replace(settings, tls_keys=True))
    macro = "#define TLS_KEYS 1\n"
    assert (macro in without.source, macro in given.source) == (False, True)
    # The kernel cannot find bodies in ciphertext.
    limit = "#define MAX_BODY "
    assert (limit in without.source, limit in given.source) == (True, False)
    assert replace(settings, tls_keys=True).call_limit == CALL_LIMIT > settings.call_limit


ARGUMENT = "*(u64 *)((u64)ctx + OFFSET_pt_regs_argument{})"


@pytest.mark.parametrize("route", ["socket", "syscall"])
def test_tls_adds_programs_maps_and_a_slot(route: str) -> None:
    without, given = program(route), program(route, Settings(tls=True))
    assert not without.libraries
    assert "MAP_NUMBER_tls_account" not in without.source
    for name in TLS_MAPS:
        assert f"#define MAP_NUMBER_{name} {maps_of(route, Settings(tls=True)).index(name)}\n" in (
            given.source
        )
        assert f"DEFINE_MAP({name}, " in given.source
    slots = int(re.findall(r"^#define SLOTS (\d+)$", without.source, re.M)[0])
    assert f"#define SLOTS {slots + 1}\n" in given.source
    assert f"#define SLOT_TLS {slots}\n#define TLS_SLOTS 1\n" in given.source
    preempting = program(route, Settings(tls=True), replace(LAYOUT, preemptible=True)).source
    assert "#define TLS_SLOTS 4\n" in preempting
    added = set(given.attachments) - set(without.attachments)
    assert {(each.target, each.function.partition("_")[2]) for each in added} == {
        ("udp_sendmsg", "datagram_0")
    }
    parameters = {
        "socket": ("ctx[0]", "ctx[1]"),
        "syscall": (ARGUMENT.format(0), ARGUMENT.format(1)),
    }
    assert f"report_datagram(ctx, {', '.join(parameters[route])})" in given.source
    assert "_datagram_0(" not in without.source
    for each in of_libraries(given):
        assert each.kind == "uprobe"
        assert given.source.count(f"int {each.function}(void *ctx)\n") == 1


def test_functions_of_tls_libraries() -> None:
    given = program("socket", Settings(tls=True))
    calls = dict(re.findall(r"int enter_(\w+)\(void \*ctx\)\n\{\n\treturn (.*);\n\}", given.source))
    first, second, third, fourth, fifth = (
        f"REGISTER(ctx, pt_regs_{name})"
        for name in ("argument0", "argument1", "argument2", "parameter3", "parameter4")
    )
    functions = {re.sub(r"\W+", "_", hook.function) for hook in load_hooks().libraries}
    assert calls.keys() == functions
    conn, buffer = (f"REGISTER(ctx, pt_regs_go{number})" for number in (0, 1))
    openssl = "TLS_OPENSSL, DIRECTION"
    expected = {
        "SSL_read": f"enter_tls(ctx, {first}, {second}, 0, {openssl}_RECV)",
        "SSL_read_ex": f"enter_tls(ctx, {first}, {second}, {fourth}, {openssl}_RECV)",
        "SSL_write_ex": f"enter_tls(ctx, {first}, {second}, {fourth}, {openssl}_SEND)",
        "SSL_write_ex2": f"enter_tls(ctx, {first}, {second}, {fifth}, {openssl}_SEND)",
        "BIO_f_ssl_read": f"enter_tls(ctx, session_of_bio({first}), {second}, {fourth}, "
        f"{openssl}_RECV)",
        "BIO_write": f"write_record(ctx, {second}, {third})",
        "gnutls_deinit": f"free_session(ctx, {first})",
        "crypto_tls_Conn_Read": f"enter_tls(ctx, {conn}, {buffer}, 0, TLS_GO, DIRECTION_RECV)",
    }
    assert expected.items() <= calls.items()
    returning = {each.function: each.leave.function for each in given.libraries if each.leave}
    assert returning == {
        hook.function: "leave_go" if hook.library == "go" else "leave_library"
        for hook in load_hooks().libraries
        if hook.event in ("send", "recv") or (hook.library, hook.event) == ("go", "session")
    }


def test_tls_needs_the_registers_of_user_programs() -> None:
    offsets = {k: v for k, v in LAYOUT.offsets.items() if k != "pt_regs_stack"}
    layout = replace(LAYOUT, offsets=offsets)
    with pytest.raises(UnsupportedError, match="--tls needs the kernel's BTF"):
        program("syscall", Settings(tls=True), layout)
    assert program("syscall", layout=layout)


def test_functions_of_rare_protocols_are_hooked_on_demand() -> None:
    attachments = program("socket").attachments
    assert {a.target: a.protocol for a in attachments if a.protocol} == {
        "inet_sendmsg": "tls",
        "inet6_sendmsg": "tls",
    }
    assert not any(a.protocol for a in program("syscall").attachments)


@pytest.mark.parametrize("typed", [True, False])
def test_an_iterator_s_pointer_may_have_a_type(typed: bool) -> None:
    source = program("socket", layout=replace(LAYOUT, iter_pointer_is_typed=typed)).source
    assert ("#define ITER_POINTER_IS_TYPED 1" in source) == typed


def written_over(given: Program, name: str) -> int:
    """Return the value that replaces a macro's placeholder when the program is loaded."""
    defined = re.search(rf"^#define {name} written_over\((\d+)ULL\)$", given.source, re.MULTILINE)
    assert defined is not None
    return given.values[int(defined[1])]


def filter_values(given: Program) -> tuple[int, ...]:
    numbers = sorted(number for number in given.values if number < SETTING_PLACEHOLDER)
    assert numbers == [FILTER_PLACEHOLDER + n for n in range(len(numbers))]
    return tuple(given.values[number] for number in numbers)


@pytest.mark.parametrize(("ring", "batch"), [(65536, 16384), (1 << 24, 65536)])
def test_a_batch_is_the_same_on_both_sides(ring: int, batch: int) -> None:
    given = program("socket", Settings(ring_bytes=ring))
    assert written_over(given, "WAKE_BYTES") == batch
    assert batch_bytes(ring) == batch


def filter_macros(given: Program) -> dict[str, str]:
    """Each of bpf/filter.h's macros, its values written into it."""
    values = filter_values(given)
    return {
        name: re.sub(r"FILTER_VALUE\((\d+)\)", lambda found: str(values[int(found[1])]), text)
        for name, text in re.findall(
            r"^#define ((?:GIVEN|WANTED)_\w+|FILTER_SLOTS)\S*(?: \w+\))? (.*)$", given.source, re.M
        )
    }


def test_settings_reach_the_program() -> None:
    given = program("socket", Settings(where=conditions(port=(80, 8080), pid=(7,)), max_body=1000))
    macros = filter_macros(given)
    assert (macros["GIVEN_PID"], macros["GIVEN_PORT"], macros["GIVEN_USER"]) == ("1", "1", "0")
    # The last value fills the slots that are left.
    assert macros["WANTED_PID"] == "(" + " || ".join(["(pid) == 7"] * 4) + ")"
    ports = (80, 8080, 8080, 8080)
    assert macros["WANTED_PORT"] == "(" + " || ".join(f"(port) == {port}" for port in ports) + ")"
    assert written_over(given, "CALL_LIMIT") == 64 * 1024 + 1000
    assert written_over(given, "MAX_BODY") == 1000


@pytest.mark.parametrize("route", ["socket", "syscall"])
@pytest.mark.parametrize(
    "asked",
    [
        [Settings(where=conditions(pid=(pid,))) for pid in (7, 8)],
        [Settings(), Settings(where=conditions(port=(80, 81, 82, 83), cgroup=("/a",)))],
        [Settings(max_body=size) for size in (0, 1000)],
        [Settings(ring_bytes=size) for size in (65536, 1 << 24)],
    ],
)
def test_another_number_needs_no_other_program(route: str, asked: list[Settings]) -> None:
    one, other = (program(route, settings) for settings in asked)
    assert one.source == other.source
    assert one.values != other.values


def test_each_filter_has_its_test_and_its_values() -> None:
    where = conditions(
        comm=("nginx", "0123456789abcde"),
        user=(0, 33),
        cgroup=("/a", "/b/c"),
        address=(address("10.0.0.0/8"), address("fd00::/8")),
    )
    macros = filter_macros(program("syscall", Settings(where=where)))
    assert {name: macros[name] for name in macros if name.startswith("GIVEN")} == {
        "GIVEN_PID": "0",
        "GIVEN_COMM": "1",
        "GIVEN_USER": "1",
        "GIVEN_PORT": "0",
        "GIVEN_ADDRESS": "1",
        "GIVEN_CGROUP": "1",
    }
    nginx = f"((low) == {0x786E69676E} && (high) == 0)"
    digits = f"((low) == {0x3736353433323130} && (high) == {0x65646362613938})"
    # 10.0.0.0/8 is ::ffff:10.0.0.0/104, and the first byte in memory is the lowest.
    ipv4 = (0xFFFFFFFFFFFFFFFF, 0, 0xFFFFFFFFFF, 0xAFFFF0000)
    ipv6 = (0xFF, 0xFD, 0, 0)
    addresses = [
        "((((low) & {}) == {}) && (((high) & {}) == {}))".format(*words) for words in (ipv4, ipv6)
    ]
    assert macros["WANTED_COMM"] == f"({' || '.join((nginx, digits, digits, digits))})"
    assert (
        macros["WANTED_USER"] == "(" + " || ".join(f"(user) == {u}" for u in (0, 33, 33, 33)) + ")"
    )
    assert macros["WANTED_ADDRESS"] == f"({' || '.join((*addresses, *addresses[1:] * 2))})"
    assert macros["WANTED_CGROUP"] == f"({' || '.join(f'IN_CGROUP({n})' for n in range(4))})"


@pytest.mark.parametrize(("given", "slots"), [(0, 4), (1, 4), (4, 4), (5, 16), (17, 64)])
def test_a_program_has_slots_for_the_longest_option(given: int, slots: int) -> None:
    where = conditions(port=tuple(range(1, given + 1)))
    macros = filter_macros(program("socket", Settings(where=where)))
    assert macros["FILTER_SLOTS"] == str(slots)
    assert macros["WANTED_PORT"].count("==") == macros["WANTED_PID"].count("==") == slots


def test_a_bidirectional_call_has_two_rows() -> None:
    source = program("syscall").source
    splice = source[source.index("/* splice */") :].split("break;")[0]
    assert "call.direction = DIRECTION_RECV" in splice
    assert "other.direction = DIRECTION_SEND" in splice
    assert "other_descriptor = LATER_ARGUMENT(ctx, 2)" in splice
    assert source.count("/* splice */") == 1
