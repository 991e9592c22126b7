/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The kernel's own account: for each direction, calls and bytes
 *
 *     seen = forwarded + sum(filtered) + sum(lost)
 *
 * `seen` is counted where a call is first looked at and the others where its
 * fate is decided, so the equation is a check and not a definition. There is one of
 * each direction for each slot of a program (call.h) and CPU.
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
	FILTERED_KERNEL,     /* a socket of the kernel's own: no process has a descriptor of it */
	FILTERED_DISCARDED,  /* the process had the kernel throw the bytes away (MSG_TRUNC) */
	FILTERED_MAX_BODY,   /* beyond --max-body */
	FILTERED_REASONS,
};

enum lost {
	LOST_RING_FULL,   /* no room in the ring buffer */
	LOST_UNREADABLE,  /* the memory could not be read, or is pages of a file (sendfile, splice) */
	LOST_NO_SOCKET,   /* the socket was gone before it could be identified */
	LOST_TABLE_FULL,  /* no room in a table of the probe */
	LOST_SKIPPED,     /* the kernel did not run the probe: it was at work on that CPU already */
	LOST_REASONS,
};

struct tally {
	u64 calls;
	u64 bytes;
};

struct counters {
	struct tally seen;
	struct tally forwarded;
	struct tally filtered[FILTERED_REASONS];
	struct tally lost[LOST_REASONS];
};

DEFINE_MAP(account, MAP_TYPE_PERCPU_ARRAY, u32, struct counters, 2 * SLOTS)

static __always_inline struct counters *counters_of(u32 slot, u32 direction)
{
	u32 key = 2 * slot + direction;

	return LOOKUP(account, &key);
}

static __always_inline void count(struct tally *tally, u64 bytes)
{
	tally->calls++;
	tally->bytes += bytes;
}

#endif
