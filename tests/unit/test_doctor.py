# SPDX-License-Identifier: Apache-2.0
"""The doctor without a kernel: comparing lines with the script, and the report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from profiler.accounting import Uncaptured
from profiler.commands.doctor.cases import KINDS, PARTIAL, Case, Less
from profiler.commands.doctor.evaluate import Evaluation, Lines, evaluate
from profiler.commands.doctor.examine import examine
from profiler.commands.doctor.machine import (
    AVAILABLE,
    TLS_PACKAGES,
    Machine,
    kernel_version,
    read_machine,
)
from profiler.commands.doctor.redact import redactor
from profiler.commands.doctor.report import Run, to_json, to_text
from profiler.commands.doctor.script import (
    RECV,
    REQUEST,
    RESPONSE,
    SEND,
    End,
    Outcome,
    Sent,
    message,
)

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
TOKEN = "t0"
CLIENT = End(pid=10, socket=100, netns=1, ip="127.0.0.1", port=5000)
SERVER = End(pid=20, socket=200, netns=1, ip="127.0.0.1", port=80)
CASE = Case("path", "example", "an example", lambda scenario: None)
KERNEL = (6, 1)

Record = dict[str, Any]


def script(
    numbers: tuple[int, ...] = (1, 2), client: End = CLIENT, server: End = SERVER
) -> tuple[Sent, ...]:
    return tuple(
        sent
        for number in numbers
        for sent in (
            Sent(REQUEST, number, 20, client, server),
            Sent(RESPONSE, number, 20, server, client),
        )
    )


def line(sent: Sent, end: str) -> Record:
    """The record that a perfect profiler writes."""
    raw = message(TOKEN, CASE.name, sent.type, sent.number, sent.size).decode()
    head, _, body = raw.partition("\r\n\r\n")
    here = sent.sender if end == SEND else sent.receiver
    url = f"/{TOKEN}/example/{sent.number}"
    record: Record = {"pid": here.pid, "socket": here.socket, "netns": here.netns}
    for prefix, place in (("source", sent.sender), ("dest", sent.receiver)):
        names = {"ip": place.ip, "port": place.port, "path": place.path}
        record.update({f"{prefix}_{k}": v for k, v in names.items() if v is not None})
    record |= {"type": sent.type, "direction": end, "body": body, "raw_payload": raw}
    record |= {"bytes": len(raw), "captured": len(raw)}
    record["headers"] = dict(field.split(": ") for field in head.split("\r\n")[1:])
    if sent.type == REQUEST:
        return {**record, "method": "POST", "url": url, "role": {SEND: "client"}.get(end, "server")}
    role = {RECV: "client"}.get(end, "server")
    return {**record, "status_code": 200, "role": role, "request": {"method": "POST", "url": url}}


def lines(sent: tuple[Sent, ...]) -> list[Record]:
    return [line(each, end) for each in sent for end in (SEND, RECV)]


def find(records: list[Record], type_: str, number: int, direction: str) -> Record:
    (found,) = (
        record
        for record in records
        if (record["type"], record["direction"]) == (type_, direction)
        and str(number) == record["raw_payload"].partition(f"/{TOKEN}/example/")[2][0]
    )
    return found


def verdicts(
    records: list[Record],
    sent: tuple[Sent, ...] | None = None,
    case: Case = CASE,
    route: str = "socket",
) -> dict[str, Evaluation]:
    outcome = Outcome(sent or script())
    return {j.end: j for j in evaluate(case, outcome, Lines(records), TOKEN, route, KERNEL)}


def cut(record: Record, keep: int, *reasons: str) -> None:
    """Keep only the first ``keep`` bytes of a record's body."""
    body = record["body"]
    record["body"] = body[:keep]
    record["raw_payload"] = record["raw_payload"][: -len(body)] + body[:keep]
    record["captured"] = len(record["raw_payload"])
    record["incomplete"] = list(reasons)


def test_everything_captured() -> None:
    for evaluation in verdicts(lines(script())).values():
        assert evaluation.result == evaluation.expected == "captured"
        assert evaluation.reason == ""
        assert not evaluation.worse


