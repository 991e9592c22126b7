# SPDX-License-Identifier: Apache-2.0
"""``http-profiler doctor``: what this machine has, and what the profiler captures on it.

"My request is missing" has a hundred causes, and a list of supported kernels proves only
what was tried. So the doctor tries it here: a canary sends known HTTP messages over every
path and kind of socket, the profiler captures them, and each is evaluated at both ends.

``script``   the canary's messages, byte for byte
``scenario`` one case while it is played
``linux``    system calls that Python's standard library lacks
``uring``    the smallest io_uring
``paths``    the ways bytes get in and out of a socket
``sockets``  the kinds of sockets, and of processes that hold them
``tls``      the libraries and programs that encrypt
``cases``    all cases and their expected results
``canary``   the process that plays them
``evaluate`` compares the lines with the script
``machine``  kernel, tools, privileges, hooks
``survey``   running programs whose TLS is not supported
``report``   table and JSON
``redact``   removes names and addresses from the JSON
``examine``  runs all of it in order
"""
