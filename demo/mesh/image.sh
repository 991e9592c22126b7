#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds the images of compose.yaml from this machine's files, one for each program; nothing is
# downloaded. An image contains the program's own files, the links in /, such as /lib, and the few
# files of /etc that programs look for. compose.yaml mounts the rest, read-only, from the machine.
set -eu

sources=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

cp -r "$sources"/gateway "$sources"/productpage "$sources"/details "$sources"/reviews \
    "$sources"/ratings "$sources"/visitor "$work"
javac -d "$work/reviews" "$work/reviews/Reviews.java"
rm "$work/reviews/Reviews.java"

# TLS from the gateway to productpage.
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=productpage \
    -addext subjectAltName=DNS:productpage \
    -keyout "$work/productpage/key.pem" -out "$work/productpage/certificate.pem" 2>/dev/null
cp "$work/productpage/certificate.pem" "$work/gateway"

cd /
links=$(find bin sbin lib lib32 lib64 libx32 -maxdepth 0 -type l 2>/dev/null || true)
for image in gateway productpage details reviews ratings visitor; do
    # The JDK reads its settings in /etc.
    case $image in
    reviews) settings=$(find etc -maxdepth 1 -name 'java-*') ;;
    *) settings= ;;
    esac
    # shellcheck disable=SC2086 # links and settings are words
    tar --create --no-recursion $links etc/group etc/passwd opt tmp usr \
        --recursion $settings --directory "$work" --transform "s,^$image,srv," "$image" |
        podman import --quiet --change 'WORKDIR /srv' - "localhost/mesh-$image"
done
