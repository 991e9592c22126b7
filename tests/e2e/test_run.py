# SPDX-License-Identifier: Apache-2.0
"""Tracing a command, with assertions and leftover processes; and the documented Python API.

On one guest: the kernel makes no difference here.
"""

from __future__ import annotations

import re
import shlex
import tarfile
from importlib.metadata import distribution
from pathlib import Path

import pytest

from provisioning import Guest
from provisioning.capture import START_TIMEOUT
from tests.e2e.conftest import TRAFFIC, background, traffic
from tests.records import read_records
from tests.terminal import Terminal

DOCUMENT = Path(__file__).parents[2] / "docs" / "how-to" / "assertions.md"
PYTHON = "/opt/http-profiler/bin/python3"

pytestmark = pytest.mark.one_guest("debian-13")

# The traced command prints its identity, sends requests from a child in a session of its own, and
# leaves a process running. It waits until others have sent requests too: they must not be seen.
COMMAND = """
cat /proc/self/cgroup; id -un; echo $HOME; touch $1/mine
setsid -w python3 {traffic} requests 127.0.0.1 $2 GET:/$3/child POST:/$3/echo:2000
python3 {traffic} requests ::1 $2 GET:/$3/self
setsid sleep 600 <&- >&- 2>&- & echo $! > $1/left
echo ready >&2
read line
exit 7
"""


def test_a_command_and_its_children_only(guest: Guest, token: str) -> None:
    user = guest.exec("id -un").stdout.strip()
    directory = f"/tmp/{token}"
    guest.exec(["mkdir", directory])
    lines, junit = f"{directory}/lines", f"{directory}/junit.xml"
    with background(guest, "serve") as (_, server):
        script = COMMAND.format(traffic=TRAFFIC)
        traced = shlex.join(
            [
                *("sudo", "http-profiler", "run", "--as", user, "--output", lines),
                *("--fail-if", "status>=500", "--fail-if", "method=POST", "--junit", junit),
                *("--expect", f"GET /{token}/* = 2", "--expect", f"GET /{token}/other"),
                *("--", "sh", "-c", script, "sh", directory, str(server["port"]), token),
            ]
        )
        fifo = f"{directory}/fifo"
        guest.exec(["mkfifo", fifo])
        command = f"{traced} <{fifo} >{directory}/out 2>{directory}/err; echo $? >{directory}/code"
        with guest.popen(f"exec 9<>{fifo}; {command}") as running:
            wait = f"timeout 400 sh -c 'until grep -q ^ready {directory}/err; do sleep 0.2; done'"
            guest.exec(f"{wait} || {{ cat {directory}/err >&2; exit 1; }}", timeout=420)
            traffic(guest, "requests", "127.0.0.1", server["port"], f"GET:/{token}/other")
            guest.exec(f"echo >{fifo}")
            assert running.wait(120) == 0
    out, err, code = (
        guest.exec(["cat", f"{directory}/{name}"]).stdout for name in ("out", "err", "code")
    )
    # The command's own failure takes precedence.
    assert code == "7\n", err
    cgroup, name, home, *_ = out.splitlines()
    assert re.search(r"^0::(/.*)?/http-profiler-\d+$", cgroup)
    assert (name, home) == (user, f"/home/{user}")
    assert guest.exec(["stat", "-c", "%U", f"{directory}/mine"]).stdout.strip() == user

    records = read_records(guest.exec(["sudo", "cat", lines]).stdout)
    assert [r["url"] for r in records if r["type"] == "request"] == [
        f"/{token}/child",
        f"/{token}/echo",
        f"/{token}/self",
    ]
    assert {(r["role"], r["cgroup"]) for r in records} == {("client", cgroup.partition("::")[2])}
    assert not any("incomplete" in record for record in records)

    said = err.splitlines()
    (violation,) = (line for line in said if "fail-if" in line)
    start = (
        f"http-profiler: fail-if method=POST: POST http://127.0.0.1:{server['port']}/{token}/echo"
    )
    assert violation.startswith(f"{start} 200 ")
    assert f"http-profiler: expect GET /{token}/other: matched 0 exchanges, expected >= 1" in said
    assert "http-profiler: 2 of 4 assertions hold for 3 exchanges" in said
    assert 'tests="4" failures="2"' in guest.exec(["sudo", "cat", junit]).stdout

    # The process left behind moved back to the original cgroup, and the command's cgroup is gone.
    assert said[-1] == "http-profiler: 1 processes outlived the command and continue untraced"
    left = guest.exec(["cat", f"{directory}/left"]).stdout.strip()
    assert "http-profiler-" not in guest.exec(["cat", f"/proc/{left}/cgroup"]).stdout
    guest.exec(["kill", left])
    guest.exec("! find /sys/fs/cgroup -name 'http-profiler-[0-9]*' | grep .")


# It shows what it has of the profiler's, and types into its terminals when it ends.
REACH = """
import fcntl, os, signal, subprocess, termios
for name, command in ("env", "env"), ("groups", "id -G"), ("descriptors", "ls /proc/self/fd"):
    with open("{directory}/" + name, "w") as file:
        subprocess.run(command.split(), stdout=file)
signal.signal(signal.SIGCONT, lambda *_: print("continued"))
print("ready")
while line := input():
    print("got " + line[::-1])
for terminal in 0, 1, 2, os.open("/dev/tty", os.O_RDWR):
    for byte in b"touch {directory}/typed\\n":
        fcntl.ioctl(terminal, termios.TIOCSTI, bytes([byte]))
"""


