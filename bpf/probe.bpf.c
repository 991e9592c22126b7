// SPDX-License-Identifier: GPL-2.0-only
/*
 * The probe: what happens to one finished call that moved bytes over a TCP
 * socket. Both routes end in move_data(); they differ in how they learn of the
 * call and where its memory is.
 *
 * profiler/probe/generate.py puts before this file: ROUTE_SOCKET or
 * ROUTE_SYSCALL, the offsets, the settings, and FILTER_PID / FILTER_PORT; and
 * after it the entry points for the rows of hooks.toml.
 */
#include "event.h"
#include "kernel.h"
#include "counters.h"
#include "socket.h"
#include "payload.h"
#include "connection.h"

BPF_RINGBUF_OUTPUT(events, RING_PAGES);

/*
 * Where an event is put together: one for each direction and CPU, for the same
 * reason as the counters; the third is for closing.
 */
#define SCRATCH_CLOSE 2
BPF_PERCPU_ARRAY(scratch, struct event, 3);

/* One finished call. */
struct call {
	u64 sk;
	u64 inode;    /* the socket's when the call began, or 0: take it now */
	s32 syscall;
	u32 size;     /* bytes moved */
	u8 direction;
	u8 readable;  /* the walk stands at the first byte */
	u16 unused;
	u32 msg_flags;
};

static __always_inline void describe_task(struct event *event)
{
	u64 id = bpf_get_current_pid_tgid();
	u64 leader = TASK_FIELD(u64, current_task(), task_struct_group_leader);

	event->pid = id >> 32;
	event->tid = id;
	event->start_time = TASK_FIELD(u64, leader, task_struct_start_boottime);
	bpf_get_current_comm(event->comm, sizeof(event->comm));
}

/*
 * How much payload an event has, at most PAYLOAD_MAX. Taken back from memory so
 * that the verifier need not trace where it came from: it would follow it through
 * every turn of the loop in forward() and give up.
 */
static __always_inline u64 captured_of(struct event *event)
{
	return *(volatile u32 *)&event->captured & PAYLOAD_MAX;
}

/* Put the event into the ring buffer. Returns 0 if there was room. */
static __always_inline int deliver(struct event *event)
{
	return events.ringbuf_output(event, EVENT_HEADER + captured_of(event), 0);
}

/* Deliver the call's bytes as chunks, and tally them. */
static __always_inline void
forward(struct event *event, struct connection *connection, struct call *call,
	struct walk *walk, struct counters *counters)
{
	u64 direction = call->direction & 1;
	u32 done = 0;
	u32 lost = 0;
	u32 unreadable = 0;
	u32 limit = call->size < CALL_LIMIT ? call->size : CALL_LIMIT;

	if (!call->readable)
		limit = 0;
	for (int i = 0; i < PIECES_MAX; i++) {
		if (done >= limit)
			break;
		if (!walk->left) {
			if (next_segment(walk)) {
				call->readable = 0;
				break;
			}
			continue;
		}
		u64 piece = limit - done;
		if (piece > walk->left)
			piece = walk->left;
		if (piece > PAYLOAD_MAX)
			piece = PAYLOAD_MAX;

		event->size = piece;
		event->captured = piece;
		event->flags = connection->flags;
		if (connection->after_loss[direction])
			event->flags |= FLAG_AFTER_LOSS;
		if (bpf_probe_read_user(event->payload, captured_of(event),
					(void *)walk->data)) {
			event->captured = 0;
			event->flags |= FLAG_UNREADABLE;
			unreadable += piece;
		}
		if (deliver(event)) {
			/* Unreadable and undelivered is lost once. */
			if (event->captured)
				lost += piece;
			connection->after_loss[direction] = 1;
		} else {
			connection->after_loss[direction] = 0;
		}
		event->position += piece;
		walk->data += piece;
		walk->left -= piece;
		done += piece;
	}

	u32 rest = call->size - done;
	if (rest) {
		/* Not copied: the stream moves on by what is left. */
		event->size = rest;
		event->captured = 0;
		event->flags = connection->flags | (call->readable ? FLAG_LIMIT : FLAG_UNREADABLE);
		if (deliver(event))
			connection->after_loss[direction] = 1;
		if (call->readable)
			counters->filtered[FILTERED_CALL_LIMIT].bytes += rest;
		else
			unreadable += rest;
	}

