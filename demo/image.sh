#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the image of compose.yaml from this machine's files; nothing is downloaded. It
# contains the demo, the load test and the links in /, such as /lib. compose.yaml mounts
# their targets, and Python's packages, read-only from the machine.
set -eu

image=localhost/http-profiler-demo
sources=$(cd "$(dirname "$0")/.." && pwd)

cd /
links=$(find bin sbin lib lib32 lib64 libx32 -maxdepth 0 -type l 2>/dev/null || true)
# shellcheck disable=SC2086 # links are words
tar --create --no-recursion $links opt tmp usr \
    --directory "$sources" --recursion --transform 's,^\(demo\|loadtest\),srv/&,' demo loadtest |
    podman import --quiet --change 'WORKDIR /srv' - "$image"
