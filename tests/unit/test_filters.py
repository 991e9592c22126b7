# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import argparse
import os
import pwd
from ipaddress import ip_address
from typing import Any

import pytest

from profiler.commands.options import add_filters, add_limits, conditions_of
from profiler.errors import ProbeError, UnsupportedError
from profiler.exchanges import values
from profiler.exchanges.conditions import ALL, OPTIONS, Filters
from profiler.exchanges.query import parse
from profiler.ingest.probe.cgroups import directories, mounted_at


def parsed(line: str, live: bool = True) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_filters(parser)
    add_limits(parser, live=live)
    return parser.parse_args(line.split())


def test_no_filters() -> None:
    assert conditions_of(parsed("")) == ALL
    assert ALL.filters == Filters() and not ALL.filters.given() and not ALL


def test_every_option() -> None:
    name = pwd.getpwuid(os.getuid()).pw_name
    line = (
        f"--pid 7 --pid 8 --comm nginx --cmdline *java* --user {name} --user 33 "
        "--cgroup /sys/fs/cgroup/a/b/ --container web* --pod web-0 --namespace shop "
        "--port 80 --address 10.0.0.0/8 --direction send --role client --service web "
        "--method get --host Shop.Example --path /a/* --status 5xx --status 404 "
        "--header X-Id --header Accept=*json* --min-latency 1.5s --count 3 --duration 5m "
        "--where failed"
    )
    options = parsed(line)
    wanted = conditions_of(options)
    assert wanted.filters == Filters(
        pid=(7, 8),
        comm=("nginx",),
        user=(os.getuid(), 33),
        cgroup=("/a/b",),
        port=(80,),
        address=(values.address("10.0.0.0/8"),),
    )
    assert (options.count, options.duration) == (3, 300.0)
    assert [named.option for named in wanted.named] == [*OPTIONS, "where"]
    left = wanted.without(wanted.filters.given())
    assert {named.option for named in left.named} == {
        "cmdline", "container", "pod", "namespace", "direction", "role", "service", "method",
        "host", "path", "status", "header", "min_latency", "where",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("line", "condition"),
    [
        ("--pid 7 --pid 8", "pid=7 or pid=8"),
        ("--cmdline *java*", "cmdline~*java*"),
        ("--method get", "method=GET"),
        ("--host Shop.Example", "host~shop.example"),
        ("--path /a/*", "path~/a/*"),
        ("--status 400-499", "status=400-499 or interim=400-499"),
        ("--min-latency 1.5s", "latency>=1500ms"),
        ("--where failed", "failed"),
    ],
)
def test_an_option_is_short_for_a_condition(line: str, condition: str) -> None:
    [(_, compiled)] = conditions_of(parsed(line)).named
    assert compiled == parse(condition)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--pid 0", "not a process id"),
        ("--comm 0123456789abcdef", "cuts it to '0123456789abcde'"),
        ("--user nobody-of-this-name", "has no user 'nobody-of-this-name'"),
        ("--user 4294967295", "not a user's number"),
        ("--cgroup /a/../b", "not the path of a control group"),
        ("--cgroup=", "not the path of a control group"),
        ("--port 65536", "not a port"),
        ("--address 10.0.0.0/33", "not an address or a range"),
        ("--address shop.example", "not an address or a range"),
        ("--address 10.0.0.1/8", "has bits set after its mask: use 10.0.0.0/8"),
        ("--address fd00::1/8", "has bits set after its mask: use fd00::/8"),
        ("--direction up", "invalid choice"),
        ("--role proxy", "invalid choice"),
        ("--method G@T", "not a method"),
        ("--host=", "the pattern is empty"),
        ("--path=", "the pattern is empty"),
        ("--cmdline=", "the pattern is empty"),
        ("--status 7xx", "not a status"),
        ("--status 60", "not a status"),
        ("--status 404-400", "ends before it begins"),
        ("--header :", "not the name of a header"),
        ("--header Accept=", "use Accept alone to match any value"),
        ("--where faild", "column 1: 'faild' is not a condition; did you mean failed?"),
        ("--min-latency 100", "not a length of time"),
        ("--min-latency 0s", "not a length of time"),
        ("--count 0", "not a number from 1 on"),
        ("--duration 5", "not a length of time"),
        ("--duration 1d", "not a length of time"),
    ],
)
def test_an_impossible_filter_is_one_line(
    line: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_:
        parsed(line)
    assert exit_.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert why in last
    assert line.replace("=", " ").split()[0] in last


def test_a_replay_has_no_duration() -> None:
    with pytest.raises(SystemExit):
        parsed("--duration 5s", live=False)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("10.0.0.0/8", ["10.1.2.3", "::ffff:10.0.0.1"], ["11.0.0.1", "::10.0.0.1", "a00::"]),
        ("10.1.2.3", ["10.1.2.3", "::ffff:10.1.2.3"], ["10.1.2.4"]),
        ("::ffff:10.0.0.0/104", ["10.1.2.3"], ["11.0.0.1"]),
        ("0.0.0.0/0", ["1.2.3.4"], ["::1"]),
        ("fd00::/8", ["fd12::1"], ["fe80::1", "10.0.0.1"]),
        ("::1", ["::1"], ["::2", "127.0.0.1"]),
        ("FD00::/8", ["fd00::"], ["fe00::"]),
    ],
)
def test_ranges_of_addresses(text: str, inside: list[str], outside: list[str]) -> None:
    def number(address: Any) -> int:
        parsed = ip_address(address)
        return int(parsed) | (0xFFFF << 32 if parsed.version == 4 else 0)

    wanted = values.address(text)
    assert [each for each in inside if number(each) not in wanted] == []
    assert [each for each in outside if number(each) in wanted] == []


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("/sys/fs/cgroup/system.slice/a.service", "/system.slice/a.service"),
        ("/sys/fs/cgroup/unified/a", "/a"),
        ("/system.slice/a.service/", "/system.slice/a.service"),
        ("system.slice", "/system.slice"),
        ("/sys/fs/cgroup", "/"),
        ("/.hidden", "/.hidden"),
    ],
)
def test_names_of_control_groups(text: str, path: str) -> None:
    assert values.cgroup(text) == path


def test_directories_of_control_groups(tmp_path: Any) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert directories(["/a/b", "/"], tmp_path) == [tmp_path / "a" / "b", tmp_path]
    with pytest.raises(ProbeError, match=r"no control group /a/c below .*: /proc/PID/cgroup shows"):
        directories(["/a", "/a/c"], tmp_path)


def test_no_hierarchy_of_control_groups(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounts").write_text("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n")
    assert mounted_at(tmp_path) is None
    monkeypatch.setattr("profiler.ingest.probe.cgroups.mounted_at", lambda: None)
    assert directories([]) == []
    with pytest.raises(UnsupportedError, match="not mounted here"):
        directories(["/a"])
