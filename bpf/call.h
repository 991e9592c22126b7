/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * One finished call, the memory it is processed in, and the way to user space.
 */
#ifndef HTTP_PROFILER_CALL_H
#define HTTP_PROFILER_CALL_H

#include "event.h"
#include "kernel.h"
#include "payload.h"

/* The most bytes of a head that are examined; also a mask. */
#define HEAD_MAX  2047
/* The first copy has this many: most heads are shorter. */
#define HEAD_FIRST 511
/* Steps of the search: a step is eight bytes, or to the end of one of 64 lines. */
#define STEPS_MAX ((HEAD_MAX + 1) / 8 + 64)

/* The body that a head declares (body.h); in a map for the same reason as a walk (payload.h). */
struct head {
	u32 moved;  /* bytes of the call */
	u32 most;   /* of these: may be examined */
	u32 known;  /* of these: copied */
	u32 size;   /* bytes of the head, with the empty line; 0: its end was not found */
	u32 value;  /* where the value of Content-Length begins; 0: none */
	u32 is_odd; /* something makes the length uncertain */
	u32 ready;  /* bytes of the call already in the event, if these are all wanted bytes; else 0 */
	u32 at;     /* bytes examined so far */
};

/*
 * Where a call is processed. A program never runs twice at once on a CPU, but another
 * program may preempt it there. So each program has a slot of its own, here and in the
 * account. (profiler/ingest/probe/generate.py assigns the slots and defines SLOTS.)
 */
struct workspace {
	struct walk walk;
#ifdef MAX_BODY
	struct head head;
#endif
	struct event event;
};

DEFINE_MAP(workspaces, MAP_TYPE_PERCPU_ARRAY, u32, struct workspace, SLOTS)

/* One finished call. */
struct call {
	u64 socket;   /* struct socket of the kernel */
	u64 sk;       /* its struct sock */
	u64 tcp;      /* its struct tcp_sock, if it is plain TCP, or 0 */
	u64 memory;   /* socket route: struct msghdr of the kernel; syscall route: the pointer argument; 0: not readable */
	u64 flat;     /* the data, if it is one range of user memory that nothing else describes, or 0 */
	u64 inode;    /* the socket's inode when the call began; 0: read it now */
	s32 syscall;  /* syscall route: its number */
	u32 size;     /* bytes moved */
	u32 slot;     /* the program's */
	u32 msg_flags;
	u8 direction;
	u8 payload;   /* syscall route: what `memory` is */
	u8 discarded; /* the bytes left the stream, but no process received them */
	u8 look;      /* socket route: LOOK_* */
	void *context; /* the program's, for the perf buffer */
};

/*
 * Helpers get a pointer into `call`, so the compiler keeps all of it on the stack. The
 * verifier does not track values there separately, as it would in registers.
 */
static __always_inline struct workspace *workspace_of(struct call *call)
{
	return LOOKUP(workspaces, &call->slot);
}

/*
 * While a program runs on a CPU, the kernel skips it there for every other task. Where a
 * task can be preempted meanwhile, a second program handles what the first one missed: it
 * runs after the first, at the same function.
 */
#define LOOK_ONLY   0
#define LOOK_FIRST  1
#define LOOK_SECOND 2

/*
 * The calls that were in flight when the probe was attached, by thread, from /proc.
 * profiler/ingest/probe/inflight.py writes this map.
 */
struct inflight {
	u64 descriptor;
	u64 pointer;   /* read's and recvfrom's second argument */
	u64 msg_flags; /* recvfrom's fourth, or 0 */
};

DEFINE_MAP(inflight, MAP_TYPE_HASH, u64, struct inflight, 4096)

/* What the pointer argument of a system call is. */
enum payload {
	PAYLOAD_FLAT,
	PAYLOAD_IOVEC,
	PAYLOAD_MSGHDR,
	PAYLOAD_MMSGHDR,
	PAYLOAD_NONE, /* pages of a file or a pipe */
};

/*
 * How much payload an event has, at most PAYLOAD_MAX. Read back from memory so that the
 * verifier does not track its origin: it would do so through every iteration of the loop in
 * forward() and exceed its limit.
 */
static __always_inline u64 captured_of(struct event *event)
{
	return *(volatile u32 *)&event->captured & PAYLOAD_MAX;
}

/* Filtered calls do not need it, and the socket route must look it up. */
static __always_inline s32 syscall_of(struct call *call, u64 task)
{
#ifdef ROUTE_SOCKET
	return current_syscall(task);
#else
	return call->syscall;
#endif
}

#ifdef HAS_RING_BUFFER
/*
 * How to submit a record of `size` bytes when `waits` bytes already wait in the ring.
 *
 * Waking the reader costs the calling process more than everything else here. So the reader
 * is woken when a batch is complete, and polls before a batch gets old
 * (profiler/ingest/probe/ring.py).
 */
static __always_inline u64 wake_up(u64 waits, u64 size)
{
	/* waits < WAKE_BYTES && waits + size >= WAKE_BYTES, see is_negative(). */
	u64 is_batch = is_negative((waits - WAKE_BYTES) & ~(waits + size - WAKE_BYTES));

	return BPF_RB_NO_WAKEUP + is_batch * (BPF_RB_FORCE_WAKEUP - BPF_RB_NO_WAKEUP);
}

/*
 * An event whose bytes are one range is built in the ring, which saves a copy. The verifier
 * must know the size of a reservation as a constant, so it is room for a payload of a power
 * of two, or of three quarters of one.
 */
#define ROOM_MIN 128

static __always_inline u64 room_for(u64 captured)
{
#pragma unroll
	for (u64 bytes = ROOM_MIN; bytes <= PAYLOAD_MAX; bytes *= 2) {
		if (captured <= bytes / 4 * 3)
			return bytes / 4 * 3;
		if (captured <= bytes)
			return bytes;
	}
	return captured <= (PAYLOAD_MAX + 1) / 4 * 3 ? (PAYLOAD_MAX + 1) / 4 * 3 : PAYLOAD_MAX + 1;
}

/* Reserve a record in the ring for an event with such a payload; 0 if there is no room. */
static __always_inline struct event *reserve(u64 room)
{
	return ringbuf_reserve(MAP(events), EVENT_HEADER + room, 0);
}

/* Submit what reserve() returned. */
static __always_inline void submit(struct event *event, u64 room)
{
	/* The ring already counts this record, with its own eight bytes and padded to eight. */
	u64 size = 8 + ((EVENT_HEADER + room + 7) & ~7ULL);

	ringbuf_submit(event, wake_up(ringbuf_query(MAP(events), BPF_RB_AVAIL_DATA) - size, size));
}
#endif

/* Submit a record to user space. Returns 0 if there was room. */
static __always_inline int output(struct call *call, void *record, u64 size)
{
#ifdef HAS_RING_BUFFER
	u64 waits = ringbuf_query(MAP(events), BPF_RB_AVAIL_DATA);

	return ringbuf_output(MAP(events), record, size, wake_up(waits, size));
#else
	return perf_event_output(call->context, MAP(events), BPF_F_CURRENT_CPU, record, size);
#endif
}

static __always_inline int deliver(struct call *call, struct event *event)
{
	return output(call, event, EVENT_HEADER + captured_of(event));
}

#endif
