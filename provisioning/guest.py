# SPDX-License-Identifier: Apache-2.0
"""One running guest, reached over ssh, whoever started it.

A :class:`Guest` has an ssh address and ``console``, which returns the end of the
machine's console, so tests and the demo need not know whether QEMU, Vagrant or Lima
runs it. All commands share one master connection, because a handshake costs a second
under emulation. A lost machine raises :class:`MachineLost`, never
:class:`CommandFailed`.
"""

from __future__ import annotations

import shlex
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Union

from provisioning.errors import CommandTimeout, GuestError, MachineLost
from provisioning.host import find_tool

Command = Union[str, Sequence[str]]

# ssh's own exit status when the connection fails.
SSH_FAILED = 255

# ssh's word for "no control path": each command opens a connection of its own.
UNSHARED = Path("none")


@dataclass(frozen=True)
class Address:
    """How ssh reaches a guest. ``control`` is a path short enough for a Unix socket."""

    host: str
    port: int
    user: str
    keys: tuple[Path, ...]
    control: Path


@dataclass(frozen=True)
class Result:
    """What a command in a guest printed and how it ended."""

    returncode: int
    stdout: str
    stderr: str


class CommandFailed(GuestError):
    """A command in a guest ended with a status that is not 0."""

    def __init__(self, command: str, result: Result) -> None:
        super().__init__(
            f"{command}: exit status {result.returncode} in the guest",
            (result.stdout + result.stderr).rstrip(),
        )
        self.result = result


def _no_console() -> str:
    return ""


