# SPDX-License-Identifier: Apache-2.0
"""Generates the macros that precede the C code, from the kernel's layout and the settings.

Other modules use its predicates, which report the features of a kernel.
"""

from __future__ import annotations

import os
import struct

from profiler.errors import UnsupportedError
from profiler.exchanges.conditions import Filters
from profiler.exchanges.values import Address
from profiler.ingest.probe import calling
from profiler.ingest.probe.layout import TRACEPOINTS, Layout
from profiler.ingest.probe.ring import batch_bytes
from profiler.ingest.settings import Settings

# A power of two: the number of sockets with a place of their own. As many more sockets, whose
# place is already taken, are stored elsewhere (bpf/connection.h).
OWN_PLACES = 16384
PROCESSES_MAX = 8192
# TLS sessions, threads that use any, and records not yet seen at a socket; the oldest are replaced.
TLS_MAX = 8192

# Placeholders stay in the compiled program until it is loaded, so that it can be cached. They
# exceed 32 bits, so that the compiler loads each with a 64-bit instruction of its own.
SELF_PLACEHOLDER = 0x53656C6600000000
EXPORTER_PLACEHOLDER = 0x4578706F00000000
SETTING_PLACEHOLDER = 0x5365747400000000  # the first of a sequence, one for each setting
FILTER_PLACEHOLDER = 0x46696C7400000000  # the first of a sequence, one for each value


def setting_values(settings: Settings) -> dict[int, int]:
    """Return placeholder -> value, for the numeric settings."""
    numbers = _numbers_of(settings).values()
    return {SETTING_PLACEHOLDER + n: number for n, number in enumerate(numbers)}


def _numbers_of(settings: Settings) -> dict[str, int]:
    return {
        "CALL_LIMIT": settings.call_limit,
        "WAKE_BYTES": batch_bytes(settings.ring_bytes),
        "RING_BYTES": settings.ring_bytes,
        **({"MAX_BODY": settings.max_body} if _keeps_bodies(settings) else {}),
    }


def macros(layout: Layout, settings: Settings, machine: str) -> list[str]:
    """Return the macros for a kernel, the settings and ``machine`` (``uname -m``).

    Raises UnsupportedError if the kernel lacks a feature that a setting requires.
    """
    return [
        *_layout_macros(layout),
        *(["#define FETCH_AND_ADD 1"] if can_fetch_and_add(layout, machine) else []),
        *_settings_macros(settings, layout),
        *_cast_macros(layout, settings),
    ]


def uses_ring_buffer(layout: Layout, settings: Settings) -> bool:
    """Return whether the ring buffer carries the records, rather than the perf buffer.

    Raises UnsupportedError if the user chose the ring buffer and this kernel lacks it.
    """
    has_ring_buffer = "ringbuf_output" in layout.helpers
    if settings.buffer == "ring" and not has_ring_buffer:
        raise UnsupportedError(
            "this kernel has no BPF ring buffer: omit --buffer ring", since=(5, 8)
        )
    return has_ring_buffer and settings.buffer != "perf"


def uses_boot_time(layout: Layout) -> bool:
    """Return whether times are CLOCK_BOOTTIME (Linux 5.8) rather than CLOCK_MONOTONIC."""
    return "ktime_get_boot_ns" in layout.helpers


# By architecture, a helper added in the first kernel whose JIT compiler supports the atomic
# fetch-and-add: 5.12 and 5.18.
_CAME_WITH_FETCH_AND_ADD = {"x86_64": "check_mtu", "aarch64": "copy_from_user_task"}


def can_fetch_and_add(layout: Layout, machine: str) -> bool:
    """Return whether the kernel has an atomic fetch-and-add."""
    return _CAME_WITH_FETCH_AND_ADD.get(machine) in layout.helpers


def has_raw_tracepoints(layout: Layout) -> bool:
    """Return whether programs can attach to the two raw syscall tracepoints without perf."""
    return len(layout.tracepoints) == len(TRACEPOINTS)


def has_task_storage(layout: Layout) -> bool:
    """Return whether a program at a raw tracepoint can use task storage (5.12)."""
    needed = {"task_storage_get", "get_current_task_btf", "check_mtu"}
    return has_raw_tracepoints(layout) and needed <= layout.helpers.keys()


def _layout_macros(layout: Layout) -> list[str]:
    offsets = layout.offsets
    # Before 5.6, the protocol was one byte, directly before the type.
    protocol_bits = 8 if offsets["sock_sk_type"] - offsets["sock_sk_protocol"] == 1 else 16
    return [
        *(f"#define OFFSET_{name} {value}" for name, value in sorted(offsets.items())),
        *(f"#define {name} {value}" for name, value in sorted(layout.enumerators.items())),
        *(f"#define HELPER_{name} {value}" for name, value in sorted(layout.helpers.items())),
        f"#define SIZE_pt_regs {layout.pt_regs_size}",
        # Used only before Linux 5.15; this is its value on x86_64 and on arm64 with 4 KiB pages.
        "#define THREAD_SIZE 16384",
        f"#define ITER_TYPE_T {'u32' if layout.iter_type_has_direction else 'u8'}",
        f"#define ITER_DIRECTION_BIT {int(layout.iter_type_has_direction)}",
        f"#define SK_PROTOCOL_T u{protocol_bits}",
        *(["#define ITER_POINTER_IS_TYPED 1"] if layout.iter_pointer_is_typed else []),
        *(["#define RAW_TRACEPOINTS 1"] if has_raw_tracepoints(layout) else []),
        *(["#define PENDING_IN_TASK 1"] if has_task_storage(layout) else []),
    ]


