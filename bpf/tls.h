/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The plain text of TLS, at the functions of the libraries that encrypt it (--tls).
 *
 * A TLS session is a stream of its own, with the same state as a socket's connection. Its key
 * is the process and the address of the library's object (SSL *, gnutls_session_t). A program
 * runs at the entry of each function, and another one at each of its RET instructions: a
 * return probe would replace the return address, which harms some targets.
 *
 * The addresses of a session come from evidence only:
 *
 *     a record    the library writes a record with BIO_write() while the thread is in a call
 *                 of this session, and a socket of the process sends a record with the same
 *                 eight random bytes
 *     nesting     the thread, or goroutine, moves a record at a socket while it is in a call
 *                 of this session, and no record was compared yet
 *
 * Without evidence a session has no addresses. Evidence for another socket begins a new
 * stream, because its earlier bytes belong to the other connection.
 */
#ifndef HTTP_PROFILER_TLS_H
#define HTTP_PROFILER_TLS_H

#include "call.h"
#include "connection.h"
#include "counters.h"
#include "filter.h"

#ifdef TLS
/* Names a stream in `socket` of an event. No inode has this bit. */
#define TLS_STREAM (1ULL << 63)

/* A function in which a session writes records, but moves no plain text. */
#define DIRECTION_NONE 2

/* Calls of a thread within each other: a library's BIO may use another session. */
#define NESTED_MAX  4
#define NESTED_MASK 3

/* A call of a TLS library in progress. */
struct tls_call {
	u64 session;
	u64 buffer;
	u64 size_at;  /* where the function writes how many bytes it moved; 0: it returns that */
	u64 stack;    /* stack pointer at its entry, and at its return; Go: see stack_of() */
	u8 library;
	u8 direction;
};

struct tls_thread {
	struct tls_call calls[NESTED_MAX];
	u64 depth;
};

/* A session, thread or goroutine of a process, see current_process(). */
struct tls_key {
	u64 session;
	u64 process;
};

/* A process, and the library that it has called last. */
struct tls_process {
	u64 process;
	u64 library;
};

struct tls_stream {
	struct connection connection; /* its inode is this stream's name, see TLS_STREAM */
	u64 socket;                   /* inode of the socket, 0: unknown */
	u8 is_certain;                /* by a record, rather than by nesting */
	u8 is_in_kernel;              /* the kernel encrypts what the socket moves */
	u8 library;
};

/* A record that a process has written: its key is eight random bytes of it. */
struct tls_record {
	u64 bytes;
	u64 process;
};

/*
 * Since 6.0 a task can be preempted while a program of a library runs in it, and the kernel
 * does not skip the programs of the next task. So a program claims one of a CPU's slots, for
 * its workspace and its account. A kernel that does not preempt needs only one.
 */
struct tls_claims {
	u64 slots[TLS_SLOTS];
};

DEFINE_MAP(tls_claims, MAP_TYPE_PERCPU_ARRAY, u32, struct tls_claims, 1)
DEFINE_MAP(tls_account, MAP_TYPE_PERCPU_ARRAY, u32, struct counters, 2 * TLS_SLOTS)
DEFINE_MAP(tls_threads, MAP_TYPE_LRU_HASH, struct tls_key, struct tls_thread, TLS_MAX)
/* Processes that have called a library. */
DEFINE_MAP(tls_processes, MAP_TYPE_LRU_HASH, u32, struct tls_process, PROCESSES_MAX)
DEFINE_MAP(tls_streams, MAP_TYPE_LRU_HASH, struct tls_key, struct tls_stream, TLS_MAX)
DEFINE_MAP(tls_records, MAP_TYPE_LRU_HASH, struct tls_record, u64, TLS_MAX)
/* The processes that were reported, see report_process(). */
DEFINE_MAP(tls_reported, MAP_TYPE_LRU_HASH, u32, u64, PROCESSES_MAX)
/* The inode of a bound socket -> its session. */
DEFINE_MAP(tls_sockets, MAP_TYPE_LRU_HASH, u64, struct tls_key, TLS_MAX)

/* Zeros to begin a stream or a thread with: they are too large for the program's stack. */
struct tls_blank {
	struct tls_stream stream;
	struct tls_thread thread;
};

DEFINE_MAP(tls_blank, MAP_TYPE_ARRAY, u32, struct tls_blank, 1)

static __always_inline struct tls_blank *tls_blank(void)
{
	u32 zero = 0;

	return LOOKUP(tls_blank, &zero);
}

/*
 * The current process and the program that it runs: its number, with bits that differ if
 * another process has that number later. It may have sessions at the same addresses, and a
 * process that is killed leaves its calls open.
 */
