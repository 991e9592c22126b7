/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Skips the rest of bodies beyond MAX_BODY (--max-body): their bytes are counted here instead
 * of being copied for user space to count.
 *
 * For that the kernel must know where the next message begins. It only does so in the certain
 * cases: HTTP/1 from the connection's first byte on, one message after the other, each at the
 * beginning of a call, with a Content-Length, or a request with neither that nor a
 * Transfer-Encoding (RFC 9112, 6.3). Anything else ends this for the connection, and
 * everything from there on is forwarded: HEAD, whose response announces a body that it does
 * not have; statuses without a body; Expect; HTTP chunks; several messages in one call; a head
 * in several segments.
 */
#ifndef HTTP_PROFILER_BODY_H
#define HTTP_PROFILER_BODY_H

#include "connection.h"
#include "forward.h"

#ifdef MAX_BODY
#define LENGTH_DIGITS 12

/* The first bytes of field names in lower case, as little-endian numbers. */
#define CONTENT_     0x2d746e65746e6f63ULL /* content- */
#define LENGTH_COLON 0x3a6874676e656cULL   /* length: */
#define TRANSFER     0x726566736e617274ULL /* transfer */
#define EXPECT       0x746365707865ULL     /* expect */
#define CRLF         0x0a0dULL
#define LOWER_CASE   0x2020202020202020ULL
#define FIRST(number, bytes) ((number) & ((1ULL << (8 * (bytes))) - 1))

#define METHOD_HEAD 0x44414548 /* HEAD */
#define METHOD_CONN 0x4e4e4f43 /* CONN */

static __always_inline u64 eight_bytes(const u8 *bytes, u64 at)
{
	SHOW_BOUND(at, HEAD_MAX);
	return *(const u64 *)(bytes + at);
}

/* A byte repeated to a word. A mark, the high bit, at zero bytes; only the lowest mark is reliable. */
#define EACH_BYTE(byte)  ((byte) * 0x0101010101010101ULL)
#define ZERO_BYTES(word) (((word) - EACH_BYTE(1ULL)) & ~(word) & EACH_BYTE(0x80ULL))
/* The index of the lowest marked byte: 1 << 8 * n, times this, has n in its top bits. */
#define NUMBER_OF_LOWEST(marked) \
	((((marked) & -(marked)) >> 7) * 0x0001020304050607ULL >> 56)

/* One iteration of look_through() examines at most this many bytes. */
#define LOOKED_AT 24

/* Copy the bytes of a head to examine. Returns -1 if they cannot be read. */
static __always_inline int copy_head(volatile struct head *head, u8 *bytes, u64 data)
{
	u64 known = head->known & HEAD_MAX;

	return probe_read_user(bytes, known, (void *)data) ? -1 : 0;
}

/*
 * Find the end of a head and what it declares about its body: line by line, and word by word
 * to the end of a line. The progress of the search is kept in the map, so that every
 * iteration looks the same to the verifier. (The bytes after `known` may be those of an
 * earlier call; see begin_message().)
 */
static __always_inline void look_through(volatile struct head *head, u8 *bytes, u64 data)
{
	head->at = 0;
	head->size = 0;
	head->value = 0;
	head->is_odd = 0;
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < STEPS_MAX; i++) {
		u64 at = head->at;
		if (at + LOOKED_AT > head->known && head->known < head->most) {
			head->known = head->most;
			if (copy_head(head, bytes, data))
				break;
		}
		if (at >= head->known)
			break;
		u64 ends = ZERO_BYTES(eight_bytes(bytes, at) ^ EACH_BYTE((u64)'\n'));
		if (!ends) {
			head->at = at + 8;
			continue;
		}
		at += NUMBER_OF_LOWEST(ends) + 1;
		head->at = at;
		u64 name = eight_bytes(bytes, at);

		if (FIRST(name, 2) == CRLF) {
			head->size = at + 2;
			break;
		}
		name |= LOWER_CASE;
		u64 rest = eight_bytes(bytes, at + 8) | LOWER_CASE;

		head->is_odd |= is_zero(name ^ TRANSFER) | is_zero(FIRST(name ^ EXPECT, 6));
		if (!is_zero((name ^ CONTENT_) | FIRST(rest ^ LENGTH_COLON, 7)))
			continue;
		head->is_odd |= head->value; /* a second one */
		head->value = at + 15;
	}
}

