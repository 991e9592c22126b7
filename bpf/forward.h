/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Locates the bytes of a call, decides whether they are HTTP, and forwards them.
 */
#ifndef HTTP_PROFILER_FORWARD_H
#define HTTP_PROFILER_FORWARD_H

#include "call.h"
#include "connection.h"
#include "counters.h"

/* Move to the first byte of a call. */
static __always_inline void start_walk(volatile struct walk *walk, struct call *call)
{
	walk->left = 0;
	walk->limit = call->size < CALL_LIMIT ? call->size : CALL_LIMIT;
	walk->done = 0;
	walk->lost = 0;
	walk->unreadable = 0;
	walk->messages = 0;
	walk->message_left = call->size;
	if (call->flat) {
		walk->readable = 1;
		walk->data = call->flat;
		walk->left = call->size;
		return;
	}
#ifdef ROUTE_SOCKET
	walk->readable = call->memory && walk_back(walk, call->memory, call->size) == 0;
#else
	walk->readable = call->payload != PAYLOAD_NONE && !call->discarded;
	walk->segments = call->memory;
	if (call->payload == PAYLOAD_FLAT) {
		walk->data = call->memory;
		walk->left = call->size;
	} else if (call->payload == PAYLOAD_MSGHDR) {
		u64 segments = 0;
		if (probe_read_user(&segments, sizeof(segments), (void *)(call->memory + MSGHDR_IOV)))
			walk->readable = 0;
		walk->segments = segments;
	} else if (call->payload == PAYLOAD_MMSGHDR) {
		walk->messages = call->memory;
		walk->message_left = 0;
	}
#endif
}

/* Move to the first segment that is not empty. */
static __always_inline void skip_empty_segments(volatile struct walk *walk)
{
#pragma clang loop unroll(disable)
	for (int i = 0; i < LEADING_MAX; i++) {
		if (walk->left || !walk->readable)
			break;
		if (next_segment(walk))
			walk->readable = 0;
	}
}

/* The data of a call that its events share. */
struct chunk {
	u64 task;       /* see current_task() */
	u64 id;         /* see get_current_pid_tgid() */
	u64 start_time; /* of the thread group leader */
	u64 direction;
	u64 position;
};

/* Fill in the parts of an event that do not depend on which of the call's bytes it has. */
static __always_inline void describe(struct event *event, struct chunk *chunk,
				     struct connection *connection, struct call *call)
{
	event->kind = EVENT_CHUNK;
	event->direction = chunk->direction;
	event->syscall = syscall_of(call, chunk->task);
	event->time = now();
	event->socket = connection->inode;
	event->position = chunk->position;
	event->pid = chunk->id >> 32;
	event->tid = chunk->id;
	event->start_time = chunk->start_time;
	read_comm(event->comm, chunk->task);
	name_ends(event, &connection->ends);
	event->sequence = 0;
	if (call->tcp)
		event->sequence = connection->sequence[chunk->direction] - call->size -
				  (u32)chunk->position;
}

/*
 * Whether a connection already has its share of a ring that is nearly full: a sixteenth of the
 * room that is left. The share shrinks with the room, so connections that move data faster than
 * user space reads it lose their own records, and leave room for the others. (A switch shares
 * its buffer among ports this way: Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998.)
 * A call is never cut: it may exceed the share.
 */
static __always_inline int exceeds_share(struct connection *connection, u32 size)
{
#ifdef HAS_RING_BUFFER
	u64 room = RING_BYTES - ringbuf_query(MAP(events), BPF_RB_AVAIL_DATA);

	if (room > RING_BYTES / 4) {
		connection->taken = 0;
		return 0;
	}
	if (connection->taken > room / 16)
		return 1;
	connection->taken += EVENT_HEADER + size;
#endif
	return 0;
}

#ifdef HAS_RING_BUFFER
/*
 * The address of a call's bytes, if they are one range that fits into an event; else 0. (A
 * range that fits is shorter than CALL_LIMIT.)
 */
static __always_inline u64 range_of(struct call *call)
{
	if (call->size > PAYLOAD_MAX)
		return 0;
	if (call->flat)
		return call->flat;
	if (!call->memory)
		return 0;
#ifdef ROUTE_SOCKET
	return flat_data(call->memory, call->size);
#else
	return call->payload == PAYLOAD_FLAT && !call->discarded ? call->memory : 0;
#endif
}

/* Deliver a call's bytes, at `range`, as one chunk. */
static __always_inline void forward_in_place(struct chunk *chunk, struct connection *connection,
					     struct call *call, struct counters *counters, u64 range)
{
	u64 direction = chunk->direction;
	u64 size = call->size;
	u64 room = room_for(size);
	struct event *event = reserve(room);
	u8 flags = connection->flags;

	if (!event) {
		connection->after_loss[direction] = 1;
		count(&counters->lost[LOST_RING_FULL], size);
		return;
	}
	if (connection->after_loss[direction])
		flags |= FLAG_AFTER_LOSS;
	connection->after_loss[direction] = 0;
	describe(event, chunk, connection, call);
	event->size = size;
	SHOW_BOUND(size, PAYLOAD_MAX);
	if (size > room || probe_read_user(event->payload, size, (void *)range)) {
		event->captured = 0;
		event->flags = flags | FLAG_UNREADABLE;
		count(&counters->lost[LOST_UNREADABLE], call->size);
	} else {
		event->captured = size;
		event->flags = flags;
		count(&counters->forwarded, call->size);
	}
	submit(event, room);
}
#endif

