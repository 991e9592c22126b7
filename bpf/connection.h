/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The probe's state for a socket: the position of each direction, and whether it is HTTP.
 * Keyed by inode: a socket stays the same one through fork, dup and a passed descriptor,
 * and a reused descriptor is another one.
 *
 * A connection seen from its first byte is classified once. One first seen mid-stream may
 * be in the middle of a body, so each of its calls is classified again until one begins a
 * message.
 */
#ifndef HTTP_PROFILER_CONNECTION_H
#define HTTP_PROFILER_CONNECTION_H

#include "classify.h"
#include "counters.h"
#include "socket.h"

/* A power of two above WINDOW, with room for that many bytes after any start below it. */
#define PREFIX_SPACE 64
#define BOTH_DIRECTIONS 3
#define PREFIX_MASK  31

struct connection {
	u64 inode;            /* 0: this place is free */
	u64 claims;           /* how often a socket's own place was claimed; 0: free, see free_place() */
	u64 position[2];
	u32 sequence[2];      /* TCP's own position after the last call, see missed_before() */
	u8 verdict;
	u8 flags;             /* FLAG_JOINED */
	u8 after_loss[2];
	u8 forwarded;         /* user space has received an event of this connection */
	u8 prefix_length[2];
	u8 named;             /* user space has received its names (Unix) */
	u8 rejected;          /* a bit for each direction whose first bytes are not HTTP */
	u8 greeted;           /* a bit for each direction, see began_with_tls() */
	u32 sending;          /* send calls that have not returned, see begin_sending() */
	u32 looked[2];        /* thread of the last call that was processed, see was_looked_at() */
	u32 pid;              /* last process that was introduced, see introduce_process() */
	u32 taken;            /* bytes of a nearly full ring, see exceeds_share() */
	u64 start_time;
	u64 exec_id;
	struct ends ends;
	u8 prefix[2][PREFIX_SPACE]; /* aligned: judge_response() reads 8 bytes at once */
#ifdef MAX_BODY
	u64 next[2];          /* position of the next message, see body.h */
	u64 wanted[2];        /* position after the wanted part of a body */
	u8 passed_over[2];    /* the bytes before the next event are unwanted body */
	u8 is_unframed;       /* where messages begin is no longer certain */
#endif
};

/*
 * A connection is stored at the index given by the low bits of its inode. The kernel numbers
 * sockets consecutively, so they spread without hashing, and this lookup takes a tenth of the
 * instructions of a hash table. If another connection has that place, this one is stored in
 * the second half of the array, and a table maps its inode to the index. That table has more
 * room than it needs, because such a map may evict entries before it is full.
 */
DEFINE_MAP(connections, MAP_TYPE_ARRAY, u32, struct connection, 2 * OWN_PLACES)
DEFINE_MAP(elsewhere, MAP_TYPE_LRU_HASH, u64, u32, 2 * OWN_PLACES)
/* How often a place in the second half was searched: each search begins at the next place. */
DEFINE_MAP(searches, MAP_TYPE_ARRAY, u32, u64, 1)

/*
 * A search examines this many places, at equal distances: connections that are opened together
 * have places side by side, and may stay open together. Searches at the same time begin at
 * different places, so that they do not choose the same one (except before 5.12, see
 * fetch_and_add()).
 */
#define EXAMINED_MAX 32

/*
 * Connections that user space found not to be HTTP: at the index given by the low bits of the
 * inode, the inode. User space only writes here (profiler/ingest/probe/ignored.py), in one
 * store, so that it cannot overwrite what the probe knows of a connection, or revive it. If
 * two connections share an entry, user space enters the other one again with its next chunk.
 */
DEFINE_MAP(ignored, MAP_TYPE_ARRAY, u32, u64, OWN_PLACES)

static __always_inline u64 *ignored_at(u64 inode)
{
	u32 place = inode & (OWN_PLACES - 1);

	return LOOKUP(ignored, &place);
}

static __always_inline int is_ignored(u64 inode)
{
	u64 *ignored = ignored_at(inode);

	return ignored && *ignored == inode;
}

static __always_inline struct connection *connection_at(u32 place)
{
	return LOOKUP(connections, &place);
}

/* The state of a socket, or 0. */
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

/*
 * A place for a new connection. One that is open makes room only if no examined place is free.
 * Then it is one that user space does not know, or else the last one that was examined.
 */
static __always_inline struct connection *free_place(u64 inode)
{
	struct connection *connection = connection_at(inode & (OWN_PLACES - 1));

	/* Another CPU may want it too: the first to count gets it. */
	if (connection && !connection->inode && !fetch_and_add(&connection->claims, 1))
		return connection;
	u32 zero = 0;
	u64 *searches = LOOKUP(searches, &zero);
	if (!searches)
		return 0;
	u64 start = fetch_and_add(searches, 1);
	u32 place = 0;
	u32 unknown = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < EXAMINED_MAX; i++) {
		place = start + i * (OWN_PLACES / EXAMINED_MAX);
		place = OWN_PLACES + (place & (OWN_PLACES - 1));
		connection = connection_at(place);
		if (!connection)
			return 0;
		if (!connection->inode) {
			unknown = 0;
			break;
		}
		if (!connection->forwarded)
			unknown = place;
	}
	if (unknown)
		place = unknown;
	connection = connection_at(place);
	if (!connection)
		return 0;
	u64 evicted = connection->inode;
	if (evicted)
		DELETE(elsewhere, &evicted);
	if (UPDATE(elsewhere, &inode, &place))
		return 0;
	return connection;
}

