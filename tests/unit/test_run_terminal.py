# SPDX-License-Identifier: Apache-2.0
"""`run --as USER` in a real terminal: the command has one of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.terminal import SECONDS, Terminal
from tests.unit.test_run import command, environment

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")

CTRL_C, CTRL_Z = "\x03", "\x1a"


def profiler(*arguments: object) -> str:
    """Return the command line for a shell."""
    return shlex.join(command("--as", "nobody", "--", *arguments))


def script(text: str) -> tuple[str, ...]:
    """Return a command that runs a Python script, with an interpreter that everyone can read."""
    return "python3", "-c", f"if True:\n{text}"


def separated(user: str = "nobody", **more: str) -> dict[str, str]:
    """Return the environment of a profiler whose helper starts the command, unless it is root."""
    return environment(HTTP_PROFILER_UNPRIVILEGED_USER=user, **more)


def terminal(line: str, lines: int = 60, columns: int = 100) -> Terminal:
    """Run a command line in a new terminal, which is high enough for all that is printed."""
    return Terminal(["sh", "-c", line], lines, columns, **separated())


def line(text: str) -> Callable[[str], bool]:
    """Return what waits for a line: the echo of a command that writes it is none."""
    return lambda screen: text in screen.splitlines()


def attributes(*lines: str) -> str:
    """Return a command line that prints whether the terminal is the same before and after."""
    between = "; ".join(lines)
    return f'before=$(stty -g); {between}; test "$(stty -g)" = "$before" && echo restored'


def relay_of(run: Terminal) -> int:
    """Return the process of the relay."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for pid in _descendants(run.pid):
            if _status(pid).get("Name") == "http-prof-tty":
                return pid
    raise AssertionError("no relay")


