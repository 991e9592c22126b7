# SPDX-License-Identifier: Apache-2.0
"""Compiles C to BPF instructions. The only module that imports bcc.

Only BCC's compiler is used. It creates no maps, loads nothing, and is freed once the
instructions are copied. BCC's own headers are excluded, because they include the
kernel's, which BCC would parse three times.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from profiler.errors import ProbeError, UnsupportedError

# Nothing uses the debug information, and it is a seventh of the compiler's work.
_FLAGS = ["-Wno-everything", "-g0"]
# The include guards of BCC's headers, defined to exclude them.
_WITHOUT_HEADERS = ["-D_UAPI__LINUX_BPF_H__", "-D__LINUX_BPF_H__", "-D__BPF_HELPERS_H"]

_MISSING = (
    f"BCC is not available to this Python ({sys.executable}): install your distribution's "
    "package (python3-bpfcc on Debian and Ubuntu), and install http-profiler in a virtual "
    "environment that can import system packages (--system-site-packages)"
)


def compiler_file() -> Path:
    """Return the file of BCC's package, without importing it. Raises UnsupportedError."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        raise UnsupportedError(_MISSING)
    return Path(spec.origin)


def compile_functions(
    source: str, names: Iterable[str], what: str, *, with_headers: bool = False
) -> dict[str, bytes]:
    """Compile ``source``; return the instructions of the functions in ``names``.

    With ``with_headers``, ``source`` may include headers of the running kernel.
    Raises UnsupportedError without BCC, or ProbeError, whose text begins with ``what``.
    """
    bcc = _import_bcc()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_explained(what))
        flags = _FLAGS
        if not with_headers:
            stack.enter_context(_no_kernel_headers())
            flags = [*_FLAGS, *_WITHOUT_HEADERS]
        module = bcc.BPF(text=source, cflags=flags)
        try:
            return {name: module.dump_func(name.encode()) for name in names}
        finally:
            module.cleanup()


def _import_bcc() -> Any:
    try:
        import bcc
    except ImportError:
        raise UnsupportedError(_MISSING) from None
    return bcc


@contextlib.contextmanager
def _no_kernel_headers() -> Iterator[None]:
    """Point BCC, which requires a path to kernel headers, to a directory without any."""
    variable = "BCC_KERNEL_SOURCE"
    before = os.environ.get(variable)
    here = os.open(".", os.O_RDONLY)
    with tempfile.TemporaryDirectory(prefix="http-profiler-") as directory:
        configuration = Path(directory, "include", "linux", "kconfig.h")
        configuration.parent.mkdir(parents=True)
        configuration.touch()
        os.environ[variable] = directory
        try:
            yield
        finally:
            # BCC changes to that directory, and does not change back after a failure.
            os.fchdir(here)
            os.close(here)
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Save the output of BCC and clang; on failure report the relevant line and the file.

    Both write to file descriptor 2 directly, so the descriptor itself is redirected.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.NamedTemporaryFile(
        mode="w+", prefix="http-profiler-", suffix=".log", delete=False
    ) as log:
        os.dup2(log.fileno(), 2)
        try:
            yield
        except Exception as error:
            log.seek(0)
            raise ProbeError(
                f"{what} on Linux {os.uname().release}: {_telling_line(log.read(), error)} "
                f"(the whole log: {log.name})"
            ) from error
        else:
            Path(log.name).unlink()
        finally:
            os.dup2(saved, 2)
            os.close(saved)


def _telling_line(log: str, error: Exception) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    if any("kernel headers" in line or "chdir(/lib/modules" in line for line in lines):
        return (
            "BCC needs this kernel's headers: install the linux-headers package of the running "
            "kernel"
        )
    for line in lines:
        if "error:" in line:  # clang: the first error is the cause
            return line
    return lines[-1] if lines else str(error)
