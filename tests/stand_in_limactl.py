#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A stand-in for limactl 2, where Lima cannot run: it starts no machine.

It implements the commands that provisioning/providers/lima.py runs, with the messages and
exit statuses of the real one, taken from its sources (cmd/limactl and pkg/limatype of
Lima 2). The directory STAND_IN_LIMA replaces ~/.lima: it holds instances.json, and files
that a test creates there:

version          the version that `limactl --version` prints
start-fails      `limactl start` makes an instance that does not come up
as-root          it is run by root, which the real one rejects
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import NoReturn

HOME = Path(os.environ.get("STAND_IN_LIMA", "/nonexistent"))
STATE = HOME / "instances.json"


def log(level: str, message: str) -> None:
    print(f'time="2026-11-23T02:00:00Z" level={level} msg="{message}"', file=sys.stderr)


def fatal(message: str) -> NoReturn:
    log("fatal", message)
    sys.exit(1)


def load() -> list[dict]:
    return json.loads(STATE.read_text()) if STATE.exists() else []


def save(instances: list[dict]) -> None:
    STATE.write_text(json.dumps(instances))


def instance(name: str, status: str, guest: str | None = None, **more: object) -> dict:
    """Return an instance as in `limactl list --json`; a broken one has no configuration."""
    directory = HOME / name
    directory.mkdir(exist_ok=True)
    said = {
        "name": name,
        "hostname": f"lima-{name.replace('.', '-')}",
        "status": status,
        "dir": str(directory),
        "vmType": "qemu",
        "arch": "x86_64",
        "sshLocalPort": 60022 if status == "Running" else 0,
        "sshConfigFile": str(directory / "ssh.config"),
        "protected": False,
        "limaVersion": "2.0.3",
    }
    if status != "Broken":
        said["config"] = {"images": [], "minimumLimaVersion": "2.0.0"}
        if guest:
            said["config"]["param"] = {"guest": guest, "repository": "~"}
    return {**said, **more}


def show() -> None:
    instances = load()
    if not instances:
        log("warning", "No instance found. Run `limactl create` to create an instance.")
    for one in instances:
        print(json.dumps(one))


def start(arguments: list[str]) -> None:
    options = [one for one in arguments if one.startswith("--")]
    (target,) = (one for one in arguments if not one.startswith("--"))
    instances = load()
    known = {one["name"]: one for one in instances}
    if not target.endswith(".yaml"):
        if target not in known:
            fatal(f"the stand-in creates no instance {target} from template:default")
        one = known[target]
        if one["status"] == "Running":
            log("info", f"The instance `{target}` is already running.")
            return
        one.update(status="Running", sshLocalPort=60022)
    else:
        names = [option.partition("=")[2] for option in options if option.startswith("--name=")]
        name = names[0] if names else Path(target).stem
        if name in known:
            fatal(f"instance `{name}` already exists")
        guest = re.search(r"^  guest: (\S+)$", Path(target).read_text(), re.MULTILINE)
        instances.append(instance(name, "Running", guest and guest.group(1)))
        (HOME / name / "serial.log").write_text("cloud-init: no network\n")
    save(instances)
    if (HOME / "start-fails").exists():
        fatal('did not receive an event with the \\"running\\" status')
    log("info", f"READY. Run `limactl shell {target}` to open the shell.")


def delete(arguments: list[str]) -> None:
    if "--force" not in arguments:
        fatal("expected status `Stopped`, got `Running`")
    for name in (one for one in arguments if not one.startswith("--")):
        save([one for one in load() if one["name"] != name])
        log("info", f"Deleted `{name}` (`{HOME / name}`)")


def main(arguments: list[str]) -> None:
    with (HOME / "calls").open("a") as calls:
        print(*arguments, file=calls)
    if arguments == ["--version"]:
        version = HOME / "version"
        print(f"limactl version {version.read_text() if version.exists() else '2.0.3'}")
        return
    if (HOME / "as-root").exists():
        fatal("must not run as the root user")
    if arguments == ["list", "--json"]:
        show()
    elif arguments[:1] == ["start"]:
        start(arguments[1:])
    elif arguments[:1] == ["delete"]:
        delete(arguments[1:])
    else:
        fatal(f"the stand-in does not know the command {' '.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
