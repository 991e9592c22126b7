# SPDX-License-Identifier: Apache-2.0
"""The helper keeps root's privileges, and the process that reads captured bytes has none.

Each test runs a script in a process of its own, because giving up privileges is for good.
"""

from __future__ import annotations

import ctypes.util
import json
import os
import pwd
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from profiler.errors import OutputError, UsageError
from profiler.privileges.confinement import user_for
from profiler.privileges.helper import Descriptor, Helper

DEMO = Path(__file__).parents[1] / "replay" / "cases" / "demo"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
needs_seccomp = pytest.mark.skipif(
    ctypes.util.find_library("seccomp") is None, reason="this machine has no libseccomp"
)

PREPARED = """
import errno, json, os, pwd, signal, socket, sys
from pathlib import Path
from profiler.errors import OutputError, ProbeError
from profiler.privileges.confinement import confine, user_for
from profiler.privileges.helper import Descriptor, Helper

def error_of(function, *arguments):
    try:
        function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return None

helper = Helper()
"""


def run(script: str, *arguments: object) -> Any:
    """Run ``script`` after :data:`PREPARED`; return the JSON that it prints."""
    command = [sys.executable, "-c", PREPARED + textwrap.dedent(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_root
@needs_seccomp
def test_the_confined_process_has_no_privileges() -> None:
    seen = run(
        """
        missing = confine(user_for("nobody"))
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
        names = "Uid", "Gid", "Groups", "CapEff", "CapPrm", "CapAmb", "NoNewPrivs", "Seccomp"
        print(json.dumps([missing, *(status[name].split() for name in names)]))
        """
    )
    user = pwd.getpwnam("nobody")
    none = ["0000000000000000"]
    assert seen == [
        [],
        [str(user.pw_uid)] * 4,
        [str(user.pw_gid)] * 4,
        [],
        *(none, none, none),
        ["1"],
        ["2"],  # filtered (proc_pid_status(5))
    ]


@needs_root
@needs_seccomp
def test_the_confined_process_cannot_reach_out(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    seen = run(
        """
        import ctypes, fcntl, mmap, subprocess, termios
        directory = Path(sys.argv[1])
        libc = ctypes.CDLL(None, use_errno=True)
        def syscall(number, *arguments):
            if libc.syscall(number, *arguments) < 0:
                raise OSError(ctypes.get_errno(), "")
        opened = (directory / "opened").open("w")
        main, _ = os.openpty()
        confine(user_for("nobody"))
        def write():
            (directory / "new").write_text("x")
        refused = {
            "create": error_of(write),
            "unlink": error_of((directory / "opened").unlink),
            "rename": error_of((directory / "opened").rename, directory / "other"),
            "socket": error_of(socket.socket),
            "execute": error_of(os.execv, "/bin/true", ["true"]),
            "fork": error_of(os.fork),
            "kill": error_of(os.kill, os.getpid(), 0),
            "type": error_of(fcntl.ioctl, main, termios.TIOCSTI, b"x"),
            "bpf": error_of(syscall, 321 if os.uname().machine == "x86_64" else 280, 0, 0, 0),
        }
        opened.write("y")
        opened.close()
        permitted = [Path("/etc/passwd").read_bytes() != b"", len(mmap.mmap(-1, 4096))]
        print(json.dumps([refused, permitted]))
        """,
        tmp_path,
    )
    names = ("create", "unlink", "rename", "socket", "execute", "fork", "kill", "type", "bpf")
    assert seen == [dict.fromkeys(names, "EPERM"), [True, 4096]]
    assert (tmp_path / "opened").read_text() == "y"


@needs_root
@needs_seccomp
def test_the_process_that_exports_can_only_connect(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    seen = run(
        """
        import threading
        directory = Path(sys.argv[1])
        server = socket.create_server(("127.0.0.1", 0))
        address = server.getsockname()
        "localhost".encode("idna")
        confine(user_for("nobody"), network=True)
        with socket.create_connection(address) as connection:
            connection.sendall(b"x")
        def write():
            (directory / "new").write_text("x")
        other = socket.socket()
        done = []
        thread = threading.Thread(target=done.append, args=(1,))
        thread.start()
        thread.join()
        assert done
        refused = {
            "create": error_of(write),
            "listen": error_of(other.listen),
            "accept": error_of(server.accept),
            "execute": error_of(os.execv, "/bin/true", ["true"]),
            "fork": error_of(os.fork),
            "kill": error_of(os.kill, os.getpid(), 0),
        }
        print(json.dumps(refused))
        """,
        tmp_path,
    )
    assert seen == dict.fromkeys(seen, "EPERM")


@needs_root
@needs_seccomp
def test_the_process_that_serves_metrics_can_only_accept() -> None:
    seen = run(
        """
        import threading
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        confine(user_for("nobody"), accept=True)
        connection, _ = server.accept()
        connection.settimeout(20)
        client.sendall(b"x")
        assert connection.recv(1) == b"x"
        thread = threading.Thread(target=connection.sendall, args=(b"y",))
        thread.start()
        thread.join()
        assert client.recv(1) == b"y"
        refused = {
            "socket": error_of(socket.socket),
            "connect": error_of(client.connect, server.getsockname()),
            "listen": error_of(server.listen),
            "bind": error_of(server.bind, ("127.0.0.1", 0)),
            "execute": error_of(os.execv, "/bin/true", ["true"]),
            "fork": error_of(os.fork),
        }
        print(json.dumps(refused))
        """
    )
    assert seen == dict.fromkeys(seen, "EPERM")


def may_raise_limits() -> bool:
    """Whether root has CAP_SYS_RESOURCE, which some containers lack (capabilities(7))."""
    effective = Path("/proc/self/status").read_text().partition("CapEff:")[2].split()[0]
    return bool(int(effective, 16) & 1 << 24)


@pytest.mark.skipif(not may_raise_limits(), reason="needs CAP_SYS_RESOURCE")
@needs_seccomp
def test_the_confined_reader_can_still_take_precedence() -> None:
    seen = run(
        """
        from profiler.ingest.probe.precedence import Precedence
        os.setpriority(os.PRIO_PROCESS, 0, 0)
        confine(user_for("nobody"))
        precedence, policies = Precedence(1 << 24), []
        for waiting in (1 << 23, 0, 1 << 23):
            precedence.follow(waiting, 0)
            policies.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
        print(json.dumps(policies))
        """
    )
    assert seen == [os.SCHED_RR, os.SCHED_OTHER, os.SCHED_RR]


@needs_root
def test_what_is_missing_of_the_confinement_is_reported() -> None:
    seen = run(
        """
        import ctypes
        def refuse(*_, **__):
            raise PermissionError(errno.EPERM, "Operation not permitted")
        os.setresuid = ctypes.CDLL = refuse
        missing = confine(user_for("nobody"))
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").open())
        print(json.dumps([missing, os.geteuid(), status["CapEff"].strip()]))
        """
    )
    assert seen == [
        [
            "as the same user: cannot become nobody (Operation not permitted)",
            "without a system call filter: this machine has no libseccomp.so.2",
        ],
        0,
        "0000000000000000",
    ]


@needs_root
def test_offered_functions_run_with_privileges_before_and_after(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("root's")
    seen = run(
        """
        secret = Path(sys.argv[1], "secret")
        def add(one, *others):
            return [os.geteuid(), sum(others, one)]
        def open_secret():
            return Descriptor(os.open(secret, os.O_RDONLY))
        added, opened = helper.offer(add), helper.offer(open_secret)
        before = added(1, 2), os.read(opened(), 10).decode()
        helper.split()
        confine(user_for("nobody"))
        after = added(3, 4), os.read(opened(), 10).decode(), error_of(open_secret)
        helper.close()
        print(json.dumps([before, after, os.geteuid()]))
        """,
        tmp_path,
    )
    nobody = pwd.getpwnam("nobody").pw_uid
    assert seen == [[[0, 3], "root's"], [[0, 7], "root's", "EACCES"], nobody]


def test_errors_of_offered_functions_arrive_as_they_are() -> None:
    helper = Helper()

    def open_missing() -> Descriptor:
        return Descriptor(os.open("/missing", os.O_RDONLY))

    def fail() -> None:
        raise OutputError("no room")

    calls = helper.offer(open_missing), helper.offer(fail), helper.offer(lambda: [][1])
    helper.split()
    try:
        with pytest.raises(FileNotFoundError, match="/missing"):
            calls[0]()
        with pytest.raises(OutputError, match="no room"):
            calls[1]()
        # A mistake is answered too, and the helper continues.
        with pytest.raises(Exception, match="the helper refused a call: IndexError"):
            calls[2]()
        with pytest.raises(FileNotFoundError):
            calls[0]()
    finally:
        helper.close()


def test_a_request_that_nobody_offered_is_refused() -> None:
    helper = Helper()
    known = helper.offer(lambda: "known")
    helper.split()
    try:
        for arguments in ((7,), ("x",), (None,)):
            with pytest.raises(Exception, match="the helper refused a call"):
                helper._call(*arguments, ())  # type: ignore[arg-type]
        assert known() == "known"
    finally:
        helper.close()


def test_a_helper_that_ended_is_reported() -> None:
    seen = run(
        """
        pid = helper.offer(os.getpid)
        helper.split()
        helper.check()
        child = pid()
        os.kill(child, signal.SIGKILL)
        os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
        said = []
        for function in (pid, helper.check):
            try:
                function()
            except ProbeError as error:
                said.append(str(error))
        print(json.dumps(said))
        """
    )
    assert (
        seen
        == ["the helper that holds the probe has ended, so the capture ends; start it again"] * 2
    )


def test_the_helper_ends_with_the_process_that_it_serves() -> None:
    script = """
    pid = helper.offer(os.getpid)
    helper.split()
    print(pid(), flush=True)
    signal.pause()
    """
    command = [sys.executable, "-c", PREPARED + textwrap.dedent(script)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        helper = os.pidfd_open(int(process.stdout.readline()))
        # Signals of the terminal are for the other process.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.pidfd_send_signal(helper, number)
        process.kill()
        # The helper has the other end of the pipe, so this ends when both are gone.
        assert process.stdout.read() == ""
    os.close(helper)


def test_regular_functions_are_called() -> None:
    seen = run(
        """
        calls = []
        number = helper.offer(lambda: len(calls))
        helper.every(0.001, lambda: calls.append(1))
        helper.split()
        while number() < 3:
            pass
        helper.close()
        print(json.dumps(len(calls)))
        """
    )
    assert seen == 0, "they are called in the helper"


@needs_root
def test_a_capture_writes_and_rotates_without_access_to_its_files(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    output = tmp_path / "out.jsonl"
    environment = {**os.environ, "HTTP_PROFILER_UNPRIVILEGED_USER": "nobody"}
    command = [sys.executable, "-m", "tests.unit.stand_in_engine", str(DEMO / "capture")]
    arguments = ["--duration", "1s", "--output", str(output), "--output-max-size", "8000"]
    done = subprocess.run(
        [*command, *arguments, "--stats", str(tmp_path / "stats")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "as user nobody" in done.stderr
    written = sorted(tmp_path.glob("out.jsonl*"), reverse=True)
    assert len(written) > 2
    lines = "".join(path.read_text() for path in written).splitlines()
    assert len(lines) == len((DEMO / "expected.jsonl").read_text().splitlines())
    assert json.loads((tmp_path / "stats").read_text().splitlines()[-1])["final"]


def traced(*arguments: object) -> subprocess.CompletedProcess[str]:
    """`run` with the stand-in engine, parsing as nobody."""
    command = [sys.executable, "-m", "tests.unit.stand_in_engine", str(DEMO / "capture"), "run"]
    return subprocess.run(
        [*command, *map(str, arguments)],
        env={
            **os.environ,
            "HTTP_PROFILER_UNPRIVILEGED_USER": "nobody",
            "STAND_IN_CGROUP": "",
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@needs_root
@pytest.mark.parametrize("holds", [True, False])
def test_run_starts_the_command_and_writes_its_report_with_privileges(
    tmp_path: Path, holds: bool
) -> None:
    tmp_path.chmod(0o700)
    junit = tmp_path / "junit.xml"
    condition = "status=599" if holds else "method=GET"
    done = traced("--fail-if", condition, "--allow-lost", "--junit", junit, "--", "id", "-u")
    assert done.returncode == (0 if holds else 4), done.stderr
    assert done.stdout == "0\n"
    assert "as user nobody" in done.stderr
    assert ('failures="0"' in junit.read_text()) is holds
    assert [path.name for path in tmp_path.iterdir()] == ["junit.xml"]


@needs_root
def test_run_reports_trouble_if_its_helper_ends() -> None:
    done = traced("--", "sh", "-c", "kill -KILL $PPID")  # its parent is the helper
    assert done.returncode == 125, done.stderr
    assert "the helper that holds the probe has ended" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_user_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="--unprivileged-user: this machine has no user 'missing'"):
        user_for("missing")


@needs_root
def test_root_keeps_all_privileges_when_it_is_named() -> None:
    assert user_for("root") is None
    assert user_for(None) is not None


@pytest.mark.skipif(os.geteuid() == 0, reason="for an ordinary user")
def test_an_ordinary_user_stays_itself() -> None:
    user = user_for(None)
    assert user is not None and user.pw_uid == os.geteuid()