def test_nothing_captured() -> None:
    for evaluation in verdicts([]).values():
        assert (evaluation.result, evaluation.reason) == ("missed", "no line")
        assert evaluation.worse


def test_one_end_missed_in_part() -> None:
    records = lines(script())
    records.remove(find(records, REQUEST, 2, RECV))
    found = verdicts(records)
    assert found[SEND].result == "captured"
    assert (found[RECV].result, found[RECV].reason) == ("missed", "no line (request 2)")


def test_partial() -> None:
    records = lines(script())
    cut(find(records, RESPONSE, 1, SEND), 5, "lost")
    found = verdicts(records)[SEND]
    assert (found.result, found.reason, found.worse) == ("partial", "lost (response 1)", True)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("pid", 11),
        ("source_ip", "127.0.0.2"),
        ("source_port", 1),
        ("dest_ip", "::1"),
        ("dest_port", 2),
        ("dest_path", "/run/x"),
        ("socket", 7),
        ("netns", 9),
        ("role", "client"),
        ("method", "GET"),
        ("body", "another"),
        ("raw_payload", "another"),
        ("bytes", 1),
        ("captured", 1),
    ],
)
def test_contradictions(field: str, value: Any) -> None:
    records = lines(script())
    record = find(records, REQUEST, 1, RECV)
    assert record.get(field) != value
    record[field] = value
    found = verdicts(records)
    assert found[SEND].result == "captured"
    assert found[RECV].result == "wrong"
    assert field in found[RECV].reason
    assert found[RECV].worse


def test_a_field_that_must_be_absent_or_present() -> None:
    records = lines(script())
    del find(records, REQUEST, 1, SEND)["dest_port"]
    assert "dest_port is None, not 80" in verdicts(records)[SEND].reason


def test_unix_sockets() -> None:
    client, server = (replace(end, ip=None, port=None) for end in (CLIENT, SERVER))
    server = replace(server, path="@name")
    sent = script(client=client, server=server)
    records = lines(sent)
    assert verdicts(records, sent)[SEND].result == "captured"
    assert records[0]["dest_path"] == "@name"
    assert "source_path" not in records[0]


def test_an_unknown_pid_is_not_compared() -> None:
    client, server = (replace(end, pid=None) for end in (CLIENT, SERVER))
    records = lines(script())
    assert verdicts(records, script(client=client, server=server))[SEND].result == "captured"


def test_the_system_call() -> None:
    case = replace(CASE, calls=("writev", "readv"))
    records = lines(script())
    for record in records:
        record["syscall"] = "writev" if record["direction"] == SEND else "read"
    found = verdicts(records, case=case)
    assert found[SEND].result == "captured"
    assert found[RECV].reason == "syscall is 'read', not 'readv'"


def test_twice() -> None:
    records = lines(script())
    records.append(dict(find(records, REQUEST, 1, SEND)))
    found = verdicts(records)[SEND]
    assert (found.result, found.reason) == ("wrong", "2 lines (request 1)")


def test_a_line_that_matches_no_message() -> None:
    records = lines(script())
    stray = line(Sent(REQUEST, 3, 20, CLIENT, SERVER), RECV)
    found = verdicts([*records, stray])
    assert found[SEND].result == "captured"
    assert found[RECV].result == "wrong"
    assert "a line that matches no message: request /t0/example/3" in found[RECV].reason
    # A number of a socket is used again: what another program sent is not shown.
    foreign = {**stray, "url": "/secret", "raw_payload": "GET /secret HTTP/1.1\r\n\r\n"}
    assert "a request of" in verdicts([*records, foreign])[RECV].reason
    assert "secret" not in verdicts([*records, foreign])[RECV].reason
    # Another socket's lines belong to another case or process.
    stray["socket"] = 12345
    assert verdicts([*records, stray])[RECV].result == "captured"


def test_mixed_up_bodies() -> None:
    records = lines(script())
    first, second = (find(records, REQUEST, number, SEND) for number in (1, 2))
    for key in ("body", "raw_payload"):
        first[key], second[key] = second[key], first[key]
    assert verdicts(records)[SEND].result == "wrong"


