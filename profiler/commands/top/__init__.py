# SPDX-License-Identifier: Apache-2.0
"""A live view of the whole screen: who asks what, how often, how slow, what fails.

``top`` is a sink like any other, so it sees what the lines say and nothing else, and takes
a file of lines as well as a kernel. Drawing hangs on ``flush``, which the capture calls
whenever it has caught up: four times a second at most, however many messages there are, and
in the thread that reads them, so nothing needs a lock.

``curses`` of the standard library does the drawing: it knows the terminals there are, keeps
up with their size, and sends what has changed only. A framework (Textual, or Rich with an
input loop of our own) would be a dependency of a program that runs as root, and wants a
thread or an event loop to itself; what is asked for here is three tables and a text.

``latencies`` bounded percentiles; ``model`` what is known, within bounds; ``view`` what is
shown of it and what keys do, without a terminal; ``screen`` the terminal; ``sink`` puts them
together; ``source`` reads lines from a file or a pipe; ``command`` is the command line.
"""
