// SPDX-License-Identifier: GPL-2.0-only
/*
 * The probe: what happens to one finished call that moved bytes over a stream
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

#ifdef HAS_RING_BUFFER
BPF_RINGBUF_OUTPUT(events, RING_PAGES);
#else
BPF_PERF_OUTPUT(events);
#endif

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
	u64 socket;   /* struct socket of the kernel */
	u64 sk;       /* its struct sock */
	u64 memory;   /* socket route: struct msghdr of the kernel; syscall route: the pointer argument; 0: not readable */
	u64 inode;    /* the socket's when the call began, or 0: take it now */
	s32 syscall;
	u32 size;     /* bytes moved */
	u32 msg_flags;
	u8 direction;
	u8 payload;   /* syscall route: what `memory` is */
	u16 discarded; /* the bytes left the stream, but nobody got them */
	void *context; /* the program's, for the perf buffer */
};

/* What the pointer argument of a system call is. */
enum payload {
	PAYLOAD_FLAT,
	PAYLOAD_IOVEC,
	PAYLOAD_MSGHDR,
	PAYLOAD_MMSGHDR,
	PAYLOAD_NONE, /* pages of a file or a pipe */
};

/*
 * How much payload an event has, at most PAYLOAD_MAX. Taken back from memory so
 * that the verifier need not trace where it came from: it would follow it through
 * every turn of the loop in forward() and give up.
 */
static __always_inline u64 captured_of(struct event *event)
{
	return *(volatile u32 *)&event->captured & PAYLOAD_MAX;
}

/* Hand a record to user space. Returns 0 if there was room. */
static __always_inline int output(struct call *call, void *record, u64 size)
{
#ifdef HAS_RING_BUFFER
	return events.ringbuf_output(record, size, 0);
#else
	return events.perf_submit(call->context, record, size);
#endif
}

static __always_inline int deliver(struct call *call, struct event *event)
{
	return output(call, event, EVENT_HEADER + captured_of(event));
}

/* Deliver the bytes of one segment, or as many of them as one event takes. */
static __always_inline void
deliver_piece(struct workspace *work, struct connection *connection, struct call *call,
	      u64 direction, u32 limit)
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
	if (deliver(call, event)) {
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
			deliver_piece(work, connection, call, direction, limit);
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
	if (!walk->readable) {
		/* Nobody knows how this connection began. */
		connection->flags |= FLAG_JOINED;
		return 0;
	}
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
	walk->messages = 0;
	walk->message_left = call->size;
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
		if (bpf_probe_read_user(&segments, sizeof(segments), (void *)(call->memory + MSGHDR_IOV)))
			walk->readable = 0;
		walk->segments = segments;
	} else if (call->payload == PAYLOAD_MMSGHDR) {
		walk->messages = call->memory;
		walk->message_left = 0;
	}
#endif
}

/* Who the process is, as user space was last told. */
struct known_process {
	u64 start_time; /* another one: the pid was given to another process */
	u64 exec_id;    /* another one: the process runs another program */
};

BPF_TABLE("lru_hash", u32, struct known_process, processes, PROCESSES_MAX);

/* Tell user space of the current process, unless it knows: now, because later it may be gone. */
static __always_inline void
introduce_process(struct workspace *work, struct call *call, u64 leader, u64 start_time)
{
	u32 pid = bpf_get_current_pid_tgid() >> 32;
	struct known_process present = {
		.start_time = start_time,
		.exec_id = TASK_FIELD(u64, leader, task_struct_self_exec_id),
	};
	struct known_process *known = processes.lookup(&pid);
	if (known && known->start_time == start_time && known->exec_id == present.exec_id)
		return;

	struct process_event *event = (void *)&work->event;
	u64 mm = READ_KERNEL(u64, bpf_get_current_task() + OFFSET_task_struct_mm);
	u64 from = READ_KERNEL(u64, mm + OFFSET_mm_struct_arg_start);
	u64 size = READ_KERNEL(u64, mm + OFFSET_mm_struct_arg_end) - from;
	if (size > CMDLINE_MAX)
		size = CMDLINE_MAX;
	SHOW_BOUND(size, CMDLINE_MAX);
	if (bpf_probe_read_user(event->cmdline, size, (void *)from))
		size = 0;
	SHOW_BOUND(size, CMDLINE_MAX);
	event->kind = EVENT_PROCESS;
	event->unused[0] = event->unused[1] = event->unused[2] = 0;
	event->pid = pid;
	event->start_time = start_time;
	event->cgroup = bpf_get_current_cgroup_id();
	event->uid = bpf_get_current_uid_gid();
	event->size = size;
	/* Said again with the next event if there was no room for it now. */
	if (!output(call, event, PROCESS_HEADER + size))
		processes.update(&pid, &present);
}

