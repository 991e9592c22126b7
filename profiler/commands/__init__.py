# SPDX-License-Identifier: Apache-2.0
"""The commands: one module or package for each row of the table in ``cli.py``.

Each has ``add_arguments``, which adds its arguments to a parser, and a function that takes the
parsed options and returns the exit code. Every start builds all parsers. So a command imports what
only it needs when it runs: in its function, or in a module that the table names.
"""
