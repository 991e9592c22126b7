/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The functions of the TLS libraries: at their entry and at their RET instructions. The
 * registers hold the arguments and the result.
 */
#ifndef HTTP_PROFILER_ROUTE_TLS_H
#define HTTP_PROFILER_ROUTE_TLS_H

#include "tls.h"

#ifdef TLS
#define REGISTER(ctx, name) (*(u64 *)((u64)(ctx) + OFFSET_##name))

/*
 * Remove a thread's calls that are not below `stack`: they have ended, or this one ends now.
 * Likewise those whose return is not seen.
 */
static __always_inline void remove_calls(struct tls_thread *thread, u64 stack)
{
	u64 depth = thread->depth;

#pragma unroll
	for (u32 i = NESTED_MAX; i-- > 0;) {
		if (depth == i + 1 && (thread->calls[i].stack <= stack ||
				       !is_return_seen(&thread->calls[i])))
			depth = i;
	}
	thread->depth = depth;
}

static __always_inline struct tls_key thread_of(void *ctx, u8 library)
{
	u64 id = get_current_pid_tgid();
	struct tls_key thread = { .session = (u32)id, .process = id >> 32 };

	if (library == TLS_GO)
		thread.session = REGISTER(ctx, pt_regs_goroutine);
	return thread;
}

/*
 * The stack pointer; of a goroutine, whose stack moves when it grows, the distance to the upper
 * end, as a negative number. Its bounds are the first members of the runtime's struct g.
 */
static __always_inline u64 stack_of(void *ctx, u8 library)
{
	u64 stack = REGISTER(ctx, pt_regs_stack);
	u64 end = 0;

	if (library == TLS_GO)
		probe_read_user(&end, sizeof(end), (void *)(REGISTER(ctx, pt_regs_goroutine) + 8));
	return stack - end;
}

/* A function of a TLS library is entered; its first parameter is the session. */
static __always_inline int
enter_tls(void *ctx, u64 session, u64 buffer, u64 size_at, u8 library, u8 direction)
{
	struct tls_key key = thread_of(ctx, library);
	u32 process = key.process;

	if (process == written_over(SELF_PLACEHOLDER) ||
	    why_not_this_process(process) < FILTERED_REASONS)
		return 0;
	struct tls_thread *thread = LOOKUP(tls_threads, &key);
	if (!thread) {
		struct tls_blank *blank = tls_blank();
		u32 used = library;

		if (!blank || UPDATE(tls_threads, &key, &blank->thread) ||
		    UPDATE(tls_processes, &process, &used))
			return 0;
		thread = LOOKUP(tls_threads, &key);
		if (!thread)
			return 0;
	}
	u64 stack = stack_of(ctx, library);
	remove_calls(thread, stack);
	struct tls_call *outer = innermost(thread);
	/* A function that calls another one of the same session moves the same bytes. */
	if (outer && outer->session == session && outer->direction != DIRECTION_NONE)
		return 0;
	u64 depth = thread->depth;
	if (depth >= NESTED_MAX)
		return 0;
	thread->depth = depth + 1;
	SHOW_BOUND(depth, NESTED_MASK);
	struct tls_call *call = &thread->calls[depth];
	call->session = session;
	call->buffer = buffer;
	call->size_at = size_at;
	call->stack = stack;
	call->library = library;
	call->direction = direction;
	return 0;
}

/* BIO_write(bio, data, length): within a call of a session, `data` is a record of it. */
static __always_inline int write_record(void *ctx, u64 data, u32 length)
{
	struct tls_key key = thread_of(ctx, TLS_OPENSSL);
	struct tls_thread *thread = LOOKUP(tls_threads, &key);
	struct tls_call *within = thread ? innermost(thread) : 0;
	struct tls_bytes bytes;

	if (!within || within->stack <= REGISTER(ctx, pt_regs_stack) || length < RECORD_SIZE ||
	    probe_read_user(&bytes, sizeof(bytes), (void *)data))
		return 0;
	struct tls_record record = { .bytes = unique_bytes(&bytes), .process = key.process };
	if (!record.bytes)
		return 0;
	UPDATE(tls_records, &record, &within->session);
	key.session = within->session;
	if (is_hello(&bytes) && !known_stream(&key))
		begin_stream(&key, within->library, 0);
	return 0;
}

