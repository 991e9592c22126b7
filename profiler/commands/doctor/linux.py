# SPDX-License-Identifier: Apache-2.0
"""What the cases need from Linux and Python 3.9's standard library lacks.

Numbers are from the kernel's ``include/uapi``; the calls are libc's own wrappers.
All of them raise OSError.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

IPPROTO_MPTCP = 262
MSG_WAITFORONE = 0x10000
MSG_ZEROCOPY = 0x4000000
SO_ZEROCOPY = 60

_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1

# linux/tls.h
_TCP_ULP = 31
_SOL_TLS = 282
_TLS_TX, _TLS_RX = 1, 2
_TLS_1_2 = 0x0303
_TLS_CIPHER_AES_GCM_128 = 51

_libc = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Msghdr(ctypes.Structure):
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("segments", ctypes.POINTER(_Iovec)),
        ("segment_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Mmsghdr(ctypes.Structure):
    _fields_ = [("header", _Msghdr), ("length", ctypes.c_uint)]


def checked(result: int, call: str) -> int:
    """Return ``result`` of a libc function; raise OSError if it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}")
    return result


def syscall(call: str, number: int, *arguments: Any) -> int:
    """Make a system call that libc has no function for."""
    function = _libc.syscall
    function.restype = ctypes.c_long
    return checked(function(ctypes.c_long(number), *arguments), call)


def sendmmsg(sock: socket.socket, parts: Sequence[bytes]) -> int:
    """Send each part as a separate message; return the number of bytes sent."""
    headers, kept = _headers([ctypes.create_string_buffer(part, len(part)) for part in parts])
    count = checked(_libc.sendmmsg(sock.fileno(), headers, len(parts), 0), "sendmmsg")
    del kept
    return sum(headers[i].length for i in range(count))


def recvmmsg(sock: socket.socket, sizes: Sequence[int]) -> bytes:
    """Receive what is available into buffers of ``sizes``; wait for the first byte."""
    buffers = [ctypes.create_string_buffer(size) for size in sizes]
    headers, kept = _headers(buffers)
    count = checked(
        _libc.recvmmsg(sock.fileno(), headers, len(sizes), MSG_WAITFORONE, None), "recvmmsg"
    )
    del kept
    return b"".join(buffers[i].raw[: headers[i].length] for i in range(count))


def _headers(buffers: Sequence[Any]) -> tuple[Any, Any]:
    """An array of struct mmsghdr with one segment each, and what must outlive it."""
    segments = [_Iovec(ctypes.addressof(buffer), len(buffer)) for buffer in buffers]
    headers = (_Mmsghdr * len(buffers))()
    for header, segment in zip(headers, segments):
        header.header.segments = ctypes.pointer(segment)
        header.header.segment_count = 1
    return headers, (segments, buffers)


def splice(source: int, target: int, size: int) -> int:
    """Move up to ``size`` bytes between two descriptors, one of them a pipe's (splice(2))."""
    function = _libc.splice
    function.restype = ctypes.c_ssize_t
    arguments = (source, None, target, None, ctypes.c_size_t(size), 0)
    return checked(function(*arguments), "splice")


@contextmanager
def namespace(flag: int, kind: str) -> Iterator[None]:
    """Enter a new namespace (``CLONE_NEW...``; ``kind`` as in /proc/self/ns), then return.

    Needs CAP_SYS_ADMIN, and a process with one thread.
    """
    old = os.open(f"/proc/self/ns/{kind}", os.O_RDONLY)
    try:
        checked(_libc.unshare(flag), "unshare")
        try:
            yield
        finally:
            checked(_libc.setns(old, flag), "setns")
    finally:
        os.close(old)


def raise_loopback() -> None:
    """Bring ``lo`` of this network namespace up; the kernel then gives it 127.0.0.1."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", _IFF_UP))


def start_tls(sock: socket.socket) -> None:
    """Let the kernel encrypt and decrypt TLS 1.2 records on a connection, with a fixed key.

    kTLS: Linux 4.13 sends, 4.17 receives; ``CONFIG_TLS``. Both ends use the same
    key, which is no secret: this is not a way to protect anything.
    """
    # struct tls12_crypto_info_aes_gcm_128: version, cipher, iv, key, salt, record number
    key = struct.pack(
        "=HH8s16s4s8s", _TLS_1_2, _TLS_CIPHER_AES_GCM_128, b"i" * 8, b"k" * 16, b"s" * 4, bytes(8)
    )
    try:
        sock.setsockopt(socket.IPPROTO_TCP, _TCP_ULP, b"tls")
    except FileNotFoundError as error:
        raise OSError(error.errno, "the kernel has no TLS (CONFIG_TLS, module tls)") from None
    sock.setsockopt(_SOL_TLS, _TLS_TX, key)
    sock.setsockopt(_SOL_TLS, _TLS_RX, key)
