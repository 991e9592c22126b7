/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the probe remembers of a socket: how far each direction has come and
 * whether it speaks HTTP. Keyed by inode, so a socket is the same one through
 * fork, dup and a passed descriptor, and a reused descriptor is another.
 *
 * A connection seen from its first byte is judged once. One that was joined
 * later may be in the middle of a body, so each of its calls is judged afresh
 * until one begins a message.
 */
#ifndef HTTP_PROFILER_CONNECTION_H
#define HTTP_PROFILER_CONNECTION_H

#include "classify.h"
#include "counters.h"
#include "socket.h"

/* A power of two above WINDOW, and room for that much after any start below it. */
#define PREFIX_SPACE 64
#define PREFIX_MASK  31

struct connection {
	u64 inode;            /* 0: none is kept here */
	u64 claims;           /* 0: free, if it is a socket's own place, see free_place() */
	u64 position[2];
	u32 sequence[2];      /* TCP's own position after the last call, see missed_before() */
	u8 verdict;           /* profiler/ingest/probe/bcc.py writes VERDICT_OTHER here */
	u8 flags;             /* FLAG_JOINED */
	u8 after_loss[2];
	u8 forwarded;         /* user space has an event of this connection */
	u8 prefix_length[2];
	u8 named;             /* user space has its names (Unix) */
	u32 sending;          /* calls that send and have not ended, see begin_sending() */
	u32 looked[2];        /* thread of the last call that was looked at, see was_looked_at() */
	u32 pid;              /* process that was introduced last, see introduce_process() */
	u64 start_time;
	u64 exec_id;
	struct ends ends;
	u8 prefix[2][PREFIX_SPACE]; /* aligned: judge_response() reads 8 bytes at once */
#ifdef MAX_BODY
	u64 next[2];          /* position of the next message, see body.h */
	u64 wanted[2];        /* position after the wanted part of a body */
	u8 passed_over[2];    /* bytes before the next event are of a body, and not wanted */
	u8 is_unframed;       /* it is not certain any more where messages begin */
#endif
};

/*
 * A connection is kept at the place that the last bits of its inode say: the kernel numbers
 * sockets one after the other, so they spread by themselves, and to look there takes a tenth of
 * the instructions that a hash table takes. If that place is another's, it is kept elsewhere,
 * in the second half of the array, and a table says where.
 */
DEFINE_MAP(connections, MAP_TYPE_ARRAY, u32, struct connection, 2 * OWN_PLACES)
DEFINE_MAP(elsewhere, MAP_TYPE_LRU_HASH, u64, u32, OWN_PLACES)
/* How many places of the second half were given out: the next one is the oldest's. */
DEFINE_MAP(given_out, MAP_TYPE_ARRAY, u32, u64, 1)

static __always_inline struct connection *connection_at(u32 place)
{
	return LOOKUP(connections, &place);
}

/* What is kept of a socket, or 0. */
static __always_inline struct connection *known_connection(u64 inode)
{
	if (!inode)
		return 0;
	struct connection *connection = connection_at(inode & (OWN_PLACES - 1));
	if (connection && connection->inode == inode)
		return connection;
	u32 *place = LOOKUP(elsewhere, &inode);
	if (!place)
		return 0;
	connection = connection_at(*place);
	return connection && connection->inode == inode ? connection : 0;
}

/* A place for a new connection. */
static __always_inline struct connection *free_place(u64 inode)
{
	struct connection *connection = connection_at(inode & (OWN_PLACES - 1));

	/* Another CPU may want it as well: who counts first has it. */
	if (connection && !connection->inode && !fetch_and_add(&connection->claims, 1))
		return connection;
	u32 zero = 0;
	u64 *given = LOOKUP(given_out, &zero);
	if (!given)
		return 0;
	u32 place = OWN_PLACES + (fetch_and_add(given, 1) & (OWN_PLACES - 1));
	if (UPDATE(elsewhere, &inode, &place))
		return 0;
	return connection_at(place);
}

/* Keep a connection that begins now, of which `known` may be left from one before. */
static __always_inline struct connection *
remember_connection(u64 inode, struct connection *known)
{
	struct connection *connection = known ? known : free_place(inode);

	if (!connection)
		return 0;
	u64 claims = connection->claims;
#pragma unroll
	for (u32 i = 0; i < sizeof(*connection) / sizeof(u64); i++)
		((volatile u64 *)connection)[i] = 0;
	connection->claims = claims;
	connection->inode = inode;
	return connection;
}

static __always_inline void forget_connection(struct connection *connection, u64 inode)
{
	if (!connection->claims)
		DELETE(elsewhere, &inode);
	connection->inode = 0;
	connection->claims = 0;
}

/*
 * How far a direction of plain TCP (`tcp`: see plain_tcp()) has come, by its own count.
 * `expected` is asked for first: that it is there is the rule, and saves reading more.
 */
static __always_inline u32 sequence_of(u64 tcp, u64 direction, u32 expected)
{
	if (!tcp)
		return 0;
	if (direction == DIRECTION_SEND)
		return TCP_FIELD(u32, tcp, tcp_sock_write_seq);
	u32 copied = TCP_FIELD(u32, tcp, tcp_sock_copied_seq);

	/* The other end's FIN counts as a byte, and the call that read the last data met it. */
	if (copied != expected && TCP_FIELD(u8, tcp, sock_sk_shutdown) & RCV_SHUTDOWN &&
	    copied == TCP_FIELD(u32, tcp, tcp_sock_rcv_nxt))
		copied--;
	return copied;
}

