# SPDX-License-Identifier: Apache-2.0
"""Runs programs of the host: finds them, logs them, and ends them with all their children.

A build is a chain of long programs that start others. A missing program is an error
that names its package. Output goes to a log, and a failure shows its last lines. After
an interruption, the program's whole process group has ended before we continue.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioning.errors import BuildFailed, ToolMissing

REPOSITORY = Path(__file__).resolve().parent.parent

SETUP_HOST = "run provisioning/setup-host.sh{part} (or install {package})"

LOG_TAIL = 40


def find_tool(name: str, package: str, part: str = "") -> str:
    """Return the path of a program of the host; ``package`` is what Debian calls its package.

    ``part`` is setup-host.sh's argument that installs it, if not all hosts need it.
    """
    # mke2fs and similar tools are in sbin, which an ordinary user's PATH may lack.
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise ToolMissing(name, SETUP_HOST.format(package=package, part=part and f" {part}"))
    return found


def find_ansible() -> str:
    """Return ansible-playbook from beside this Python, the repository's .venv, or PATH."""
    for folder in (Path(sys.executable).parent, REPOSITORY / ".venv" / "bin"):
        candidate = folder / "ansible-playbook"
        if os.access(candidate, os.X_OK):
            return str(candidate)
    found = shutil.which("ansible-playbook")
    if found is None:
        raise ToolMissing("ansible-playbook", "run `make setup`")
    return found


def run(
    command: Sequence[str],
    *,
    doing: str,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> None:
    """Run a program, append its output to ``log``, and raise if it fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
        )
        try:
            status = process.wait()
        finally:
            end_group(process)
    if status != 0:
        raise BuildFailed(
            f"{doing}: {Path(command[0]).name} failed with status {status}; see {log}",
            tail(log),
        )


def end_group(process: subprocess.Popen[bytes], grace: float = 10.0) -> None:
    """End a process that leads a group, and its group: SIGTERM first, then SIGKILL."""
    if process.poll() is not None:
        return
    for signum in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, signum)
            process.wait(timeout=grace)
            return
        except ProcessLookupError:
            process.wait()
            return
        except subprocess.TimeoutExpired:
            continue


def tail(path: Path, lines: int = LOG_TAIL) -> str:
    """Return the last lines of a file that may hold any bytes, or may not exist."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 64 * 1024))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.replace("\r", "").splitlines()[-lines:])