/* Copy all bytes of a call into an event's payload. Returns -1 if that is not possible at once. */
static __always_inline int copy_call(struct event *event, struct call *call)
{
	if (call->flat)
		return copy_range(event, call->flat, call->size);
#ifdef ROUTE_SOCKET
	return call->memory ? copy_at_once(event, call->memory, call->size) : -1;
#else
	return call->payload == PAYLOAD_FLAT && !call->discarded ?
		       copy_range(event, call->memory, call->size) : -1;
#endif
}

/* Deliver a call as one chunk, with `captured` of its bytes. Returns 0 if there was room. */
static __always_inline int
deliver_call(struct event *event, struct connection *connection, struct call *call,
	     u64 direction, u32 captured, u8 flags)
{
	event->size = call->size;
	event->captured = captured;
	event->flags = connection->flags | before_event(connection, direction) | flags;
	if (connection->after_loss[direction])
		event->flags |= FLAG_AFTER_LOSS;
	connection->after_loss[direction] = deliver(call, event) != 0;
	return connection->after_loss[direction];
}

/* Deliver the end of a direction. `name`: the socket's inode, or a stream of TLS. */
static __always_inline void deliver_end(struct call *call, struct event *event, u64 name,
					struct connection *connection, u8 direction, u8 flags)
{
	event->kind = EVENT_END;
	event->direction = direction;
	event->flags = connection->flags | flags | before_event(connection, direction);
	event->time = now();
	event->socket = name;
	event->position = connection->position[direction];
	event->size = 0;
	event->captured = 0;
	deliver(call, event);
}

/* Deliver a call's bytes as one chunk. Returns -1 if that is not possible. */
static __always_inline int
forward_at_once(struct event *event, struct connection *connection, struct call *call,
		u64 direction, struct counters *counters)
{
	if (copy_call(event, call))
		return -1;
	count(deliver_call(event, connection, call, direction, call->size, 0) ?
		      &counters->lost[LOST_RING_FULL] : &counters->forwarded,
	      call->size);
	return 0;
}

/* Deliver the bytes of one segment, or as many of them as one event takes. */
static __always_inline void
deliver_piece(struct workspace *work, struct connection *connection, struct call *call,
	      u64 direction)
{
	volatile struct walk *walk = &work->walk;
	struct event *event = &work->event;
	u64 piece = lesser(lesser(walk->left, walk->limit - walk->done), PAYLOAD_MAX);
	u64 is_continued = lesser(walk->done, 1);

	event->size = piece;
	event->captured = piece;
	u64 is_unreadable = is_negative(
		probe_read_user(event->payload, captured_of(event), (void *)walk->data));
	event->captured = piece - piece * is_unreadable;
	event->flags = connection->flags | before_event(connection, direction) |
		       connection->after_loss[direction] * FLAG_AFTER_LOSS |
		       is_continued * FLAG_CONTINUED | is_unreadable * FLAG_UNREADABLE;
	walk->unreadable += piece * is_unreadable;
	u64 is_lost = is_negative(deliver(call, event));
	connection->after_loss[direction] = is_lost;
	walk->lost += event->captured * is_lost; /* unreadable bytes already count as lost */
	event->position += piece;
	walk->data += piece;
	walk->left -= piece;
	walk->done += piece;
}

/* Deliver the call's bytes as chunks, segment by segment, and count them. */
static __always_inline void
forward_by_segment(struct workspace *work, struct connection *connection, struct call *call,
		   u64 direction, struct counters *counters)
{
	volatile struct walk *walk = &work->walk;
	struct event *event = &work->event;

	start_walk(walk, call);
#pragma clang loop unroll(disable)
	for (int i = 0; i < PIECES_MAX; i++) {
		if (!walk->readable || walk->done >= walk->limit)
			break;
		if (walk->left)
			deliver_piece(work, connection, call, direction);
		else if (next_segment(walk))
			walk->readable = 0;
	}

	u32 rest = call->size - walk->done;
	u32 beyond_limit = walk->readable ? rest : 0;
	if (rest) {
		/* Not copied: the rest only advances the position. */
		event->size = rest;
		event->captured = 0;
		event->flags = connection->flags | before_event(connection, direction) |
			       (beyond_limit ? FLAG_LIMIT : FLAG_UNREADABLE);
		if (deliver(call, event))
			connection->after_loss[direction] = 1;
	}

	u32 lost = walk->lost;
	u32 unreadable = walk->unreadable + rest - beyond_limit;
	if (call->discarded) {
		count(&counters->filtered[FILTERED_DISCARDED], call->size);
		return;
	}
	counters->filtered[FILTERED_CALL_LIMIT].bytes += beyond_limit;
	counters->lost[LOST_RING_FULL].bytes += lost;
	counters->lost[LOST_UNREADABLE].bytes += unreadable;
	counters->forwarded.bytes += call->size - lost - unreadable - beyond_limit;
	if (lost)
		counters->lost[LOST_RING_FULL].calls++;
	else if (unreadable)
		counters->lost[LOST_UNREADABLE].calls++;
	else
		counters->forwarded.calls++;
}

/*
 * Classify an undecided connection by this call. Returns whether to forward the call's
 * bytes.
 */
static __always_inline int
is_wanted(struct connection *connection, struct call *call, u64 direction)
{
	struct workspace *work = workspace_of(call);
	if (!work)
		return 0;
	volatile struct walk *walk = &work->walk;

	start_walk(walk, call);
	skip_empty_segments(walk);
	if (!walk->readable) {
		/* The beginning of this connection was not seen. */
		connection->flags |= FLAG_JOINED;
		return 0;
	}
	u8 verdict = classify(connection, direction, walk->data, walk->left, call->size);
	/* Only the first segment was classified: user space must examine the others. */
	if (verdict == VERDICT_OPEN && walk->left < call->size)
		connection->verdict = VERDICT_HTTP;
	return verdict != VERDICT_OTHER;
}

#endif
