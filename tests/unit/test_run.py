# SPDX-License-Identifier: Apache-2.0
"""run from the command line, with an engine that needs no kernel, and a directory as a cgroup.

tests/e2e/test_run.py has the real ones.
"""

from __future__ import annotations

import json
import os
import pty
import pwd
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "tests" / "replay" / "cases" / "demo"
EXPECTED = [json.loads(line) for line in (DEMO / "expected.jsonl").read_text().splitlines()]


def command(*arguments: object, capture: Path = DEMO / "capture") -> list[str]:
    stand_in = "tests.unit.stand_in_engine"
    return [sys.executable, "-m", stand_in, str(capture), "run", *map(str, arguments)]


def environment(**more: str) -> dict[str, str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SUDO_", "OUTPUT_PATH"))}
    return {**clean, "PYTHONPATH": str(ROOT), "STAND_IN_CGROUP": "1", **more}


def run(*arguments: object, **more: Any) -> tuple[int, str, list[str]]:
    """Return the exit code, standard output, and our own lines of standard error."""
    done = subprocess.run(
        command(*arguments, capture=more.pop("capture", DEMO / "capture")),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(**more.pop("env", {})),
        check=False,
        **more,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr.splitlines()


def shell(script: str, *arguments: str) -> tuple[str, ...]:
    return "--", "sh", "-c", script, "sh", *arguments


def test_streams_arguments_and_exit_code_are_those_of_the_command() -> None:
    script = 'read line; echo "$line:$*"; echo "to stderr" >&2; exit 7'
    code, out, errors = run(*shell(script, "--", "--output", "x y"), input="hello\n")
    assert (code, out) == (7, "hello:-- --output x y\n")
    assert "to stderr" in errors
    # Attached before it, and stopped after it.
    begun = next(n for n, line in enumerate(errors) if "capturing" in line)
    assert begun < errors.index("to stderr")
    assert run("--", "true")[0] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_a_signal_ends(number: int) -> None:
    assert run(*shell(f"kill -{int(number)} $$"))[0] == 128 + number


def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    code, _, errors = run("--", "no-such-command")
    assert (code, errors) == (127, ["http-profiler: no-such-command: command not found"])
    (tmp_path / "file").touch()
    code, _, errors = run("--", tmp_path / "file")
    assert code == 126
    assert errors[-1] == f"http-profiler: cannot execute {tmp_path}/file: Permission denied"
    # Its interpreter is missing, which only shows after the probe was attached.
    (tmp_path / "file").write_text("#!/no/such/interpreter\n")
    (tmp_path / "file").chmod(0o755)
    assert run("--", tmp_path / "file")[0] == 127


def test_a_profiler_that_cannot_trace(tmp_path: Path) -> None:
    there = tmp_path / "there"
    code, _, errors = run("--", "touch", there, env={"STAND_IN_TROUBLE": "no probe here"})
    assert (code, errors[-1]) == (125, "http-profiler: no probe here")
    assert not there.exists()
    # A later failure does not end the command.
    full = ("--output", "/dev/full", "--fail-if", "status=599")
    code, _, errors = run(*full, *shell(f"sleep 0.3; touch {there}"))
    assert code == 125
    assert any(line.startswith("http-profiler: cannot write /dev/full") for line in errors)
    assert errors[-2].endswith("cannot be verified: the capture ended before the command")
    assert there.exists()
    assert run("--output", "/dev/full", *shell("sleep 0.3; exit 5"))[0] == 5


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "put the command after `--`: run [options] -- CMD"),
        (["--"], "put the command after `--`: run [options] -- CMD"),
        (["pytest", "-q"], "put the command after `--`: run [options] -- pytest -q"),
        (["--as", "no-such-user", "--", "true"], "this machine has no user 'no-such-user'"),
        (["--cgroup", "/x", "--", "true"], "--cgroup cannot be combined with run"),
        (["--fail-if", "status", "--", "true"], "column 1: an operator is missing after status"),
        (["--junit", "x", "--", "true"], "--junit needs --fail-if or --expect"),
    ],
)
def test_wrong_arguments(arguments: list[str], words: str) -> None:
    code, _, errors = run(*arguments)
    assert code == 2
    assert words in errors[-1]