static __always_inline u64 current_process(void)
{
	u64 leader = TASK_FIELD(u64, current_task(), task_struct_group_leader);
	u64 instance = TASK_FIELD(u64, leader, start_time) ^
		       TASK_FIELD(u64, leader, task_struct_self_exec_id);

	return instance << 32 | get_current_pid_tgid() >> 32;
}

/* The current process, if it has called a library. */
static __always_inline struct tls_process *known_process(void)
{
	u32 pid = get_current_pid_tgid() >> 32;
	struct tls_process *known = LOOKUP(tls_processes, &pid);

	return known && known->process == current_process() ? known : 0;
}

/* --- records of the protocol ------------------------------------------------------------ */

/* As much of a record as is examined. */
#define RECORD_SIZE 24

/* RFC 8446, 5.1 and 4 */
#define RECORD_DATA        23
#define MESSAGE_CLIENT     1
#define MESSAGE_SERVER     2
/* Bytes 4 to 11 of the "random" of every HelloRetryRequest (RFC 8446, 4.1.3). */
#define RETRY_RANDOM 0x028c1dbe11619ae5ULL

struct tls_bytes {
	u64 words[RECORD_SIZE / sizeof(u64)];
};

static __always_inline u8 byte_of(struct tls_bytes *record, u32 number)
{
	return record->words[number / 8] >> (8 * (number % 8));
}

static __always_inline int is_record(struct tls_bytes *record)
{
	u8 type = byte_of(record, 0);

	return type >= 20 && type <= RECORD_DATA && byte_of(record, 1) == 3 &&
	       byte_of(record, 2) <= 4;
}

static __always_inline int is_hello(struct tls_bytes *record)
{
	u8 message = byte_of(record, 5);

	return byte_of(record, 0) == RECORD_HANDSHAKE && byte_of(record, 6) == 0 &&
	       byte_of(record, 9) == 3 &&
	       (message == MESSAGE_CLIENT || message == MESSAGE_SERVER);
}

/*
 * Eight bytes that no other record of a process has; 0: this record has none. Of encrypted
 * data it is ciphertext, after an explicit nonce of eight bytes that TLS 1.2 may have there and
 * that may be a counter (RFC 5288, 3). A hello has 32 random bytes at offset 11, but the first
 * four may be a clock (RFC 5246, 7.4.1.2).
 */
static __always_inline u64 unique_bytes(struct tls_bytes *record)
{
	if (!is_record(record))
		return 0;
	if (byte_of(record, 0) == RECORD_DATA)
		return record->words[1] >> 40 | record->words[2] << 24;
	if (!is_hello(record))
		return 0;
	u64 bytes = record->words[1] >> 56 | record->words[2] << 8;
	return bytes == RETRY_RANDOM ? 0 : bytes;
}

/* --- streams ---------------------------------------------------------------------------- */

static u32 (*const get_smp_processor_id)(void) = (void *)8;

/* A name that no other stream has: two of one CPU do not begin in the same nanosecond. */
static __always_inline u64 new_stream_name(void)
{
	return TLS_STREAM | now() << 8 | (get_smp_processor_id() & 0xff);
}

static __always_inline struct tls_stream *known_stream(struct tls_key *key)
{
	return LOOKUP(tls_streams, key);
}

/* Begin the stream of a session. `flags`: FLAG_JOINED, if it carried bytes before. */
static __always_inline struct tls_stream *
begin_stream(struct tls_key *key, u8 library, u8 flags)
{
	struct tls_blank *blank = tls_blank();

	if (!blank || UPDATE(tls_streams, key, &blank->stream))
		return 0;
	struct tls_stream *stream = known_stream(key);
	if (!stream)
		return 0;
	stream->library = library;
	stream->connection.inode = new_stream_name();
	stream->connection.flags = flags;
	return stream;
}

static __always_inline void end_stream(struct call *call, struct tls_stream *stream, u8 flags)
{
	struct workspace *work = workspace_of(call);

	if (!work || !stream->connection.forwarded)
		return;
	u64 name = stream->connection.inode;
	deliver_end(call, &work->event, name, &stream->connection, DIRECTION_SEND, flags);
	deliver_end(call, &work->event, name, &stream->connection, DIRECTION_RECV, flags);
}

/* A session receives nothing more. */
static __always_inline void end_received(struct call *call, struct tls_stream *stream)
{
	struct workspace *work = workspace_of(call);

	if (work && stream->connection.forwarded)
		deliver_end(call, &work->event, stream->connection.inode, &stream->connection,
			    DIRECTION_RECV, 0);
}

/* A socket of a session ends: so does the session's stream. */
static __always_inline void end_bound_stream(struct call *call, u64 socket, u8 flags)
{
	struct tls_key *found = LOOKUP(tls_sockets, &socket);

	if (!found)
		return;
	struct tls_key key = *found;
	struct tls_stream *stream = known_stream(&key);
	if (stream && stream->socket == socket) {
		end_stream(call, stream, flags);
		DELETE(tls_streams, &key);
	}
	DELETE(tls_sockets, &socket);
}

