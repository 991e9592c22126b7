# SPDX-License-Identifier: Apache-2.0
"""What this machine offers the profiler: reads facts and changes nothing.

A fact that cannot be read is ``None``, and shown as unknown: without root, the kernel hides some of
them.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import UnsupportedError
from profiler.ingest.probe.hooks import load_hooks
from profiler.ingest.probe.layout import TRACEPOINTS, Btf

AVAILABLE = "available"

RINGBUF_HELPER = "BPF_FUNC_ringbuf_output"

_TRACEPOINTS = (
    Path("/sys/kernel/tracing/events/syscalls"),
    Path("/sys/kernel/debug/tracing/events/syscalls"),  # before Linux 4.1, or where mounted so
)
# The extra `tls` of pyproject.toml.
TLS_PACKAGES = ("capstone", "cryptography", "pyelftools")

_LOCKDOWN = Path("/sys/kernel/security/lockdown")

# Bits of include/uapi/linux/capability.h that a probe, its reader, or the canary may need.
CAPABILITIES = {
    "CAP_DAC_READ_SEARCH": 2,
    "CAP_NET_ADMIN": 12,
    "CAP_IPC_LOCK": 14,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_SYS_NICE": 23,
    "CAP_SYS_RESOURCE": 24,
    "CAP_PERFMON": 38,
    "CAP_BPF": 39,
}


@dataclass(frozen=True)
class Machine:
    """The facts, in the order in which they are shown."""

    kernel: str
    architecture: str
    distribution: str | None
    btf: bool
    headers: bool
    ring_buffer: bool | None
    lockdown: str | None
    root: bool
    capabilities: tuple[str, ...]
    python: str
    bcc: str | None
    bpftrace: str | None
    tls_packages: dict[str, str | None]
    """Package of the extra ``tls`` -> its version, or ``None`` if it is not installed."""

    functions: dict[str, bool | None]
    """Kernel function of hooks.toml -> whether this kernel has it."""

    tracepoints: dict[str, bool | None]
    """``sys_enter`` and ``sys_exit``, where a program is bound to them by BTF, else
    ``sys_enter_...`` and ``sys_exit_...`` of the system calls of hooks.toml -> likewise."""

    @property
    def version(self) -> tuple[int, int]:
        """The kernel's version, for comparing: (6, 1)."""
        return kernel_version(self.kernel)

    def engines(self) -> dict[str, str]:
        """Engine -> :data:`AVAILABLE`, or why it cannot be used."""
        return {
            "bcc": AVAILABLE if self.bcc else "BCC is not installed for this Python",
            "bpftrace": AVAILABLE if self.bpftrace else "bpftrace is not installed",
        }

    def routes(self) -> dict[str, str]:
        """Route -> :data:`AVAILABLE`, or what the kernel lacks for it."""
        routes = {"socket": _verdict(self.functions), "syscall": _verdict(self.tracepoints)}
        if not self.btf:
            untyped = "the kernel does not describe its types (no BTF)"
            routes["socket"] = untyped
            if not self.headers:
                routes["syscall"] = f"{untyped}, and its headers are not installed"
        return routes


def read_machine() -> Machine:
    """Read the facts. Never raises for a missing one."""
    hooks = load_hooks()
    functions: dict[str, bool | None] = {
        hook.name: None for hook in hooks.functions if not hook.optional
    }
    ring_buffer = None
    bound: dict[str, bool | None] = {}
    try:
        btf = Btf()
    except UnsupportedError:
        described = False
    else:
        described = True
        functions = {name: btf.parameters(name) is not None for name in functions}
        ring_buffer = btf.enumerator("bpf_func_id", RINGBUF_HELPER) is not None
        bound = {name: btf.tracepoint(name) is not None for name in TRACEPOINTS}
        btf.close()
    release = os.uname().release
    return Machine(
        kernel=release,
        architecture=platform.machine(),
        distribution=_distribution(),
        btf=described,
        headers=Path(f"/lib/modules/{release}/build").exists(),
        # Linux 5.8; without BTF the version must do.
        ring_buffer=kernel_version(release) >= (5, 8) if ring_buffer is None else ring_buffer,
        lockdown=_lockdown(),
        root=os.geteuid() == 0,
        capabilities=_capabilities(),
        python=platform.python_version(),
        bcc=_bcc_version(),
        bpftrace=_bpftrace_version(),
        tls_packages={name: _package_version(name) for name in TLS_PACKAGES},
        functions=functions,
        tracepoints=bound
        if bound and all(bound.values())
        else _tracepoints(hook.tracepoint or hook.name for hook in hooks.syscalls),
    )


def kernel_version(release: str) -> tuple[int, int]:
    """``6.1.0-56-cloud-amd64`` -> (6, 1)."""
    found = re.match(r"(\d+)\.(\d+)", release)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _verdict(hooks: dict[str, bool | None]) -> str:
    if None in hooks.values():
        return "unknown: the kernel's tracepoints are not readable without root"
    missing = [name for name, there in hooks.items() if not there]
    return f"the kernel has no {', '.join(missing)}" if missing else AVAILABLE


def _distribution() -> str | None:
    """os-release(5); what platform.freedesktop_os_release does from Python 3.10 on."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return None
    found = re.search(r"^PRETTY_NAME=[\"']?(.*?)[\"']?$", text, re.MULTILINE)
    return found[1] if found else None


def _lockdown() -> str | None:
    """``none``, ``integrity`` or ``confidentiality`` (kernel_lockdown(7)); ``None``: not known.

    The file marks the one in force with brackets.
    """
    try:
        return _LOCKDOWN.read_text().partition("[")[2].partition("]")[0] or None
    except OSError:
        return None


def _capabilities() -> tuple[str, ...]:
    """The effective ones, of those that matter here (CapEff of proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    mask = int(status.partition("CapEff:")[2].split()[0], 16)
    return tuple(name for name, bit in CAPABILITIES.items() if mask >> bit & 1)


def _bcc_version() -> str | None:
    """Read beside the module, not from it: importing BCC loads all of LLVM."""
    try:
        spec = importlib.util.find_spec("bcc")
        text = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
    except (ImportError, OSError, ValueError):
        return None
    found = re.search(r"__version__ = ['\"](.+)['\"]", text)
    return found[1] if found else None


def _package_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _bpftrace_version() -> str | None:
    path = shutil.which("bpftrace")
    if not path:
        return None
    try:
        done = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip().removeprefix("bpftrace ").removeprefix("v") or None


def _tracepoints(syscalls: Iterable[str]) -> dict[str, bool | None]:
    names = [f"sys_{side}_{name}" for name in syscalls for side in ("enter", "exit")]
    for directory in _TRACEPOINTS:
        try:
            there = {path.name for path in directory.iterdir()}
        except OSError:
            continue
        return {name: name in there for name in names}
    return dict.fromkeys(names)