def _cast_macros(layout: Layout, settings: Settings) -> list[str]:
    # With the code that --max-body adds, typed pointers make the verifier explore too many
    # states: states that differ only in a pointer's type are not merged.
    if not layout.cast_function or _keeps_bodies(settings):
        return []
    return [
        f"#define CAST_FUNCTION {layout.cast_function}",
        *(f"#define TYPE_{name} {number}" for name, number in sorted(layout.casts.items())),
    ]


def _keeps_bodies(settings: Settings) -> bool:
    """Return whether the kernel skips bodies beyond --max-body (``bpf/body.h``)."""
    # It cannot find them in ciphertext.
    return settings.max_body < Settings.max_body and not settings.tls_keys


def _settings_macros(settings: Settings, layout: Layout) -> list[str]:
    return [
        f"#define FILTER_PLACEHOLDER {FILTER_PLACEHOLDER}ULL",
        *(
            f"#define {name} written_over({SETTING_PLACEHOLDER + n}ULL)"
            for n, name in enumerate(_numbers_of(settings))
        ),
        *calling.MACROS,
        f"#define SELF_PLACEHOLDER {SELF_PLACEHOLDER}ULL",
        f"#define EXPORTER_PLACEHOLDER {EXPORTER_PLACEHOLDER}ULL",
        f"#define OWN_PLACES {OWN_PLACES}",
        f"#define PROCESSES_MAX {PROCESSES_MAX}",
        *(["#define TLS 1", f"#define TLS_MAX {TLS_MAX}"] if settings.tls else []),
        *(["#define TLS_KEYS 1"] if settings.tls_keys else []),
        *(["#define HAS_RING_BUFFER 1"] if uses_ring_buffer(layout, settings) else []),
    ]


# Values of one filter option in a program; for more values it is multiplied by itself.
_FILTER_SLOTS = 4


def filter_tests(filters: Filters) -> tuple[list[str], list[int]]:
    """Return the macros that ``bpf/filter.h`` uses, and the numbers of its FILTER_VALUEs.

    The macros depend only on the number of values of the longest option, rounded up to a power
    of four. So one program serves different filters, and a capture without filters.
    """
    words_of = {
        "PID(pid)": ("(pid) == {}", [(pid,) for pid in filters.pid]),
        "COMM(low, high)": (
            "((low) == {} && (high) == {})",
            [_WORDS.unpack(_padded(comm)) for comm in filters.comm],
        ),
        "USER(user)": ("(user) == {}", [(user,) for user in filters.user]),
        "PORT(port)": ("(port) == {}", [(port,) for port in filters.port]),
        "ADDRESS(low, high)": (
            "((((low) & {}) == {}) && (((high) & {}) == {}))",
            [_range(address) for address in filters.address],
        ),
    }
    longest = max(len(filters.cgroup), *(len(given) for _, given in words_of.values()))
    slots = _FILTER_SLOTS
    while slots < longest:
        slots *= _FILTER_SLOTS
    values: list[int] = []

    def value(number: int) -> str:
        values.append(number)
        return f"FILTER_VALUE({len(values) - 1})"

    macros = [f"#define FILTER_SLOTS {slots}"]
    for name, (test, given) in words_of.items():
        macros.append(f"#define GIVEN_{name.partition('(')[0]} {value(int(bool(given)))}")
        nothing = (0,) * test.count("{}")
        padded = [*given, *[given[-1] if given else nothing] * (slots - len(given))]
        tests = " || ".join(test.format(*map(value, words)) for words in padded)
        macros.append(f"#define WANTED_{name} ({tests})")
    groups = " || ".join(f"IN_CGROUP({index})" for index in range(slots))
    macros.append(f"#define GIVEN_CGROUP {value(int(bool(filters.cgroup)))}")
    macros.append(f"#define WANTED_CGROUP ({groups})")
    return macros, values


# 16 bytes of memory, as the C code reads them.
_WORDS = struct.Struct("=QQ")


def _padded(comm: str) -> bytes:
    return os.fsencode(comm).ljust(_WORDS.size, b"\0")


def _range(address: Address) -> tuple[int, int, int, int]:
    """Return mask and network of the low word, then of the high word."""
    (mask, mask_high), (network, network_high) = (
        _WORDS.unpack(number.to_bytes(_WORDS.size, "big"))
        for number in (address.mask, address.network)
    )
    return mask, network, mask_high, network_high
