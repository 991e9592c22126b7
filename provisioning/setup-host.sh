#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what a host needs to build and boot guests, and only what is missing: silent
# and quick when there is nothing to do.
#
#   setup-host.sh           for the embedded guests
#   setup-host.sh vagrant   in addition: Vagrant with libvirt, and tools that build boxes
#   setup-host.sh browser   in addition: Chromium, for the tests of the report
set -eu

part=${1:-}
case $part in
'' | vagrant | browser) ;;
*)
    echo "setup-host: unknown part '$part': known are vagrant and browser" >&2
    exit 2
    ;;
esac

machine=$(uname -m)
case $machine in
x86_64) qemu=qemu-system-x86_64 qemu_package=qemu-system-x86 ;;
aarch64) qemu=qemu-system-aarch64 qemu_package=qemu-system-arm ;;
*)
    echo "setup-host: no guests are described for a $machine host" >&2
    exit 1
    ;;
esac

# System programs, which an ordinary user's PATH may lack.
PATH=$PATH:/usr/sbin:/sbin
missing=

need() { # need PACKAGE FILE-OR-PROGRAM
    case $2 in
    /*) [ -e "$2" ] || missing="$missing $1" ;;
    *) command -v "$2" >/dev/null || missing="$missing $1" ;;
    esac
}

need "$qemu_package" "$qemu"
need qemu-utils qemu-img
need mmdebstrap mmdebstrap
need e2fsprogs mke2fs
need openssh-client ssh
need gpg gpg
need valgrind valgrind
# The tests of TLS libraries compare with a disassembler, and look into Go programs.
need binutils objdump
need golang-go go
# The native module of fastpath/.
need cargo cargo
# The commands of docs/how-to/recipes.md.
need jq jq
# The tests check the package, its manual page, completion and log rotation with these.
need lintian lintian
need groff-base groff
need man-db man
need zsh zsh
need fish fish
need logrotate logrotate
need debian-archive-keyring /usr/share/keyrings/debian-archive-keyring.gpg
if [ "$part" = vagrant ]; then
    need vagrant vagrant
    need vagrant-libvirt /usr/share/vagrant-plugins/plugins.d/vagrant-libvirt.json
    need libvirt-daemon-system libvirtd
    need libvirt-clients virsh
    need dnsmasq-base dnsmasq
    need iptables iptables
    if [ "$machine" = x86_64 ]; then
        need grub-pc-bin /usr/lib/grub/i386-pc/boot.img
    fi
fi
if [ "$part" = browser ]; then
    need chromium /usr/bin/chromium
    need chromium-driver /usr/bin/chromedriver
    # A font for the screenshots.
    need fonts-dejavu-core /usr/share/fonts/truetype/dejavu/DejaVuSans.ttf
fi
python3 -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"

# Ubuntu guests need the key of Ubuntu's archive; not every Debian release packages it.
ubuntu=
if [ ! -e /usr/share/keyrings/ubuntu-archive-keyring.gpg ] && command -v apt-cache >/dev/null; then
    # `show` prints nothing for a package that the archive does not have.
    ubuntu=$(apt-cache show ubuntu-keyring 2>/dev/null | sed -n '/^Package:/{s/^Package: *//p;q}')
fi

if [ -z "$missing$ubuntu" ]; then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "setup-host: this system has no apt-get; install what provides:$missing" >&2
    exit 1
fi

as_root=
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup-host: neither root nor sudo; as root: apt-get install$missing $ubuntu" >&2
        exit 1
    fi
    as_root=sudo
fi

install() {
    # shellcheck disable=SC2086 # package names are words
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --quiet --no-install-recommends "$@"
}

echo "setup-host: installing$missing${ubuntu:+ $ubuntu}" >&2
# shellcheck disable=SC2086 # package names are words
if ! install $missing $ubuntu; then
    # Only if it failed: fetching the lists takes a minute.
    $as_root apt-get update --quiet
    # shellcheck disable=SC2086 # package names are words
    install $missing $ubuntu
fi
