# SPDX-License-Identifier: Apache-2.0
"""The code around BCC's compiler, with a stand-in for the compiler itself."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from profiler.errors import ProbeError, UnsupportedError
from profiler.ingest.probe.compiler import compile_functions, compiler_file


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replace BCC with a stand-in; return its arguments and environment for each call."""
    made: list[dict[str, Any]] = []

    class Bpf:
        def __init__(self, text: str, cflags: list[str]) -> None:
            source = os.environ.get("BCC_KERNEL_SOURCE")
            made.append({"flags": cflags, "source": source, "cleaned": False})
            if source:
                made[-1]["configured"] = Path(source, "include/linux/kconfig.h").exists()
                if made[-1]["configured"]:
                    os.chdir(source)
            if "wrong" in text:
                # On the file descriptor, below Python, as clang does.
                os.write(2, text.encode())
                raise RuntimeError("Failed to compile BPF module")

        def dump_func(self, name: bytes) -> bytes:
            return b"code of " + name

        def cleanup(self) -> None:
            made[-1]["cleaned"] = True

    monkeypatch.setitem(sys.modules, "bcc", SimpleNamespace(BPF=Bpf))
    monkeypatch.delenv("BCC_KERNEL_SOURCE", raising=False)
    return made


def test_the_requested_functions(calls: list[dict[str, Any]]) -> None:
    assert compile_functions("int f;", ["f", "g"], "no") == {"f": b"code of f", "g": b"code of g"}
    assert calls[0]["cleaned"]


def test_no_header_is_read(calls: list[dict[str, Any]]) -> None:
    here = Path.cwd()
    compile_functions("", [], "no")
    assert calls[0]["configured"]
    assert "-D__BPF_HELPERS_H" in calls[0]["flags"]
    assert "BCC_KERNEL_SOURCE" not in os.environ
    assert not Path(calls[0]["source"]).exists()
    assert Path.cwd() == here


def test_the_user_s_own_kernel_source_is_kept(
    calls: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BCC_KERNEL_SOURCE", "/usr/src/mine")
    compile_functions("", [], "no")
    assert os.environ["BCC_KERNEL_SOURCE"] == "/usr/src/mine"
    compile_functions("", [], "no", with_headers=True)
    assert calls[1]["source"] == "/usr/src/mine"
    assert "-D__BPF_HELPERS_H" not in calls[1]["flags"]


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        ("wrong.c:1:2: error: no such thing\nwrong.c:2:1: error: later\n", "error: no such thing"),
        ("wrong: Unable to find kernel headers. Try\n", "linux-headers"),
        ("chdir(/lib/modules/6.1/build): wrong\n", "linux-headers"),
        ("something else is wrong\n", "something else is wrong"),
    ],
)
def test_a_failure_is_one_line_and_the_log_is_kept(
    calls: list[dict[str, Any]], capfd: pytest.CaptureFixture[str], printed: str, said: str
) -> None:
    with pytest.raises(ProbeError, match=r"^the route cannot be compiled on Linux ") as raised:
        compile_functions(printed, ["f"], "the route cannot be compiled")
    message = str(raised.value)
    assert said in message
    assert "\n" not in message
    named = re.search(r"\(the whole log: (.+)\)", message)
    assert named
    log = Path(named[1])
    assert log.read_text() == printed
    log.unlink()
    assert capfd.readouterr().err == ""


def test_without_bcc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)
    with pytest.raises(UnsupportedError, match="python3-bpfcc"):
        compiler_file()
    with pytest.raises(UnsupportedError, match="python3-bpfcc"):
        compile_functions("", [], "no")