/* Send to user space which library and which socket a stream has, unless already sent. */
static __always_inline void introduce_stream(struct call *call, struct tls_stream *stream)
{
	struct tls_event event = {
		.kind = EVENT_TLS,
		.library = stream->library,
		.stream = stream->connection.inode,
		.socket = stream->socket,
	};

	if (!stream->connection.named && !output(call, &event, sizeof(event)))
		stream->connection.named = 1;
}

/* --- the evidence ------------------------------------------------------------------------ */

static __always_inline void
bind(struct call *call, struct tls_key *key, struct tls_stream *stream, u64 socket, int is_certain,
     u8 flags)
{
	if (stream->socket == socket) {
		stream->is_certain |= is_certain;
		return;
	}
	if (stream->socket) {
		if (stream->is_certain && !is_certain)
			return;
		end_stream(call, stream, 0);
		stream = begin_stream(key, stream->library, flags);
		if (!stream)
			return;
	}
	stream->socket = socket;
	stream->is_certain = is_certain;
	stream->connection.named = 0;
	stream->connection.ends.family = 0;
	find_ends(&stream->connection.ends, call->sk);
	UPDATE(tls_sockets, &socket, key);
}

/*
 * Whether a program runs at the call's return. Not at that of a handshake, which may leave by a
 * jump through a pointer: then the thread may be in this call, or have left it. Go has no such
 * jumps.
 */
static __always_inline int is_return_seen(struct tls_call *call)
{
	return call->direction != DIRECTION_NONE || call->library == TLS_GO;
}

/* The innermost call of a thread, or 0. */
static __always_inline struct tls_call *innermost(struct tls_thread *thread)
{
	u64 last = thread->depth - 1;

	if (last >= NESTED_MAX)
		return 0;
	SHOW_BOUND(last, NESTED_MASK);
	return &thread->calls[last];
}

/*
 * The number of a thread, or the address of a goroutine: Go runs them on any thread, but keeps
 * the address in a register, also in a system call. 0: unknown, before 5.15.
 */
static __always_inline u64 current_thread(u32 library)
{
	if (library != TLS_GO)
		return (u32)get_current_pid_tgid();
#if defined(HELPER_get_current_task_btf) && defined(HELPER_task_pt_regs)
	u64 (*const registers_of)(u64 task) = (void *)HELPER_task_pt_regs;
	return FIELD(u64, registers_of(current_task()), pt_regs_goroutine);
#else
	return 0;
#endif
}

/* A process with TLS sessions moved bytes at a socket: do they show whose socket it is? */
static __always_inline void compare_record(struct call *call)
{
	struct tls_process *known = known_process();
	if (!known)
		return;
	u64 process = known->process;
	u32 library = known->library;
	struct tls_key current = { .session = current_thread(library), .process = process };
	u64 socket = socket_inode(call->socket);
	struct workspace *work = workspace_of(call);
	if (!socket || !work)
		return;
	if (!call->tcp && is_tcp(call->sk)) {
		struct tls_key *carried = LOOKUP(tls_sockets, &socket);
		struct tls_stream *stream = carried ? known_stream(carried) : 0;

		if (stream && stream->socket == socket)
			stream->is_in_kernel = 1;
		return;
	}
	volatile struct walk *walk = &work->walk;
	struct tls_bytes record = {};

	start_walk(walk, call);
	skip_empty_segments(walk);
	if (!walk->readable)
		return;
	u64 size = lesser(walk->left, RECORD_SIZE);
	SHOW_BOUND(size, 31);
	if (size > RECORD_SIZE || probe_read_user(&record, size, (void *)walk->data) ||
	    !is_record(&record))
		return;
	u64 bytes = size == RECORD_SIZE ? unique_bytes(&record) : 0;
	struct tls_key key = { .process = process };
	u8 flags = size == RECORD_SIZE && is_hello(&record) ? 0 : FLAG_JOINED;

	if (call->direction == DIRECTION_SEND && bytes) {
		struct tls_record written = { .bytes = bytes, .process = process };
		u64 *session = LOOKUP(tls_records, &written);

		if (session) {
			key.session = *session;
			struct tls_stream *stream = known_stream(&key);
			/* The call that encrypted it may not have returned yet. */
			if (!stream)
				stream = begin_stream(&key, library, flags);
			if (stream)
				bind(call, &key, stream, socket, 1, flags);
			return;
		}
	}
	struct tls_thread *thread = LOOKUP(tls_threads, &current);
	struct tls_call *within = thread ? innermost(thread) : 0;
	if (!within)
		return;
	key.session = within->session;
	struct tls_stream *stream = known_stream(&key);
	/* A library may receive the head of a record alone: it can be that of a hello. */
	if (!stream && size < RECORD_SIZE && byte_of(&record, 0) == RECORD_HANDSHAKE)
		return;
	if (!stream && (!flags || is_return_seen(within)))
		stream = begin_stream(&key, within->library, flags);
	if (stream && is_return_seen(within))
		bind(call, &key, stream, socket, 0, flags);
}