/* The option that excludes a stream by its addresses; FILTERED_REASONS if none does. */
static __always_inline u32 why_not_these_ends(struct ends *ends)
{
	if (GIVEN_PORT && !(ends->family && (WANTED_PORT(ends->local_port) ||
					     WANTED_PORT(ends->remote_port))))
		return FILTERED_PORT;
	if (GIVEN_ADDRESS && !are_wanted(ends))
		return FILTERED_ADDRESS;
	return FILTERED_REASONS;
}

/* Whether the kernel encrypts what the socket sends: then its own bytes were the plain text. */
static __always_inline int is_seen_at_socket(struct tls_stream *stream)
{
	struct connection *socket = known_connection(stream->socket);

	return socket && socket->verdict == VERDICT_HTTP;
}

/* A call has moved `size` bytes of plain text. */
static __always_inline void
move_plain_text(void *ctx, u64 id, u64 session, u64 buffer, u64 direction, u8 library, u32 size)
{
	u32 index = direction;
	struct counters *counters = LOOKUP(tls_account, &index);
	if (!counters)
		return;
	struct tls_key key = { .session = session, .process = id >> 32 };
	struct call call = {
		.context = ctx,
		.flat = buffer,
		.size = size,
		.slot = SLOT_TLS,
		.direction = direction,
		.syscall = -1,
	};

	count(&counters->seen, size);
	struct tls_stream *stream = known_stream(&key);
	if (!stream)
		stream = begin_stream(&key, library, FLAG_JOINED);
	if (!stream) {
		count(&counters->lost[LOST_TABLE_FULL], size);
		return;
	}
	struct connection *connection = &stream->connection;
	u32 why = why_not_these_ends(&connection->ends);
	if (why == FILTERED_REASONS &&
	    (connection->verdict == VERDICT_OTHER || is_seen_at_socket(stream)))
		why = FILTERED_NOT_HTTP;
	if (why < FILTERED_REASONS) {
		count(&counters->filtered[why], size);
		fetch_and_add(&connection->position[direction], size);
		connection->after_loss[direction] = 1;
		lose_messages(connection);
		return;
	}
	move_bytes(&call, connection, counters, current_task(), id, 0, 1);
}

/* One of a function's RET instructions is reached; `result` is what it returns. */
static __always_inline int leave_tls(void *ctx, s64 result, u8 library)
{
	u64 id = get_current_pid_tgid();
	struct tls_key key = thread_of(ctx, library);
	struct tls_thread *thread = LOOKUP(tls_threads, &key);
	if (!thread)
		return 0;
	u64 stack = stack_of(ctx, library);
	struct tls_call *found = 0;
#pragma unroll
	for (u32 i = 0; i < NESTED_MAX; i++) {
		if (thread->depth > i && thread->calls[i].stack == stack)
			found = &thread->calls[i];
	}
	if (!found)
		return 0;
	struct tls_call call = *found;
	remove_calls(thread, stack);
	if (call.direction == DIRECTION_NONE || result <= 0)
		return 0;
	if (call.size_at && probe_read_user(&result, sizeof(result), (void *)call.size_at))
		return 0;
	if (result <= 0 || result > 0x7fffffff)
		return 0;
	move_plain_text(ctx, id, call.session, call.buffer, call.direction & 1, call.library, result);
	return 0;
}

/* The library frees a session. */
static __always_inline int free_session(void *ctx, u64 session)
{
	struct tls_key key = { .session = session, .process = get_current_pid_tgid() >> 32 };
	struct call call = { .context = ctx, .slot = SLOT_TLS };
	struct tls_stream *stream = known_stream(&key);

	if (!stream)
		return 0;
	end_stream(&call, stream, 0);
	u64 socket = stream->socket;
	if (socket)
		DELETE(tls_sockets, &socket);
	DELETE(tls_streams, &key);
	return 0;
}
#endif

#endif
