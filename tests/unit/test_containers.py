# SPDX-License-Identifier: Apache-2.0
"""What files report about a container, as its runtime wrote them, damaged, and hostile."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from profiler.ingest.containers import Files, Workloads, files, metadata
from tests.unit.test_privileges import needs_root, needs_seccomp, run

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
UID = "11112222-3333-4444-5555-666677778888"
POD_SLICE = f"/kubepods.slice/kubepods-pod{UID.replace('-', '_')}.slice"
# Ours: other users' files need root.
USER = os.geteuid() or 1000
ROOTLESS = (
    f"/user.slice/user-{USER}.slice/user@{USER}.service/user.slice/libpod-{ID}.scope/container"
)
STORAGE = "var/lib/containers/storage"
HOME = "home/ann"
AT_HOME = f"{HOME}/.local/share/containers/storage"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / HOME).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def find(root: Path) -> Callable[[str], Any]:
    def home_of(user: int) -> str:
        return {USER: f"/{HOME}"}[user]

    workloads = Workloads(Files(root, home_of))

    def find(path: str) -> Any:
        found = workloads.find(path)
        return found.fields if found else None

    return find


def write(path: Path, document: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(document if isinstance(document, bytes) else json.dumps(document).encode())
    give(path)
    return path


def give(path: Path) -> None:
    """Let the user of the rootless containers own a file."""
    if os.geteuid() == 0:
        os.chown(path, USER, -1)


# ---- the runtimes


def docker(name: str = "/shop-web-1", **labels: str) -> dict[str, Any]:
    return {"ID": ID, "Name": name, "Config": {"Image": "nginx:1.29", "Labels": labels}}


def docker_file(root: Path) -> Path:
    return root / "var/lib/docker/containers" / ID / "config.v2.json"


def test_docker(root: Path, find: Callable[[str], Any]) -> None:
    write(docker_file(root), docker(**{"com.docker.compose.service": "web"}))
    container = {"id": ID, "name": "shop-web-1", "image": "nginx:1.29", "runtime": "docker"}
    expected = {"container": container, "service": "web"}
    assert find(f"/system.slice/docker-{ID}.scope") == expected
    # The path does not name the runtime, but its file exists.
    assert find(f"/mine/{ID}") == expected


def test_a_kubelet_with_docker(root: Path, find: Callable[[str], Any]) -> None:
    labels = {
        "io.kubernetes.pod.name": "reviews-v2-5d8b9c7f4d-x2b4q",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": UID,
        "io.kubernetes.container.name": "reviews",
    }
    write(docker_file(root), docker("/k8s_reviews", **labels))
    found = find(f"{POD_SLICE}/docker-{ID}.scope")
    assert found["pod"] == {
        "name": "reviews-v2-5d8b9c7f4d-x2b4q",
        "namespace": "shop",
        "uid": UID,
        "container": "reviews",
    }
    assert found["service"] == "reviews-v2"


def oci(**annotations: str) -> dict[str, Any]:
    return {"ociVersion": "1.1.0", "annotations": annotations}


CONTAINERD = oci(
    **{
        "io.kubernetes.cri.container-name": "web",
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.image-name": "docker.io/library/nginx:1.29",
        "io.kubernetes.cri.sandbox-name": "web-0",
        "io.kubernetes.cri.sandbox-namespace": "shop",
        "io.kubernetes.cri.sandbox-uid": UID,
    }
)
CRI_O = oci(
    **{
        "io.kubernetes.container.name": "web",
        "io.kubernetes.cri-o.ImageName": "docker.io/library/nginx:1.29",
        "io.kubernetes.pod.name": "web-0",
        "io.kubernetes.pod.namespace": "shop",
        "io.kubernetes.pod.uid": UID,
    }
)


@pytest.mark.parametrize(
    ("file", "document", "name", "runtime"),
    [
        (
            f"run/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
            CONTAINERD,
            f"cri-containerd-{ID}.scope",
            "containerd",
        ),
        (
            f"run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
            CONTAINERD,
            ID,
            "containerd",
        ),
        (
            f"run/containers/storage/overlay-containers/{ID}/userdata/config.json",
            CRI_O,
            f"crio-{ID}.scope",
            "cri-o",
        ),
    ],
)
def test_kubernetes(
    root: Path, find: Callable[[str], Any], file: str, document: object, name: str, runtime: str
) -> None:
    write(root / file, document)
    image = "docker.io/library/nginx:1.29"
    assert find(f"{POD_SLICE}/{name}") == {
        "container": {"id": ID, "name": "web", "image": image, "runtime": runtime},
        "pod": {"name": "web-0", "namespace": "shop", "uid": UID, "container": "web"},
        "service": "web",
    }


def test_any_kubelet(root: Path, find: Callable[[str], Any]) -> None:
    (root / "var/log/pods" / f"shop_cart-x2b4q_{UID}" / "web").mkdir(parents=True)
    path = f"{POD_SLICE}/cri-containerd-{ID}.scope"
    container = {"id": ID, "runtime": "containerd"}
    pod = {"name": "cart-x2b4q", "namespace": "shop", "uid": UID}
    assert find(path) == {"container": container, "pod": pod, "service": "cart"}
    write(root / f"var/log/containers/cart-x2b4q_shop_web-{ID}.log", b"")
    assert find(path) == {
        "container": {**container, "name": "web"},
        "pod": {**pod, "container": "web"},
        "service": "cart",
    }


def test_a_user_cannot_claim_a_pod_of_root(root: Path, find: Callable[[str], Any]) -> None:
    (root / "var/log/pods" / f"shop_cart-x2b4q_{UID}" / "web").mkdir(parents=True)
    claimed = find(f"/user.slice/user-{USER}.slice/user@{USER}.service{POD_SLICE}/x")
    assert claimed == {"pod": {"uid": UID}}


@pytest.mark.parametrize(
    ("pod", "service"),
    [
        ("reviews-v2-5d8b9c7f4d-x2b4q", "reviews-v2"),  # of a Deployment
        ("node-exporter-x2b4q", "node-exporter"),  # of a DaemonSet, or a Job
        ("postgres-12", "postgres"),  # of a StatefulSet
        ("backup-29384756-x2b4q", "backup-29384756"),  # of a CronJob's Job
        ("etcd-node1", "etcd-node1"),  # a static pod, with the node's name
        ("nginx", "nginx"),
        ("-0", "-0"),
    ],
)
def test_the_owner_of_a_pod(root: Path, find: Callable[[str], Any], pod: str, service: str) -> None:
    (root / "var/log/pods" / f"shop_{pod}_{UID}").mkdir(parents=True)
    assert find(f"{POD_SLICE}/x")["service"] == service


# The schema of Podman 5's database, without the columns and tables that are not read.
SCHEMA = """
CREATE TABLE ContainerConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, PodID TEXT,
    JSON TEXT NOT NULL);
