# SPDX-License-Identifier: Apache-2.0
"""`run --as USER` in a real terminal: the command has one of its own."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.terminal import Terminal
from tests.unit.test_run import command, environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")


def profiler(*arguments: object) -> str:
    """Return the command line for a shell."""
    return shlex.join(command("--as", "nobody", "--", *arguments))


def script(text: str) -> tuple[str, ...]:
    """Return a command that runs a Python script, with an interpreter that everyone can read."""
    return "python3", "-c", text


def terminal(line: str, **more: Any) -> Terminal:
    """Run a command line in a new terminal."""
    return Terminal(["sh", "-c", line], **{**environment(), **more})


def test_privileges_end_at_the_session(tmp_path: Path) -> None:
    """Without a terminal among its standard streams, the command has no access to root's."""
    reach = """if True:
        import os
        try:
            print("reached", os.open("/dev/tty", os.O_RDWR))
        except OSError as error:
            print("refused", error.strerror)
        """
    with terminal(f"{profiler(*script(reach))} </dev/null >{tmp_path}/out 2>&1") as run:
        run.end()
    assert "refused No such device or address" in (tmp_path / "out").read_text()
