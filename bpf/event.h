/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The record that crosses from the kernel to user space. profiler/ingest/wire.py mirrors this
 * file: change both together (tests/unit/test_wire.py compares them).
 *
 * An event is self-contained: it identifies its socket, its process and both addresses, so a
 * lost event never makes the next one unreadable. Anything too long to repeat (a process's
 * arguments, a Unix socket's paths) is sent before the first event that needs it, and again
 * until it was delivered.
 */
#ifndef HTTP_PROFILER_EVENT_H
#define HTTP_PROFILER_EVENT_H

#include "helpers.h"

/* The first byte of each record: its type. */
#define EVENT_CHUNK   1 /* `size` bytes of one stream from `position`; `captured` of them follow */
#define EVENT_END     2 /* no byte follows `position`: end of file or close */
#define EVENT_PROCESS 4 /* struct process_event */
#define EVENT_NAMES   6 /* struct names_event */
#define EVENT_TLS     8 /* struct tls_event */
#define EVENT_HANDSHAKE 9 /* struct handshake_event */
#define EVENT_HELLO  11 /* as EVENT_CHUNK: the first bytes of a direction that begins with TLS */

/* event.direction, as the process sees it; also an array index */
#define DIRECTION_SEND 0
#define DIRECTION_RECV 1

/* event.flags */
#define FLAG_JOINED     1 /* the connection carried bytes before it was first seen */
#define FLAG_AFTER_LOSS 2 /* an earlier event of this stream was lost */
#define FLAG_UNREADABLE 4 /* the bytes moved but could not be read (captured is 0) */
#define FLAG_LIMIT      8 /* size exceeds captured because of the per-call limit */
#define FLAG_CONTINUED 16 /* not the first event of its call */
#define FLAG_RESET     32 /* on an end: a call failed because the connection was reset */
#define FLAG_EXIT      64 /* on an end: the process was exiting */
#define FLAG_PASSED_OVER 128 /* the bytes before it are unwanted body */

#define COMM_SIZE    16
#define ADDRESS_SIZE 16

/*
 * The largest payload of one event; a call with more is split into several events. One less
 * than a power of two, so that it is also the mask that shows the bound to the verifier.
 */
#define PAYLOAD_MAX 16383
/* The most events of one call: further data only advances the position. */
#define PIECES_MAX  64
/* The most empty segments before the first byte of a call. */
#define LEADING_MAX 4

/* All integers in host byte order; addresses in network byte order. */
struct event {
	u8  kind;
	u8  direction;
	u8  family;          /* AF_UNIX, AF_INET or AF_INET6 */
	u8  flags;
	s32 syscall;         /* number on this architecture; -1: unknown */
	u64 time;            /* nanoseconds when the call returned: CLOCK_BOOTTIME, before 5.8 CLOCK_MONOTONIC */
	u32 pid;             /* thread group id */
	u32 tid;
	u64 start_time;      /* of the thread group leader, on the same clock */
	u64 socket;          /* inode of the socket */
	u64 position;        /* bytes of this direction before this event, since first seen */
	u32 size;            /* bytes of the stream that this event covers */
	u32 captured;        /* bytes of payload that follow the header */
	u32 netns;           /* inode of the network namespace */
	u32 sequence;        /* TCP's sequence number of position 0; 0: not plain TCP */
	u16 local_port;
	u16 remote_port;
	u8  local_address[ADDRESS_SIZE];  /* AF_INET: the first four bytes; AF_UNIX: none */
	u8  remote_address[ADDRESS_SIZE];
	u8  comm[COMM_SIZE]; /* of the thread that made the call */
	u8  payload[PAYLOAD_MAX + 1];
};

#define EVENT_HEADER __builtin_offsetof(struct event, payload)

/* Sent before a process's first event, and before the first event after each exec. */
#define CMDLINE_MAX 4095 /* also a mask */

struct process_event {
	u8  kind;
	u8  unused[3];
	u32 pid;
	u64 start_time;
	u64 cgroup;          /* inode of the directory in the cgroup2 hierarchy */
	u32 uid;             /* as the initial user namespace sees it */
	u32 size;            /* bytes of cmdline */
	u8  cmdline[CMDLINE_MAX + 1]; /* the arguments, each with its NUL */
};

#define PROCESS_HEADER __builtin_offsetof(struct process_event, cmdline)

/* The paths that the two ends of a Unix socket are bound to (unix(7)). */
#define SUN_PATH_SIZE 108

struct names_event {
	u8  kind;
	u8  local_size;      /* bytes of sun_path in use; 0: unnamed */
	u8  remote_size;
	u8  unused[5];
	u64 socket;
	u64 peer;            /* inode of the socket at the other end; 0: not (yet) known */
	u8  local[SUN_PATH_SIZE];
	u8  remote[SUN_PATH_SIZE];
};

/* A TLS session's stream, and the socket that carries its records. */
#define TLS_OPENSSL 1
#define TLS_GNUTLS  2
#define TLS_GO      3

struct tls_event {
	u8  kind;
	u8  library;         /* TLS_* */
	u8  unused[6];
	u64 stream;          /* event.socket of its chunks: no inode, the highest bit is set */
	u64 socket;          /* inode of the socket; 0: not (yet) known */
};

/*
 * A process begins a TLS connection, but has not called a probed library so far; or it sends
 * a datagram of QUIC.
 */
struct handshake_event {
	u8  kind;
	u8  is_datagram;
	u8  unused[2];
	u32 pid;
	u8  comm[COMM_SIZE]; /* of the thread group leader */
};

#endif
