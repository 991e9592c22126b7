/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's own account: for each direction, calls and bytes
 *
 *     seen = forwarded + sum(filtered) + sum(lost)
 *
 * `seen` is counted where a call is first processed, the others where its fate is decided.
 * So the equation is a check and not a definition. There is one account per direction, per
 * slot of a program (call.h) and per CPU.
 *
 * profiler/accounting.py mirrors the reasons (tests/unit/test_accounting.py).
 */
#ifndef HTTP_PROFILER_COUNTERS_H
#define HTTP_PROFILER_COUNTERS_H

#include "helpers.h"

enum filtered {
	FILTERED_SELF,       /* the profiler's own traffic */
	FILTERED_PID,        /* --pid */
	FILTERED_COMM,       /* --comm */
	FILTERED_USER,       /* --user */
	FILTERED_CGROUP,     /* --cgroup */
	FILTERED_PORT,       /* --port */
	FILTERED_ADDRESS,    /* --address */
	FILTERED_NOT_HTTP,   /* another protocol */
	FILTERED_NOT_STREAM, /* peeked, urgent or error-queue data */
	FILTERED_CALL_LIMIT, /* beyond what one call may hand over */
	FILTERED_KERNEL,     /* a socket of the kernel: no process has a descriptor of it */
	FILTERED_DISCARDED,  /* the process had the kernel discard the bytes (MSG_TRUNC) */
	FILTERED_MAX_BODY,   /* beyond --max-body */
	FILTERED_REASONS,
};

enum lost {
	LOST_RING_FULL,   /* no room in the ring buffer */
	LOST_UNREADABLE,  /* the memory could not be read, or is in pages of a file (sendfile, splice) */
	LOST_NO_SOCKET,   /* the socket was gone before it could be identified */
	LOST_TABLE_FULL,  /* no room in a table of the probe */
	LOST_SKIPPED,     /* the kernel did not run the probe: it was already running on that CPU */
	LOST_SHARE,       /* the connection had its share of a ring that is nearly full */
	LOST_REASONS,
};

struct account {
	u64 calls;
	u64 bytes;
};

struct counters {
	struct account seen;
	struct account forwarded;
	struct account filtered[FILTERED_REASONS];
	struct account lost[LOST_REASONS];
};

DEFINE_MAP(account, MAP_TYPE_PERCPU_ARRAY, u32, struct counters, 2 * SLOTS)

static __always_inline struct counters *counters_of(u32 slot, u32 direction)
{
	u32 key = 2 * slot + direction;

	return LOOKUP(account, &key);
}

static __always_inline void count(struct account *account, u64 bytes)
{
	account->calls++;
	account->bytes += bytes;
}

#endif