def test_the_body_of_a_partial_message_must_be_a_prefix() -> None:
    records = lines(script())
    record = find(records, REQUEST, 1, SEND)
    cut(record, 5, "lost")
    record["body"] = "xxxxx"
    assert "not the beginning" in verdicts(records)[SEND].reason


def test_the_size_of_a_partial_message_is_counted() -> None:
    records = lines(script())
    record = find(records, REQUEST, 1, SEND)
    cut(record, 5, "lost")
    record["bytes"] -= 15
    assert verdicts(records)[SEND].result == "wrong"
    record["incomplete"] = ["closed_early"]
    assert verdicts(records)[SEND].result == "partial"


def test_pairing() -> None:
    records = lines(script())
    response = find(records, RESPONSE, 1, RECV)
    response["request"] = {"method": "POST", "url": "/t0/example/2"}
    assert "another request" in verdicts(records)[RECV].reason
    del response["request"]
    found = verdicts(records)[RECV]
    assert (found.result, found.reason) == (
        "partial",
        "not paired with its request (response 1)",
    )
    # Without a line for its request, a response cannot be paired.
    records.remove(find(records, REQUEST, 1, SEND))
    assert verdicts(records)[RECV].result == "captured"


LOST = Less(PARTIAL, "that is so", (SEND,), ("response 1",), ("lost",), route="socket")
LESS = replace(CASE, less=(LOST,))


def test_less_is_expected_of_some_messages() -> None:
    records = lines(script())
    cut(find(records, RESPONSE, 1, SEND), 5, "lost")
    found = verdicts(records, case=LESS)[SEND]
    assert (found.result, found.expected, found.worse) == ("partial", "partial", False)
    assert found.reason == "lost (response 1): that is so"
    # On the other route this is not expected.
    assert verdicts(records, case=LESS, route="syscall")[SEND].worse
    # A better result is fine.
    found = verdicts(lines(script()), case=LESS)[SEND]
    assert (found.result, found.expected, found.worse) == ("captured", "partial", False)


def test_less_than_even_a_partial_expectation() -> None:
    records = lines(script())
    response = find(records, RESPONSE, 1, SEND)
    cut(response, 5, "closed_early")
    assert verdicts(records, case=LESS)[SEND].worse
    cut(response, 5, "lost")
    cut(find(records, RESPONSE, 2, SEND), 5, "lost")
    assert verdicts(records, case=LESS)[SEND].worse
    records.remove(response)
    assert verdicts(records, case=LESS)[SEND].worse


def test_failures_excused_by_a_skipped_call() -> None:
    """Never a wrong line, nor one that lacks anything but bytes."""
    sent = script()

    def found(records: list[Record], skipped: bool) -> Evaluation:
        evaluated = evaluate(CASE, Outcome(sent), Lines(records), TOKEN, "syscall", KERNEL, skipped)
        return {each.end: each for each in evaluated}[SEND]

    def changed(change: Callable[[Record], object]) -> list[Record]:
        records = lines(sent)
        change(find(records, RESPONSE, 2, SEND))
        return records

    missing = lines(sent)
    missing.remove(find(missing, RESPONSE, 2, SEND))
    lost = changed(lambda record: cut(record, 5, "lost"))
    for records, result in ((missing, "missed"), (lost, "partial")):
        assert found(records, skipped=False).worse
        assert (found(records, skipped=True).result, found(records, True).worse) == (result, False)
        assert "skipped the probe" in found(records, skipped=True).reason
    limited = changed(lambda record: cut(record, 5, "body_limit"))
    wrong = changed(lambda record: record.update(pid=1))
    for records in (limited, wrong):
        assert found(records, skipped=True).worse
    whole = found(lines(sent), skipped=True)
    assert (whole.result, whole.reason) == ("captured", "")


def test_cases_that_need_a_newer_kernel() -> None:
    case = replace(CASE, since=(5, 6))
    outcome = Outcome(unavailable="Function not implemented")
    for kernel, worse in (((5, 4), False), ((5, 6), True), ((5, 10), True), ((6, 1), True)):
        for found in evaluate(case, outcome, Lines([]), TOKEN, "socket", kernel):
            assert found.result == "unavailable"
            assert found.worse == worse
            assert ("needs Linux 5.6 or newer" in found.reason) != worse
            assert "Function not implemented" in found.reason


