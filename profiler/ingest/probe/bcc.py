# SPDX-License-Identifier: Apache-2.0
"""The BCC engine: compiles the probe with BCC, loads and attaches it, and reads its records.

An engine yields batches of wire records. A batch is the content of the ring buffer
at one poll.
"""

from __future__ import annotations

import mmap
import os
import platform
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from profiler.accounting import FILTERED, LOST, Count, Direction, KernelAccount, Sides
from profiler.errors import ProbeError, UnsupportedError
from profiler.exchanges.conditions import Filters
from profiler.ingest.probe.attachments import REFRESH_SECONDS, Attachments
from profiler.ingest.probe.calling import Calling
from profiler.ingest.probe.cgroups import directories
from profiler.ingest.probe.compiled import compiled_functions
from profiler.ingest.probe.compiler import compiler_file
from profiler.ingest.probe.generate import (
    Attachment,
    Program,
    generate,
    maps_of,
    of_libraries,
)
from profiler.ingest.probe.headers import read_layout_of_headers
from profiler.ingest.probe.hooks import Hooks, load_hooks
from profiler.ingest.probe.ignored import IgnoredConnections
from profiler.ingest.probe.inflight import InflightCalls
from profiler.ingest.probe.kernel import cpus, lift_memory_limit, may_load
from profiler.ingest.probe.layout import Layout, read_layout
from profiler.ingest.probe.load import (
    attach,
    load,
    skipped,
    target_id,
    with_constants,
    with_fetch,
    with_function,
    with_maps,
)
from profiler.ingest.probe.macros import (
    EXPORTER_PLACEHOLDER,
    SELF_PLACEHOLDER,
    can_fetch_and_add,
    uses_boot_time,
    uses_ring_buffer,
)
from profiler.ingest.probe.maps import PERF_EVENT_ARRAY, RINGBUF, Map, Shape, described
from profiler.ingest.probe.order import Order
from profiler.ingest.probe.perf import PerfBuffer
from profiler.ingest.probe.precedence import Precedence
from profiler.ingest.probe.ring import RingBuffer
from profiler.ingest.settings import ROUTES, Settings
from profiler.ingest.wire import HANDSHAKE
from profiler.privileges.helper import Helper

if TYPE_CHECKING:
    from profiler.ingest.probe.libraries import Libraries, Probes

POLL_MS = 100
_STOP_SECONDS = 1.0

# struct account of bpf/counters.h
_COUNT = struct.Struct("=QQ")


