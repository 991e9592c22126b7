# SPDX-License-Identifier: Apache-2.0
"""Removes what identifies a machine and its users from the doctor's texts.

The document of ``--json`` is made to be sent to strangers. Its facts identify nobody, but a
message can quote a path, an address or a name. Each becomes a placeholder in angle brackets.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from typing import Callable

# A path ends where a quote, white space or a separator begins.
_HOME = re.compile(r"(?:/home/[^/\s'\":,;]+|/root)(?![^/\s'\":,;])")

# IPv6 first: it may end like IPv4. `_address` decides whether it is an address at all.
_ADDRESS = re.compile(
    r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![\w:])"
    r"|(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?!\w)"
)

# Variables whose values name the user who runs the doctor, also with sudo.
_USER_VARIABLES = ("SUDO_USER", "DOAS_USER", "LOGNAME", "USER")

# Shorter values, such as `1` and `vt100`, are words that a message may contain anyway.
_SHORTEST_VALUE = 8


def redactor(
    environment: Mapping[str, str] = os.environ, host: str | None = None
) -> Callable[[str], str]:
    """Return a function that redacts a text; the defaults are this process and this machine.

    These are replaced: home directories, addresses other than loopback, the name of the host,
    the name of the user, and values of environment variables.
    """
    host = os.uname().nodename if host is None else host
    words = {environment.get(name, ""): "<user>" for name in _USER_VARIABLES}
    words |= {host: "<host>", host.partition(".")[0]: "<host>"}
    # Every machine has these.
    for common in ("", "root", "localhost"):
        words.pop(common, None)
    values = {
        value: f"<{name}>" for name, value in environment.items() if len(value) >= _SHORTEST_VALUE
    }
    names = {**values, **words}
    # The longest first: a short name may be a part of it.
    alternatives = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    known = re.compile(rf"(?<!\w)(?:{alternatives})(?!\w)") if names else None

    def redact(text: str) -> str:
        text = _HOME.sub("<home>", text)
        if known:
            text = known.sub(lambda found: names[found[0]], text)
        return _ADDRESS.sub(_address, text)

    return redact


def _address(found: re.Match[str]) -> str:
    try:
        address = ipaddress.ip_address(found[0])
    except ValueError:
        return found[0]
    mapped = getattr(address, "ipv4_mapped", None) or address
    return found[0] if mapped.is_loopback or mapped.is_unspecified else "<address>"