@pytest.fixture
def trapping() -> Iterator[subprocess.Popen[str]]:
    """Run a command under `run` that prints the signals it gets, and continues."""
    script = (
        'for s in INT TERM HUP QUIT; do trap "echo $s" $s; done; '
        "trap 'exit 9' USR2; echo $$; while :; do sleep 0.02; done"
    )
    with subprocess.Popen(
        command(*shell(script)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment(),
    ) as running:
        yield running
        running.kill()


def test_signals_are_passed_on(trapping: subprocess.Popen[str]) -> None:
    assert trapping.stdout
    pid = int(trapping.stdout.readline())
    for number, name in ((2, "INT"), (15, "TERM"), (1, "HUP"), (3, "QUIT"), (2, "INT")):
        trapping.send_signal(number)
        assert trapping.stdout.readline() == f"{name}\n"
    os.kill(pid, signal.SIGUSR2)
    assert trapping.wait(30) == 9


def test_signals_of_the_terminal_arrive_once() -> None:
    """Ctrl-C reaches the command from the terminal: the profiler does not repeat it."""
    script = "trap 'echo caught' INT; echo ready; read line; read line; echo $line; exit 3"
    pid, terminal = pty.fork()
    if not pid:
        os.chdir(ROOT)
        os.execve(sys.executable, command(*shell(script)), environment())
    read = b""
    while b"ready" not in read:
        read += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    while b"caught" not in read:
        read += os.read(terminal, 1000)
    os.write(terminal, b"first\nsecond\n")
    try:
        while part := os.read(terminal, 1000):
            read += part
    except OSError:
        pass  # Linux: the other end was closed.
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
    assert read.count(b"caught") == 1
    os.close(terminal)


def test_interrupted_while_the_probe_is_loaded(tmp_path: Path) -> None:
    there = tmp_path / "there"
    with subprocess.Popen(
        command("--", "touch", there),
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment(STAND_IN_SLOW="1"),
    ) as running:
        assert running.stderr
        assert any("loading" in line for line in running.stderr)
        running.send_signal(signal.SIGINT)
        running.stderr.read()
    assert running.returncode == 130
    assert not there.exists()


def test_privileges_are_needed_only_where_the_command_is_started() -> None:
    """The process that accompanies it can give them up, because the helper is the parent."""
    script = """
        import os, sys
        from profiler.commands.run.child import Child
        from profiler.commands.run.command import Command
        from profiler.errors import CommandError
        from profiler.privileges.helper import Helper
        from tests.unit.stand_in_engine import StandInCgroup

        def run(*arguments):
            command, helper = Command(Child(arguments, StandInCgroup(), None)), Helper()
            command.share(helper)
            helper.split()
            try:
                command.begun(None)
                assert not command.ended
                while command.goes_on(True):
                    pass
                return command.wait()
            except CommandError as error:
                return f"{error} ({error.exit_code})"
            finally:
                helper.close()

        print(run("sh", "-c", "test $PPID != $0 && exit 7", str(os.getpid())))
        print(run("sh", "-c", "kill $$"))
        print(run(sys.argv[1]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(DEMO / "capture")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "7",
        "143",
        f"cannot execute {DEMO}/capture: Permission denied (126)",
    ], done.stderr


def test_limits_are_not_those_that_the_probe_needs() -> None:
    script = """
        import resource
        from profiler.commands.run.child import Child
        from tests.unit.stand_in_engine import StandInCgroup

        _, most = resource.getrlimit(resource.RLIMIT_MEMLOCK)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (8192, most))
        child = Child(["sh", "-c", "ulimit -l"], StandInCgroup(), None)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, most))
        child.start()
        child.wait()
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.check_output(command, text=True, cwd=ROOT) == "8\n"


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
NOBODY = pwd.getpwnam("nobody")


