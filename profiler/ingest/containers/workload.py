# SPDX-License-Identifier: Apache-2.0
"""The workload of a control group: the fields of a record that its path and files determine."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from profiler.ingest.containers import metadata
from profiler.ingest.containers.files import Files
from profiler.ingest.containers.metadata import NOTHING, Facts, MetadataError, Pod
from profiler.ingest.containers.paths import Place, parse

if TYPE_CHECKING:
    from profiler.schema import Record

# By runtime, in the order in which they are tried. `None`: an id whose path names no runtime.
_PODMAN = ("podman", "podman-list", "podman-volatile")
_SOURCES: dict[str | None, tuple[str, ...]] = {
    "docker": ("docker",),
    "containerd": ("containerd",),
    "cri-o": ("cri-o",),
    "podman": _PODMAN,
    None: ("containerd", "cri-o", "docker", *_PODMAN),
}
_RUNTIME_OF = {"podman-list": "podman", "podman-volatile": "podman"}

# k8s.io/apimachinery/pkg/util/rand: the letters and digits of generated names. A Deployment adds
# the hash of its ReplicaSet and five, a DaemonSet or Job adds five, a StatefulSet adds a number.
_GENERATED = "[bcdfghjklmnpqrstvwxz2456789]"
_OWNED = re.compile(rf"(.+?)(?:-{_GENERATED}{{6,10}}-{_GENERATED}{{5}}|-{_GENERATED}{{5}}|-[0-9]+)")


@dataclass(frozen=True, eq=False)
class Workload:
    """What runs in a control group; equal only to itself, so it is cheap as a part of a key.

    ``fields`` are ``container``, ``pod`` and ``service`` of a record, as far as they are known.
    """

    fields: Record


class Workloads:
    """Finds workloads, with files if there are any to look at."""

    def __init__(self, files: Files | None) -> None:
        """Look into ``files``; without them, only paths count."""
        self._files = files

    def find(self, path: str) -> Workload | None:
        """Return the workload of the control group with this path; ``None`` if none is known.

        It takes at most a few files. No error of a file is raised: it leaves fields absent.
        """
        place = parse(path)
        facts, runtime = self._facts(place)
        fields = _fields(place._replace(runtime=runtime), facts)
        return Workload(fields) if fields else None

    def _facts(self, place: Place) -> tuple[Facts, str | None]:
        """Return what files report, and the runtime whose file it was."""
        facts, runtime = NOTHING, place.runtime
        if self._files is None:
            return facts, runtime
        user = place.user or None  # What root's systemd starts for itself is not rootless.
        if place.container is not None:
            for source in _SOURCES.get(place.runtime, ()):
                read = _read(self._files, source, place.container, user)
                if read is not None:
                    facts, runtime = read, _RUNTIME_OF.get(source, source)
                    break
        # The kubelet runs no pods of users.
        if place.pod and facts.pod.name is None and user is None and runtime != "podman":
            try:
                logged = metadata.logged_pod(self._files.logs(place.container, place.pod))
            except OSError:
                logged = Pod()
            facts = facts._replace(name=facts.name or logged.container, pod=logged)
        return facts, runtime


def _read(files: Files, source: str, container: str, user: int | None) -> Facts | None:
    try:
        opened = files.open(source, container, user)
    except OSError:
        return None
    try:
        limits = metadata.OF_ROOT if user is None else metadata.OF_USERS
        return metadata.PARSERS[source](opened, container, limits)
    except (MetadataError, OSError):
        return None
    finally:
        os.close(opened)


def _fields(place: Place, facts: Facts) -> Record:
    fields: Record = {}
    container = {
        "id": place.container,
        "name": place.name or facts.name,
        "image": facts.image,
        "runtime": place.runtime,
    }
    if place.container is not None or place.name is not None:
        fields["container"] = _known(container)  # type: ignore[typeddict-item]
    pod = facts.pod._asdict()
    pod["uid"] = place.pod or pod["uid"]
    if _known(pod):
        fields["pod"] = _known(pod)  # type: ignore[typeddict-item]
    service = facts.service or _owner(facts.pod) or place.unit
    if service is not None:
        fields["service"] = service
    return fields


def _known(values: dict[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value is not None}


def _owner(pod: Pod) -> str | None:
    """Return the name of what created a pod: the pod's, without what was generated."""
    if pod.name is None or pod.namespace is None:  # Only Kubernetes has namespaces.
        return pod.name
    owned = _OWNED.fullmatch(pod.name)
    return owned[1] if owned else pod.name
