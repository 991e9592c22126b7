# SPDX-License-Identifier: Apache-2.0
"""Parses the files in which container managers describe containers.

Users write some of these files, and any of them may be damaged. So sizes and lengths are bounded, a
value of another type or with control characters counts as unknown, and :class:`MetadataError` is
the only error.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import orjson

# Imported now, because a process without privileges may be unable to read where modules are.
try:
    import sqlite3
except ImportError:  # Distributions may leave it out of Python.
    sqlite3 = None  # type: ignore[assignment]

_ATTEMPTS = 5
_MAX_TEXT = 512  # An image has at most 255 characters before its tag, and 128 in it.
_COMPOSE = "com.docker.compose.service"
# SQLite's virtual machine calls back after so many instructions. A lookup takes some dozens.
_STEPS = 10_000
_QUERY = """
SELECT c.Name, c.JSON, c.PodID, p.Name
FROM ContainerConfig AS c LEFT JOIN PodConfig AS p ON p.ID = c.PodID WHERE c.ID = ?
"""


class Limits(NamedTuple):
    """The largest files that are parsed, in bytes."""

    document: int
    database: int


OF_ROOT = Limits(8 << 20, 32 << 20)
# Some hundred containers. A user who starts processes in ever new control groups slows down the
# reader by each, so the time that one takes is kept near that of starting a process.
OF_USERS = Limits(256 << 10, 4 << 20)


class MetadataError(Exception):
    """The file does not describe the container, or cannot be parsed."""


class Pod(NamedTuple):
    """A pod; ``container`` is the container's name in it."""

    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    container: str | None = None


class Facts(NamedTuple):
    """What a manager reports about a container; ``service`` is Compose's name for it."""

    name: str | None = None
    image: str | None = None
    service: str | None = None
    pod: Pod = Pod()


NOTHING = Facts()


def docker(opened: int, container: str, limits: Limits) -> Facts:
    """Parse ``config.v2.json`` of Docker."""
    document = _object(_document(opened, limits))
    config = _object(document.get("Config"))
    labels = _object(config.get("Labels"))
    name = _text(document.get("Name"))
    return Facts(
        name.lstrip("/") or None if name else None,
        _text(config.get("Image")),
        _text(labels.get(_COMPOSE)),
        # cri-dockerd runs a kubelet's containers in Docker.
        _pod(labels, "io.kubernetes.pod.", "io.kubernetes.container.name"),
    )


def containerd(opened: int, container: str, limits: Limits) -> Facts:
    """Parse ``config.json`` of an OCI bundle with the annotations of containerd's CRI plug-in."""
    annotations = _annotations(opened, limits)
    pod = _pod(annotations, "io.kubernetes.cri.sandbox-", "io.kubernetes.cri.container-name")
    return Facts(pod.container, _text(annotations.get("io.kubernetes.cri.image-name")), None, pod)


def cri_o(opened: int, container: str, limits: Limits) -> Facts:
    """Parse ``config.json`` of an OCI bundle with the annotations of CRI-O."""
    annotations = _annotations(opened, limits)
    pod = _pod(annotations, "io.kubernetes.pod.", "io.kubernetes.container.name")
    return Facts(pod.container, _text(annotations.get("io.kubernetes.cri-o.ImageName")), None, pod)


def podman_list(opened: int, container: str, limits: Limits) -> Facts:
    """Parse ``containers.json`` of Podman's storage, which has no labels."""
    listed = _document(opened, limits)
    for entry in listed if isinstance(listed, list) else ():
        if isinstance(entry, dict) and entry.get("id") == container:
            names = entry.get("names")
            name = names[0] if isinstance(names, list) and names else None
            about = entry.get("metadata")  # JSON in a string
            details = _object(_parsed(about.encode())) if isinstance(about, str) else {}
            return Facts(_text(name), _text(details.get("image-name")))
    raise MetadataError("the container is not listed")