def as_nobody(script: str, **more: Any) -> str:
    """Return the output of a script that runs as nobody."""
    # --user is a filter, which is something else.
    code, out, errors = run("--as", "nobody", "--user", "0", *shell(script), **more)
    assert code == 0, errors
    return out


@needs_root
def test_privileges_of_the_command_are_those_of_the_user() -> None:
    fields = "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb"
    # It may gain privileges as the user may: sudo works.
    fields += ("NoNewPrivs",)
    out = as_nobody("cat /proc/self/status", extra_groups=[0, 4])
    status = dict(line.split(":", 1) for line in out.splitlines())
    none = ["0000000000000000"]
    assert [status[field].split() for field in fields] == [
        [str(NOBODY.pw_uid)] * 4,
        [str(NOBODY.pw_gid)] * 4,
        [str(group) for group in sorted(os.getgrouplist("nobody", NOBODY.pw_gid))],
        *(none, none, none, none),
        ["0"],
    ]


@needs_root
def test_privileges_do_not_leak_by_the_environment() -> None:
    kept = {"TERM": "xterm", "LANG": "C.UTF-8", "LC_TIME": "C", "TZ": "Asia/Tokyo"}
    dropped = {
        "AWS_SECRET_ACCESS_KEY": "s3cr3t",
        "BASH_ENV": "/root/.bashrc",
        "LD_LIBRARY_PATH": "/root/lib",
        "PATH": f"{os.environ['PATH']}:/root/bin",
        "SUDO_USER": "alice",
        "XDG_RUNTIME_DIR": "/run/user/0",
    }
    code, out, _ = run("--as", "nobody", "--", "env", "MINE=x", "env", env={**kept, **dropped})
    assert code == 0
    inherited = {name: os.environ[name] for name in ("COLORTERM", "NO_COLOR") if name in os.environ}
    seen = dict(line.split("=", 1) for line in out.splitlines())
    assert {name: value for name, value in seen.items() if not name.startswith("LC_")} == {
        **inherited,
        **{name: value for name, value in kept.items() if not name.startswith("LC_")},
        "HOME": NOBODY.pw_dir,
        "LOGNAME": "nobody",
        "MINE": "x",
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "SHELL": NOBODY.pw_shell,
        "USER": "nobody",
    }
    assert seen["LC_TIME"] == "C"


@needs_root
def test_privileges_do_not_leak_by_descriptors_limits_and_masks(tmp_path: Path) -> None:
    (tmp_path / "secret").touch(0o600)
    with (tmp_path / "secret").open() as secret:
        out = as_nobody("ls /proc/$$/fd; umask; pwd", pass_fds=[secret.fileno()], umask=0)
    assert out.split() == ["0", "1", "2", "0022", str(ROOT)]
    assert as_nobody("umask", umask=0o077) == "0077\n"


@needs_root
def test_signals_reach_the_process_group_of_a_session() -> None:
    """As from a terminal: a shell waits for what it runs in the foreground."""
    script = "trap 'exit 9' TERM; (echo ready; exec sleep 600)"
    with subprocess.Popen(
        command("--as", "nobody", *shell(script)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
        env=environment(),
    ) as running:
        assert running.stdout
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGTERM)
        assert running.wait(60) == 9


def test_reports_the_user_of_the_command() -> None:
    hint = "http-profiler: the command runs as root; `--as alice` runs it as you"
    assert hint in run("--", "true", env={"SUDO_USER": "alice"})[2]
    assert hint not in run("--as", "nobody", "--", "true", env={"SUDO_USER": "alice"})[2]
    assert hint not in run("--", "true", env={"SUDO_USER": "root"})[2]


