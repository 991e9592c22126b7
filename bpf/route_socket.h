/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The socket route: at the exit of the kernel functions that move a socket's data.
 */
#ifndef HTTP_PROFILER_ROUTE_SOCKET_H
#define HTTP_PROFILER_ROUTE_SOCKET_H

#include "call.h"

#ifdef ROUTE_SOCKET
/*
 * All functions share one program, which is compiled once. When it is loaded for one of them,
 * profiler/ingest/probe/load.py writes that function's calling convention (enum calling) over
 * placeholders. The verifier then sees constants, and skips the code that they exclude.
 */

/*
 * What plain TCP sends is processed in TCP, under the socket's lock, so that calls of several
 * threads are seen in the order of the stream. Everything else is processed above it.
 */
#define LEVEL_SOCKET   0 /* struct socket: any protocol */
#define LEVEL_ABOVE    1 /* struct socket: TCP with a protocol above it only */
#define LEVEL_TCP      2 /* struct sock: plain TCP only */
/*
 * The return of a call that was in flight when the probe was attached is not seen: it did not
 * pass the hook on its way in. But when data has arrived, it runs a function deeper in TCP,
 * which has the number of bytes; the buffer's address comes from /proc.
 */
#define LEVEL_INFLIGHT 3 /* struct sock of TCP: only for threads in `inflight` */
#define LEVEL_SOCK     4 /* struct sock: any protocol */

/*
 * One of the hooked function's parameters, or its result. A program may only load from its
 * context at constant offsets, so the loader overwrites the offset too.
 */
#define PARAMETER(ctx, number)                                                     \
	({                                                                         \
		u64 value_;                                                        \
		asm volatile("%0 = *(u64 *)(%1 + %2)"                              \
			     : "=r"(value_)                                        \
			     : "r"(ctx), "i"(PARAMETER_PLACEHOLDER + 8 * (number))); \
		value_;                                                            \
	})

/* A function that moves data of a socket has returned. */
int leave_function(u64 *ctx)
{
	u64 level = CALLING(CALLING_LEVEL);
	u64 look = CALLING(CALLING_LOOK);
	u64 has_message = CALLING(CALLING_MESSAGE) != NO_PARAMETER;
	u64 has_flags = CALLING(CALLING_FLAGS) != NO_PARAMETER;

	s64 result = (int)PARAMETER(ctx, CALLING_RESULT);
	if (result < 0 && result != -ECONNRESET && result != -EPIPE)
		return 0;
	u64 socket, sk, tcp;
	struct inflight inflight = {};
	if (level == LEVEL_INFLIGHT) {
		u64 id = get_current_pid_tgid();
		struct inflight *found = result > 0 ? LOOKUP(inflight, &id) : 0;
		if (!found)
			return 0;
		inflight = *found;
		DELETE(inflight, &id);
	}
	if (level == LEVEL_TCP || level == LEVEL_INFLIGHT || level == LEVEL_SOCK) {
		sk = PARAMETER(ctx, CALLING_SOCKET);
		socket = FIELD(u64, sk, sock_sk_socket);
		if (!socket)
			return 0;
	} else {
		socket = PARAMETER(ctx, CALLING_SOCKET);
		sk = FIELD(u64, socket, socket_sk);
	}
	/* The same function also receives from a raw TCP socket. */
	if (level != LEVEL_TCP && FIELD(u16, sk, sock_sk_type) != SOCK_STREAM)
		return 0;
	tcp = plain_tcp(sk);
	if (tcp ? level == LEVEL_ABOVE
		: level == LEVEL_TCP || level == LEVEL_INFLIGHT || look == LOOK_SECOND ||
			  !is_stream(sk) || (level == LEVEL_ABOVE && !is_tcp(sk)))
		return 0;

	/* Without a message the data is in pages of a file or a pipe. */
	u64 message = 0;
	u32 msg_flags = inflight.msg_flags;
	if (has_message) {
		message = PARAMETER(ctx, CALLING_MESSAGE);
		if (!has_flags)
			msg_flags = FIELD(u32, message, msghdr_msg_flags);
	}
	if (has_flags)
		msg_flags = PARAMETER(ctx, CALLING_FLAGS);

	struct call call = {
		.socket = socket,
		.sk = sk,
		.tcp = tcp,
		.memory = message,
		.flat = inflight.pointer,
		.msg_flags = msg_flags,
		.direction = CALLING(CALLING_DIRECTION),
		.look = look,
		.slot = CALLING(CALLING_SLOT),
		.context = ctx,
	};
	finish_call(&call, result);
	return 0;
}
#endif

#endif