def test_privileges_of_a_command_in_a_terminal(guest: Guest, token: str) -> None:
    """In root's shell, a command of a user reaches nothing of root's, and job control works."""
    user = guest.exec("id -un").stdout.strip()
    directory = f"/tmp/{token}"
    guest.exec(
        f"mkdir {directory} && cat >{directory}/reach", stdin=REACH.format(directory=directory)
    )
    # From Linux 6.2 on, this may be forbidden for everybody.
    guest.exec("sudo sysctl --quiet --ignore --write dev.tty.legacy_tiocsti=1")
    run = f"http-profiler run --as {user} -- python3 {directory}/reach; echo code $?\n"
    with Terminal([*guest.ssh("RequestTTY=force"), "sudo PS1=prompt: bash --norc -i"]) as terminal:
        terminal.seconds = START_TIMEOUT
        terminal.until("prompt:")
        terminal.press("before=$(stty -g); exec 9</dev/null\n", run)
        terminal.until(lambda text: "ready" in text.splitlines())
        terminal.press("eno\n")
        terminal.until("got one")
        terminal.press("\n")
        terminal.until("code 0")
        # With sudo, which has a terminal of its own, as a job that stops.
        terminal.press("clear\n")
        terminal.until(lambda text: "ready" not in text)
        terminal.press("sudo ", run)
        terminal.until(lambda text: "ready" in text.splitlines())
        terminal.press("\x1a")
        terminal.until("Stopped")
        terminal.press('test "$(stty -g)" = "$before" && echo $((6 * 7)) restored\n')
        terminal.until("42 restored")
        terminal.press("fg\n")
        terminal.until("continued")
        terminal.press("owt\n")
        terminal.until("got two")
        terminal.press("\n")
        # Keys that are pressed earlier belong to the command.
        terminal.until(lambda text: text.rstrip().endswith("prompt:"))
        terminal.press("echo code $?\n")
        terminal.until("code 0")
        terminal.press("exit\n")
        terminal.end()
    shown = {
        name: guest.exec(["cat", f"{directory}/{name}"]).stdout.split()
        for name in ("env", "groups", "descriptors")
    }
    assert shown["groups"] == guest.exec("id -G").stdout.split()
    # 3 is the directory that ls reads.
    assert shown["descriptors"] == ["0", "1", "2", "3"]
    assert f"USER={user}" in shown["env"]
    assert not any(variable.startswith("SUDO_") for variable in shown["env"])
    guest.exec(f"! test -e {directory}/typed")


@pytest.fixture
def demo(guest: Guest) -> None:
    """The demo is up."""
    guest.exec("sudo systemctl start http-profiler-demo")
    guest.exec("timeout 120 bash -c 'until : </dev/tcp/localhost/8080; do sleep 0.5; done' 2>&1")


@pytest.mark.usefixtures("demo")
def test_the_command_of_the_documentation(guest: Guest) -> None:
    """It calls the demo, whose server is not the command's child."""
    line = DOCUMENT.read_text().split("```sh\n")[1].split("```")[0]
    done = guest.exec(f"USER=$(id -un); {line}", check=False, timeout=400)
    assert (done.returncode, done.stdout) == (0, "200\n"), done.stderr
    assert done.stderr.endswith("http-profiler: 3 of 3 assertions hold for 1 exchanges\n")
    assert "lost 0/0" in done.stderr


def blocks() -> dict[str, str]:
    """Return the documentation's Python: file name -> text."""
    found = re.findall(r"```python\n# (\S+)\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    return dict(found)


@pytest.mark.usefixtures("demo")
def test_the_python_of_the_documentation(guest: Guest, token: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "files.tar.gz", "w:gz") as files:
        for name, text in blocks().items():
            (tmp_path / name).write_text(text)
            files.add(tmp_path / name, name)
        # The guest has no pytest: it is pure Python, so this interpreter's copy works.
        for package in ("pytest", "pluggy", "iniconfig", "packaging", "pygments"):
            for file in distribution(package).files or ():
                if file.suffix == ".py":
                    files.add(file.locate(), str(file))
    here = f"/tmp/{token}"
    guest.push(tmp_path / "files.tar.gz", f"{here}.tar.gz")
    guest.exec(f"mkdir {here} && tar -xzf {here}.tar.gz -C {here}")
    python = f"cd {here} && PYTHONPATH={here} {PYTHON}"

    watched = guest.exec(f"{python} watch.py", check=False, timeout=400)
    # The client's request and response, and the server's.
    assert (watched.returncode, watched.stdout) == (0, "200 4\n"), watched.stderr

    newer = guest.exec(f"{PYTHON} -c 'import sys; print(sys.version_info >= (3, 10))'").stdout
    if newer != "True\n":
        pytest.skip("pytest 9 needs Python 3.10; everything without pytest was run")
    tested = guest.exec(f"{python} -m pytest -q -p no:cacheprovider", check=False, timeout=400)
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "2 passed" in tested.stdout
    # No process remains.
    guest.exec("! pgrep -f 'http-profiler.*atten[d]'")