static __always_inline struct connection *
find_connection(u64 inode, u64 sk, u64 tcp, u8 direction, u32 size)
{
	struct connection *connection = known_connection(inode);
	if (connection)
		return connection;

	connection = remember_connection(inode, 0);
	if (!connection)
		return 0;
	if (carried_bytes_before(sk, direction, size))
		connection->flags = FLAG_JOINED;
	connection->sequence[DIRECTION_SEND] = sequence_of(tcp, DIRECTION_SEND, 0);
	connection->sequence[DIRECTION_RECV] = sequence_of(tcp, DIRECTION_RECV, 0);
	connection->sequence[direction & 1] -= size;
	return connection;
}

/* What is known of the bytes of a direction before the next event; reported once. */
static __always_inline u8 before_event(struct connection *connection, u64 direction)
{
#ifdef MAX_BODY
	if (connection->passed_over[direction]) {
		connection->passed_over[direction] = 0;
		return FLAG_PASSED_OVER;
	}
#endif
	return 0;
}

/* Bytes were not looked at: where messages begin is not certain any more, see body.h. */
static __always_inline void lose_messages(struct connection *connection)
{
#ifdef MAX_BODY
	connection->is_unframed = 1;
#endif
}

/* `missed` bytes of a direction were not seen: they are a hole before what comes next. */
static __always_inline void miss(struct connection *connection, struct counters *counters,
				 u64 direction, u32 missed)
{
	count(&counters->seen, missed);
	count(&counters->lost[LOST_SKIPPED], missed);
	fetch_and_add(&connection->position[direction], missed);
	connection->after_loss[direction] = 1;
	lose_messages(connection);
}

/*
 * Bytes that this direction has moved since the call before this one, which moved
 * `size`, and that the probe did not see: while it works on a CPU, and a preemptible
 * kernel lets another task run there, the kernel skips it. TCP's sequence numbers
 * know. They are read under the socket's lock on the way out (hooks.toml), else
 * another thread's bytes would look like missing ones; on the syscall route what is
 * sent is checked when a call begins, see begin_sending().
 *
 * One byte is no sign: an urgent one is in the sequence, but not in the stream. A negative
 * number is no count: it is not known, or the socket was connected to another end.
 */
static __always_inline s32
missed_before(struct connection *connection, u64 tcp, u64 direction, u32 size)
{
	if (!tcp)
		return -1;

	u32 expected = connection->sequence[direction] + size;
	u32 sequence = sequence_of(tcp, direction, expected);

	connection->sequence[direction] = sequence;
#ifdef ROUTE_SYSCALL
	if (direction == DIRECTION_SEND)
		return -1;
#endif
	return sequence - expected;
}

/*
 * Whether the first look, before this second one, saw a call that moved `size` bytes:
 * it left the thread's number behind. Several threads may receive on one socket, and
 * write over each other's: then TCP's own count decides. In doubt it was looked at.
 */
static __always_inline int was_looked_at(struct connection *connection, u64 tcp, u64 direction,
					 u32 thread, u32 size)
{
	if (connection->looked[direction] == thread) {
		connection->looked[direction] = 0;
		return 1;
	}
	u32 expected = connection->sequence[direction] + size;

	return (s32)(sequence_of(tcp, direction, expected) - expected) < 0;
}

#if defined(ROUTE_SYSCALL) && defined(OFFSET_tracepoint_faultable)
/*
 * A call begins to send: as long as no other one does, all that was sent before has
 * been seen, or was skipped. Returns whether the connection counts it.
 *
 * The order of the three reads matters: a call that begins between the first two is
 * counted by the second, and one that also ended has moved what the third reads.
 */
static __always_inline int begin_sending(u64 inode, u64 sk)
{
	struct connection *connection = known_connection(inode);
	struct counters *counters = counters_of(SLOT_ENTER, DIRECTION_SEND);
	u64 tcp = plain_tcp(sk);

	if (!connection || !counters || connection->verdict == VERDICT_OTHER || !tcp)
		return 0;
	__sync_fetch_and_add(&connection->sending, 1);
	u32 written = sequence_of(tcp, DIRECTION_SEND, 0);
	if (*(volatile u32 *)&connection->sending != 1)
		return 1;
	u32 missed = written - *(volatile u32 *)&connection->sequence[DIRECTION_SEND];
	if ((s32)missed > 1) {
		connection->sequence[DIRECTION_SEND] = written;
		miss(connection, counters, DIRECTION_SEND, missed);
	}
	return 1;
}

static __always_inline void end_sending(u64 inode, int announced)
{
	struct connection *connection = announced ? known_connection(inode) : 0;

	if (connection && connection->sending)
		__sync_fetch_and_add(&connection->sending, -1);
}
#endif

/* Judge an undecided connection by the call's first bytes, at `data` in user memory. */
static __always_inline u8
classify(struct connection *connection, u64 direction, u64 data, u64 size)
{
	u8 *prefix = connection->prefix[direction];
	u64 length = connection->prefix_length[direction];
	u64 more;

	SHOW_BOUND(length, PREFIX_MASK);
	more = size < WINDOW - length ? size : WINDOW - length;
	SHOW_BOUND(more, PREFIX_MASK);
	if (probe_read_user(prefix + length, more, (void *)data))
		return VERDICT_OTHER;
	connection->prefix_length[direction] = length + more;

	u8 verdict = judge(prefix, &connection->prefix_length[direction],
			   connection->flags & FLAG_JOINED);
	if (verdict == VERDICT_HTTP)
		connection->verdict = VERDICT_HTTP;
	else if (verdict == VERDICT_OTHER && !(connection->flags & FLAG_JOINED))
		connection->verdict = VERDICT_OTHER;
	if (verdict != VERDICT_OPEN)
		connection->prefix_length[direction] = 0;
	return verdict;
}

#endif
