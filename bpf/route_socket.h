/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The socket route: at the exit of the kernel functions that move data of a socket.
 */
#ifndef HTTP_PROFILER_ROUTE_SOCKET_H
#define HTTP_PROFILER_ROUTE_SOCKET_H

#include "call.h"

#ifdef ROUTE_SOCKET
/*
 * How a hooked function is called: a byte each for the direction and for which of
 * its parameters is the socket, the message and the flags; how many it has; its
 * level; which look this is, and the program's slot (call.h).
 *
 * The program is the same for all functions and is compiled once. When it is loaded
 * for one of them, profiler/probe/load.py writes that function's numbers over
 * SHAPE_PLACEHOLDER; the verifier then sees constants, and leaves out all else.
 */
#define NO_PARAMETER   0xff

/*
 * What plain TCP sends is looked at in TCP, under the socket's lock, so that calls of
 * several threads are seen in the order of the stream. All else is looked at above.
 */
#define LEVEL_SOCKET 0 /* struct socket: any protocol */
#define LEVEL_ABOVE  1 /* struct socket: TCP with a protocol above it only */
#define LEVEL_TCP    2 /* struct sock: plain TCP only */
/*
 * A call that waited for data when the profiler came is not seen when it returns: it
 * did not pass the hook on its way in. But when data has come, it passes a function
 * deeper in TCP, which knows how much it received; where that is, /proc told.
 */
#define LEVEL_WAITING 3 /* struct sock of TCP: only for threads in `waiting` */
#define LEVEL_SOCK    4 /* struct sock: any protocol */

#define PARAMETERS_MAX 6

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
	u64 numbers = shape();
	u8 direction = numbers;
	u8 socket_number = numbers >> 8;
	u8 message_number = numbers >> 16;
	u8 flags_number = numbers >> 24;
	u8 result_number = numbers >> 32; /* it follows the parameters */
	u8 level = numbers >> 40;
	u8 look = numbers >> 48;
	u8 slot = numbers >> 56;

	s64 result = (int)parameter(ctx, result_number);
	if (result < 0 && result != -ECONNRESET && result != -EPIPE)
		return 0;
	u64 socket, sk, tcp;
	struct waiting told = {};
	if (level == LEVEL_WAITING) {
		u64 id = get_current_pid_tgid();
		struct waiting *found = result > 0 ? LOOKUP(waiting, &id) : 0;
		if (!found)
			return 0;
		told = *found;
		DELETE(waiting, &id);
	}
	if (level == LEVEL_TCP || level == LEVEL_WAITING || level == LEVEL_SOCK) {
		sk = parameter(ctx, socket_number);
		socket = FIELD(u64, sk, sock_sk_socket);
		if (!socket)
			return 0;
	} else {
		socket = parameter(ctx, socket_number);
		sk = FIELD(u64, socket, socket_sk);
	}
	if (FIELD(u16, sk, sock_sk_type) != SOCK_STREAM)
		return 0;
	tcp = plain_tcp(sk);
	if (tcp ? level == LEVEL_ABOVE
		: level == LEVEL_TCP || level == LEVEL_WAITING || look == LOOK_SECOND ||
			  !is_stream(sk) || (level == LEVEL_ABOVE && !is_tcp(sk)))
		return 0;

	/* Without a message the data is in pages of a file or a pipe. */
	u64 message = 0;
	u32 msg_flags = told.msg_flags;
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
		.tcp = tcp,
		.memory = message,
		.flat = told.pointer,
		.msg_flags = msg_flags,
		.direction = direction,
		.look = look,
		.slot = slot,
		.context = ctx,
	};
	finish_call(&call, result);
	return 0;
}
#endif

#endif