def test_cases_that_need_a_kernel_option() -> None:
    case = replace(CASE, since=(5, 6), option="CONFIG_MPTCP")
    outcome = Outcome(unavailable="Protocol not supported")
    for found in evaluate(case, outcome, Lines([]), TOKEN, "socket", (6, 1)):
        assert (found.result, found.worse) == ("unavailable", False)
        assert "built without CONFIG_MPTCP" in found.reason


def test_cases_that_need_a_program() -> None:
    case = replace(CASE, program="curl")
    outcome = Outcome(unavailable="curl is not installed")
    for found in evaluate(case, outcome, Lines([]), TOKEN, "socket", KERNEL):
        assert (found.result, found.expected, found.worse) == ("unavailable", "unavailable", False)
        assert found.reason == "not on this machine: curl is not installed"


def test_plain_text_is_no_result_of_a_case_of_tls() -> None:
    case = replace(CASE, group="tls")
    for found in verdicts(lines(script()), case=case).values():
        assert (found.result, found.worse) == ("wrong", True)
        assert "it has no field tls" in found.reason
    encrypted = [{**record, "tls": {"library": "openssl"}} for record in lines(script())]
    for found in verdicts(encrypted, case=case).values():
        assert (found.result, found.worse) == ("captured", False)


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-56-cloud-amd64", (6, 1)),
        ("5.4.0-200-generic", (5, 4)),
        ("7.2", (7, 2)),
        ("6.19-rc1", (6, 19)),
        ("6.12.1+deb13", (6, 12)),
    ],
)
def test_kernel_versions(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_the_cases() -> None:
    cases = [case for each in KINDS.values() for case in each]
    names = [case.name for case in cases]
    assert len(names) == len(set(names))
    for case in cases:
        assert case.group in ("path", "socket", "tls")
        assert case.name == case.name.lower()
        # A long name must not make a message exceed the light engine's strings.
        assert len(message("12345678", case.name, REQUEST, 1, 32)) < 200


# These need root, a module, or a kernel that permits them.
PRIVILEGED = {"ktls", "mptcp", "netns", "pidns", "io_uring-send-recv", "io_uring-write-read"}


def play(kind: str, directory: Path, **environment: str) -> tuple[list[int], dict[str, Any]]:
    """Let the canary play; return the processes that it named, and the outcome of each case."""
    command = [sys.executable, "-m", "profiler.commands.doctor.canary", TOKEN, str(directory), kind]
    done = subprocess.run(
        command,
        input="\n",
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
    )
    ready, *played, end = map(json.loads, done.stdout.splitlines())
    assert ready["ready"] is True
    assert end["case"] == "end"
    assert [outcome["case"] for outcome in played] == [case.name for case in KINDS[kind]]
    return ready["pids"], {outcome["case"]: outcome for outcome in played}


def test_the_canary_plays(tmp_path: Path) -> None:
    pids, played = play("plain", tmp_path)
    assert len(pids) <= 1
    for name, outcome in played.items():
        if name not in PRIVILEGED:
            assert outcome["unavailable"] is None, outcome
            assert len(outcome["sent"]) >= 4


def test_the_canary_plays_tls(tmp_path: Path) -> None:
    pids, played = play("tls", tmp_path)
    for case in KINDS["tls"]:
        outcome = played[case.name]
        if all(map(shutil.which, ("openssl", case.program))):
            assert outcome["unavailable"] is None, outcome
            assert len(outcome["sent"]) == 4
            for sent in outcome["sent"]:
                # Outside the first pid namespace, the kernel's numbers are unknown.
                assert {sent["sender"]["pid"], sent["receiver"]["pid"]} <= {*pids, None}
        else:
            assert outcome["unavailable"].endswith("is not installed"), outcome


def test_tls_without_its_programs(tmp_path: Path) -> None:
    """The missing one is named; nothing fails."""
    programs = tmp_path / "bin"
    programs.mkdir()
    _, played = play("tls", tmp_path, PATH=str(programs))
    missing = {name: outcome["unavailable"] for name, outcome in played.items()}
    assert missing["curl"] == "curl is not installed"
    assert missing["node"] == "node is not installed"
    assert missing["tls-1.3"] == missing["asyncio"] == "openssl is not installed"
    # A program that ends instead of connecting.
    for name in ("curl", "sh"):
        (programs / name).symlink_to(shutil.which("false") if name == "curl" else "/bin/sh")
    (programs / "openssl").symlink_to(str(shutil.which("openssl")))
    _, played = play("tls", tmp_path, PATH=str(programs))
    assert played["curl"]["unavailable"] == "the program ended with status 1"
    assert played["tls-1.3"]["unavailable"] is None


def test_the_script_survives_serialization() -> None:
    for sent in script(server=replace(SERVER, ip=None, port=None, path="@x")):
        assert Sent.from_json(json.loads(json.dumps(sent.to_json()))) == sent


MACHINE = Machine(
    kernel="6.1.0-56-cloud-amd64",
    architecture="x86_64",
    distribution="Debian GNU/Linux 12 (bookworm)",
    btf=True,
    headers=True,
    ring_buffer=True,
    lockdown=None,
    root=True,
    capabilities=("CAP_BPF",),
    python="3.11.2",
    bcc="0.26.0",
    bpftrace=None,
    tls_packages={"capstone": "5.0.9", "pyelftools": "0.33"},
    functions={"tcp_sendmsg": True, "tcp_recvmsg": False},
    tracepoints={"sys_enter_read": True, "sys_exit_read": True},
)


def evaluated(records: list[Record], case: Case = CASE) -> Run:
    return Run("socket", tuple(verdicts(records, case=case).values()))


def test_the_table() -> None:
    records = lines(script())
    cut(find(records, RESPONSE, 1, SEND), 5, "lost")
    text = to_text(MACHINE, [evaluated(records)])
    rows = text.splitlines()
    assert "  lockdown         unknown" in rows
    assert "  Python           3.11.2" in rows
    assert "  functions        1 of 2, missing: tcp_recvmsg" in rows
    assert "  TLS packages     capstone 5.0.9, pyelftools 0.33" in rows
    assert "  socket route     the kernel has no tcp_recvmsg" in rows
    assert "  syscall route    available" in rows
    assert rows[-4:] == [
        "The canary on the socket route",
        "        case     send     recv",
        "! path  example  partial  captured  send: lost (response 1)",
        "1 cases; 1 worse than expected on this kernel, marked !",
    ]
    assert to_text(MACHINE, [evaluated(lines(script()))]).endswith("1 cases; all as expected")


def test_packages_that_tls_lacks_are_one_line() -> None:
    machine = replace(MACHINE, tls_packages={"capstone": None, "pyelftools": "0.33"})
    run = evaluated(lines(script()))
    row = "  TLS packages     capstone not found: install http-profiler[tls]"
    assert row in to_text(machine, [run]).splitlines()
    assert to_json(machine, [run])["ok"] is True


def test_the_packages_are_those_of_the_extra() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = {Requirement(one).name for one in extra["optional-dependencies"]["tls"]}
    assert set(TLS_PACKAGES) == wanted


def test_a_run_with_tls_is_named() -> None:
    run = replace(evaluated(lines(script())), tls=True)
    assert "The canary on the socket route with --tls\n" in to_text(MACHINE, [run])
    assert to_json(MACHINE, [run])["runs"][0]["tls"] is True


def test_a_run_that_could_not_start() -> None:
    run = Run("syscall", error="the profiler did not start: why")
    assert not run.ok
    text = to_text(MACHINE, [run])
    assert text.endswith("The canary on the syscall route: no results: " + str(run.error))


def test_the_document() -> None:
    document = json.loads(json.dumps(to_json(MACHINE, [evaluated(lines(script()))])))
    assert list(document) == [
        *("format", "version", "ok", "machine", "runs", "cases", "uncaptured")
    ]
    assert document["format"] == 1
    assert document["ok"] is True
    assert document["machine"]["kernel"] == MACHINE.kernel
    assert document["machine"]["python"] == "3.11.2"
    assert document["machine"]["routes"] == {
        "socket": "the kernel has no tcp_recvmsg",
        "syscall": AVAILABLE,
    }
    assert document["cases"][0] == {
        "group": "path",
        "name": "example",
        "what": "an example",
        "route": "socket",
        "end": "send",
        "result": "captured",
        "expected": "captured",
        "worse": False,
        "reason": "",
    }
    assert to_json(MACHINE, [evaluated([])])["ok"] is False


ENVIRONMENT = {
    "SUDO_USER": "alice",
    "USER": "root",
    "HOME": "/root",
    "TERM": "vt100",
    "API_KEY": "k3y-of-alice",
    "PROXY": "http://proxy.example:3128",
}


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/home/alice/venv/lib/x.py: no such file", "<home>/venv/lib/x.py: no such file"),
        ("cannot open '/root': no", "cannot open '<home>': no"),
        ("/rooted/home/alice", "/rooted<home>"),
        ("alice@web-1.example.org and web-1", "<user>@<host> and <host>"),
        ("malice is not alice", "malice is not <user>"),
        ("key k3y-of-alice", "key <API_KEY>"),
        ("via http://proxy.example:3128: refused", "via <PROXY>: refused"),
        ("dest_ip is '10.1.2.3', not '127.0.0.1'", "dest_ip is '<address>', not '127.0.0.1'"),
        ("from 10.1.2.3:80 to ::1", "from <address>:80 to ::1"),
        ("source_ip is '2001:db8::7', not '::'", "source_ip is '<address>', not '::'"),
        ("::ffff:10.0.0.1 ::ffff:127.0.0.1", "<address> ::ffff:127.0.0.1"),
        ("fe80::1%eth0.", "<address>%eth0."),
        # What only looks like it stays.
        ("capturing needs root on vt100", "capturing needs root on vt100"),
        ("Linux 6.1.0-56, at 12:30:45, std::string", "Linux 6.1.0-56, at 12:30:45, std::string"),
        ("send: lost (request 1, response 1)", "send: lost (request 1, response 1)"),
    ],
)
def test_what_identifies_a_machine_is_redacted(text: str, redacted: str) -> None:
    assert redactor(ENVIRONMENT, "web-1.example.org")(text) == redacted