/* Tell user space what a Unix connection's ends are called, unless it knows. */
static __always_inline void
introduce_socket(struct workspace *work, struct call *call, struct connection *connection, u64 inode)
{
	struct names_event *names = (void *)&work->event;

	if (connection->named ||
	    FIELD(u16, call->sk, sock___sk_common_skc_family) != AF_UNIX)
		return;
	name_socket(names, inode, call->sk);
	if (!output(call, names, sizeof(*names)))
		connection->named = 1;
}

static __always_inline void move_data(struct call *call)
{
	u64 direction = call->direction & 1;
	u32 slot = direction;
	struct counters *counters = account.lookup(&slot);
	if (!counters)
		return;
	count(&counters->seen, call->size);

	u64 id = bpf_get_current_pid_tgid();
	u32 pid = id >> 32;
	if (pid == SELF_PID) {
		count(&counters->filtered[FILTERED_SELF], call->size);
		return;
	}
	if (!FILTER_PID(pid)) {
		count(&counters->filtered[FILTERED_PID], call->size);
		return;
	}
	if (!FILTER_PORT(call->sk)) {
		count(&counters->filtered[FILTERED_PORT], call->size);
		return;
	}
	if (call->msg_flags & MSG_NOT_STREAM) {
		count(&counters->filtered[FILTERED_NOT_STREAM], call->size);
		return;
	}

	u64 inode = socket_inode(call->socket);
	if (!inode && !call->inode) {
		count(&counters->filtered[FILTERED_KERNEL], call->size);
		return;
	}
	if (call->inode && call->inode != inode) {
		count(&counters->lost[LOST_NO_SOCKET], call->size);
		return;
	}
	struct connection *connection =
		find_connection(inode, call->sk, direction, call->size);
	if (!connection) {
		count(&counters->lost[LOST_TABLE_FULL], call->size);
		return;
	}

	u64 position = fetch_and_add(&connection->position[direction], call->size);
	if (connection->verdict == VERDICT_OTHER) {
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		return;
	}
	struct workspace *work = workspaces.lookup(&slot);
	if (!work)
		return;
	if (direction == DIRECTION_RECV && call->msg_flags & MSG_TRUNC && is_tcp(call->sk)) {
		call->discarded = 1;
		call->memory = 0;
	}
	start_walk(&work->walk, call);
	if (connection->verdict == VERDICT_OPEN &&
	    !is_wanted(connection, &work->walk, direction, call->size)) {
		count(&counters->filtered[FILTERED_NOT_HTTP], call->size);
		/* If this direction is looked at again, it has a hole here. */
		connection->after_loss[direction] = connection->forwarded;
		return;
	}

	u64 leader = TASK_FIELD(u64, current_task(), task_struct_group_leader);
	u64 start_time = TASK_FIELD(u64, leader, start_time);
	introduce_process(work, call, leader, start_time);
	introduce_socket(work, call, connection, inode);

	struct event *event = &work->event;
	event->kind = EVENT_CHUNK;
	event->direction = direction;
	event->syscall = call->syscall;
	event->time = now();
	event->socket = inode;
	event->position = position;
	event->pid = pid;
	event->tid = id;
	event->start_time = start_time;
	bpf_get_current_comm(event->comm, sizeof(event->comm));
	describe_socket(event, call->sk);
	connection->forwarded = 1;
	forward(work, connection, call, direction, counters);
}

static __always_inline void deliver_end(struct call *call, struct event *event, u64 inode,
					struct connection *connection, u8 direction)
{
	event->kind = EVENT_END;
	event->direction = direction;
	event->flags = connection->flags;
	event->time = now();
	event->socket = inode;
	event->position = connection->position[direction];
	event->size = 0;
	event->captured = 0;
	deliver(call, event);
}

/* A receiving call returned 0: the end of the stream, unless it asked for no bytes. */
static __always_inline void meet_end(struct call *call)
{
	if (call->msg_flags & MSG_NOT_STREAM ||
	    !(FIELD(u8, call->sk, sock_sk_shutdown) & RCV_SHUTDOWN))
		return;
	u64 inode = socket_inode(call->socket);
	struct connection *connection = connections.lookup(&inode);
	if (!connection || !connection->forwarded)
		return;
	u32 slot = DIRECTION_RECV;
	struct workspace *work = workspaces.lookup(&slot);
	if (work)
		deliver_end(call, &work->event, inode, connection, DIRECTION_RECV);
}

/* A call returned. */
static __always_inline void finish_call(struct call *call, s64 result)
{
	if (result > 0) {
		call->size = result;
		move_data(call);
	} else if (result == 0 && call->direction == DIRECTION_RECV) {
		meet_end(call);
	}
}

/* The last descriptor of a socket was closed. */
static __always_inline void close_socket(void *context, u64 socket)
{
	struct call call = { .context = context };
	u64 inode = socket_inode(socket);
	struct connection *connection = connections.lookup(&inode);
	if (!connection)
		return;
	u32 slot = WORKSPACE_CLOSE;
	struct workspace *work = workspaces.lookup(&slot);
	if (work && connection->forwarded) {
		deliver_end(&call, &work->event, inode, connection, DIRECTION_SEND);
		deliver_end(&call, &work->event, inode, connection, DIRECTION_RECV);
	}
	connections.delete(&inode);
}

