# SPDX-License-Identifier: Apache-2.0
"""Parses the path of a control group: which container, pod and systemd unit it belongs to.

Container managers name control groups by rules of their own. The table of forms is in
``tests/unit/test_containers_paths.py``. Users and containers choose names below the control groups
that are delegated to them. So the outermost container counts: its manager runs on this machine.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

_ID = "[0-9a-f]{64}"
# By the word with which a manager's names begin.
_RUNTIMES = {
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",  # podman run --cgroups=split
    "crio": "cri-o",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
}
# cri-containerd-ID.scope under systemd. Runc writes SLICE:cri-containerd:ID as a plain name if the
# runtime uses systemd's form and is not configured for systemd.
_CONTAINER = re.compile(
    rf"(?:(?P<word>{'|'.join(_RUNTIMES)})-(?P<id>{_ID})(?:\.scope)?"
    rf"|[^:]*:(?P<triple_word>{'|'.join(_RUNTIMES)}):(?P<triple_id>{_ID})"
    rf"|(?P<bare_id>{_ID}))"
)
# The directory above a bare id. Without systemd, the id of Podman's pods stands below this one.
_LIBPOD_PARENT = "libpod_parent"
_PARENTS = {"docker": "docker", "k8s.io": "containerd", "default": "containerd"}
# A static pod's uid is a hash without hyphens.
_POD = re.compile(
    r"(?:[a-z-]*-)?pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice(?::.*)?)?"
)
_LIBPOD_POD = re.compile(rf"(?:[a-z-]+-)?libpod_pod_(?P<id>{_ID})\.slice")
_NSPAWN = re.compile(r"systemd-nspawn@(?P<service>.+)\.service|machine-(?P<scope>.+)\.scope")
_ESCAPED = re.compile(r"(?:\\x[0-9a-f]{2})+")  # systemd-escape(1)
_USER = re.compile(r"/user\.slice/user-([0-9]{1,10})\.slice/")

# Units that start programs of others, and names that systemd-run(1) makes up.
_NO_SERVICE = re.compile(
    r"(?:user|sshd?|getty|serial-getty|container-getty)@.*|sshd?|console-getty|crond?|anacron|atd"
    r"|run-(?:u[0-9]+|r[0-9a-f]{32}|p[0-9]+-i[0-9]+)"
)


class Place(NamedTuple):
    """What a path of a control group names; ``None`` where it names nothing.

    ``container`` is the outermost container's id of 64 hexadecimal digits. systemd-nspawn and LXC
    have only a ``name``. ``pod`` is the uid of a pod. ``unit`` is a systemd service without its
    suffix: of the machine, or inside the container. ``user`` is the user whose systemd made the
    control group; only root makes others.
    """

    runtime: str | None = None
    container: str | None = None
    name: str | None = None
    pod: str | None = None
    unit: str | None = None
    user: int | None = None


def parse(path: str) -> Place:
    """Return what the path of a control group names, as in ``/proc/PID/cgroup``."""
    runtime = container = name = pod = unit = None
    parts = path.split("/")
    is_inside = False
    for at, part in enumerate(parts):
        above = parts[at - 1] if at else ""
        below = parts[at + 1] if at + 1 < len(parts) else ""
        contained = None
        if not is_inside:
            pod = _pod(part, above) or pod
            contained = _container(part, above) or _machine(part, above, below)
        if contained:
            is_inside = True
            # The unit that runs the manager, except where a container is a part of its own unit.
            unit = unit if part.startswith("libpod-payload-") else None
            runtime, container, name = contained
        elif part.endswith(".service"):
            named = _unescaped(part[: -len(".service")])
            unit = named if named and not _NO_SERVICE.fullmatch(named) else None
    user = _USER.match(f"{path}/")
    return Place(runtime, container, name, pod, unit, int(user[1]) if user else None)


# Runtime, id, name.
_Contained = tuple[Optional[str], Optional[str], Optional[str]]


def _pod(part: str, above: str) -> str | None:
    found = _POD.fullmatch(part)
    if found:
        return found["uid"].replace("_", "-")
    found = _LIBPOD_POD.fullmatch(part)
    if found:
        return found["id"]
    return part if above == _LIBPOD_PARENT and re.fullmatch(_ID, part) else None


def _container(part: str, above: str) -> _Contained | None:
    found = _CONTAINER.fullmatch(part)
    if not found or (found["bare_id"] and above == _LIBPOD_PARENT):
        return None
    if found["bare_id"]:
        return _PARENTS.get(above), found["bare_id"], None
    word = found["word"] or found["triple_word"]
    return _RUNTIMES[word], found["id"] or found["triple_id"], None


def _machine(part: str, above: str, below: str) -> _Contained | None:
    """Return a container that has a name and no id."""
    if part.startswith("lxc.payload.") and len(part) > len("lxc.payload."):
        return "lxc", None, part[len("lxc.payload.") :]
    found = _NSPAWN.fullmatch(part)
    # A virtual machine also has a scope of this form, without a payload.
    if found and below == "payload" and above == "machine.slice":
        return "systemd-nspawn", None, _unescaped(found["service"] or found["scope"])
    return None


def _unescaped(name: str) -> str:
    def text(found: re.Match[str]) -> str:
        return bytes.fromhex(found[0].replace("\\x", "")).decode(errors="replace")

    return _ESCAPED.sub(text, name)