def test_a_machine_without_names() -> None:
    assert redactor({}, "localhost")("root on localhost") == "root on localhost"


def test_every_text_of_the_document_is_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each text that is not a constant of the program."""
    monkeypatch.setenv("SUDO_USER", "alice")
    (first, *rest) = verdicts([]).values()
    first = replace(first, reason="alice at 10.1.2.3")
    run = Run("socket", (first, *rest), error="in /home/alice", messages=("alice printed",))
    document = to_json(MACHINE, [run])
    assert document["runs"][0]["error"] == "in <home>"
    assert document["runs"][0]["messages"] == ["<user> printed"]
    assert document["cases"][0]["reason"] == "<user> at <address>"
    assert "alice" not in json.dumps(document)


def test_any_machine_can_be_read() -> None:
    machine = read_machine()
    assert machine.version >= (3, 0)
    assert set(machine.engines()) == {"bcc", "bpftrace"}
    assert set(machine.routes()) == {"socket", "syscall"}


def test_without_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert examine(None, None, tls=True, as_json=True) == 1
    document = json.loads(capsys.readouterr().out)
    assert [(run["route"], run["tls"]) for run in document["runs"]] == [
        ("socket", False),
        ("syscall", False),
        ("socket", True),
        ("syscall", True),
    ]
    assert all("sudo http-profiler doctor" in run["error"] for run in document["runs"])
    assert document["cases"] == []


def test_programs_whose_tls_is_not_captured() -> None:
    java = Uncaptured(812, "java", "Java has a TLS of its own")
    text = to_text(MACHINE, [evaluated(lines(script()))], [java])
    assert text.endswith(
        "Running programs whose TLS is not captured\n  java (pid 812)  Java has a TLS of its own"
    )
    assert to_json(MACHINE, [], [java])["uncaptured"] == [
        {"pid": 812, "comm": "java", "reason": "Java has a TLS of its own"}
    ]
