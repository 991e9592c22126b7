# SPDX-License-Identifier: Apache-2.0
"""The arguments of ``http-profiler run``; ``trace.py`` implements it."""

from __future__ import annotations

import argparse
import pwd

from profiler.commands.check import EPILOG, add_assertions
from profiler.commands.options import add_filters, add_output, add_probe

DESCRIPTION = """\
Traces a command and its children, and nothing else. Returns the command's exit code. The command
keeps its standard streams; --as replaces those that are terminals. --output writes lines; without
it, and without assertions, the exchanges are printed to standard error when the command has ended.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the arguments."""
    parser.usage = "http-profiler run [options] -- CMD ..."
    parser.description = DESCRIPTION
    parser.epilog = (
        EPILOG
        + "\nexit codes: that of the command, 128+N if signal N ended it; 127: no such command;\n"
        "126: it cannot be executed; 125: it could not be traced; 4: an assertion does not hold\n"
    )
    parser.add_argument(
        "--as",
        dest="run_as",
        type=_user,
        metavar="USER",
        help="run the command with the rights and environment of USER, in a terminal of its own "
        "(default: as root)",
    )
    parser.add_argument(
        "--tls-keys",
        action="store_true",
        default=argparse.SUPPRESS,
        help="capture HTTPS too: have the command write its TLS secrets to a temporary key log "
        "(SSLKEYLOGFILE), and decrypt its connections with them; secrets are redacted unless "
        "--no-redact is given",
    )
    add_assertions(parser)
    parser.add_argument(
        "--allow-lost",
        action="store_true",
        help="let an assertion hold even if messages were lost that might have violated it",
    )
    parser.add_argument("misplaced", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    add_output(parser)
    add_filters(parser)
    add_probe(parser)


def _user(text: str) -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(text)
    except KeyError:
        raise argparse.ArgumentTypeError(f"this machine has no user {text!r}") from None
