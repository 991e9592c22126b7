# SPDX-License-Identifier: Apache-2.0
"""The package for distributions and its parts.

``deb``         builds the package for Debian and Ubuntu
``vendored``    installs wheels for a Python other than the one that runs
``man``         prints the manual page
``completion``  prints the completion of a shell
``files/``      is installed unchanged
``documents``   renews the parts of the documents that the schema defines
``prose``       checks the English

Options come from the argument parser. None is named here.
"""