def podman(opened: int, container: str, limits: Limits) -> Facts:
    """Query Podman's database, in a copy: another process may be writing the file.

    Its journal is not read. Podman deletes it when a transaction ends, in SQLite's default mode.
    """
    name, config, pod, pod_name = _row(_copy(opened, limits.database), container)
    document = _object(_parsed(config.encode() if isinstance(config, str) else config))
    labels = _object(document.get("labels"))
    return Facts(
        _text(name),
        _text(document.get("rootfsImageName")),
        _text(labels.get(_COMPOSE)),
        Pod(_text(pod_name), None, _text(pod), _text(name)) if pod is not None else Pod(),
    )


def _row(database: bytes, container: str) -> tuple[Any, ...]:
    if sys.version_info < (3, 11):
        raise MetadataError("this Python cannot open a copy in memory")
    if sqlite3 is None:
        raise MetadataError("Python has no sqlite3")
    connection = sqlite3.connect(":memory:")
    try:
        connection.deserialize(database)
        connection.set_progress_handler(lambda: 1, _STEPS)
        row = connection.execute(_QUERY, (container,)).fetchone()
    except (sqlite3.Error, OverflowError, MemoryError) as error:
        raise MetadataError(f"SQLite: {error}") from None
    finally:
        connection.close()
    if row is None:
        raise MetadataError("the container is not in the database")
    return row


def _copy(opened: int, limit: int) -> bytes:
    """Return the content of a file that stayed the same while it was read."""
    for _ in range(_ATTEMPTS):
        before = os.fstat(opened)
        if before.st_size > limit:
            raise MetadataError(f"more than {limit} bytes")
        content = os.pread(opened, limit, 0)
        after = os.fstat(opened)
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            return content
    raise MetadataError("it is written all the time")


PARSERS: dict[str, Callable[[int, str, Limits], Facts]] = {
    "docker": docker,
    "containerd": containerd,
    "cri-o": cri_o,
    "podman": podman,
    "podman-list": podman_list,
    "podman-volatile": podman_list,
}
"""By the source of ``files.SOURCES``: functions of its descriptor, a container's id and limits."""

# Names of pods, containers and namespaces have no underscore (RFC 1123 labels and subdomains).
_CONTAINER_LOG = re.compile(r"([a-z0-9.-]+)_([a-z0-9-]+)_([a-z0-9-]+)-[0-9a-f]{64}\.log")
_POD_LOG = re.compile(r"([a-z0-9-]+)_([a-z0-9.-]+)_([0-9a-f-]+)")


def logged_pod(names: list[str]) -> Pod:
    """Parse names of a kubelet's logs, of a container and of its pod."""
    for name in names:
        found = _CONTAINER_LOG.fullmatch(name)
        if found:
            return Pod(found[1], found[2], None, found[3])
        found = _POD_LOG.fullmatch(name)
        if found:
            return Pod(found[2], found[1], found[3])
    return Pod()


def _annotations(opened: int, limits: Limits) -> dict[str, Any]:
    return _object(_object(_document(opened, limits)).get("annotations"))


def _pod(texts: dict[str, Any], prefix: str, container: str) -> Pod:
    uid, name, namespace = (texts.get(f"{prefix}{key}") for key in ("uid", "name", "namespace"))
    return Pod(_text(name), _text(namespace), _text(uid), _text(texts.get(container)))


def _document(opened: int, limits: Limits) -> Any:
    content = b""
    while len(content) <= limits.document:
        block = os.read(opened, limits.document)
        if not block:
            return _parsed(content)
        content += block
    raise MetadataError(f"more than {limits.document} bytes")


def _parsed(document: bytes) -> Any:
    try:
        return orjson.loads(document)
    except ValueError as error:
        raise MetadataError(f"no JSON: {error}") from None


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str | None:
    usable = isinstance(value, str) and 0 < len(value) <= _MAX_TEXT and value.isprintable()
    return value if usable else None
