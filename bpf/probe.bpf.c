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
 * Where a call is worked on: one for each direction and CPU, for the same reason
 * as the counters; the third is for closing.
 */
struct workspace {
	struct walk walk;
	struct event event;
};

#define WORKSPACE_CLOSE 2
BPF_PERCPU_ARRAY(workspaces, struct workspace, 3);

/* One finished call. */
struct call {
	u64 sk;
	u64 memory;   /* socket route: struct msghdr of the kernel; syscall route: the pointer argument */
	u64 inode;    /* the socket's when the call began, or 0: take it now */
	s32 syscall;
	u32 size;     /* bytes moved */
	u32 msg_flags;
	u8 direction;
	u8 payload;   /* syscall route: what `memory` is */
	u16 unused;
};

/* What the pointer argument of a system call is. */
enum payload {
	PAYLOAD_FLAT,
	PAYLOAD_IOVEC,
	PAYLOAD_MSGHDR,
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

/* Deliver the bytes of one segment, or as many of them as one event takes. */
static __always_inline void
deliver_piece(struct workspace *work, struct connection *connection, u64 direction, u32 limit)
{
	volatile struct walk *walk = &work->walk;
	struct event *event = &work->event;
	u64 piece = limit - walk->done;

	if (piece > walk->left)
		piece = walk->left;
	if (piece > PAYLOAD_MAX)
		piece = PAYLOAD_MAX;
	event->size = piece;
	event->captured = piece;
	event->flags = connection->flags | (walk->done ? FLAG_CONTINUED : 0);
	if (connection->after_loss[direction])
		event->flags |= FLAG_AFTER_LOSS;
	if (bpf_probe_read_user(event->payload, captured_of(event), (void *)walk->data)) {
		event->captured = 0;
		event->flags |= FLAG_UNREADABLE;
		walk->unreadable += piece;
	}
	connection->after_loss[direction] = 0;
	if (deliver(event)) {
		connection->after_loss[direction] = 1;
		if (event->captured) /* else it is lost already */
			walk->lost += piece;
	}
	event->position += piece;
	walk->data += piece;
	walk->left -= piece;
	walk->done += piece;
}

/* Deliver the call's bytes as chunks, and tally them. */
static __always_inline void
forward(struct workspace *work, struct connection *connection, struct call *call, u64 direction,
	struct counters *counters)
{
	volatile struct walk *walk = &work->walk;
	struct event *event = &work->event;
	u32 limit = call->size < CALL_LIMIT ? call->size : CALL_LIMIT;

#pragma clang loop unroll(disable)
	for (int i = 0; i < PIECES_MAX; i++) {
		if (!walk->readable || walk->done >= limit)
			break;
		if (walk->left)
			deliver_piece(work, connection, direction, limit);
		else if (next_segment(walk))
			walk->readable = 0;
	}

	u32 rest = call->size - walk->done;
	u32 beyond_limit = walk->readable ? rest : 0;
	if (rest) {
		/* Not copied: the stream moves on by what is left. */
		event->size = rest;
		event->captured = 0;
		event->flags = connection->flags | (beyond_limit ? FLAG_LIMIT : FLAG_UNREADABLE);
		if (deliver(event))
			connection->after_loss[direction] = 1;
	}

	u32 lost = walk->lost;
	u32 unreadable = walk->unreadable + rest - beyond_limit;
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
 * Judge a connection that is not decided yet by this call. Returns whether its
 * bytes are to be forwarded.
 */
static __always_inline int
is_wanted(struct connection *connection, volatile struct walk *walk, u64 direction, u32 size)
{
	/* An empty leading segment says nothing about the protocol. */
#pragma clang loop unroll(disable)
	for (int i = 0; i < LEADING_MAX; i++) {
		if (walk->left || !walk->readable)
			break;
		if (next_segment(walk))
			walk->readable = 0;
	}
	if (!walk->readable)
		return 0;
	u8 verdict = classify(connection, direction, walk->data, walk->left);
	/* Only the first segment was judged: user space has to look at the others. */
	if (verdict == VERDICT_OPEN && walk->left < size)
		connection->verdict = VERDICT_HTTP;
	return verdict != VERDICT_OTHER;
}

/* Stand at the first byte of a call. */
static __always_inline void start_walk(volatile struct walk *walk, struct call *call)
{
	walk->left = 0;
	walk->done = 0;
	walk->lost = 0;
	walk->unreadable = 0;
#ifdef ROUTE_SOCKET
	walk->readable = walk_back(walk, call->memory, call->size) == 0;
#else
	walk->readable = 1;
	walk->segments = call->memory;
	if (call->payload == PAYLOAD_FLAT) {
		walk->data = call->memory;
		walk->left = call->size;
	} else if (call->payload == PAYLOAD_MSGHDR) {
		/* struct user_msghdr: msg_name, msg_namelen, then msg_iov */
		u64 segments = 0;
		if (bpf_probe_read_user(&segments, sizeof(segments), (void *)(call->memory + 16)))
			walk->readable = 0;
		walk->segments = segments;
	}
#endif
}

static __always_inline void move_data(struct call *call)
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
	struct workspace *work = workspaces.lookup(&slot);
	if (!work)
		return;
	start_walk(&work->walk, call);
	if (connection->verdict == VERDICT_OPEN &&
	    !is_wanted(connection, &work->walk, direction, call->size)) {
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		return;
	}

	struct event *event = &work->event;
	event->kind = EVENT_CHUNK;
	event->direction = direction;
	event->syscall = call->syscall;
	event->time = bpf_ktime_get_ns();
	event->socket = inode;
	event->position = position;
	describe_task(event);
	describe_socket(event, call->sk);
	connection->forwarded = 1;
	forward(work, connection, call, direction, counters);
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
	struct workspace *work = workspaces.lookup(&slot);
	if (work)
		deliver_end(&work->event, inode, connection, DIRECTION_RECV);
}

/* The last descriptor of a socket was closed. */
static __always_inline void close_socket(u64 sk)
{
	u64 inode = socket_inode(sk);
	struct connection *connection = connections.lookup(&inode);
	if (!connection)
		return;
	u32 slot = WORKSPACE_CLOSE;
	struct workspace *work = workspaces.lookup(&slot);
	if (work && connection->forwarded) {
		deliver_end(&work->event, inode, connection, DIRECTION_SEND);
		deliver_end(&work->event, inode, connection, DIRECTION_RECV);
	}
	connections.delete(&inode);
}

#ifdef ROUTE_SOCKET
static __always_inline int
leave_function(u64 sk, u64 msg, u32 msg_flags, s64 result, u8 direction)
{
	if (result == 0 && direction == DIRECTION_RECV && !(msg_flags & MSG_NOT_STREAM))
		meet_end(sk);
	if (result <= 0)
		return 0;
	struct call call = {
		.sk = sk,
		.memory = msg,
		.syscall = current_syscall(),
		.size = result,
		.msg_flags = msg_flags,
		.direction = direction,
	};
	move_data(&call);
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
		.memory = pending_call.pointer,
		.inode = pending_call.inode,
		.syscall = ctx->number,
		.size = result,
		.msg_flags = pending_call.msg_flags,
		.direction = pending_call.direction,
		.payload = pending_call.payload,
	};
	move_data(&call);
	return 0;
}
#endif