class BccEngine:
    """An attached probe; a context manager that detaches it.

    Raises ProbeError or UnsupportedError if no route can be loaded on this
    machine, with a reason for each route tried.
    """

    applied = tuple(Filters.__dataclass_fields__)

    def __init__(self, settings: Settings) -> None:
        _check_privilege()
        compiler_file()
        if settings.tls:
            _check_packages()
        self._cgroups = directories(settings.filters.cgroup)
        self._exporter_pid = settings.exporter_pid
        self._maps: dict[str, Map] = {}
        self._buffer: RingBuffer | PerfBuffer | None = None
        self._attachments = Attachments()
        # (kernel function, program function) -> descriptors. Where two programs are attached, a
        # call is missed only if both are skipped.
        self._programs: dict[tuple[str, str], list[int]] = {}
        self._order = Order()
        self.problems: list[str] = []
        self._precedence = Precedence(settings.ring_bytes) if settings.lossless else None
        self._inflight: InflightCalls | None = None
        self._probes: Probes | None = None
        self._libraries: Libraries | None = None
        self._ignored: IgnoredConnections | None = None
        self._ignore: Callable[[int], object]
        self._is_shared = self._is_stopped = False
        self._detach: Callable[[], object] = self._close_attached
        self._read_account: Callable[[], dict[str, Any]] = self._account_here
        hooks = load_hooks()
        layout, without_btf = self._read_layout(hooks, settings)
        self.clock = time.CLOCK_BOOTTIME if uses_boot_time(layout) else time.CLOCK_MONOTONIC
        """The clock of the records' times."""
        routes = (settings.route,) if settings.route else ROUTES
        failures = []
        if without_btf:
            failures.append(without_btf)
            routes = ("syscall",)
        for route in routes:
            try:
                self._start(route, hooks, layout, settings)
            except ProbeError as error:
                self.detach()
                failures.append(str(error))
            else:
                self.route = route
                break
        else:
            raise ProbeError("; ".join(dict.fromkeys(failures)))
        self.fallback = "; ".join(failures)
        """Why a better route is not used; empty if the best one is."""

    def __enter__(self) -> BccEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def batches(self) -> Iterator[list[bytes]]:
        """Yield the records of each poll until detached; an empty list if there are none."""
        while self._buffer is not None:
            yield self._poll(POLL_MS)
            if not self._is_shared:
                self._refresh()

    def stop(self) -> list[bytes]:
        """Detach the probe and return the records that it has already forwarded."""
        self._is_stopped = True
        self._detach()
        records = []
        deadline = time.monotonic() + _STOP_SECONDS
        while (batch := self._poll(0)) or (
            # The kernel is still writing a record on another CPU.
            isinstance(self._buffer, RingBuffer)
            and self._buffer.found
            and time.monotonic() < deadline
        ):
            records += batch
        return records + self._order.rest()

    def account(self) -> KernelAccount:
        """Return the kernel's counters, summed over CPUs."""
        account = KernelAccount.from_json(self._read_account())
        if self._libraries is not None:
            account = replace(account, uncaptured=self._libraries.uncaptured())
        return account

    def ignore(self, socket: int) -> None:
        """Make the kernel stop forwarding the socket with this inode."""
        self._ignore(socket)

    def discover(self) -> None:
        """Attach to the TLS libraries of this machine."""
        if self._libraries is not None:
            self.problems += map("not probed: {}".format, self._libraries.attach_all())

    def share(self, helper: Helper) -> None:
        """Offer ``helper`` what needs privileges; to be called before it is split off."""
        self._detach = helper.offer(self._close_attached)
        self._read_account = helper.offer(self._account_here)
        assert self._ignored is not None, "the probe is attached"
        if self._ignored.needs_privileges:
            self._ignore = helper.offer(self._ignored.add)
        else:
            helper.at_start(self._ignored.close)
        if self._probes is not None:
            self._probes.share(helper)
        helper.every(REFRESH_SECONDS, self._refresh)
        helper.after_split(self._release)
        if self._buffer is not None:
            helper.at_start(self._buffer.close)

    def _release(self) -> None:
        """Leave programs, attachments and maps to the helper, and keep the mapped buffer."""
        self._is_shared = True
        # The helper has descriptors of its own, so nothing is detached.
        self._close_attached()
        self._close_programs()
        for name in [name for name in self._maps if name != "events"]:
            self._maps.pop(name).close()

    def detach(self) -> None:
        """Detach the probe and free its maps."""
        self._close_attached()
        if self._precedence is not None:
            self._precedence.give_back()
        self._close_programs()
        if self._buffer is not None:
            self._buffer.close()
            self._buffer = None
        if self._ignored is not None:
            self._ignored.close()
            self._ignored = None
        while self._maps:
            self._maps.popitem()[1].close()

    def _read_layout(self, hooks: Hooks, settings: Settings) -> tuple[Layout, str]:
        """Return the layout, and why it does not come from BTF; empty if it does."""
        reason = "--types headers: the socket route needs BTF"
        if settings.types != "headers":
            try:
                return read_layout({hook.name for hook in hooks.functions}), ""
            except UnsupportedError as error:
                if settings.types == "btf" or settings.route == "socket":
                    raise
                reason = str(error)
        if settings.route == "socket":
            raise UnsupportedError(reason)
        return read_layout_of_headers(), reason

    def _start(self, route: str, hooks: Hooks, layout: Layout, settings: Settings) -> None:
        program = generate(route, hooks, layout, settings, machine=platform.machine())
        lift_memory_limit()
        # First, because it fails at once if BPF is not permitted here.
        self._open_buffer(uses_ring_buffer(layout, settings), settings.ring_bytes)
        maps = maps_of(route, settings)
        described_by = {f"describe_{name}": name for name in maps if name != "events"}
        functions = {attachment.function for attachment in program.attachments}
        functions.update(each.function for each in of_libraries(program))
        code = compiled_functions(
            program.source,
            (*functions, *described_by),
            f"the {program.route} route cannot be compiled",
        )
        for function, name in described_by.items():
            self._maps[name] = Map(name, described(code[function]))
        self._ignored = IgnoredConnections(self._maps["ignored"])
        self._ignore = self._ignored.add
        self._name_cgroups()
        # Before the probe is attached, so that it has not seen any of these calls begin.
        self._inflight = InflightCalls(platform.machine())
        self._attach_all(program, code, layout, maps)
        if program.libraries:
            self._prepare_libraries(program, code, settings)
        if self._inflight:
            self._attach_inflight(self._inflight, program, code, layout)

    def _prepare_libraries(
        self, program: Program, code: dict[str, bytes], settings: Settings
    ) -> None:
        # Imported here: only --tls needs them.
        from profiler.ingest.probe.libraries import Libraries, Probes

        for each in of_libraries(program):
            if ("", each.function) not in self._programs:
                self._programs["", each.function] = [load(code[each.function], each, None)]
        programs = {function: loaded for (_, function), (loaded, *_) in self._programs.items()}
        callers = self._maps["tls_processes"]
        self._probes = Probes(
            program.libraries,
            programs,
            lambda pid: callers.read(struct.pack("=I", pid)) is not None,
            settings.program,
        )
        functions = [each.function for each in program.libraries]
        self._libraries = Libraries(self._probes, functions)

    def _attach_inflight(
        self, inflight: InflightCalls, program: Program, code: dict[str, bytes], layout: Layout
    ) -> None:
        hook = program.inflight
        if hook is None:
            inflight.write_to(self._maps["inflight"])
            return
        descriptor = load(code[hook.function], hook, target_id(hook, layout))
        self._programs[hook.target, hook.function] = [descriptor]
        inflight.write_to(self._maps["inflight"], attach(descriptor, hook))

    def _open_buffer(self, is_ring: bool, size: int) -> None:
        if is_ring:
            self.carrier = "ring buffer"
            events = self._maps["events"] = Map("events", Shape(RINGBUF, 0, 0, size))
            self._buffer = RingBuffer(events.descriptor, size)
        else:
            self.carrier = "perf buffer"
            shape = Shape(PERF_EVENT_ARRAY, 4, 4, max(cpus("possible")) + 1)
            events = self._maps["events"] = Map("events", shape)
            self._buffer = PerfBuffer(events, _size_for_a_cpu(size))

    def _name_cgroups(self) -> None:
        for index, directory in enumerate(self._cgroups):
            try:
                descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise ProbeError(f"cannot open {directory}: {error.strerror}") from error
            try:
                self._maps["cgroups"].write(struct.pack("=I", index), struct.pack("=I", descriptor))
            finally:
                os.close(descriptor)

    def _attach_all(
        self, program: Program, code: dict[str, bytes], layout: Layout, maps: tuple[str, ...]
    ) -> None:
        descriptors = [self._maps[name].descriptor for name in maps]
        own = os.getpid()
        constants = {
            SELF_PLACEHOLDER: own,
            EXPORTER_PLACEHOLDER: self._exporter_pid or own,
            **program.values,
        }
        for function in code:
            code[function] = with_maps(code[function], descriptors)
            code[function] = with_constants(code[function], constants)
            if can_fetch_and_add(layout, platform.machine()):
                code[function] = with_fetch(code[function])
            if layout.cast_function:
                code[function] = with_function(code[function], layout.cast_function)
        # A program that is bound to a kernel function at load time serves only that function.
        serving: dict[tuple[str, Calling, int | None], list[Attachment]] = {}
        for attachment in program.attachments:
            key = attachment.function, attachment.calling, target_id(attachment, layout)
            serving.setdefault(key, []).append(attachment)
        # The verifier takes as long as the compiler, but can run on all CPUs in parallel.
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            loading = [
                pool.submit(load, code[function], served[0], target)
                for (function, _, target), served in serving.items()
            ]
        for done, (first, *_) in zip(loading, serving.values()):
            if not done.exception():
                programs = self._programs.setdefault((first.target, first.function), [])
                programs.append(done.result())
        for done, served in zip(loading, serving.values()):
            descriptor = done.result()
            for attachment in served:
                self._attachments.add(descriptor, attachment)
        self._attachments.refresh()

    def _refresh(self) -> None:
        if self._inflight:
            self._inflight.refresh()
        self._attachments.refresh()

    def _close_attached(self) -> None:
        if self._inflight is not None:
            self._inflight.close()
        if self._probes is not None:
            self._probes.close()
        self._attachments.close()

    def _close_programs(self) -> None:
        while self._programs:
            for descriptor in self._programs.popitem()[1]:
                os.close(descriptor)

    def _account_here(self) -> dict[str, Any]:
        missed = sum(min(map(skipped, programs)) for programs in self._programs.values())
        account = KernelAccount(self._direction(0), self._direction(1), missed)
        if "tls_account" in self._maps:
            sides = (self._direction(number, "tls_account") for number in (0, 1))
            account = replace(account, tls=Sides(*sides))
        return account.to_json()

    def _poll(self, milliseconds: int) -> list[bytes]:
        if self._buffer is None:
            return []
        started = time.clock_gettime_ns(self.clock)
        records = self._buffer.poll(milliseconds)
        if self._libraries is not None:
            records = self._without_handshakes(records, self._libraries)
        if isinstance(self._buffer, RingBuffer):
            if self._precedence is not None:
                self.problems += self._precedence.follow(self._buffer.found)
            return records
        return self._order.arrange(records, started)

    def _without_handshakes(self, records: list[bytes], libraries: Libraries) -> list[bytes]:
        """Attach to the libraries of the processes in HANDSHAKE records; return the others."""
        others = [record for record in records if record[0] != HANDSHAKE]
        if len(others) < len(records) and not self._is_stopped:
            for record in records:
                if record[0] == HANDSHAKE:
                    self.problems += map("not probed: {}".format, libraries.handshake(record))
        return others

    def _direction(self, direction: int, name: str = "account") -> Direction:
        account = self._maps[name]
        size = account.shape.value
        # Sum over the slots (bpf/counters.h) and the CPUs.
        counts = []
        for key in range(direction, account.shape.entries, 2):
            values = account.read(struct.pack("=I", key)) or b""
            counts += [
                list(_COUNT.iter_unpack(values[at : at + size]))
                for at in range(0, len(values), size)
            ]
        seen, forwarded, *reasons = (Count(*map(sum, zip(*parts))) for parts in zip(*counts))
        return Direction(
            seen=seen,
            forwarded=forwarded,
            filtered=dict(zip(FILTERED, reasons)),
            lost=dict(zip(LOST, reasons[len(FILTERED) :])),
        )


def _size_for_a_cpu(size: int) -> int:
    """Return the size of one CPU's part of a perf buffer in bytes: a power of two of pages."""
    pages = max(8, size // mmap.PAGESIZE // (os.cpu_count() or 1))
    return mmap.PAGESIZE << (pages.bit_length() - 1)


def _check_packages() -> None:
    missing = [name for name in ("capstone", "elftools") if not find_spec(name)]
    if missing:
        raise UnsupportedError(
            f"--tls needs the package {missing[0].replace('elftools', 'pyelftools')}: install "
            "http-profiler[tls]"
        )


def _check_privilege() -> None:
    # Root may lack them too, as in a container: the kernel then refuses, with a reason.
    if os.geteuid() != 0 and not may_load():
        raise ProbeError(
            "capturing needs root, or CAP_BPF and CAP_PERFMON: run `sudo http-profiler`"
        )
