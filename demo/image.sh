#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes the image of compose.yaml of what this machine has; nothing is downloaded.
# It holds demo and load test, and the links that / has, such as /lib. What they
# lead to, and Python's packages, compose.yaml mounts from the machine, read-only.
set -eu

image=localhost/http-profiler-demo
sources=$(cd "$(dirname "$0")/.." && pwd)

cd /
links=$(find bin sbin lib lib32 lib64 libx32 -maxdepth 0 -type l 2>/dev/null || true)
# shellcheck disable=SC2086 # links are words
tar --create --no-recursion $links opt tmp usr \
    --directory "$sources" --recursion --transform 's,^\(demo\|loadtest\),srv/&,' demo loadtest |
    podman import --quiet --change 'WORKDIR /srv' - "$image"
