# SPDX-License-Identifier: Apache-2.0
"""Reports whether a rebuild of a guest would differ, without building anything.

An image stays valid as long as a new one would be the same. Three sources answer:
the manifest beside the image lists its inputs, to compare with the current ones; apt,
in a simulation, lists what the guest's archive would install; the lock pins what pip
would install. One difference is enough for an answer, even if other questions stay
open.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable

from provisioning.catalog import GuestSpec
from provisioning.chroot import isolated
from provisioning.errors import BuildFailed, ProvisioningError
from provisioning.host import find_tool, run
from provisioning.image import check_archive, image_inputs_of, image_of
from provisioning.installed import Installed
from provisioning.locks import differences, read_lock
from provisioning.manifest import latest_manifest
from provisioning.progress import step

SAME, DIFFERS, CANNOT_TELL = 0, 1, ProvisioningError.exit_code

# Packages that the archive no longer has are left out of the request, so the answer lacks
# them. The package of headers is named after the kernel that the first simulation selects.
SIMULATE = r"""
set -e
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
known=$(apt-cache --no-all-versions show {names} 2>/dev/null | sed -n 's/^Package: //p' || true)
simulate() {{ apt-get --simulate install '?essential' '?priority(required)' $known "$@"; }}
release=$(simulate | sed -n 's/^Inst linux-image-\([0-9][^ ]*\) .*/\1/p')
simulate linux-headers-$release >{answer}
"""

INSTALLS = re.compile(r"^Inst (\S+) (?:\[.*?\] )?\((\S+) ", re.MULTILINE)

KERNEL = re.compile(r"linux-image-(?:unsigned-)?\d")


def check(spec: GuestSpec, tell: Callable[[str], None]) -> int:
    """Print what a rebuild of a guest would change, one line each, with ``tell``.

    Return SAME, DIFFERS or CANNOT_TELL, which are exit codes.
    """
    manifest = latest_manifest(image_of(spec).directory, spec.name)
    lock = read_lock(spec.name)
    built = None
    found = []
    if manifest is None:
        tell("no image is built here: only the lock is checked")
    else:
        built = manifest.installed
        found += changes(manifest.inputs, image_inputs_of(spec))
        if lock is not None:
            found += [
                f"the image differs from the lock: {one}"
                for one in differences(lock.versions, built.versions)
            ]
    reference, word = (lock, "locked") if lock is not None else (built, "built")
    if reference is None:
        tell("cannot tell: there is no lock either")
        return CANNOT_TELL
    tell(f"kernel {word}: {kernel_of(reference.packages)}")
    trouble = None
    try:
        offered = query_archive(spec, reference)
    except ProvisioningError as error:
        trouble = str(error)
    else:
        tell(f"kernel in the archive: {kernel_of(offered)}")
        found += [
            f"the archive does not have what is {word}: {one}"
            for one in differences(reference.packages, offered)
        ]
    for line in found:
        tell(line)
    if trouble is not None:
        tell(f"cannot tell what the archive would install: {trouble}")
    if found:
        tell(f"a rebuild would differ: see {len(found)} of the lines above")
        return DIFFERS
    if trouble is not None:
        return CANNOT_TELL
    tell(f"a rebuild would be the same: {len(reference.versions)} versions as {word}")
    return SAME


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Name the inputs that changed, such as ``ansible roles/bcc/tasks/main.yml``."""
    # Through JSON, because values read from a manifest have no tuples.
    old, new = (dict(_flat(json.loads(json.dumps(one)))) for one in (before, after))
    lines = []
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            lines.append(f"input removed: {name}")
        elif name not in old:
            lines.append(f"input added: {name}")
        elif old[name] != new[name]:
            lines.append(f"input changed: {name}")
    return lines


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _flat(below, f"{name} {key}".strip())
    else:
        yield name, value


def kernel_of(packages: Mapping[str, str]) -> str:
    """Name the kernel among ``packages``, with its version."""
    found = [f"{name} {version}" for name, version in packages.items() if KERNEL.match(name)]
    return ", ".join(found) or "none"


def query_archive(spec: GuestSpec, reference: Installed) -> dict[str, str]:
    """Return what a guest's archive would install now for the packages ``reference`` requested.

    Raises ArchiveUnreachable if the archive does not answer, BuildFailed if apt finds no solution.
    """
    check_archive(spec)
    asked = [name for name in reference.asked if name != f"linux-headers-{reference.kernel}"]
    with tempfile.TemporaryDirectory() as name, step(f"{spec.name}: querying its archive"):
        # mmdebstrap runs apt as another user.
        directory = Path(name)
        answer, log = directory / "answer", directory / "log"
        hook = SIMULATE.format(names=shlex.join(asked), answer=shlex.quote(str(answer)))
        try:
            run(simulation(spec, hook), doing=f"{spec.name}: querying its archive", log=log)
        except BuildFailed as error:
            # The log is about to be removed.
            last = error.details.strip().splitlines()[-1:]
            raise BuildFailed(f"{spec.name}: apt finds no solution: {''.join(last)}") from None
        return dict(INSTALLS.findall(answer.read_text("utf-8")))


def simulation(spec: GuestSpec, hook: str) -> list[str]:
    """Return the command that runs ``hook`` with the package lists of a guest, without a system.

    It does not need root. In the mode for users mmdebstrap tries nothing that does.
    """
    root = os.geteuid() == 0
    command = [
        find_tool("mmdebstrap", "mmdebstrap"),
        f"--mode={'root' if root else 'chrootless'}",
        "--variant=custom",
        "--format=null",
        f"--architectures={spec.architecture}",
        f"--components={','.join(spec.components)}",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *spec.apt_options,
        *spec.hooks,
        f"--essential-hook={hook}",
        spec.suite,
        "-",
    ]
    return isolated(command) if root else command
