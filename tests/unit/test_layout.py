# SPDX-License-Identifier: Apache-2.0
"""Name lookup in BTF; the results are tested on guests (``tests/e2e``)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from profiler.ingest.probe import layout
from profiler.ingest.probe.layout import Btf


def test_a_name_is_searched_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []

    def find(_btf: int, name: bytes, kind: int) -> int:
        searched.append((name, kind))
        return 7 if name == b"tcp_recvmsg" else -2

    # A stand-in for libbpf, which the host may lack.
    library = SimpleNamespace(
        btf__parse=lambda _path, _base: 1, btf__find_by_name_kind=find, btf__free=lambda _btf: None
    )
    monkeypatch.setattr(layout, "load_libbpf", lambda: library)
    btf = Btf(Path(__file__))
    for _ in range(2):
        assert btf.function("tcp_recvmsg") == 7
        assert btf.function("tcp_recvmesg") is None
        assert btf.structure("tcp_recvmsg") == 7
    btf.close()
    assert len(searched) == len(set(searched)) == 3