/*
 * A Unix socket is being connected: what it carries from now on is all that it
 * carries. It may not have a file yet, but the inode is there, beside it.
 */
static __always_inline void open_socket(u64 socket)
{
	u64 inode = READ_KERNEL(u64, socket + OFFSET_socket_alloc_vfs_inode + OFFSET_inode_i_ino);

	if (inode)
		remember_connection(inode);
}

#ifdef ROUTE_SOCKET
/*
 * How a hooked function is called: a byte each for the direction and for which of
 * its parameters is the socket, the message and the flags; and how many it has.
 *
 * The program is the same for all functions and is compiled once. When it is loaded
 * for one of them, profiler/probe/load.py writes that function's numbers over
 * SHAPE_PLACEHOLDER; the verifier then sees constants, and leaves out all else.
 */
#define NO_PARAMETER   0xff
#define PARAMETERS_MAX 6

static __always_inline u64 shape(void)
{
	u64 value = SHAPE_PLACEHOLDER;

	asm volatile("" : "+r"(value));
	return value;
}

/* A program may only load from its context at offsets that are written in its code. */
static __always_inline u64 parameter(u64 *ctx, u8 number)
{
	u64 value = 0;
#pragma unroll
	for (u8 i = 0; i <= PARAMETERS_MAX; i++) {
		if (number == i) {
			value = ctx[i];
			/* Keeps the compiler from making one load at a computed offset of them. */
			asm volatile("" : "+r"(value));
		}
	}
	return value;
}

/* A function has returned that moved data of a socket. */
int leave_function(u64 *ctx)
{
	u8 direction = shape();
	u8 socket_number = shape() >> 8;
	u8 message_number = shape() >> 16;
	u8 flags_number = shape() >> 24;
	u8 result_number = shape() >> 32; /* it follows the parameters */

	u64 socket = parameter(ctx, socket_number);
	s64 result = (int)parameter(ctx, result_number);
	u64 sk = FIELD(u64, socket, socket_sk);
	if (result < 0 || !is_stream(sk))
		return 0;

	/* Without a message the data is in pages of a file or a pipe. */
	u64 message = 0;
	u32 msg_flags = 0;
	if (message_number != NO_PARAMETER) {
		message = parameter(ctx, message_number);
		if (flags_number == NO_PARAMETER)
			msg_flags = FIELD(u32, message, msghdr_msg_flags);
	}
	if (flags_number != NO_PARAMETER)
		msg_flags = parameter(ctx, flags_number);

	struct call call = {
		.socket = socket,
		.sk = sk,
		.memory = message,
		.syscall = result > 0 ? current_syscall() : -1,
		.msg_flags = msg_flags,
		.direction = direction,
		.context = ctx,
	};
	finish_call(&call, result);
	return 0;
}
#endif

#ifdef ROUTE_SYSCALL
/* A call in progress, from entry to exit, by thread. */
struct pending {
	u64 socket;
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

/* Returns whether `fd` is a socket whose data is watched. */
static __always_inline int enter_syscall(struct pending *call, u64 fd)
{
	u64 id = bpf_get_current_pid_tgid();

	call->socket = stream_socket_of(fd);
	if (!call->socket)
		return 0;
	call->inode = socket_inode(call->socket);
	if (pending.update(&id, call)) {
		/* How much it will move is not known yet: the call is counted, its bytes cannot be. */
		u32 direction = call->direction & 1;
		struct counters *counters = account.lookup(&direction);
		if (counters) {
			counters->seen.calls++;
			counters->lost[LOST_TABLE_FULL].calls++;
		}
	}
	return 1;
}

/* Bytes of the first `count` messages of an array of struct mmsghdr. */
static __always_inline u32 size_of_messages(u64 messages, u32 count)
{
	u32 total = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < SEGMENTS_MAX; i++) {
		u32 length = 0;
		if (i >= count)
			break;
		bpf_probe_read_user(&length, sizeof(length),
				    (void *)(messages + i * MMSGHDR_SIZE + MMSGHDR_LENGTH));
		total += length;
	}
	return total;
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
	if (result > 0 && pending_call.payload == PAYLOAD_MMSGHDR)
		result = size_of_messages(pending_call.pointer, result);
	struct call call = {
		.socket = pending_call.socket,
		.sk = FIELD(u64, pending_call.socket, socket_sk),
		.memory = pending_call.pointer,
		.inode = pending_call.inode,
		.syscall = ctx->number,
		.msg_flags = pending_call.msg_flags,
		.direction = pending_call.direction,
		.payload = pending_call.payload,
		.context = ctx,
	};
	finish_call(&call, result);
	return 0;
}
#endif
