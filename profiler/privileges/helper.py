# SPDX-License-Identifier: Apache-2.0
"""The helper: a process that keeps the privileges, and never reads captured bytes.

It is forked once the probe is attached, so it has a copy of every object and every descriptor
that exists by then. Functions that need privileges are offered before (:meth:`Helper.offer`).
Afterwards their wrappers send the number of the function and its arguments, as JSON, through a
socket pair; the helper calls its own copy and replies. So the confined process chooses among
these functions, and their arguments are numbers and short texts. It cannot name a file, a program
or a process of its own choice unless an offered function takes one.

The helper ends when the socket closes, however the other process ended. Its descriptors keep the
probe attached, so the probe is then detached.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from profiler import errors
from profiler.errors import ProbeError, ProfilerError

# For the terminal and for service managers, both processes are one: the other one handles these.
_BLOCKED = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1}
# A request or reply in bytes: far above the account, which is the longest.
_MESSAGE_MAX = 64 * 1024


class Descriptor(int):
    """A file descriptor that an offered function returns: it is passed to the caller."""


class Helper:
    """The functions that need privileges, called here or, after :meth:`split`, in the helper."""

    def __init__(self) -> None:
        self._functions: list[Callable[..., Any]] = []
        self._regular: list[tuple[float, Callable[[], object]]] = []
        self._first: list[Callable[[], object]] = []
        self._after: list[Callable[[], object]] = []
        self._socket: socket.socket | None = None
        self._child = 0

    @property
    def is_split(self) -> bool:
        """Whether the offered functions run in another process."""
        return self._socket is not None

    def offer(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a wrapper that calls ``function`` with privileges, before and after the split.

        Arguments and result are JSON values; a result may also be a :class:`Descriptor`. The
        wrapper raises OSError and ProfilerError as ``function`` does.
        """
        assert not self.is_split, "the helper has its own copy of the functions"
        number = len(self._functions)
        self._functions.append(function)

        def call(*arguments: Any) -> Any:
            if self._socket is None:
                return function(*arguments)
            return self._call(number, arguments)

        return call

    def at_start(self, function: Callable[[], object]) -> None:
        """Let the helper call ``function`` first, for example to close its copy of something."""
        self._first.append(function)

    def after_split(self, function: Callable[[], object]) -> None:
        """Call ``function`` here after the split, to close what only the helper needs."""
        self._after.append(function)

    def every(self, seconds: float, function: Callable[[], object]) -> None:
        """Let the helper call ``function`` at an interval, after the split."""
        self._regular.append((seconds, function))

    def split(self) -> None:
        """Fork the helper, which sees no object that is made later."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
        child = os.fork()
        if child == 0:
            ours.close()
            self._serve(theirs)
        theirs.close()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._socket, self._child = ours, child
        for function in self._after:
            function()

    def close(self) -> None:
        """End the helper."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self._child, 0)

    def check(self) -> None:
        """Raise ProbeError if the helper has ended, because then the probe is detached."""
        if self._child and os.waitpid(self._child, os.WNOHANG)[0]:
            self._child = 0
            raise _ended()

    def _call(self, number: int, arguments: tuple[Any, ...]) -> Any:
        assert self._socket is not None
        try:
            self._socket.send(json.dumps([number, *arguments]).encode())
            message, descriptors, _, _ = socket.recv_fds(self._socket, _MESSAGE_MAX, 1)
        except OSError as error:
            raise _ended() from error
        if not message:
            raise _ended()
        reply = json.loads(message)
        if "error" in reply:
            raise _error_of(reply["error"])
        return descriptors[0] if descriptors else reply["result"]

    def _serve(self, requests: socket.socket) -> NoReturn:
        """Serve the functions until the other process ends, in the forked process."""
        code = 1
        try:
            _name_process()
            for function in self._first:
                function()
            _Server(self._functions, self._regular, requests).run()
            code = 0
        finally:
            # No cleanup of objects: they belong to the other process.
            os._exit(code)


@dataclass
class _Regular:
    due: float
    seconds: float
    function: Callable[[], object]


class _Server:
    def __init__(
        self,
        functions: list[Callable[..., Any]],
        regular: list[tuple[float, Callable[[], object]]],
        requests: socket.socket,
    ) -> None:
        self._functions = functions
        self._requests = requests
        self._regular = [_Regular(time.monotonic(), *each) for each in regular]

    def run(self) -> None:
        while True:
            self._requests.settimeout(self._run_regular())
            try:
                request = self._requests.recv(_MESSAGE_MAX)
            except socket.timeout:
                continue
            if not request:
                return
            self._requests.settimeout(None)
            reply, descriptors = self._reply(request)
            try:
                socket.send_fds(self._requests, [json.dumps(reply).encode()], descriptors)
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)

    def _run_regular(self) -> float | None:
        """Call what is due; return the seconds until the next call."""
        now = time.monotonic()
        for each in self._regular:
            if now >= each.due:
                with contextlib.suppress(ProfilerError, OSError):
                    each.function()
                each.due = now + each.seconds
        return max(min(each.due for each in self._regular) - now, 0.001) if self._regular else None

    def _reply(self, request: bytes) -> tuple[dict[str, Any], list[int]]:
        try:
            number, *arguments = json.loads(request)
            result = self._functions[number](*arguments)
        except OSError as error:
            names = error.filename, error.filename2
            return {"error": ["OSError", error.errno, error.strerror, *map(_text, names)]}, []
        except ProfilerError as error:
            return {"error": [type(error).__name__, str(error), error.exit_code]}, []
        except Exception as error:
            # A request that this process did not make: the helper must outlive it.
            return {"error": ["ProfilerError", f"the helper refused a call: {error!r}", 1]}, []
        if isinstance(result, Descriptor):
            return {"result": None}, [int(result)]
        return {"result": result}, []


def _text(name: object) -> str | None:
    return None if name is None else os.fsdecode(name)  # type: ignore[arg-type]


def _error_of(reply: list[Any]) -> Exception:
    name, *values = reply
    if name == "OSError":
        number, text, first, second = values
        return OSError(number, text, first, None, second)
    text, code = values
    error: ProfilerError = getattr(errors, name, ProfilerError)(text)
    error.exit_code = code
    return error


def _ended() -> ProbeError:
    return ProbeError(
        "the helper that holds the probe has ended, so the capture ends; start it again"
    )


def _name_process() -> None:
    """Show the helper as such in ps(1): its thread's name, at most 15 bytes."""
    with contextlib.suppress(OSError):
        Path("/proc/self/comm").write_text("http-prof-root")
