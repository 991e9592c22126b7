# SPDX-License-Identifier: Apache-2.0
"""The common parts of the kernel's interface, without a kernel that loads programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from profiler.ingest.probe.kernel import is_compiling, is_preemptible


@pytest.mark.parametrize(
    ("built", "chosen", "preemptible"),
    [
        ("#1 SMP Debian 5.10.223-1 (2024-08-10)", None, False),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.1.158-1", "none (voluntary) full\n", False),
        ("#1 SMP PREEMPT_DYNAMIC Debian 7.2.12-1", "full (lazy) \n", True),
        ("#1 SMP PREEMPT_DYNAMIC", "none voluntary (full)\n", True),
        # Unknown: without debugfs, and not a fixed choice of the build.
        ("#1 SMP PREEMPT_DYNAMIC", None, True),
        ("#1 SMP PREEMPT_RT", None, True),
    ],
)
def test_whether_programs_are_preempted(
    tmp_path: Path, built: str, chosen: str | None, preemptible: bool
) -> None:
    file = tmp_path / "preempt"
    if chosen is not None:
        file.write_text(chosen)
    assert is_preemptible(built, file) == preemptible


@pytest.mark.parametrize(("setting", "compiling"), [("0\n", False), ("1\n", True), ("2\n", True)])
def test_whether_bpf_is_compiled(tmp_path: Path, setting: str, compiling: bool) -> None:
    file = tmp_path / "bpf_jit_enable"
    # A kernel without this setting has no compiler.
    assert not is_compiling(file)
    file.write_text(setting)
    assert is_compiling(file) == compiling
