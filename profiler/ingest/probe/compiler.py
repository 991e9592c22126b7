# SPDX-License-Identifier: Apache-2.0
"""C in, BPF instructions out. The only module that imports bcc.

Of BCC only the compiler is used: it makes no maps, loads nothing
and is gone when the instructions are there. Its own headers are shut out, since
they bring in the kernel's, which BCC would read three times over.
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

# Nobody reads the debug information, and it is a seventh of the compiler's work.
_FLAGS = ["-Wno-everything", "-g0"]
# Their include guards.
_WITHOUT_HEADERS = ["-D_UAPI__LINUX_BPF_H__", "-D__LINUX_BPF_H__", "-D__BPF_HELPERS_H"]

_MISSING = (
    f"BCC is not there for this Python ({sys.executable}): install your distribution's "
    "package (python3-bpfcc on Debian and Ubuntu), and let the environment that "
    "http-profiler is installed in see the system's packages (--system-site-packages)"
)


def compiler_file() -> Path:
    """Return a file of BCC, without loading it. Raises UnsupportedError if there is none."""
    spec = importlib.util.find_spec("bcc")
    if spec is None or spec.origin is None:
        raise UnsupportedError(_MISSING)
    return Path(spec.origin)


def compile_functions(
    source: str, names: Iterable[str], what: str, *, with_headers: bool = False
) -> dict[str, bytes]:
    """Compile ``source``; return the instructions of the functions in ``names``.

    With ``with_headers`` the source may include headers of the running kernel.
    Raises UnsupportedError without BCC, else ProbeError, which begins with ``what``.
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
    """Have BCC look for the kernel's headers, which it insists on, where there are none."""
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
            # BCC works inside that directory, and after a failure stays there.
            os.fchdir(here)
            os.close(here)
            if before is None:
                del os.environ[variable]
            else:
                os.environ[variable] = before


@contextlib.contextmanager
def _explained(what: str) -> Iterator[None]:
    """Keep what BCC and clang print; on failure report the file, and the line that matters.

    They write to file descriptor 2, below Python, so that is what is redirected.
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
        if "error:" in line:  # clang: the first one is the cause
            return line
    return lines[-1] if lines else str(error)