CREATE TABLE PodConfig(ID TEXT PRIMARY KEY NOT NULL, Name TEXT UNIQUE NOT NULL, JSON TEXT NOT NULL);
"""


in_memory = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="SQLite databases in memory need Python 3.11"
)


def database(path: Path, pod: str | None = None, schema: str = SCHEMA) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    config = {"rootfsImageName": "localhost/web", "labels": {"com.docker.compose.service": "web"}}
    connection = sqlite3.connect(path)
    connection.executescript(schema)
    with connection:
        connection.execute(
            "INSERT INTO ContainerConfig VALUES (?, ?, ?, ?)",
            (ID, "shop_web_1", pod, json.dumps(config)),
        )
        connection.execute("INSERT INTO PodConfig VALUES (?, 'shop', '{}')", (OTHER,))
    connection.close()
    give(path)
    return path


PODMAN = {
    "container": {"id": ID, "name": "shop_web_1", "image": "localhost/web", "runtime": "podman"}
}


@in_memory
def test_podman(root: Path, find: Callable[[str], Any]) -> None:
    database(root / STORAGE / "db.sql")
    path = f"/machine.slice/libpod-{ID}.scope/container"
    assert find(path) == {**PODMAN, "service": "web"}
    assert find(f"/user.slice/user-0.slice/session-1.scope/libpod-{ID}") == {
        **PODMAN,
        "service": "web",
    }


@in_memory
def test_a_pod_of_podman(root: Path, find: Callable[[str], Any]) -> None:
    database(root / STORAGE / "libpod/db.sql", pod=OTHER)
    pod = {"name": "shop", "uid": OTHER, "container": "shop_web_1"}
    found = find(f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope")
    assert found == {**PODMAN, "pod": pod, "service": "web"}


LISTED = [
    {"id": OTHER, "names": ["other"]},
    {
        "id": ID,
        "names": ["shop_web_1"],
        "metadata": '{"image-name": "localhost/web", "name": "shop_web_1"}',
    },
]


@pytest.mark.parametrize("name", ["containers.json", "volatile-containers.json"])
@pytest.mark.parametrize("driver", ["overlay", "vfs"])
def test_podman_without_a_database_that_can_be_read(
    root: Path, find: Callable[[str], Any], driver: str, name: str
) -> None:
    """Podman 4 keeps labels in BoltDB."""
    write(root / STORAGE / f"{driver}-containers" / name, LISTED)
    assert find(f"/machine.slice/libpod-{ID}.scope") == PODMAN


@in_memory
def test_a_rootless_container(root: Path, find: Callable[[str], Any]) -> None:
    write(root / AT_HOME / "overlay-containers/containers.json", LISTED)
    assert find(ROOTLESS) == PODMAN
    database(root / AT_HOME / "db.sql")
    assert find(ROOTLESS) == {**PODMAN, "service": "web"}
    # Storage of root is not that of the user, and the other way round.
    assert find(f"/machine.slice/libpod-{ID}.scope") == {
        "container": {"id": ID, "runtime": "podman"}
    }


def test_without_files(find: Callable[[str], Any]) -> None:
    assert find(f"{POD_SLICE}/cri-containerd-{ID}.scope") == {
        "container": {"id": ID, "runtime": "containerd"},
        "pod": {"uid": UID},
    }
    assert find("/lxc.payload.web/system.slice/nginx.service") == {
        "container": {"name": "web", "runtime": "lxc"},
        "service": "nginx",
    }
    assert find("/system.slice/nginx.service") == {"service": "nginx"}
    assert find("/user.slice/user-1000.slice/session-3.scope") is None
    assert find(ROOTLESS.replace(str(USER), "4294967295")) == {
        "container": {"id": ID, "runtime": "podman"}
    }


# ---- damaged and hostile files

UNKNOWN = {"container": {"id": ID, "runtime": "docker"}}
DAMAGED: dict[str, bytes | object] = {
    "empty": b"",
    "cut": json.dumps(docker()).encode()[:-1],
    "binary": bytes(range(256)),
    "null": None,
    "list": [docker()],
    "number": 5,
    "deep": b"[" * 100_000,
    "surrogate": b'{"Name": "\\ud800"}',
    "not UTF-8": b'{"Name": "\xff"}',
    "other types": {"Name": 5, "Config": {"Image": ["a"], "Labels": "x"}},
    "no object inside": {"Name": [], "Config": 7},
    "only a slash": docker("/", **{"com.docker.compose.service": ""}) | {"Config": None},
    "control characters": {"Name": "/a\x1b[2J", "Config": {"Image": "a\nb"}},
    "reversed text": {"Name": "/a\u202eb"},
    "long": {"Name": "a" * 100_000, "Config": {"Image": "b" * 100_000}},
    "huge": b'{"Name": "a"}' + b" " * (9 << 20),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_leaves_fields_absent(
    root: Path, find: Callable[[str], Any], name: str
) -> None:
    write(docker_file(root), DAMAGED[name])
    assert find(f"/docker/{ID}") == UNKNOWN


@pytest.mark.parametrize(
    "document", [b"", [], [5, {"id": ID, "names": "x", "metadata": "{"}], {"id": ID}, [{"id": 5}]]
)
def test_a_damaged_list(root: Path, find: Callable[[str], Any], document: object) -> None:
    write(root / STORAGE / "overlay-containers/containers.json", document)
    assert find(f"/libpod-{ID}") == {"container": {"id": ID, "runtime": "podman"}}


ENDLESS = """
CREATE TABLE PodConfig(ID TEXT, Name TEXT, JSON TEXT);
CREATE VIEW ContainerConfig AS WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
    SELECT '{id}' AS ID, i AS Name, NULL AS PodID, '{{}}' AS JSON FROM n WHERE i < 0;