	counters->lost[LOST_RING_FULL].bytes += lost;
	counters->lost[LOST_UNREADABLE].bytes += unreadable;
	counters->forwarded.bytes += call->size - lost - unreadable -
				     (call->readable ? rest : 0);
	if (lost)
		counters->lost[LOST_RING_FULL].calls++;
	else if (unreadable)
		counters->lost[LOST_UNREADABLE].calls++;
	else
		counters->forwarded.calls++;
}

static __always_inline void move_data(struct call *call, struct walk *walk)
{
	u64 direction = call->direction & 1;
	u32 slot = direction;
	struct counters *counters = account.lookup(&slot);
	if (!counters)
		return;
	count(&counters->seen, call->size);

	u32 pid = bpf_get_current_pid_tgid() >> 32;
	if (pid == SELF_PID) {
		count(&counters->filtered[FILTERED_SELF], call->size);
		return;
	}
	if (!FILTER_PID(pid)) {
		count(&counters->filtered[FILTERED_PID], call->size);
		return;
	}
	if (!FILTER_PORT(local_port(call->sk), remote_port(call->sk))) {
		count(&counters->filtered[FILTERED_PORT], call->size);
		return;
	}
	if (call->msg_flags & MSG_NOT_STREAM) {
		count(&counters->filtered[FILTERED_NOT_STREAM], call->size);
		return;
	}

	u64 inode = socket_inode(call->sk);
	if (!inode || (call->inode && call->inode != inode)) {
		count(&counters->lost[LOST_NO_SOCKET], call->size);
		return;
	}
	struct connection *connection =
		find_connection(inode, call->sk, direction, call->size);
	if (!connection) {
		count(&counters->lost[LOST_TABLE_FULL], call->size);
		return;
	}

	u64 position = connection->position[direction];
	connection->position[direction] = position + call->size;
	if (connection->verdict == VERDICT_OTHER) {
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		return;
	}
	if (connection->verdict == VERDICT_OPEN) {
		/* An empty leading segment says nothing about the protocol. */
		for (int i = 0; i < 4; i++) {
			if (walk->left || !call->readable || next_segment(walk))
				break;
		}
		u8 verdict = VERDICT_OTHER;
		if (call->readable)
			verdict = classify(connection, direction, walk->data, walk->left);
		if (verdict == VERDICT_OTHER) {
			count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
			return;
		}
		/* Only the first segment was judged: user space has to look at the others. */
		if (verdict == VERDICT_OPEN && walk->left < call->size)
			connection->verdict = VERDICT_HTTP;
	}

	struct event *event = scratch.lookup(&slot);
	if (!event)
		return;
	event->kind = EVENT_CHUNK;
	event->direction = direction;
	event->syscall = call->syscall;
	event->time = bpf_ktime_get_ns();
	event->socket = inode;
	event->position = position;
	describe_task(event);
	describe_socket(event, call->sk);
	connection->forwarded = 1;
	forward(event, connection, call, walk, counters);
}

static __always_inline void
deliver_end(struct event *event, u64 inode, struct connection *connection, u8 direction)
{
	event->kind = EVENT_END;
	event->direction = direction;
	event->flags = connection->flags;
	event->time = bpf_ktime_get_ns();
	event->socket = inode;
	event->position = connection->position[direction];
	event->size = 0;
	event->captured = 0;
	deliver(event);
}

/* TCP_* states in which the peer has said that it sends no more (its FIN has come, or a reset). */
#define STATE_BIT(state) (1 << (state))
#define STATES_AFTER_FIN \
	(STATE_BIT(6) | STATE_BIT(7) | STATE_BIT(8) | STATE_BIT(9) | STATE_BIT(11))

