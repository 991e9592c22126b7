/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The syscall route: at the tracepoints of the system calls.
 */
#ifndef HTTP_PROFILER_ROUTE_SYSCALL_H
#define HTTP_PROFILER_ROUTE_SYSCALL_H

#include "call.h"
#include "connection.h"
#include "counters.h"

#ifdef ROUTE_SYSCALL
/* A call in progress, from entry to exit. */
struct pending {
	u64 socket;   /* 0: none */
	u64 inode;
	u64 pointer;
	u32 msg_flags;
	u8 direction;
	u8 payload;
	u8 announced; /* counted in its connection's `sending` */
};

#ifdef PENDING_IN_TASK
/* Stored with the thread (5.12): no table to search or to fill up. */
DEFINE_MAP(pending, MAP_TYPE_TASK_STORAGE, u32, struct pending, 0)

#define STORAGE_CREATE 1
static void *(*const task_storage_get)(void *map, u64 task, void *value, u64 flags) = (void *)HELPER_task_storage_get;

/* The current thread's entry, which may be of an earlier call; 0: it never had one. */
static __always_inline struct pending *find_pending(void)
{
	return task_storage_get(MAP(pending), current_task(), 0, 0);
}

/* Returns 0, or -1 if there is no room. */
static __always_inline int keep_pending(struct pending *call)
{
	struct pending *kept = task_storage_get(MAP(pending), current_task(), 0, STORAGE_CREATE);

	if (!kept)
		return -1;
	*kept = *call;
	return 0;
}

static __always_inline void forget_pending(struct pending *call)
{
	call->socket = 0;
}
#else
DEFINE_MAP(pending, MAP_TYPE_HASH, u64, struct pending, 65536)

static __always_inline struct pending *find_pending(void)
{
	u64 id = get_current_pid_tgid();

	return LOOKUP(pending, &id);
}

static __always_inline int keep_pending(struct pending *call)
{
	u64 id = get_current_pid_tgid();

	return UPDATE(pending, &id, call) ? -1 : 0;
}

static __always_inline void forget_pending(struct pending *call)
{
	u64 id = get_current_pid_tgid();

	DELETE(pending, &id);
}
#endif

#ifdef RAW_TRACEPOINTS
/*
 * The context of the tracepoints sys_enter and sys_exit. Every system call passes them, but
 * their context needs no preparation, while perf prepares that of the others.
 */
struct sys_enter {
	u64 registers;
	s64 number;
};

struct sys_exit {
	u64 registers;
	s64 result;
};

#define ARGUMENT(ctx, number)       LOAD(u64, (ctx)->registers, pt_regs_argument##number)
#define LATER_ARGUMENT(ctx, number) ARGUMENT(ctx, number)

/* 32-bit programs use other numbers for their calls, which mean different calls here. */
#ifdef __x86_64__
#define NARROW 0x2 /* TS_COMPAT */
#else
#define NARROW (1 << 22) /* TIF_32BIT */
#endif

static __always_inline int is_narrow(void)
{
	return TASK_FIELD(u32, current_task(), thread_info_width) & NARROW;
}

static __always_inline s32 finished_number(struct sys_exit *ctx)
{
	return LOAD(s32, ctx->registers, pt_regs_syscall);
}
#else
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

#define ARGUMENT(ctx, number)       (ctx)->arguments[number]
#define LATER_ARGUMENT(ctx, number) READ_KERNEL(u64, &(ctx)->arguments[number])

/* perf omits the calls of 32-bit programs. */
static __always_inline int is_narrow(void)
{
	return 0;
}

static __always_inline s32 finished_number(struct sys_exit *ctx)
{
	return ctx->number;
}
#endif

/* Returns whether `fd` is a socket whose data is watched. */
static __always_inline int enter_syscall(struct pending *call, u64 fd)
{
	u64 socket = stream_socket_of(fd);

#ifdef OFFSET_tracepoint_faultable
	struct pending *skipped = find_pending();
	if (skipped && skipped->socket) { /* the kernel skipped the probe at that call's end */
		end_sending(skipped->inode, skipped->announced);
		forget_pending(skipped);
	}
#endif
	if (!socket)
		return 0;
	call->socket = socket;
	call->inode = socket_inode(socket);
#ifdef OFFSET_tracepoint_faultable
	if (call->direction == DIRECTION_SEND)
		call->announced = begin_sending(call->inode, FIELD(u64, socket, socket_sk));
#endif
	if (keep_pending(call)) {
		/* How much it will move is not yet known: count the call without its bytes. */
		struct counters *counters = counters_of(SLOT_ENTER, call->direction & 1);
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
		probe_read_user(&length, sizeof(length),
				    (void *)(messages + i * MMSGHDR_SIZE + MMSGHDR_LENGTH));
		total += length;
	}
	return total;
}

/* Write what is known about the ending call to `call`. Returns 0 if it is not watched. */
static __always_inline int end_pending(struct pending *call, u32 number)
{
	struct pending *found = find_pending();

	if (found && found->socket) {
		*call = *found;
		forget_pending(found);
		return 1;
	}
	if (!MAY_HAVE_WAITED(number))
		return 0;
	u64 id = get_current_pid_tgid();
	struct inflight *inflight = LOOKUP(inflight, &id);
	if (!inflight)
		return 0;
	u64 descriptor = inflight->descriptor;
	call->pointer = inflight->pointer;
	call->msg_flags = inflight->msg_flags;
	call->direction = DIRECTION_RECV;
	call->payload = PAYLOAD_FLAT;
	DELETE(inflight, &id);
	u64 socket = stream_socket_of(descriptor);
	if (!socket)
		return 0;
	call->socket = socket;
	call->inode = socket_inode(socket);
	return 1;
}

int leave_syscall(struct sys_exit *ctx)
{
	struct pending pending_call = {};
	u32 number = finished_number(ctx);

	if (!IS_HOOKED(number) || !end_pending(&pending_call, number))
		return 0;
	u64 socket = CAST(socket, pending_call.socket);
	s64 result = ctx->result;
	if (result > 0 && pending_call.payload == PAYLOAD_MMSGHDR)
		result = size_of_messages(pending_call.pointer, result);
	u64 sk = FIELD(u64, socket, socket_sk);
	struct call call = {
		.socket = socket,
		.sk = sk,
		.tcp = plain_tcp(sk),
		.memory = pending_call.pointer,
		.inode = pending_call.inode,
		.syscall = number,
		.msg_flags = pending_call.msg_flags,
		.direction = pending_call.direction,
		.slot = pending_call.direction & 1,
		.payload = pending_call.payload,
		.context = ctx,
	};
	finish_call(&call, result);
#ifdef OFFSET_tracepoint_faultable
	end_sending(pending_call.inode, pending_call.announced);
#endif
	return 0;
}
#endif

#endif
