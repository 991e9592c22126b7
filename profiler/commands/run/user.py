# SPDX-License-Identifier: Apache-2.0
"""Becomes the user of ``--as``, as su(1) and sudo(8) do: nothing of root's remains by accident."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

# What describes the terminal, the language and the time zone. `su -` keeps the terminal, and sudo
# keeps all of them.
_KEPT = ("COLORTERM", "LANG", "LANGUAGE", "NO_COLOR", "TERM", "TZ")
_KEPT_PREFIX = "LC_"
# The defaults of su(1): ENV_PATH and ENV_SUPATH of login.defs(5).
_PATH = "/usr/local/bin:/usr/bin:/bin"
_ROOT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Others must not write what the command creates, whatever root's own mask is: sudo's default.
_UMASK = 0o022


def environment_of(user: pwd.struct_passwd, current: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a command of ``user``, which starts from ``current``."""
    kept = {
        name: value
        for name, value in current.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIX)
    }
    return {
        **kept,
        "HOME": user.pw_dir,
        "LOGNAME": user.pw_name,
        "PATH": _PATH if user.pw_uid else _ROOT_PATH,
        "SHELL": user.pw_shell or "/bin/sh",  # passwd(5)
        "USER": user.pw_name,
    }


def become(user: pwd.struct_passwd) -> None:
    """Change to ``user`` for good, with that user's groups. Raises OSError.

    Leaving user ID 0 empties the sets of capabilities (capabilities(7)). The command may gain
    privileges again as the user may, for example by sudo.
    """
    os.umask(os.umask(_UMASK) | _UMASK)
    os.initgroups(user.pw_name, user.pw_gid)
    os.setresgid(user.pw_gid, user.pw_gid, user.pw_gid)
    os.setresuid(user.pw_uid, user.pw_uid, user.pw_uid)
