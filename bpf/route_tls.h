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
	struct tls_key thread = {
		.session = (u32)get_current_pid_tgid(),
		.process = current_process(),
	};

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

/* OpenSSL's BIO_TYPE_SSL */
#define BIO_TYPE_SSL 0x207

/*
 * The session (SSL *) that a BIO of BIO_f_ssl() holds; 0: unknown. It is the first member of what
 * the BIO's last pointer points to. OpenSSL 3 has put one pointer before the members of 1.1.1;
 * the type, to which the member `method` points, shows which version it is.
 */
static __always_inline u64 session_of_bio(u64 bio)
{
	u64 member[9] = {};
	u64 session = 0;
	u32 type = 0;

	if (probe_read_user(member, sizeof(member), (void *)bio))
		return 0;
	u64 data = member[8];
	if (probe_read_user(&type, sizeof(type), (void *)member[1]) || type != BIO_TYPE_SSL) {
		data = member[7];
		if (probe_read_user(&type, sizeof(type), (void *)member[0]) || type != BIO_TYPE_SSL)
			return 0;
	}
	probe_read_user(&session, sizeof(session), (void *)data);
	return session;
}

/* A function of a TLS library is entered; its first parameter is the session. */
static __always_inline int
enter_tls(void *ctx, u64 session, u64 buffer, u64 size_at, u8 library, u8 direction)
{
	u32 pid = get_current_pid_tgid() >> 32;

	if (!session || is_own(pid) || why_not_this_process(pid) < FILTERED_REASONS)
		return 0;
	struct tls_key key = thread_of(ctx, library);
	struct tls_thread *thread = LOOKUP(tls_threads, &key);
	if (!thread) {
		struct tls_blank *blank = tls_blank();
		struct tls_process used = { .process = key.process, .library = library };

		if (!blank || UPDATE(tls_threads, &key, &blank->thread) ||
		    UPDATE(tls_processes, &pid, &used))
			return 0;
		thread = LOOKUP(tls_threads, &key);
		if (!thread)
			return 0;
	}
	u64 stack = stack_of(ctx, library);
	remove_calls(thread, stack);
	struct tls_call *outer = innermost(thread);
	/*
	 * A function that calls another one of the same session and direction moves the same bytes.
	 * Of the other direction, a callback has called it: Node.js sends its first request so.
	 */
	if (outer && outer->session == session && outer->direction != DIRECTION_NONE &&
	    (outer->direction == direction || direction == DIRECTION_NONE))
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

/*
 * Whether the socket's own calls show the plain text, because the kernel encrypts it. (The
 * socket of a tunnel through a proxy was HTTP, too, before the handshake.)
 */
static __always_inline int is_seen_at_socket(struct tls_stream *stream)
{
	struct connection *socket = stream->is_in_kernel ? known_connection(stream->socket) : 0;

	return socket && socket->verdict == VERDICT_HTTP;
}

/* Claim a slot of this CPU; TLS_SLOTS: all are in use. */
static __always_inline u32 claim_slot(void)
{
	u32 zero = 0;
	struct tls_claims *claims = LOOKUP(tls_claims, &zero);

	if (!claims)
		return TLS_SLOTS;
#pragma unroll
	for (u32 i = 0; i < TLS_SLOTS; i++) {
		if (!fetch_and_add(&claims->slots[i], 1))
			return i;
		fetch_and_add(&claims->slots[i], -1);
	}
	return TLS_SLOTS;
}

static __always_inline void give_back_slot(u32 slot)
{
	u32 zero = 0;
	struct tls_claims *claims = LOOKUP(tls_claims, &zero);

#pragma unroll
	for (u32 i = 0; i < TLS_SLOTS; i++) {
		if (claims && slot == i)
			fetch_and_add(&claims->slots[i], -1);
	}
}

/* These bytes are not forwarded: the next ones come after a hole. */
static __always_inline void pass_over_plain_text(struct connection *connection, u64 direction,
						 u32 size)
{
	fetch_and_add(&connection->position[direction], size);
	connection->after_loss[direction] = 1;
	lose_messages(connection);
}

/* A call of a session has moved `size` bytes of plain text; `slot` is claimed. */
static __always_inline void move_plain_text(void *ctx, u64 id, struct tls_key *key,
					    struct tls_call *moved, u32 size, u32 slot)
{
	u64 direction = moved->direction & 1;
	u32 index = 2 * (slot < TLS_SLOTS ? slot : 0) + direction;
	struct counters *counters = LOOKUP(tls_account, &index);
	if (!counters)
		return;
	struct call call = {
		.context = ctx,
		.flat = moved->buffer,
		.size = size,
		.slot = SLOT_TLS + slot,
		.direction = direction,
		.syscall = -1,
	};

	count(&counters->seen, size);
	struct tls_stream *stream = known_stream(key);
	if (!stream)
		stream = begin_stream(key, moved->library, FLAG_JOINED);
	if (!stream) {
		count(&counters->lost[LOST_TABLE_FULL], size);
		return;
	}
	struct connection *connection = &stream->connection;
	if (slot == TLS_SLOTS) {
		count(&counters->lost[LOST_SKIPPED], size);
		pass_over_plain_text(connection, direction, size);
		return;
	}
	u32 why = why_not_these_ends(&connection->ends);
	if (why == FILTERED_REASONS &&
	    (connection->verdict == VERDICT_OTHER || is_seen_at_socket(stream)))
		why = FILTERED_NOT_HTTP;
	if (why < FILTERED_REASONS) {
		count(&counters->filtered[why], size);
		pass_over_plain_text(connection, direction, size);
		return;
	}
	move_bytes(&call, connection, counters, current_task(), id, 0, 1);
}

/* The peer has ended its direction of a session (RFC 8446, 6.1). */
static __always_inline void meet_close_notify(void *ctx, struct tls_key *key)
{
	struct tls_stream *stream = known_stream(key);
	u32 slot = stream ? claim_slot() : TLS_SLOTS;

	if (slot == TLS_SLOTS)
		return;
	struct call call = { .context = ctx, .slot = SLOT_TLS + slot };
	end_received(&call, stream);
	give_back_slot(slot);
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
	key.session = call.session;
	/* OpenSSL can return 0 also where it would block, as with the BIO of curl 8. */
	if (result == 0 && call.library == TLS_GNUTLS && call.direction == DIRECTION_RECV)
		meet_close_notify(ctx, &key);
	if (call.direction == DIRECTION_NONE || result <= 0)
		return 0;
	if (call.size_at && probe_read_user(&result, sizeof(result), (void *)call.size_at))
		return 0;
	if (result <= 0 || result > 0x7fffffff)
		return 0;
	u32 slot = claim_slot();

	move_plain_text(ctx, id, &key, &call, result, slot);
	give_back_slot(slot);
	return 0;
}

/* The library frees a session. */
static __always_inline int free_session(void *ctx, u64 session)
{
	struct tls_key key = { .session = session, .process = current_process() };
	struct tls_stream *stream = known_stream(&key);

	if (!stream)
		return 0;
	u32 slot = claim_slot();
	if (slot < TLS_SLOTS) {
		struct call call = { .context = ctx, .slot = SLOT_TLS + slot };

		end_stream(&call, stream, 0);
		give_back_slot(slot);
	}
	u64 socket = stream->socket;
	if (socket)
		DELETE(tls_sockets, &socket);
	DELETE(tls_streams, &key);
	return 0;
}
#endif

#endif
