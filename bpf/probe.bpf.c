// SPDX-License-Identifier: GPL-2.0-only
/*
 * The probe: processes one finished call that moved bytes of a stream socket. Both routes end
 * in move_data(); they differ in how they get the call and where its memory is.
 *
 * profiler/ingest/probe/generate.py prepends ROUTE_SOCKET or ROUTE_SYSCALL, the offsets, the
 * settings, and WANTED_* for filter.h; it appends the entry points for the rows of
 * hooks.toml.
 */
#include "counters.h"
#include "filter.h"
#include "introduce.h"
#include "forward.h"
#include "body.h"
#include "tls.h"

/*
 * A filtered process moved bytes of a socket that it may share with a wanted process. They
 * leave a hole in the stream, but not one that the kernel made.
 */
static __always_inline void pass_over(struct call *call, u64 direction)
{
	u64 inode = socket_inode(call->socket);
	struct connection *connection = known_connection(inode);

	if (!connection || connection->verdict == VERDICT_OTHER)
		return;
	missed_before(connection, call->tcp, direction, call->size);
	fetch_and_add(&connection->position[direction], call->size);
	connection->after_loss[direction] = 1;
	lose_messages(connection);
}

/* Whether a call is filtered, and why; else FILTERED_REASONS. */
static __always_inline u32 why_filtered(struct call *call, u32 pid, u64 inode)
{
	if (is_own(pid))
		return FILTERED_SELF;
	u32 why = why_not_asked_for(call->sk, pid);
	if (why < FILTERED_REASONS)
		return why;
	if (call->msg_flags & MSG_NOT_STREAM)
		return FILTERED_NOT_STREAM;
	if (!inode && !call->inode)
		return FILTERED_KERNEL;
	return FILTERED_REASONS;
}

/*
 * A call moved bytes of a connection: forward them if they are wanted. `missed`: see
 * missed_before(). `is_plain_text`: the connection is a TLS session's stream.
 */
static __always_inline void
move_bytes(struct call *call, struct connection *connection, struct counters *counters, u64 task,
	   u64 id, s32 missed, int is_plain_text)
{
	u64 direction = call->direction & 1;
	u64 name = connection->inode;
	u64 leader = TASK_FIELD(u64, task, task_struct_group_leader);
	u64 position = fetch_and_add(&connection->position[direction], call->size);
#ifdef MAX_BODY
	if (is_beyond_limit(connection, direction, position, call->size) &&
	    position + call->size < connection->next[direction]) {
		count(&counters->filtered[FILTERED_MAX_BODY], call->size);
		connection->passed_over[direction] = 1;
		return;
	}
#endif
	if (!is_plain_text && direction == DIRECTION_RECV && call->msg_flags & MSG_TRUNC &&
	    is_tcp(call->sk)) {
		call->discarded = 1;
		call->memory = 0;
		call->flat = 0;
	}
	if (connection->verdict == VERDICT_OPEN &&
	    (is_rejected(connection, direction) || !is_wanted(connection, call, direction))) {
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		/* If this direction is processed again, it has a hole here. */
		connection->after_loss[direction] = connection->forwarded;
		if (!is_plain_text)
			report_handshake(call, connection, direction, leader, id >> 32);
		return;
	}
	if (is_ignored(name)) {
		connection->verdict = VERDICT_OTHER;
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		return;
	}
#ifdef MAX_BODY
	/* Read again: a value kept from above would double the verifier's paths. */
	int is_unwanted = is_beyond_limit(connection, direction, position, call->size);
#else
	int is_unwanted = 0;
#endif
	if (is_unwanted) {
		count(&counters->filtered[FILTERED_MAX_BODY], call->size);
	} else if (exceeds_share(connection, call->size)) {
		count(&counters->lost[LOST_SHARE], call->size);
		connection->after_loss[direction] = 1;
		lose_messages(connection);
		return;
	}

	u64 start_time = TASK_FIELD(u64, leader, start_time);
	introduce_process(call, connection, leader, start_time, id >> 32);
	if (is_plain_text) {
		introduce_stream(call, (struct tls_stream *)connection);
	} else {
		/* If TCP continues at the same position, its ends are unchanged. */
		if (missed || !connection->ends.family)
			find_ends(&connection->ends, call->sk);
		introduce_socket(call, connection, name);
	}

	connection->forwarded = 1;
	struct chunk chunk = {
		.task = task,
		.id = id,
		.start_time = start_time,
		.direction = direction,
		.position = position,
	};
#if defined(HAS_RING_BUFFER) && !defined(MAX_BODY)
	u64 range = range_of(call);
	if (range) {
		forward_in_place(&chunk, connection, call, counters, range);
		return;
	}
#endif
	struct workspace *work = workspace_of(call);
	if (!work)
		return;
	struct event *event = &work->event;
	describe(event, &chunk, connection, call);
#ifdef MAX_BODY
	if (is_unwanted) {
		/* This call ends the body: user space must learn of that, but not get the bytes. */
		deliver_call(event, connection, call, direction, 0, FLAG_LIMIT);
		return;
	}
	follow_messages(connection, work, call, direction, position);
	if (work->head.ready) {
		forward_ready(connection, work, call, direction, counters);
		return;
	}
#endif
	if (forward_at_once(event, connection, call, direction, counters))
		forward_by_segment(work, connection, call, direction, counters);
}