CREATE TRIGGER Ignoring INSTEAD OF INSERT ON ContainerConfig BEGIN SELECT 1; END;
"""


@in_memory
def test_a_database_that_computes_for_ever(root: Path, find: Callable[[str], Any]) -> None:
    database(root / STORAGE / "db.sql", schema=ENDLESS.format(id=ID))
    assert find(f"/libpod-{ID}") == {"container": {"id": ID, "runtime": "podman"}}


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "no row", "other schema", "no JSON"])
def test_a_damaged_database(root: Path, find: Callable[[str], Any], damage: str) -> None:
    path = database(root / STORAGE / "db.sql")
    connection = sqlite3.connect(path)
    with connection:
        if damage == "no row":
            connection.execute("DELETE FROM ContainerConfig")
        elif damage == "other schema":
            connection.execute("ALTER TABLE ContainerConfig RENAME COLUMN JSON TO Document")
        elif damage == "no JSON":
            connection.execute("UPDATE ContainerConfig SET JSON = x'ff', Name = x'00'")
    connection.close()
    if damage in ("empty", "cut", "text"):
        content = {"empty": b"", "cut": path.read_bytes()[:5000], "text": b"text" * 5000}[damage]
        path.write_bytes(content)
    assert find(f"/libpod-{ID}") == {"container": {"id": ID, "runtime": "podman"}}


@in_memory
def test_a_database_beyond_the_limit(
    root: Path, find: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    database(root / STORAGE / "db.sql")
    monkeypatch.setattr(metadata, "OF_ROOT", metadata.Limits(1000, 1000))
    assert find(f"/libpod-{ID}") == {"container": {"id": ID, "runtime": "podman"}}


@in_memory
@pytest.mark.parametrize("writes", [2, 100])
def test_a_database_that_is_written_meanwhile(
    root: Path, find: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    path = database(root / STORAGE / "db.sql")
    size, read, left = path.stat().st_size, os.pread, [writes]

    def pread(*arguments: int) -> bytes:
        content = read(*arguments)
        if left[0]:
            left[0] -= 1
            os.truncate(path, size + left[0])
            os.utime(path, ns=(0, left[0]))
        return content

    monkeypatch.setattr(os, "pread", pread)
    assert ("service" in find(f"/libpod-{ID}")) is (writes == 2)


def test_files_of_users_have_closer_limits(root: Path, find: Callable[[str], Any]) -> None:
    """Each new control group of a user makes the profiler parse them again."""
    listed = [*({"id": OTHER, "names": ["x" * 1000]} for _ in range(300)), *LISTED]
    write(root / AT_HOME / "overlay-containers/containers.json", listed)
    write(root / STORAGE / "overlay-containers/containers.json", listed)
    assert find(f"/machine.slice/libpod-{ID}.scope") == PODMAN
    assert find(ROOTLESS) == {"container": {"id": ID, "runtime": "podman"}}


# ---- what root opens


def test_no_descriptor_is_left_open(root: Path, find: Callable[[str], Any]) -> None:
    write(docker_file(root), DAMAGED["cut"])
    database(root / STORAGE / "db.sql")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for path in (f"/docker/{ID}", f"/libpod-{ID}", f"/libpod-{OTHER}", ROOTLESS, f"/{ID}"):
        find(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@needs_root
@needs_seccomp
@in_memory
def test_the_confined_process_parses_what_the_helper_opens(root: Path) -> None:
    database(root / STORAGE / "db.sql")
    (root / STORAGE).chmod(0o700)
    found = run(
        """
        from profiler.ingest.containers import Files, Workloads
        files = Files(Path(sys.argv[1]))
        files.share(helper)
        helper.split()
        confine(user_for("nobody"))
        unreadable = error_of(os.listdir, Path(sys.argv[1]) / sys.argv[2])
        found = Workloads(files).find(f"/machine.slice/libpod-{sys.argv[3]}.scope").fields
        print(json.dumps([unreadable, found]))
        """,
        *(root, STORAGE, ID),
    )
    assert found == ["EACCES", {**PODMAN, "service": "web"}]


def open_rootless(root: Path) -> None:
    os.close(Files(root, lambda _: f"/{HOME}").open("podman-list", ID, USER))


def test_the_way_to_a_file_has_no_links(root: Path) -> None:
    listed = write(root / AT_HOME / "overlay-containers/containers.json", LISTED)
    open_rootless(root)
    secret = write(root / "secret/overlay-containers/containers.json", LISTED)
    listed.unlink()
    listed.symlink_to(secret)
    with pytest.raises(OSError, match="no regular file"):
        open_rootless(root)
    listed.unlink()
    storage = listed.parent.parent
    listed.parent.rmdir()
    storage.rmdir()
    storage.symlink_to(root / "secret")
    with pytest.raises(FileNotFoundError):
        open_rootless(root)


@pytest.mark.parametrize("kind", ["fifo", "directory", "device"])
def test_what_is_no_regular_file(root: Path, kind: str) -> None:
    listed = write(root / AT_HOME / "overlay-containers/containers.json", LISTED)
    listed.unlink()
    if kind == "fifo":
        os.mkfifo(listed)  # Opening it would wait for a writer.
    elif kind == "directory":
        listed.mkdir()
    else:
        listed.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="no regular file"):
        open_rootless(root)


@needs_root
def test_a_file_of_another_user(root: Path) -> None:
    listed = write(root / AT_HOME / "overlay-containers/containers.json", LISTED)
    os.chown(listed, 0, -1)
    with pytest.raises(OSError, match=f"does not belong to user {USER}"):
        open_rootless(root)


def test_a_file_on_fuse(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could let each call wait forever, so no call reaches it."""
    write(root / AT_HOME / "overlay-containers/containers.json", LISTED)
    opened = os.open(root / HOME, os.O_PATH)
    facts = Path(f"/proc/self/fdinfo/{opened}").read_bytes().split()
    os.close(opened)
    mount = facts[facts.index(b"mnt_id:") + 1]
    monkeypatch.setattr(files, "_fuse_mounts", lambda: {mount})
    with pytest.raises(OSError, match="FUSE"):
        open_rootless(root)


