"""Makes a machine of its own of a guest that goes on where a snapshot left off.

Why it exists: what a guest remembers is old, and another one remembers the same. Two
things of that matter: its clock stands where it was, and so does the generator behind
``/dev/urandom``, with nothing but the moments of interrupts to tell one guest's numbers
from another's (that was enough on Linux 6.1). Its rule: the clock is set by this host's,
and what the guest then says of it is checked.

What else they share they share with every guest that boots from the image: the name,
the machine's id, the keys of the ssh server, and the address of the network card, each
on a network of its own. The kernel's boot id is one for all of a snapshot, and numbers
of processes and sockets go on from where it stands; nothing compares these between
guests. No connection is open in it, and no timer of the calendar is set.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time

from provisioning.errors import GuestError
from provisioning.guest import Guest

TIMEOUT = 120.0

# How far a clock may be from this host's, which may itself be put right meanwhile.
TOLERANCE = 1.0

SEED_BYTES = 64

# Run as root in the guest. The two requests are RNDADDENTROPY and RNDRESEEDCRNG of
# random(4): the second has the seed take effect at once. The time is read last, when
# all that is slow is over.
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


def wake(guest: Guest) -> None:
    """Seed the guest's random numbers and set its clock.

    GuestError if that cannot be done, or if the clock is wrong after it.
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
