# SPDX-License-Identifier: Apache-2.0
"""The outputs in the documents that need no kernel: ``python -m tests.console`` renews them.

A block of the language ``console`` has commands (``$ ...``), each with its output. If a command
needs root, its block stays as it is: its output comes from a guest.
"""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
DOCUMENTS = [REPOSITORY / name for name in ("README.md", "docs/index.md", "docs/tutorial.md")]

_BLOCK = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.MULTILINE | re.DOTALL)
# A command with its lines that end in a backslash, and what it printed.
_COMMAND = re.compile(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", re.MULTILINE)


def renewed(document: str) -> str:
    """Return the text of a document with the outputs of today."""
    with tempfile.TemporaryDirectory() as scratch:
        program = Path(scratch, "v", "bin", "http-profiler")
        program.parent.mkdir(parents=True)
        program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m profiler.cli "$@"\n')
        program.chmod(0o755)
        return _BLOCK.sub(lambda block: _run_block(block[0], Path(scratch)), document)


def _run_block(block: str, directory: Path) -> str:
    if "sudo " in block:
        return block
    return _COMMAND.sub(lambda one: f"$ {one[1]}{_output(one[1], directory)}", block)


def _output(command: str, directory: Path) -> str:
    """Run a command; return the messages, then the output as a terminal gets it."""
    reader, terminal = pty.openpty()
    environment = {
        **os.environ,
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "PATH": f"{directory / 'v' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "TZ": "UTC",
    }
    # Messages do not go to the terminal: there they would include the progress.
    with tempfile.TemporaryFile() as messages:
        process = subprocess.Popen(
            command, shell=True, cwd=directory, env=environment, stdout=terminal, stderr=messages
        )
        os.close(terminal)
        output = b""
        while block := _read(reader):
            output += block
        os.close(reader)
        process.wait()
        messages.seek(0)
        text = (messages.read() + output).decode().replace("\r\n", "\n")
    # 4: an assertion does not hold.
    if process.returncode not in (0, 4):
        raise SystemExit(f"{command}{text}")
    return text


def _read(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # Linux: the other end is closed.
        return b""


if __name__ == "__main__":
    for path in DOCUMENTS:
        path.write_text(renewed(path.read_text("utf-8")), "utf-8")