def test_the_mounts_that_are_fuse(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        b"36 35 98:0 / /mnt rw,noatime - ext4 /dev/root rw\n"
        b"77 35 0:9 / /home/ann/x rw shared:1 master:2 - fuse.sshfs host: rw\n"
        b"78 35 0:9 / /y rw - fuse x rw\n"
    )
    monkeypatch.setattr(Path, "read_bytes", lambda _: lines)
    assert files._fuse_mounts() == {b"77", b"78"}


@pytest.mark.parametrize("container", ["", "../../etc/passwd", ID[:-1], f"{ID}/..", ID.upper()])
def test_a_caller_cannot_choose_a_path(root: Path, container: str) -> None:
    with pytest.raises(OSError, match="no id of a container"):
        Files(root).open("docker", container, None)


def test_a_link_of_the_administrator(root: Path, find: Callable[[str], Any]) -> None:
    write(docker_file(root), docker())
    (root / "var/lib/docker").rename(root / "data")
    (root / "var/lib/docker").symlink_to(root / "data")
    assert find(f"/docker/{ID}")["container"]["name"] == "shop-web-1"


def test_a_user_without_a_home(root: Path) -> None:
    def nobody(user: int) -> str:
        raise KeyError(user)

    with pytest.raises(FileNotFoundError, match="no such user"):
        Files(root, nobody).open("podman", ID, 5)
    with pytest.raises(FileNotFoundError, match="no containers of users"):
        Files(root).open("docker", ID, 5)