/*
 * A receiving call met the end of a socket's stream. If it happens in a call of the session, the
 * library has handed out all that it has received before.
 */
static __always_inline void meet_end_of_session(struct call *call)
{
	struct tls_process *known = known_process();
	if (!known)
		return;
	struct tls_key key = { .process = known->process };
	key.session = current_thread(known->library);
	struct tls_thread *thread = LOOKUP(tls_threads, &key);
	struct tls_call *within = thread ? innermost(thread) : 0;
	if (!within || within->direction != DIRECTION_RECV)
		return;
	key.session = within->session;
	struct tls_stream *stream = known_stream(&key);
	if (stream && stream->socket == socket_inode(call->socket))
		end_received(call, stream);
}

/* Report the current process, once for each program that it runs. */
static __always_inline void
report_process(struct call *call, u64 leader, u64 process, u8 is_datagram)
{
	u32 pid = process;
	u32 key = pid << 1 | is_datagram;
	u64 *reported = LOOKUP(tls_reported, &key);

	if (reported && *reported == process)
		return;
	struct handshake_event event = {
		.kind = EVENT_HANDSHAKE,
		.is_datagram = is_datagram,
		.pid = pid,
	};
	probe_read_kernel(event.comm, COMM_SIZE, (void *)(leader + OFFSET_task_struct_comm));
	if (!output(call, &event, sizeof(event)))
		UPDATE(tls_reported, &key, &process);
}

/* Forward the call's bytes, where is_wanted() has found them, as far as they may be a hello. */
static __always_inline void
forward_hello(struct workspace *work, struct call *call, struct connection *connection,
	      u64 direction)
{
	volatile struct walk *walk = &work->walk;
	struct event *event = &work->event;
	u64 position = connection->position[direction] - call->size;

	if (!walk->readable)
		return;
	u64 size = lesser(walk->left, HELLO_MAX - position);
	SHOW_BOUND(size, HELLO_MAX);
	event->kind = EVENT_HELLO;
	event->direction = direction;
	event->flags = connection->flags;
	event->time = now();
	event->socket = connection->inode;
	event->position = position;
	event->size = size;
	event->captured = size;
	if (!probe_read_user(event->payload, size, (void *)walk->data))
		deliver(call, event);
}

/*
 * A direction begins, and it is not HTTP. If it is TLS of a process that has used no probed
 * library, user space looks for one in it.
 */
static __always_inline void
report_handshake(struct call *call, struct connection *connection, u64 direction, u64 leader,
		 u32 pid)
{
	struct workspace *work = workspace_of(call);

	if (!work || !is_greeting(connection, direction, call->size))
		return;
	if (!known_process()) {
		/* User space looks whether the process is there. */
		DELETE(tls_processes, &pid);
		report_process(call, leader, current_process(), 0);
	}
	forward_hello(work, call, connection, direction);
}

/* RFC 9114, 3.1: HTTP/3 has the port of HTTPS. */
#define QUIC_PORT 443

/* A process sends a datagram, with an address of its own if `message` has one. */
static __always_inline void report_datagram(void *context, u64 sk, u64 message)
{
	struct call call = { .context = context };
	u16 local = READ_KERNEL(u16, sk + OFFSET_sock___sk_common_skc_num);
	u16 remote = READ_KERNEL(u16, sk + OFFSET_sock___sk_common_skc_dport);
	u64 address = READ_KERNEL(u64, message + OFFSET_msghdr_msg_name);
	u32 pid = get_current_pid_tgid() >> 32;

	/* struct sockaddr_in and sockaddr_in6: the family, then the port. */
	if (address)
		remote = READ_KERNEL(u16, address + 2);
	if (local != QUIC_PORT && remote != __builtin_bswap16(QUIC_PORT))
		return;
	if (is_own(pid) || why_not_this_process(pid) < FILTERED_REASONS ||
	    (GIVEN_PORT && !WANTED_PORT(QUIC_PORT)))
		return;
	report_process(&call, TASK_FIELD(u64, current_task(), task_struct_group_leader),
		       current_process(), 1);
}
#else
struct tls_stream;

static __always_inline void introduce_stream(struct call *call, struct tls_stream *stream) {}
static __always_inline void end_bound_stream(struct call *call, u64 socket, u8 flags) {}
static __always_inline void compare_record(struct call *call) {}
static __always_inline void meet_end_of_session(struct call *call) {}
static __always_inline void report_handshake(struct call *call, struct connection *connection,
					     u64 direction, u64 leader, u32 pid) {}
#endif

#endif
