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
/*
 * A call in progress, from entry to exit, by thread. Of one that waited for data when
 * the profiler came, profiler/probe/waiting.py writes what /proc tells: `socket` is 0
 * and `inode` is the descriptor.
 */
struct pending {
	u64 socket;
	u64 inode;
	u64 pointer;
	u32 msg_flags;
	u8 direction;
	u8 payload;
	u8 announced; /* counted in its connection's `sending` */
};

DEFINE_MAP(pending, MAP_TYPE_HASH, u64, struct pending, 65536)

#ifdef RAW_TRACEPOINTS
/*
 * The context of the tracepoints sys_enter and sys_exit: every call of the machine passes
 * them, but nobody prepares what few programs want, as perf does for the others.
 */
struct sys_enter {
	u64 registers;
	s64 number;
};

struct sys_exit {
	u64 registers;
	s64 result;
};

#define LOAD(type, base, name)      (*(volatile type *)((base) + OFFSET_##name))
#define ARGUMENT(ctx, number)       LOAD(u64, (ctx)->registers, pt_regs_argument##number)
#define LATER_ARGUMENT(ctx, number) ARGUMENT(ctx, number)

/* Calls of a 32-bit program have numbers of their own, which mean others here. */
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

/* perf leaves those of 32-bit programs out. */
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
	u64 id = get_current_pid_tgid();

	call->socket = stream_socket_of(fd);
	if (!call->socket)
		return 0;
	call->inode = socket_inode(call->socket);
#ifdef OFFSET_tracepoint_faultable
	struct pending *skipped = LOOKUP(pending, &id);
	if (skipped) /* the kernel skipped the probe at that call's end */
		end_sending(skipped->inode, skipped->announced);
	if (call->direction == DIRECTION_SEND)
		call->announced = begin_sending(call->inode, FIELD(u64, call->socket, socket_sk));
#endif
	if (UPDATE(pending, &id, call)) {
		/* How much it will move is not known yet: the call is counted, its bytes cannot be. */
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

int leave_syscall(struct sys_exit *ctx)
{
	u64 id = get_current_pid_tgid();
	struct pending *found = LOOKUP(pending, &id);
	if (!found)
		return 0;
	struct pending pending_call = *found;
	DELETE(pending, &id);
	if (!pending_call.socket) {
		pending_call.socket = stream_socket_of(pending_call.inode);
		if (!pending_call.socket)
			return 0;
		pending_call.inode = socket_inode(pending_call.socket);
	}

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
		.syscall = finished_number(ctx),
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
