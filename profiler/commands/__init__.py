# SPDX-License-Identifier: Apache-2.0
"""What the command line does: one module or package for each command of ``cli.py``.

Each has ``add_arguments``, which describes its arguments to a parser, and a function that takes
the parsed options and returns the exit code. Every start builds all parsers, so what only one
command needs is imported when it runs: in its function, or in a module that the table names.
"""