class Guest:
    """A guest that is up."""

    def __init__(
        self, name: str, address: Address, console: Callable[[], str] = _no_console
    ) -> None:
        self.name = name
        self.address = address
        self.console = console

    def exec(
        self,
        command: Command,
        *,
        check: bool = True,
        timeout: float | None = None,
        stdin: str | bytes | None = None,
    ) -> Result:
        """Run a command to its end: an argument list, or a line for the guest's shell.

        With ``check`` a status other than 0 raises :class:`CommandFailed`. After
        ``timeout`` seconds it raises :class:`CommandTimeout`; what the command started
        in the guest may continue to run.
        """
        line = command_line(command)
        given = stdin.encode() if isinstance(stdin, str) else stdin
        try:
            done = subprocess.run(
                [*self.ssh(), line],
                input=b"" if given is None else given,
                capture_output=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandTimeout(f"{self.name}: not done in {timeout:.0f} s: {line}") from None
        result = Result(
            done.returncode,
            done.stdout.decode("utf-8", "backslashreplace"),
            done.stderr.decode("utf-8", "backslashreplace"),
        )
        if result.returncode == SSH_FAILED:
            self._check_alive(result.stderr)
        if check and result.returncode != 0:
            raise CommandFailed(f"{self.name}: {line}", result)
        return result

    def popen(
        self,
        command: Command,
        *,
        stdin: int | IO[bytes] | None = subprocess.DEVNULL,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
    ) -> Running:
        """Start a command in the background; :class:`Running` can signal it."""
        return Running(self, command, stdin, stdout, stderr)

    def push(self, local: Path | str, remote: str) -> None:
        """Copy a file or directory into the guest, as its ssh user."""
        if not Path(local).exists():
            raise GuestError(f"{local} does not exist, nothing to push to {self.name}")
        self._copy(str(local), self._remote(remote), f"push {local} to {self.name}:{remote}")

    def pull(self, remote: str, local: Path | str) -> None:
        """Copy a file or directory out of the guest."""
        self._copy(self._remote(remote), str(local), f"pull {self.name}:{remote} to {local}")

    def wait(self, deadline: float, alive: Callable[[], None] = lambda: None) -> None:
        """Wait until the guest accepts commands, at most until ``deadline`` (monotonic clock).

        ``alive`` is called between attempts and raises if waiting is pointless.
        """
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                raise MachineLost(f"{self.name}: ssh accepts no login", self.console())
            with suppress(CommandTimeout, MachineLost):
                self.connect(timeout=left)
                self.exec(["true"], timeout=left)
                return
            alive()
            time.sleep(0.3)

    def connect(self, timeout: float | None = None) -> None:
        """Open the connection that all commands share, if it is not open."""
        if self._master("check") == 0:
            return
        # Opened here, not by the first command: the master would keep that command's
        # standard error open, and a pipe there would never reach its end.
        try:
            opened = subprocess.run(
                [
                    *self.ssh("ControlMaster=yes", "ControlPersist=yes"),
                    "-N",
                    "-f",
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CommandTimeout(f"{self.name}: no connection within {timeout:.0f} s") from None
        if opened.returncode != 0:
            raise MachineLost(f"{self.name}: ssh cannot connect", self.console())

    def disconnect(self) -> None:
        """Close the shared connection."""
        if self.address.control.exists():
            self._master("exit")

    def ssh(self, *options: str) -> list[str]:
        """Return the ssh command line up to and including the host."""
        command = [find_tool("ssh", "openssh-client"), *self._options("-p"), *_pairs(options)]
        return [*command, f"{self.address.user}@{self.address.host}"]

    def _options(self, port_flag: str) -> list[str]:
        address = self.address
        # No config file: a user's settings for their own hosts must not apply to guests.
        return [
            "-F",
            "none",
            port_flag,
            str(address.port),
            *(part for key in address.keys for part in ("-i", str(key))),
            *_pairs(
                (
                    f"ControlPath={address.control}",
                    "IdentitiesOnly=yes",
                    "BatchMode=yes",
                    # The cheapest to compute: a guest is emulated, and only its host can listen.
                    "KexAlgorithms=curve25519-sha256",
                    "HostKeyAlgorithms=ssh-ed25519",
                    # Covers the greeting: QEMU accepts before the guest listens.
                    "ConnectTimeout=20",
                    # Every guest is new, so its host key proves nothing.
                    "StrictHostKeyChecking=no",
                    "UserKnownHostsFile=/dev/null",
                    "LogLevel=ERROR",
                    # An emulated guest that compiles can be silent for a long time.
                    "ServerAliveInterval=20",
                    "ServerAliveCountMax=6",
                )
            ),
        ]

    def _copy(self, source: str, target: str, doing: str) -> None:
        scp = find_tool("scp", "openssh-client")
        done = subprocess.run(
            [scp, "-q", "-r", "-p", *self._options("-P"), source, target],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            said = done.stderr.decode("utf-8", "backslashreplace").strip()
            self._check_alive(said)
            raise GuestError(f"cannot {doing}: {said}")

    def _remote(self, path: str) -> str:
        return f"{self.address.user}@{self.address.host}:{path}"

    def _master(self, request: str) -> int:
        return subprocess.run(
            [*self.ssh()[:-1], "-O", request, self.ssh()[-1]],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode

    def answers(self, timeout: float) -> bool:
        """Whether the guest's ssh server answers."""
        # QEMU accepts connections before the guest listens: only the server's greeting
        # proves that it does.
        try:
            with socket.create_connection(
                (self.address.host, self.address.port), timeout=max(timeout, 0.1)
            ) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _check_alive(self, said: str) -> None:
        """Raise MachineLost unless the guest still answers (255 was the command's own status)."""
        if self.answers(10.0):
            return
        reason = said.strip().splitlines()
        raise MachineLost(
            f"{self.name}: the machine is lost{': ' + reason[-1] if reason else ''}",
            self.console(),
        )


class Running:
    """A command that runs in a guest.

    Ending the local ssh would not end the command. So its process id is written to a
    file in the guest, and signals go to that process.
    """

    def __init__(
        self,
        guest: Guest,
        command: Command,
        stdin: int | IO[bytes] | None,
        stdout: int | IO[bytes] | None,
        stderr: int | IO[bytes] | None,
    ) -> None:
        self.guest = guest
        self.line = command_line(command)
        self._pid_file = f"/tmp/.running-{time.monotonic_ns():x}"
        # The shell writes its own id, then becomes the command.
        inner = self.line if isinstance(command, str) else f"exec {self.line}"
        self.process = subprocess.Popen(
            [*guest.ssh(), f"echo $$ > {self._pid_file}; {inner}"],
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )

    @property
    def stdout(self) -> IO[bytes]:
        """What the command prints."""
        assert self.process.stdout is not None
        return self.process.stdout

    @property
    def stderr(self) -> IO[bytes]:
        """What the command prints as errors."""
        assert self.process.stderr is not None
        return self.process.stderr

    def poll(self) -> int | None:
        """Return the status of the command, ``None`` while it runs."""
        return self.process.poll()

    def signal(self, name: str) -> None:
        """Send a signal such as ``INT`` to the command; to ``sudo``, which forwards it."""
        self.guest.exec(f"sudo kill -{shlex.quote(name)} $(cat {self._pid_file})", check=False)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end of the command and return its status."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeout(
                f"{self.guest.name}: not done in {timeout:.0f} s: {self.line}"
            ) from None

    def communicate(self, timeout: float | None = None) -> Result:
        """Read all that the command prints until it ends."""
        try:
            stdout, stderr = self.process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            raise CommandTimeout(
                f"{self.guest.name}: not done in {timeout:.0f} s: {self.line}"
            ) from None
        return Result(
            self.process.returncode,
            (stdout or b"").decode("utf-8", "backslashreplace"),
            (stderr or b"").decode("utf-8", "backslashreplace"),
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.process.poll() is None:
            with suppress(MachineLost, GuestError):
                self.signal("TERM")
                self.wait(20.0)
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                # Unsent input is no longer needed.
                with suppress(BrokenPipeError):
                    pipe.close()


def command_line(command: Command) -> str:
    """Return a command as one line for the guest's shell."""
    return command if isinstance(command, str) else shlex.join(command)


def _pairs(options: Sequence[str]) -> list[str]:
    return [part for option in options for part in ("-o", option)]
