# SPDX-License-Identifier: Apache-2.0
"""Machines that ``limactl start`` brings up from the templates in ``lima/``.

A user of Lima keeps a machine up and runs the tests against it. This module queries
limactl, never its files. An instance is one of ours if the parameter ``guest`` of its
template identifies it, whatever its name is. A machine belongs to the user and is left
as it is, except one that was created here and did not come up, which is deleted.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioning.catalog import GuestSpec
from provisioning.errors import GuestError, ProviderUnavailable, ProvisioningError, ToolMissing
from provisioning.guest import Guest
from provisioning.host import REPOSITORY, tail
from provisioning.instances import Instance
from provisioning.providers.sshconfig import address_of

TEMPLATES = REPOSITORY / "lima"

OLDEST = (2, 0, 0)
"""The version the templates require, as their ``minimumLimaVersion``."""

ANSWER_TIMEOUT = 60.0
"""Seconds limactl has to answer."""

START_OPTIONS = ("--tty=false", "--timeout=30m")
"""No prompts, and more time to provision a guest than Lima's default of ten minutes."""

PROVISIONED = "/usr/bin/http-profiler"


@dataclass(frozen=True)
class LimaInstance:
    """One line of ``limactl list --json``."""

    name: str
    guest: str | None
    status: str
    directory: Path
    hostname: str
    ssh_config: Path
    errors: tuple[str, ...]

    @classmethod
    def parse(cls, said: dict[str, Any]) -> LimaInstance:
        """Parse one; a broken instance has no configuration."""
        config = said.get("config") or {}
        return cls(
            name=said["name"],
            guest=(config.get("param") or {}).get("guest"),
            status=said["status"],
            directory=Path(said["dir"]),
            hostname=said.get("hostname") or "",
            ssh_config=Path(said.get("sshConfigFile") or ""),
            errors=tuple(said.get("errors") or ()),
        )

    def console(self) -> str:
        """Return the end of its serial consoles."""
        return "\n".join(filter(None, map(tail, sorted(self.directory.glob("serial*.log")))))


def unavailable() -> str | None:
    """Return why Lima cannot be used here; ``None`` if it can."""
    try:
        said = _ask("--version").strip()
        version = re.search(r"(\d+)\.(\d+)\.(\d+)", said)
        # A version without numbers is a build from source, which Lima treats as the newest.
        if version and tuple(map(int, version.groups())) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            return f"this is {said}, but the templates need {oldest}: install a newer Lima"
        _instances()
    except (ToolMissing, ProviderUnavailable) as error:
        return str(error)
    return None


def running() -> list[str]:
    """Return the guests that are up."""
    if shutil.which("limactl") is None:
        return []
    up = [one.guest for one in _instances() if one.guest and one.status == "Running"]
    return sorted(set(up))


def attach(name: str) -> Guest:
    """Return a guest that is up and provisioned."""
    instance = _find(name)
    if instance is None:
        raise GuestError(f"{name} is not up with Lima: run `limactl start ./lima/{name}.yaml`")
    if instance.status != "Running":
        raise _not_running(instance)
    address = address_of(instance.ssh_config, instance.hostname)
    guest = Guest(name, address, console=instance.console)
    # Lima reports an instance as running from the start of its boot.
    if guest.exec(["test", "-x", PROVISIONED], check=False, timeout=120).returncode != 0:
        raise GuestError(
            f"{name} is up with Lima, but not provisioned: wait until `limactl start` prints"
            f" READY, or see /var/log/cloud-init-output.log in `limactl shell {instance.name}`"
        )
    return guest


def start(spec: GuestSpec) -> None:
    """Bring a guest up; it provisions itself."""
    with Instance(f"{spec.name}@lima").lock():
        instance = _find(spec.name)
        if instance is None:
            _create(spec.name)
        elif instance.status == "Stopped":
            _run("start", *START_OPTIONS, instance.name)
        elif instance.status != "Running":
            raise _not_running(instance)


def stop(name: str) -> bool:
    """Stop a guest and remove its disk; return whether there was one."""
    instance = _find(name)
    if instance is None:
        return False
    _run("delete", "--force", instance.name)
    return True


def _create(name: str) -> None:
    template = TEMPLATES / f"{name}.yaml"
    if not template.exists():
        there = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*-*.yaml")))
        raise GuestError(f"there is no Lima template of {name}: lima/ has {there}")
    if any(one.name == name for one in _instances()):
        raise GuestError(
            f"Lima has an instance {name} that is not from lima/{name}.yaml:"
            f" `limactl rename {name} OTHER` keeps it"
        )
    try:
        _run(
            "start",
            *START_OPTIONS,
            f"--name={name}",
            f"--param=repository={REPOSITORY}",
            str(template),
        )
    except BaseException as error:
        made = next((one for one in _instances() if one.name == name), None)
        if made is not None:
            if isinstance(error, ProvisioningError):
                error.details = made.console()
            _run("delete", "--force", name)
        raise


def _not_running(instance: LimaInstance) -> GuestError:
    if instance.status == "Stopped":
        return GuestError(
            f"{instance.guest} is stopped in Lima: run `limactl start {instance.name}`"
        )
    why = f" ({'; '.join(instance.errors)})" if instance.errors else ""
    return GuestError(
        f"Lima reports that its instance {instance.name} is {instance.status.lower()}{why}:"
        f" `limactl delete --force {instance.name}` removes it"
    )


def _find(name: str) -> LimaInstance | None:
    """Return a guest's instance: of several, a running one, else the one with its name."""
    # The configuration of a broken instance, and so its template, may be unknown.
    ours = [
        one
        for one in _instances()
        if one.guest == name or (one.name == name and one.status == "Broken")
    ]
    return min(ours, key=lambda one: (one.status != "Running", one.name != name), default=None)


def _instances() -> list[LimaInstance]:
    said = _ask("list", "--json")
    try:
        return [LimaInstance.parse(json.loads(line)) for line in said.splitlines() if line.strip()]
    except (ValueError, KeyError) as error:
        raise ProviderUnavailable(
            f"`limactl list --json` printed something unexpected: {error!r}"
        ) from None


def _limactl() -> str:
    found = shutil.which("limactl")
    if found is None:
        raise ToolMissing("limactl", "install Lima 2.0 or newer")
    return found


def _ask(*arguments: str) -> str:
    command = f"`limactl {' '.join(arguments)}`"
    try:
        said = subprocess.run(
            [_limactl(), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=ANSWER_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ProviderUnavailable(
            f"{command} gave no answer within {ANSWER_TIMEOUT:.0f} s"
        ) from None
    except OSError as error:
        raise ProviderUnavailable(f"{command} cannot be run: {error}") from None
    if said.returncode != 0:
        raise ProviderUnavailable(f"{command} ended with status {said.returncode}: {_last(said)}")
    return said.stdout


def _last(said: subprocess.CompletedProcess[str]) -> str:
    """Return limactl's last message, without its log format."""
    lines = (said.stderr or said.stdout).strip().splitlines()
    message = re.search(r'msg="(.*)"$', lines[-1]) if lines else None
    return message.group(1) if message else "".join(lines[-1:])


def _run(*arguments: str) -> None:
    # Its output is for a person; standard output is reserved for our own.
    done = subprocess.run([_limactl(), *arguments], stdin=subprocess.DEVNULL, stdout=2, check=False)
    if done.returncode != 0:
        raise GuestError(
            f"`limactl {' '.join(arguments)}` ended with status {done.returncode}: see above"
        )