/* Parse the number at `at`; -1 if there is none, or it is too long. */
static __always_inline s64 number_at(const u8 *bytes, u64 at)
{
	u64 number = 0;
	u32 digits = 0;

#pragma clang loop unroll(disable)
	for (u32 i = 0; i < LENGTH_DIGITS; i++) {
		u8 byte = eight_bytes(bytes, at + i);
		if (byte == ' ' && !digits)
			continue;
		if (byte == '\r')
			return digits ? number : -1;
		if (byte < '0' || byte > '9')
			return -1;
		number = 10 * number + byte - '0';
		digits++;
	}
	return -1;
}

/* The length of the body after the head that begins with `bytes`; -1 if that is not certain. */
static __always_inline s64 length_of_body(volatile struct head *head, const u8 *bytes)
{
	u64 start = *(const u64 *)bytes;

	if (!head->size || head->is_odd)
		return -1;
	if (FIRST(start ^ RESPONSE_START, RESPONSE_LENGTH) == 0) {
		/* "HTTP/1.1 200": 1xx, 204 and 304 have no body. */
		if (!head->value || bytes[9] < '2' ||
		    (bytes[11] == '4' && bytes[10] == '0' && bytes[9] <= '3'))
			return -1;
	} else if (FIRST(start, 4) == METHOD_HEAD || FIRST(start, 4) == METHOD_CONN) {
		return -1;
	}
	return head->value ? number_at(bytes, head->value) : 0;
}

/* Whether all bytes of a call belong to a body, and none of them is wanted. */
static __always_inline int
is_beyond_limit(struct connection *connection, u64 direction, u64 position, u32 size)
{
	return !connection->is_unframed && position >= connection->wanted[direction] &&
	       position + size <= connection->next[direction];
}

/* A call begins a message: find its end. Returns -1 if that is not certain. */
static __always_inline int begin_message(struct connection *connection, struct workspace *work,
					 struct call *call, u64 direction, u64 position)
{
	volatile struct walk *walk = &work->walk;
	volatile struct head *head = &work->head;
	u8 *bytes = work->event.payload;

	start_walk(walk, call);
	if (!walk->readable)
		return -1;
	head->most = lesser(walk->left, HEAD_MAX);
	head->known = lesser(walk->left, HEAD_FIRST);
	if (copy_head(head, bytes, walk->data))
		return -1;
	head->moved = call->size;
	look_through(head, bytes, walk->data);
	s64 length = length_of_body(head, bytes);
	/* The end of the head may be a leftover of an earlier call. */
	if (length < 0 || head->size > head->known)
		return -1;
	connection->wanted[direction] = position + head->size + MAX_BODY;
	connection->next[direction] = position + head->size + length;
	/* From the map: the verifier would otherwise track each range of the call's size to the end. */
	u64 ready = (u64)head->size + MAX_BODY;
	u64 moved = head->moved;
	if (ready > moved)
		ready = moved;
	if (ready <= head->known)
		head->ready = ready;
	return 0;
}

/*
 * A call is forwarded: remember where the next message begins. Once uncertain, this stays
 * uncertain, in both directions: an unseen request may have been HEAD.
 */
static __always_inline void follow_messages(struct connection *connection, struct workspace *work,
					    struct call *call, u64 direction, u64 position)
{
	u64 next = connection->next[direction];

	work->head.ready = 0;
	if (connection->is_unframed)
		return;
	if (position > next || connection->flags & FLAG_JOINED ||
	    (position == next && begin_message(connection, work, call, direction, position)) ||
	    position + call->size > connection->next[direction]) {
		connection->is_unframed = 1;
		work->head.ready = 0;
	}
}

/* Deliver what is already in the event; the call's other bytes are unwanted body. */
static __always_inline void forward_ready(struct connection *connection, struct workspace *work,
					  struct call *call, u64 direction,
					  struct counters *counters)
{
	u32 ready = work->head.ready;
	u32 rest = call->size - ready;

	counters->filtered[FILTERED_MAX_BODY].bytes += rest;
	count(deliver_call(&work->event, connection, call, direction, ready,
			   rest ? FLAG_LIMIT : 0) ?
		      &counters->lost[LOST_RING_FULL] : &counters->forwarded,
	      ready);
}
#endif

#endif