def test_lines_go_to_the_requested_output(
    tmp_path: Path,
) -> None:
    lines = tmp_path / "lines"
    code, out, _ = run("--output", lines, "--", "echo", "mine")
    assert (code, out) == (0, "mine\n")
    assert len(lines.read_text().splitlines()) == len(EXPECTED)
    code, out, _ = run("--", "echo", "mine", env={"OUTPUT_PATH": str(tmp_path / "more")})
    assert out == "mine\n"
    assert len((tmp_path / "more").read_text().splitlines()) == len(EXPECTED)
    # An explicit request is honoured.
    code, out, _ = run("--output", "-", "--", "echo", "mine")
    assert len(out.splitlines()) == len(EXPECTED) + 1


def test_lines_are_redacted_and_formatted_as_requested(tmp_path: Path) -> None:
    recording = tmp_path / "capture"
    before, secret = b"Accept-Encoding: identity", b"X-Api-Key: s3cr3t-s3cr3t-"
    assert len(before) == len(secret)
    recording.write_bytes((DEMO / "capture").read_bytes().replace(before, secret))
    _, shown, _ = run("--output", "-", "--", "true", capture=recording)
    _, redacted, errors = run("--output", "-", "--redact", "--", "true", capture=recording)
    assert "s3cr3t" in shown
    assert "s3cr3t" not in redacted
    assert "redacted-" in redacted
    assert any("secrets are redacted" in line for line in errors)
    _, pretty, _ = run("--output", "-", "--format", "pretty", "--", "true", capture=recording)
    assert "127.0.0.1:8080/missing" in pretty
    assert "raw_payload" not in pretty


def test_without_an_output_exchanges_are_printed() -> None:
    exchanges = len(EXPECTED) // 4
    told = sum("http://127.0.0.1:8080/" in line for line in run("--", "true")[2])
    assert told == exchanges
    for options in (("--output", "/dev/null"), ("--fail-if", "status=599")):
        assert not any("http://127.0.0.1:8080/" in line for line in run(*options, "--", "true")[2])


FAILING, HOLDING = ("--fail-if", "status=200"), ("--fail-if", "status=599", "--expect", "* *")


def test_assertions(tmp_path: Path) -> None:
    junit = tmp_path / "result.xml"
    code, out, errors = run(*HOLDING, "--junit", junit, "--", "echo", "mine")
    assert (code, out) == (0, "mine\n")
    exchanges = len(EXPECTED) // 4
    assert errors[-1] == f"http-profiler: 2 of 2 assertions hold for {exchanges} exchanges"
    assert 'tests="2" failures="0"' in junit.read_text()

    code, _, errors = run(*FAILING, "--expect", "GET /nope", "--", "true")
    assert code == 4
    assert any(line.startswith("http-profiler: fail-if status=200: ") for line in errors)
    assert "http-profiler: expect GET /nope: matched 0 exchanges, expected >= 1" in errors
    # The command's own failure takes precedence, and violations are still printed.
    code, _, errors = run(*FAILING, *shell("exit 3"))
    assert code == 3
    assert errors[-1].startswith("http-profiler: 0 of 1 assertions hold")


def test_losses_are_no_success(tmp_path: Path) -> None:
    lost = {"STAND_IN_LOST": "3"}
    said = "http-profiler: the capture is incomplete: lost calls: 3"
    code, _, errors = run(*HOLDING, "--", "true", env=lost)
    assert code == 4
    assert said in errors
    assert "http-profiler: fail-if status=599: cannot be verified: lost calls: 3" in errors
    assert errors[-1].startswith("http-profiler: 1 of 2 assertions hold")
    code, _, errors = run(*HOLDING, "--allow-lost", "--", "true", env=lost)
    assert code == 0
    assert said in errors
    assert run("--", "true", env=lost)[0] == 0
    # Losses of other processes' calls: reported, also with the result.
    junit = tmp_path / "result.xml"
    skipped = {"STAND_IN_SKIPPED": "2"}
    code, _, errors = run(*HOLDING, "--junit", junit, "--", "true", env=skipped)
    said = "the capture may be incomplete: the kernel skipped the probe for 2 calls"
    assert code == 0
    assert any(said in line for line in errors) and said in junit.read_text()
