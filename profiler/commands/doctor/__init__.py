"""``http-profiler doctor``: what this machine has, and what the profiler shows on it.

Why it exists: "my request is missing" has a hundred causes, and a list of
supported kernels is worth what it was tried on. So the doctor tries it: a canary
says known HTTP messages over every path and kind of socket, the profiler
captures them, and each is judged at both ends.

``script``   what the canary says, word by word
``scene``    one case while it is played
``linux``    what Python's standard library does not reach
``uring``    the smallest io_uring
``paths``    the ways bytes get in and out of a socket
``sockets``  the kinds of sockets and of processes that hold them
``cases``    all of them, and what is expected of each
``canary``   the process that plays them
``judge``    lines against script
``machine``  kernel, tools, privileges, hooks
``report``   table and JSON
``examine``  the order of it all
"""
