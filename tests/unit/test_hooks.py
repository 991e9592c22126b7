# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import pytest

from profiler.ingest.probe.hooks import load_hooks
from profiler.ingest.syscalls import NAMES


def test_the_table_of_hooks() -> None:
    hooks = load_hooks()
    moving = {hook.name: hook.direction for hook in hooks.functions if hook.direction}
    assert moving == {
        "tcp_sendmsg_locked": "send",
        "mptcp_sendmsg": "send",
        **{f"{family}_sendmsg": "send" for family in ("inet", "inet6", "unix_stream")},
        **{f"{family}_recvmsg": "recv" for family in ("inet", "inet6", "unix_stream")},
        **{f"{family}_sendpage": "send" for family in ("inet", "unix_stream")},
        **dict.fromkeys(("__tcp_cleanup_rbuf", "tcp_cleanup_rbuf"), "recv"),
        **{f"{family}_splice_read": "recv" for family in ("tcp", "unix_stream")},
    }
    # A connection's state is dropped when it ends, on both routes.
    assert {h.name for h in hooks.functions if h.event == "close"} == {
        "inet_release",
        "unix_release",
    }
    by_direction = {
        direction: {hook.name for hook in hooks.syscalls if hook.direction == direction}
        for direction in ("send", "recv")
    }
    assert by_direction == {
        "send": {
            *("write", "writev", "pwritev2", "sendto", "sendmsg", "sendmmsg"),
            *("sendfile", "splice"),
        },
        "recv": {"read", "readv", "preadv2", "recvfrom", "recvmsg", "recvmmsg", "splice"},
    }


def test_every_hooked_syscall_has_a_number_on_every_architecture() -> None:
    for names in NAMES.values():
        assert {hook.name for hook in load_hooks().syscalls} <= set(names.values())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[syscal]]\nname = "read"', "unknown table 'syscal'"),
        ('[[function]]\nname = "f"\nevent = "data"\nsocket = "sk"\nmesage = "m"', "mesage"),
        ('[[syscall]]\nname = "read"', "payload"),
    ],
)
def test_a_misspelt_key_is_an_error(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "hooks.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=said):
        load_hooks(path)