static __always_inline void move_data(struct call *call)
{
	u64 direction = call->direction & 1;
	struct counters *counters = counters_of(call->slot, direction);
	if (!counters)
		return;
	u64 task = current_task();
	u64 id = current_id(task);
	u32 pid = id >> 32;
	u64 inode = socket_inode(call->socket);
	u32 why = why_filtered(call, pid, inode);

	if (call->look == LOOK_SECOND) {
		struct connection *known = known_connection(inode);
		/* The first program has already counted filtered calls that it saw. */
		if (why != FILTERED_REASONS ||
		    (known && (known->verdict == VERDICT_OTHER ||
			       was_looked_at(known, call->tcp, direction, id, call->size))))
			return;
	}
	count(&counters->seen, call->size);
	if (why < FILTERED_REASONS) {
		count(&counters->filtered[why], call->size);
		if (is_about_process(why))
			pass_over(call, direction);
		return;
	}
	if (call->inode && call->inode != inode) {
		count(&counters->lost[LOST_NO_SOCKET], call->size);
		return;
	}
	struct connection *connection =
		find_connection(inode, call->sk, call->tcp, direction, call->size);
	if (!connection) {
		count(&counters->lost[LOST_TABLE_FULL], call->size);
		return;
	}

	if (connection->verdict == VERDICT_OTHER) {
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		return;
	}
	if (call->look == LOOK_FIRST)
		connection->looked[direction] = id;
	s32 missed = missed_before(connection, call->tcp, direction, call->size);
	if (missed > 1)
		miss(connection, counters, direction, missed);
	move_bytes(call, connection, counters, task, id, missed, 0);
}

/* A receiving call returned 0: the end of the stream, unless it requested no bytes. */
static __always_inline void meet_end(struct call *call)
{
	if (call->msg_flags & MSG_NOT_STREAM ||
	    !(FIELD(u8, call->sk, sock_sk_shutdown) & RCV_SHUTDOWN))
		return;
	if (call->look != LOOK_SECOND)
		meet_end_of_session(call);
	u64 inode = socket_inode(call->socket);
	struct connection *connection = known_connection(inode);
	if (!connection || !connection->forwarded)
		return;
	u32 thread = get_current_pid_tgid();
	if (call->look == LOOK_SECOND && connection->looked[DIRECTION_RECV] == thread) {
		connection->looked[DIRECTION_RECV] = 0;
		return;
	}
	if (call->look == LOOK_FIRST)
		connection->looked[DIRECTION_RECV] = thread;
	struct workspace *work = workspace_of(call);
	if (work)
		deliver_end(call, &work->event, inode, connection, DIRECTION_RECV, 0);
}

/*
 * A call failed because the peer is gone. The kernel reports it once, then clears it.
 * (A write after this end's own shutdown(2) gets EPIPE, too.)
 */
static __always_inline void meet_reset(struct call *call, s64 result)
{
	if (result == -EPIPE &&
	    FIELD(u8, call->sk, sock___sk_common_skc_state) != TCP_CLOSE)
		return;
	u64 inode = socket_inode(call->socket);
	end_bound_stream(call, inode, FLAG_RESET);
	struct connection *connection = known_connection(inode);
	if (!connection || !connection->forwarded)
		return;
	struct workspace *work = workspace_of(call);
	if (!work)
		return;
	deliver_end(call, &work->event, inode, connection, DIRECTION_SEND, FLAG_RESET);
	deliver_end(call, &work->event, inode, connection, DIRECTION_RECV, FLAG_RESET);
}

/* A call returned. */
static __always_inline void finish_call(struct call *call, s64 result)
{
	if (result > 0) {
		call->size = result;
		if (call->look != LOOK_SECOND)
			compare_record(call);
		move_data(call);
	} else if (result == 0 && call->direction == DIRECTION_RECV) {
		meet_end(call);
	} else if (call->look != LOOK_SECOND && (result == -ECONNRESET || result == -EPIPE)) {
		meet_reset(call, result);
	}
}

/* The last descriptor of a socket was closed. */
static __always_inline void close_socket(void *context, u64 socket, u32 slot)
{
	struct call call = { .context = context, .slot = slot };
	u64 inode = socket_inode(CAST(socket, socket));
	u8 flags = 0;

	if (READ_KERNEL(u32, get_current_task() + OFFSET_task_struct_flags) & PF_EXITING)
		flags = FLAG_EXIT;
	end_bound_stream(&call, inode, flags);
	struct connection *connection = known_connection(inode);
	if (!connection)
		return;
	struct workspace *work = workspace_of(&call);
	if (work && connection->forwarded) {
		deliver_end(&call, &work->event, inode, connection, DIRECTION_SEND, flags);
		deliver_end(&call, &work->event, inode, connection, DIRECTION_RECV, flags);
	}
	forget_connection(connection, inode);
}

/*
 * A Unix socket is being connected: all its bytes will be seen from here on. It may not have
 * a file yet, but its inode exists beside it.
 */
static __always_inline void open_socket(u64 socket)
{
	u64 inode = inode_beside(socket);

	if (inode)
		remember_connection(inode, known_connection(inode));
}

#include "route_socket.h"
#include "route_syscall.h"
#include "route_tls.h"