/* Begin a new connection; `known`, if not 0, is the state of an earlier one with its inode. */
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
	/* The entry of an earlier connection with this inode. */
	u64 *ignored = ignored_at(inode);
	if (ignored && *ignored == inode)
		*ignored = 0;
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
 * The position of a direction of plain TCP (`tcp`: see plain_tcp()), by TCP's own count.
 * `expected` is tested first: it is usually right, which saves further reads.
 */
static __always_inline u32 sequence_of(u64 tcp, u64 direction, u32 expected)
{
	if (!tcp)
		return 0;
	if (direction == DIRECTION_SEND)
		return TCP_FIELD(u32, tcp, tcp_sock_write_seq);
	u32 copied = TCP_FIELD(u32, tcp, tcp_sock_copied_seq);

	/* The peer's FIN counts as a byte, which the call that read the last data also consumed. */
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

/* The flags for the bytes before the next event of a direction; reported once. */
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

/* Bytes were skipped: where messages begin is no longer certain, see body.h. */
static __always_inline void lose_messages(struct connection *connection)
{
#ifdef MAX_BODY
	connection->is_unframed = 1;
#endif
}

/* `missed` bytes of a direction were not seen: leave a hole before the next bytes. */
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
 * The bytes this direction moved between the previous call and this one, which moved `size`,
 * without the probe seeing them: the kernel skips the probe on a CPU where it is already
 * running, if a preemptible kernel runs another task there. TCP's sequence numbers reveal
 * them. They are read under the socket's lock at the end of a call (hooks.toml), else
 * another thread's bytes would look missing. On the syscall route, sent bytes are checked
 * when a call begins, see begin_sending().
 *
 * A difference of one byte means nothing: an urgent byte is in the sequence, but not in the
 * stream. A negative number is no count: the position is unknown, or the socket was connected
 * to another peer.
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
 * Whether the first program, before this second one, saw a call that moved `size` bytes: it
 * stores the thread's number. Several threads may receive on one socket and overwrite each
 * other's number: then TCP's own count decides. When in doubt, the call counts as seen.
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
 * A call begins to send: while no other call is sending, everything sent before was seen or
 * skipped. Returns whether the connection counts this call.
 *
 * The order of the three reads matters: the second one counts a call that begins between the
 * first two, and if that call has also ended, the third one reads what it moved.
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

/* Whether the first bytes of this direction were not HTTP, on a connection that is undecided. */
static __always_inline int is_rejected(struct connection *connection, u64 direction)
{
	return connection->rejected & (1 << direction);
}

#ifdef TLS
/* RFC 8446, 5.1 */
#define RECORD_HANDSHAKE 22

/*
 * As many bytes of a direction contain its hello. Libraries read the five bytes of a record's
 * header first, so the hello may come in several calls. Also a mask.
 */
#define HELLO_MAX 4095

/* Whether a direction began with a record of a handshake, which is at `prefix` in its first call. */
static __always_inline int
began_with_tls(struct connection *connection, u64 direction, u8 *prefix, u64 call_size)
{
	u8 bit = 1 << direction;

	if (connection->position[direction] == call_size && prefix[0] == RECORD_HANDSHAKE &&
	    prefix[1] == 3 && !(connection->flags & FLAG_JOINED))
		connection->greeted |= bit;
	return connection->greeted & bit;
}

/* Whether this call's bytes may belong to the hello of such a direction. */
static __always_inline int
is_greeting(struct connection *connection, u64 direction, u64 call_size)
{
	return connection->greeted & (1 << direction) &&
	       connection->position[direction] - call_size < HELLO_MAX;
}
#else
static __always_inline int
began_with_tls(struct connection *connection, u64 direction, u8 *prefix, u64 call_size)
{
	return 0;
}

static __always_inline int
is_greeting(struct connection *connection, u64 direction, u64 call_size)
{
	return 0;
}
#endif

/* Classify an undecided connection by the call's first bytes, at `data` in user memory. */
static __always_inline u8
classify(struct connection *connection, u64 direction, u64 data, u64 size, u64 call_size)
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

	/* What follows a hello is no message of HTTP, whatever it looks like. */
	u8 verdict = VERDICT_OTHER;
	if (!began_with_tls(connection, direction, prefix, call_size))
		verdict = judge(prefix, &connection->prefix_length[direction],
				connection->flags & FLAG_JOINED);
	if (verdict == VERDICT_HTTP)
		connection->verdict = VERDICT_HTTP;
	else if (verdict == VERDICT_OTHER && !(connection->flags & FLAG_JOINED) &&
		 !is_greeting(connection, direction, call_size)) {
		/* A peer may send anything to an HTTP server, and its answer is what matters. */
		connection->rejected |= 1 << direction;
		if (connection->rejected == BOTH_DIRECTIONS)
			connection->verdict = VERDICT_OTHER;
	}
	if (verdict != VERDICT_OPEN)
		connection->prefix_length[direction] = 0;
	return verdict;
}

#endif