def _descendants(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        status = _status(int(path.name))
        if status.get("PPid") == str(pid):
            found += [int(path.name), *_descendants(int(path.name))]
    return found


def _status(pid: int) -> dict[str, str]:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return {}
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_privileges_end_at_the_session(tmp_path: Path) -> None:
    """Without a terminal among its standard streams, the command has no access to root's."""
    reach = """
        import os
        try:
            print("reached", os.open("/dev/tty", os.O_RDWR))
        except OSError as error:
            print("refused", error.strerror)
        """
    with terminal(f"{profiler(*script(reach))} </dev/null >{tmp_path}/out 2>&1") as run:
        run.end()
    assert "refused No such device or address" in (tmp_path / "out").read_text()


def test_privileges_do_not_leak_by_the_terminal() -> None:
    """What the command types by TIOCSTI is not typed into the shell that called the profiler."""
    type_into = """
        import fcntl, os, termios
        terminals = [0, 1, 2, os.open("/dev/tty", os.O_RDWR)]
        for terminal in terminals:
            for byte in b"touch typed\\n":
                fcntl.ioctl(terminal, termios.TIOCSTI, bytes([byte]))
        print("inner", *(os.ttyname(terminal) for terminal in terminals[:3]))
        """
    both = (
        f"echo outer $(tty); {profiler(*script(type_into))}; echo ended; read -r line; echo $line"
    )
    with terminal(both) as run:
        run.until(line("ended"))
        run.press("harmless\n")
        shown = run.end()
    assert shown.rstrip().endswith("ended\nharmless\nharmless")
    sent = run.sent.decode()
    outer = re.findall(r"outer (/dev/pts/\d+)", sent)
    inner = re.findall(r"inner (\S+) (\S+) (\S+)", sent)[0]
    assert len(set(inner)) == 1
    assert outer != [inner[0]]


def test_privileges_of_the_relay() -> None:
    """It copies bytes between two terminals, and can do nothing else."""
    with terminal(profiler("cat")) as run:
        relay = relay_of(run)
        status = _status(relay)
        opened = [str(path.readlink()) for path in Path(f"/proc/{relay}/fd").iterdir()]
        run.press("keys\n")
        run.until("keys\nkeys")
        run.press("\x04")
        run.end()
    assert status["CapEff"] == status["CapPrm"] == "0" * 16
    assert "0" not in status["Uid"].split()
    # Two ends of pipes are its own signals; the process is its parent.
    kinds = [re.sub(r"\d+|:\[\d+\]", "", name) for name in opened]
    assert sorted(kinds) == ["/dev/ptmx", "/dev/pts/", "anon_inode:[pidfd]", *["pipe"] * 3]


def test_all_output_arrives_and_the_exit_code() -> None:
    """Also what is written right before the end, and what is left running does not delay it."""
    lines = "(trap '' HUP; sleep 600) & echo left $!; seq -f 'line %.0f' 20000; exit 7"
    with terminal(attributes(profiler("sh", "-c", lines), "echo code $?")) as run:
        run.until(line("restored"))
        run.end()
    sent = run.sent.decode()
    os.kill(int(re.findall(r"left (\d+)", sent)[0]), signal.SIGKILL)
    assert "code 7" in sent
    assert re.findall(r"line (\d+)", sent) == [str(number) for number in range(1, 20001)]


def test_the_terminal_is_restored_however_the_command_ends() -> None:
    missing = f"{profiler('no-such-command')}; echo missing $?"
    refused = f"{profiler('/etc/passwd')}; echo refused $?"
    killed = f"{profiler('sh', '-c', 'stty raw -echo; kill -9 $$')}; echo killed $?"
    with terminal(attributes(missing, refused, killed)) as run:
        run.until(line("restored"))
        run.end()
    for code in (b"missing 127", b"refused 126", b"killed 137"):
        assert code in run.sent


@pytest.mark.parametrize("whom", ["the profiler", "the relay"])
def test_the_terminal_is_restored_after_a_signal(whom: str) -> None:
    with terminal(attributes(profiler("sh", "-c", "echo ready; sleep 600"), "echo code $?")) as run:
        run.until(line("ready"))
        relay = relay_of(run)
        if whom == "the profiler":
            os.kill(_descendants(run.pid)[0], signal.SIGTERM)
            code = 128 + signal.SIGTERM
        else:
            # The command's terminal is then hung up.
            os.kill(relay, signal.SIGKILL)
            code = 128 + signal.SIGHUP
        run.until(line("restored"))
        shown = run.end()
    assert f"\ncode {code}" in shown


def test_the_terminal_is_restored_after_sigkill() -> None:
    """Nobody but the relay can do it."""
    wait = 'until test "$(stty -g)" = "$before"; do sleep 0.1; done; echo restored'
    killed = profiler("sh", "-c", "echo ready; sleep 600")
    with terminal(f"before=$(stty -g); {killed}; {wait}") as run:
        run.until(lambda text: "ready" in text and run.is_raw)
        os.kill(_descendants(run.pid)[0], signal.SIGKILL)
        run.until(line("restored"))
        run.end()


def test_the_command_is_hung_up_with_the_terminal() -> None:
    with TemporaryDirectory() as directory:
        Path(directory).chmod(0o777)
        there = Path(directory, "there")
        # A read would end too, maybe before the signal.
        trap = f"trap 'echo >{there}; exit' HUP; (echo ready; exec sleep 600)"
        with terminal(profiler("sh", "-c", trap)) as run:
            run.until(lambda text: "ready" in text and run.is_raw)
        deadline = time.monotonic() + SECONDS
        while not there.exists():
            assert time.monotonic() < deadline


def test_lines_of_the_profiler_look_right() -> None:
    """While all keys are passed on, a new line still begins at the left."""
    mixed = shlex.join(command("--output", "-", "--as", "nobody", "--", "cat"))
    with terminal(mixed) as run:
        run.until(lambda _: b'"type"' in run.sent and run.is_raw)
        run.press("\x04")
        run.end()
    assert b'"type"' in run.sent
    assert not re.findall(rb"[^\r]\n", run.sent)


def test_the_size_of_the_window_follows() -> None:
    sizes = """
        import os, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGWINCH])
        print(os.get_terminal_size())
        signal.sigwait([signal.SIGWINCH])
        print(os.get_terminal_size())
        """
    with terminal(profiler(*script(sizes)), lines=30, columns=90) as run:
        run.until("columns=90, lines=30")
        run.resize(20, 80)
        run.until("columns=80, lines=20")
        run.end()


def test_keys_act_in_the_terminal_of_the_command() -> None:
    """Ctrl-C reaches the command once, and nobody else."""
    trap = "trap 'echo caught' INT; echo ready; read line; read line; echo $line; exit 3"
    with terminal(f"trap 'echo outside' INT; {profiler('sh', '-c', trap)}; echo code $?") as run:
        run.until(lambda text: "ready" in text and run.is_raw)
        run.press(CTRL_C)
        run.until("caught")
        run.press("first\n", "second\n")
        shown = run.end()
    assert shown.count("caught") == 1
    assert "outside" not in shown
    assert "\ncode 3" in shown


@pytest.mark.parametrize("reader", ["nobody", "root"])
def test_job_control(reader: str) -> None:
    """Ctrl-Z stops the job, the shell gets its terminal as it was, and `fg` continues it."""
    with Terminal(["bash", "--norc", "-i"], lines=60, **separated(reader, PS1="$ ")) as run:
        run.until("$")
        run.press("before=$(stty -g); clear\n")
        run.press(f"{profiler('sh', '-c', 'echo ready; cat; echo ended')}\n")
        for _ in range(2):
            run.until(line("ready"))
            run.press("one\n")
            run.until("one\none")
            run.press(CTRL_Z)
            run.until("Stopped")
            run.press('clear; test "$(stty -g)" = "$before" && echo as it was\n')
            run.until(line("as it was"))
            run.press("clear; echo; echo ready; fg\n")
        run.until(line("ready"))
        run.press("two\n")
        run.until("two\ntwo")
        run.press("\x04")
        run.until(line("ended"))
        run.press("exit\n")
        run.end()


def test_a_job_in_the_background() -> None:
    """It does not touch the terminal until it is brought to the foreground."""
    with Terminal(["bash", "--norc", "-i"], lines=60, **separated(PS1="$ ")) as run:
        run.until("$")
        run.press(f"before=$(stty -g); {profiler('sh', '-c', 'echo ready; cat; echo ended')} &\n")
        run.until(line("ready"))
        run.press('clear; test "$(stty -g)" = "$before" && echo as it was\n')
        run.until(line("as it was"))
        run.press("fg\n")
        run.until(lambda _: run.is_raw)
        run.press("two\n")
        run.until("two\ntwo")
        run.press("\x04")
        run.until(line("ended"))
        run.press("exit\n")
        run.end()


def test_streams_that_are_no_terminal_are_passed_through(tmp_path: Path) -> None:
    """With a pipe as input, the terminal stays as it is, also for Ctrl-C."""
    pipe = tmp_path / "input"
    os.mkfifo(pipe)
    kinds = "test -t 0 || echo piped; test -t 1 && echo shown; cat"
    # The shell keeps the other end open, so that only Ctrl-C ends the command.
    opened = f"exec 3<>{shlex.quote(str(pipe))}; echo input >&3"
    with terminal(f"{opened}; {profiler('sh', '-c', kinds)} <&3") as run:
        for word in ("piped", "shown", "input"):
            run.until(line(word))
        run.press(CTRL_C)
        run.end()
