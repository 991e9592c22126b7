# SPDX-License-Identifier: Apache-2.0
"""A live, full-screen view: who sends which requests, how often, how slow, and what fails.

``top`` is a sink like any other. It sees only records, so it works on a capture file as well as on
a live capture. ``flush`` draws the screen; the capture calls it whenever it has caught up. It draws
at most four times a second, however many messages there are, and in the thread that reads them, so
nothing needs a lock.

``curses`` from the standard library does the drawing: it supports all terminals, follows their
size, and sends only changes. A framework (Textual, or Rich with an input loop of our own) would add
a dependency to a program that runs as root, and needs its own thread or event loop. Three tables
and a text do not need that.

``model`` has the figures, within bounds; ``view`` what is shown
and what the keys do, without a terminal; ``screen`` the terminal; ``sink`` connects them;
``source`` reads lines from a file or a pipe; ``command`` is the command line.
"""