/* A receiving call returned 0: the end of the stream, unless it asked for no bytes. */
static __always_inline void meet_end(u64 sk)
{
	if (!(STATES_AFTER_FIN & STATE_BIT(FIELD(u8, sk, sock___sk_common_skc_state))))
		return;
	u64 inode = socket_inode(sk);
	struct connection *connection = connections.lookup(&inode);
	if (!connection || !connection->forwarded)
		return;
	u32 slot = DIRECTION_RECV;
	struct event *event = scratch.lookup(&slot);
	if (event)
		deliver_end(event, inode, connection, DIRECTION_RECV);
}

/* The last descriptor of a socket was closed. */
static __always_inline void close_socket(u64 sk)
{
	u64 inode = socket_inode(sk);
	struct connection *connection = connections.lookup(&inode);
	if (!connection)
		return;
	u32 slot = SCRATCH_CLOSE;
	struct event *event = scratch.lookup(&slot);
	if (event && connection->forwarded) {
		deliver_end(event, inode, connection, DIRECTION_SEND);
		deliver_end(event, inode, connection, DIRECTION_RECV);
	}
	connections.delete(&inode);
}

#ifdef ROUTE_SOCKET
static __always_inline int
leave_function(u64 sk, u64 msg, u32 msg_flags, s64 result, u8 direction)
{
	struct call call = {.sk = sk, .direction = direction, .msg_flags = msg_flags};
	struct walk walk = {};

	if (result == 0 && direction == DIRECTION_RECV && !(msg_flags & MSG_NOT_STREAM))
		meet_end(sk);
	if (result <= 0)
		return 0;
	call.size = result;
	call.syscall = current_syscall();
	call.readable = walk_back(&walk, msg, call.size) == 0;
	move_data(&call, &walk);
	return 0;
}
#endif

#ifdef ROUTE_SYSCALL
/* A call in progress, from entry to exit, by thread. */
struct pending {
	u64 sk;
	u64 inode;
	u64 pointer;
	u32 msg_flags;
	u8 direction;
	u8 payload;
};

enum payload {
	PAYLOAD_FLAT,
	PAYLOAD_IOVEC,
	PAYLOAD_MSGHDR,
};

BPF_HASH(pending, u64, struct pending, 65536);

/* The context of the tracepoints syscalls:sys_enter_* and syscalls:sys_exit_*. */
struct sys_enter {
	u64 common;
	s64 number;
	u64 arguments[6];
};

struct sys_exit {
	u64 common;
	s64 number;
	s64 result;
};

static __always_inline int enter_syscall(struct pending *call, u64 fd)
{
	u64 id = bpf_get_current_pid_tgid();

	call->sk = tcp_socket_of(fd);
	if (!call->sk)
		return 0;
	call->inode = socket_inode(call->sk);
	if (pending.update(&id, call)) {
		/* How much it will move is not known yet: the call is counted, its bytes cannot be. */
		u32 direction = call->direction & 1;
		struct counters *counters = account.lookup(&direction);
		if (counters) {
			counters->seen.calls++;
			counters->lost[LOST_TABLE_FULL].calls++;
		}
	}
	return 0;
}

int leave_syscall(struct sys_exit *ctx)
{
	u64 id = bpf_get_current_pid_tgid();
	struct pending *found = pending.lookup(&id);
	if (!found)
		return 0;
	struct pending pending_call = *found;
	pending.delete(&id);

	s64 result = ctx->result;
	if (result == 0 && pending_call.direction == DIRECTION_RECV)
		meet_end(pending_call.sk);
	if (result <= 0)
		return 0;

	struct call call = {
		.sk = pending_call.sk,
		.inode = pending_call.inode,
		.syscall = ctx->number,
		.size = result,
		.direction = pending_call.direction,
		.msg_flags = pending_call.msg_flags,
		.readable = 1,
	};
	struct walk walk = {.segments = pending_call.pointer};

	if (pending_call.payload == PAYLOAD_FLAT) {
		walk.data = pending_call.pointer;
		walk.left = result;
	} else if (pending_call.payload == PAYLOAD_MSGHDR) {
		/* struct user_msghdr: msg_name, msg_namelen, then msg_iov */
		call.readable = bpf_probe_read_user(&walk.segments, sizeof(walk.segments),
						    (void *)(pending_call.pointer + 16)) == 0;
	}
	move_data(&call, &walk);
	return 0;
}
#endif
