# SPDX-License-Identifier: Apache-2.0
"""``python -m provisioning``: build, boot and use guests from the command line.

An error is printed as one line, after the console or log that explains it. The exit
status is 0 for success, 2 for wrong usage, 125 for a failure of the harness, 130 for
Ctrl-C; ``ssh`` returns the status of the command in the guest.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from provisioning import machines
from provisioning.box import ensure_box
from provisioning.catalog import find_guest, load_catalog
from provisioning.check import DIFFERS, check
from provisioning.errors import ProvisioningError
from provisioning.guest import Guest, command_line
from provisioning.image import ensure_image, image_of
from provisioning.instances import Instance, known_instances
from provisioning.locks import read_lock
from provisioning.manifest import read_manifest
from provisioning.playbook import play_on_machine
from provisioning.progress import say
from provisioning.providers import DEFAULT, TOOLS, named_provider, qemu, running
from provisioning.relock import relock

INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    arguments = parser().parse_args(argv)
    # SIGTERM is handled like Ctrl-C, so the cleanup is the same. A shell starts background
    # jobs with SIGINT ignored; this restores it.
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, _interrupt)
    try:
        named_provider(arguments.provider)
        status: int = arguments.run(arguments)
    except ProvisioningError as error:
        if error.details:
            say(error.details)
        say(f"provisioning: {error}")
        return error.exit_code
    except KeyboardInterrupt:
        say("provisioning: interrupted, everything is cleaned up")
        return INTERRUPTED
    return status


def _interrupt(signum: int, frame: FrameType | None) -> NoReturn:
    # Only once: the cleanup must not be interrupted again.
    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m provisioning", description="Machines with real kernels, for tests."
    )
    top.add_argument(
        "--provider",
        metavar="PROVIDER",
        help=f"what starts machines: {', '.join((DEFAULT, *TOOLS))}"
        f" (default: $GUEST_PROVIDER, else the one that has the guest up, else {DEFAULT})",
    )
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    guest = "a guest of guests.toml, or GUEST@NAME for another machine of the same kind"

    command = commands.add_parser("list", help="show the guests, which are built and which are up")
    command.add_argument("--json", action="store_true", help="print the guests as JSON only")
    command.set_defaults(run=_list)

    command = commands.add_parser("build", help="build the image of a guest")
    command.add_argument("guest", nargs="?", metavar="GUEST", help=guest)
    how = command.add_mutually_exclusive_group()
    how.add_argument(
        "--check",
        action="store_true",
        help="build nothing; report whether a rebuild would differ, and how:"
        " exit code 0 if not, 1 if so, 125 if that cannot be determined",
    )
    how.add_argument(
        "--strict", action="store_true", help="exit with 1 if what was built differs from the lock"
    )
    command.set_defaults(run=_build)

    command = commands.add_parser("box", help="make a Vagrant box of a guest, and print its path")
    command.add_argument("guest", nargs="?", metavar="GUEST", help=guest)
    command.set_defaults(run=_box)

    command = commands.add_parser("play", help="run the playbook on a machine that is up")
    command.add_argument("guest", metavar="GUEST", help=guest)
    command.add_argument("arguments", nargs=argparse.REMAINDER, metavar="-- ANSIBLE-ARGUMENT")
    command.set_defaults(run=_play)

    command = commands.add_parser(
        "lock", help="build guests with the newest versions, and lock these in provisioning/locks"
    )
    command.add_argument("guest", nargs="+", metavar="GUEST", help="a guest of guests.toml")
    command.set_defaults(run=_lock)

    command = commands.add_parser("up", help="boot a guest, building its image if needed")
    command.add_argument("guest", nargs="?", metavar="GUEST", help=guest)
    command.add_argument("--append", default="", help="additional arguments for the guest's kernel")
    command.add_argument(
        "--icount",
        action="store_true",
        help="advance the guest's clock one nanosecond per instruction; needs cpus = 1",
    )
    command.set_defaults(run=_up)

    command = commands.add_parser("ssh", help="run a command in a guest, or log in")
    command.add_argument("guest", metavar="GUEST", help=guest)
    command.add_argument("command", nargs=argparse.REMAINDER, metavar="-- COMMAND")
    command.set_defaults(run=_ssh)

    command = commands.add_parser("push", help="copy a file or directory into a guest")
    command.add_argument("guest", metavar="GUEST", help=guest)
    command.add_argument("local", metavar="LOCAL")
    command.add_argument("remote", metavar="REMOTE")
    command.set_defaults(run=_push)

    command = commands.add_parser("pull", help="copy a file or directory out of a guest")
    command.add_argument("guest", metavar="GUEST", help=guest)
    command.add_argument("remote", metavar="REMOTE")
    command.add_argument("local", metavar="LOCAL")
    command.set_defaults(run=_pull)

    command = commands.add_parser("down", help="stop guests and remove their disks")
    which = command.add_mutually_exclusive_group(required=True)
    which.add_argument("guests", nargs="*", default=[], metavar="GUEST", help=guest)
    which.add_argument("--all", action="store_true", help="every machine of this repository")
    command.set_defaults(run=_down)
    return top


def _list(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps([dataclasses.asdict(spec) for spec in load_catalog().values()]))
        return 0
    machines_up = {one.name for one in known_instances() if one.pid() is not None}
    elsewhere = {tool: running(tool) for tool in TOOLS}
    for spec in load_catalog().values():
        image = image_of(spec)
        older = any(image.directory.parent.glob(f"{spec.name}-*"))
        built = "built" if image.exists else "built from older sources" if older else "not built"
        if image.snapshots:
            built += ", with a snapshot"
        print(
            f"{spec.name:14} {spec.distribution:7} {spec.suite:9} Linux {spec.kernel + 'x':7}"
            f" Python {spec.python:5} {spec.memory} MiB  {spec.cpus} CPUs  {built}"
        )
        for name in sorted(machines_up):
            if name.partition("@")[0] == spec.name:
                print(f"  {name} is up, process {Instance(name).pid()}")
        for tool, names in elsewhere.items():
            if spec.name in names:
                print(f"  {spec.name} is up, provider {tool}")
    return 0


def _build(arguments: argparse.Namespace) -> int:
    if arguments.check:
        spec, _ = machines.resolve(arguments.guest)
        return check(spec, lambda line: print(f"{spec.name}: {line}", flush=True))
    spec, _ = machines.resolve(arguments.guest)
    image = ensure_image(spec)
    print(image.directory)
    if arguments.strict:
        lock = read_lock(spec.name)
        if lock is None:
            raise ProvisioningError(
                f"{spec.name} has no lock: run `python -m provisioning lock {spec.name}`"
            )
        trouble = read_manifest(image.directory).lock_differences(lock)
        if trouble is not None:
            say(f"{spec.name}: {trouble}")
            return DIFFERS
    return 0


def _lock(arguments: argparse.Namespace) -> int:
    # Validate all names before the first build.
    for spec in [find_guest(name) for name in arguments.guest]:
        print(relock(spec))
    return 0


def _box(arguments: argparse.Namespace) -> int:
    spec, _ = machines.resolve(arguments.guest)
    print(ensure_box(spec))
    return 0


def _play(arguments: argparse.Namespace) -> int:
    spec = find_guest(arguments.guest)
    return play_on_machine(spec, _after_dashes(arguments.arguments))


def _up(arguments: argparse.Namespace) -> int:
    guest, fresh = machines.up(
        arguments.guest,
        provider=arguments.provider,
        append=arguments.append,
        icount=arguments.icount,
        timeout=qemu.ICOUNT_BOOT_TIMEOUT if arguments.icount else qemu.BOOT_TIMEOUT,
    )
    say(
        f"{guest.name} is {'up' if fresh else 'up already'}:"
        f" python -m provisioning ssh {guest.name}"
    )
    return 0


def _after_dashes(arguments: list[str]) -> list[str]:
    return arguments[1:] if arguments[:1] == ["--"] else arguments


def _attached(arguments: argparse.Namespace) -> Guest:
    return machines.attach(arguments.guest, provider=arguments.provider)


def _ssh(arguments: argparse.Namespace) -> int:
    guest = _attached(arguments)
    command = _after_dashes(arguments.command)
    argv = guest.ssh()
    # One argument is a line for the guest's shell, as with ssh itself. Several are one
    # command with its arguments, passed unchanged.
    if command:
        argv.append(command[0] if len(command) == 1 else command_line(command))
    sys.stdout.flush()
    os.execv(argv[0], argv)


def _push(arguments: argparse.Namespace) -> int:
    _attached(arguments).push(arguments.local, arguments.remote)
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    _attached(arguments).pull(arguments.remote, arguments.local)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    provider = named_provider(arguments.provider) or DEFAULT
    names = arguments.guests
    if arguments.all:
        own = [one.name for one in known_instances()]
        names = own if provider == DEFAULT else running(provider)
    for name in names:
        ran = machines.down(name, provider=provider)
        say(f"{name} is down" if ran else f"{name} was not up")
    return 0


if __name__ == "__main__":
    sys.exit(main())
