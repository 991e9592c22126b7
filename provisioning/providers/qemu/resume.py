# SPDX-License-Identifier: Apache-2.0
"""Gives a guest that resumed from a snapshot its own random numbers and the right time.

Every guest resumed from one snapshot has the same memory. Two parts of it matter: the
clock shows the time of the snapshot, and the random generator of the kernel is in the same
state, so only the timing of interrupts makes the numbers of two guests differ (enough on
Linux 6.1). The clock is set from this host's, and then verified.

Guests that boot from one image share the rest anyway: the host name, the machine id, the
keys of the ssh server, and the address of the network card, each on a network of its own.
Guests of a snapshot also share the kernel's boot id, and their process and socket numbers
continue from the same values; nothing compares these between guests. No connection is open
in a snapshot, and no calendar timer is set.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

from provisioning.errors import GuestError
from provisioning.guest import Guest

TIMEOUT = 120.0

# Seconds between the two clocks; NTP may adjust the host's at the same time.
TOLERANCE = 1.0

SEED_BYTES = 64

# Run as root in the guest. The two requests are RNDADDENTROPY and RNDRESEEDCRNG of
# random(4): the second makes the seed take effect at once. The time is read last, after
# all slow steps.
SCRIPT = """
import fcntl, struct, sys, time
seed = bytes.fromhex(sys.stdin.readline())
with open("/dev/urandom", "wb") as generator:
    fcntl.ioctl(generator, 0x40085203, struct.pack("=ii", 8 * len(seed), len(seed)) + seed)
    fcntl.ioctl(generator, 0x5207)
print("seeded", flush=True)
time.clock_settime_ns(time.CLOCK_REALTIME, int(sys.stdin.readline()))
print(time.time_ns(), flush=True)
"""


def complete_resume(guest: Guest) -> None:
    """Seed the guest's random numbers and set its clock.

    Raises GuestError if that fails or leaves the clock wrong.
    """
    command = ["sudo", "python3", "-c", SCRIPT]
    with guest.popen(command, stdin=subprocess.PIPE) as running:
        process = running.process
        assert process.stdin is not None
        # Reading has no limit of its own.
        limit = threading.Timer(TIMEOUT, process.kill)
        limit.start()
        try:
            process.stdin.write(os.urandom(SEED_BYTES).hex().encode() + b"\n")
            process.stdin.flush()
            seeded = running.stdout.readline()
            before = time.time_ns()
            process.stdin.write(b"%d\n" % before)
            process.stdin.flush()
            said = running.stdout.readline()
            after = time.time_ns()
        except BrokenPipeError:
            seeded = said = b""
        finally:
            limit.cancel()
        if seeded != b"seeded\n" or not said:
            why = running.stderr.read().decode(errors="replace").strip().splitlines()
            raise GuestError(
                f"{guest.name}: its clock cannot be set: {why[-1] if why else 'no answer'}"
            )
    slack = TOLERANCE * 1e9
    if not before - slack <= int(said) <= after + slack:
        off = (int(said) - after) / 1e9
        raise GuestError(f"{guest.name}: its clock was set, and is {off:+.1f} s off")
