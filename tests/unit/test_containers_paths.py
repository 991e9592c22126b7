# SPDX-License-Identifier: Apache-2.0
"""Paths of control groups, as container managers and systemd name them."""

from __future__ import annotations

import pytest

from profiler.ingest.containers.paths import Place, parse

ID = "0123456789abcdef" * 4
OTHER = "f" * 64
UID = "11112222-3333-4444-5555-666677778888"
UID_ = UID.replace("-", "_")
STATIC = "0123456789abcdef" * 2
USER = "/user.slice/user-1000.slice/user@1000.service"

FORMS = {
    # Docker, by systemd and by itself
    f"/system.slice/docker-{ID}.scope": Place("docker", ID),
    f"/docker/{ID}": Place("docker", ID),
    f"/docker/{ID}/init.scope": Place("docker", ID),
    f"/elsewhere/{ID}": Place(None, ID),
    # Podman
    f"/machine.slice/libpod-{ID}.scope": Place("podman", ID),
    f"/machine.slice/libpod-{ID}.scope/container": Place("podman", ID),
    f"/libpod_parent/libpod-{ID}": Place("podman", ID),
    f"/libpod_parent/{OTHER}/libpod-{ID}": Place("podman", ID, pod=OTHER),
    f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope/container": Place(
        "podman", ID, pod=OTHER
    ),
    f"{USER}/user.slice/libpod-{ID}.scope/container": Place("podman", ID, user=1000),
    f"{USER}/user.slice/user-libpod_pod_{OTHER}.slice/libpod-{ID}.scope": Place(
        "podman", ID, pod=OTHER, user=1000
    ),
    f"/system.slice/shop.service/libpod-payload-{ID}": Place("podman", ID, unit="shop"),
    f"/machine.slice/libpod-conmon-{ID}.scope": Place(),
    # Kubernetes
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID_}.slice"
    f"/cri-containerd-{ID}.scope": Place("containerd", ID, pod=UID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope": Place("cri-o", ID, pod=UID),
    f"/kubepods.slice/kubepods-pod{UID_}.slice/crio-{ID}.scope/container": Place(
        "cri-o", ID, pod=UID
    ),
    f"/kubepods/besteffort/pod{UID}/{ID}": Place(None, ID, pod=UID),
    f"/kubepods/pod{STATIC}/{ID}": Place(None, ID, pod=STATIC),
    f"/kubepods/burstable/pod{UID}": Place(pod=UID),
    f"/system.slice/containerd.service/kubepods-burstable-pod{UID_}.slice:cri-containerd:{ID}": (
        Place("containerd", ID, pod=UID)
    ),
    f"/k8s.io/{ID}": Place("containerd", ID),
    f"/default/{ID}": Place("containerd", ID),
    f"/system.slice/nerdctl-{ID}.scope": Place("containerd", ID),
    # A node in a container: the outermost one counts.
    f"/docker/{ID}/kubelet.slice/kubelet-kubepods-pod{UID_}.slice/cri-containerd-{OTHER}.scope": (
        Place("docker", ID)
    ),
    # Containers with a name only
    "/lxc.payload.web": Place("lxc", name="web"),
    "/lxc.payload.web/system.slice/nginx.service": Place("lxc", name="web", unit="nginx"),
    "/lxc.monitor.web": Place(),
    "/machine.slice/systemd-nspawn@web.service/payload": Place("systemd-nspawn", name="web"),
    r"/machine.slice/machine-my\x2dweb.scope/payload/system.slice/nginx.service": Place(
        "systemd-nspawn", name="my-web", unit="nginx"
    ),
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator": Place(),
    # systemd
    "/system.slice/nginx.service": Place(unit="nginx"),
    "/system.slice/nginx.service/worker": Place(unit="nginx"),
    "/system.slice/system-postgresql.slice/postgresql@16-main.service": Place(
        unit="postgresql@16-main"
    ),
    r"/system.slice/my\x2dshop.service": Place(unit="my-shop"),
    f"{USER}/app.slice/notes.service": Place(unit="notes", user=1000),
    f"{USER}/init.scope": Place(user=1000),
    "/user.slice/user-1000.slice/session-3.scope": Place(user=1000),
    "/system.slice/ssh.service": Place(),
    "/system.slice/cron.service": Place(),
    "/system.slice/run-u17.service": Place(),
    "/init.scope": Place(),
    "/": Place(),
}


@pytest.mark.parametrize("path", FORMS)
def test_a_form(path: str) -> None:
    assert parse(path) == FORMS[path]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "//",
        "/../../etc",
        f"/docker-{ID[:-1]}.scope",
        f"/docker-{ID}0.scope",
        f"/docker-{ID.upper()}.scope",
        f"/docker-{ID}.scope\n",
        f"/docker-../{ID[:-2]}..",
        f"/x/pod{UID}x",
        "/lxc.payload.",
        "/machine.slice/machine-.scope/payload",
        "/.service",
        "/user.slice/user-99999999999.slice/x",
        "/user.slice/user--1.slice/x",
    ],
)
def test_what_only_looks_like_a_form(path: str) -> None:
    assert parse(path) == Place()


def test_a_user_names_no_other_user() -> None:
    """Below a delegated control group, its user chooses the names."""
    assert parse(f"{USER}/user.slice/user-0.slice/libpod-{ID}.scope").user == 1000
    assert parse(f"/x/user.slice/user-0.slice/libpod-{ID}.scope").user is None


@pytest.mark.parametrize(
    "inside",
    [
        f"docker-{OTHER}.scope",
        f"libpod-{OTHER}.scope/container",
        OTHER,
        f"kubepods-pod{UID_}.slice/cri-containerd-{OTHER}.scope",
        "lxc.payload.bank",
        "machine.slice/systemd-nspawn@bank.service/payload",
    ],
)
def test_a_container_names_no_other_container(inside: str) -> None:
    """A container may have control groups of its own, and chooses their names."""
    found = parse(f"/system.slice/docker-{ID}.scope/{inside}")
    assert found._replace(unit=None) == Place("docker", ID)


def test_an_escape_that_is_no_utf8() -> None:
    assert parse(r"/lxc.payload.web/a\xff.service").unit == "a\ufffd"


def test_a_long_path() -> None:
    """Within PATH_MAX, and without repeated work for what nearly matches."""
    path = f"/{'a-' * 120}.slice" * 16
    assert parse(path) == Place()
    assert parse(f"/kubepods{'-a' * 120}pod" * 16) == Place()
