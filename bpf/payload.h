/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Walks the memory that a call moved, piece by piece.
 *
 * A call's data is one range of user memory, an array of ranges, or an array of messages,
 * each with such an array. A walk holds the rest of its current range, and where the next
 * range and the next message are described. Fields that a call does not need are not used.
 *
 * A walk lives in a map, not on the stack, and is volatile: the verifier forgets what it knew
 * about a value that went through a map. So all paths through an iteration end in the same
 * state; with the values in registers it would follow each path separately. It still follows
 * every iteration. So loops must have few of them, and few branches (is_negative() in
 * helpers.h).
 */
#ifndef HTTP_PROFILER_PAYLOAD_H
#define HTTP_PROFILER_PAYLOAD_H

#include "event.h"
#include "kernel.h"

/* UIO_MAXIOV: no call takes more segments, or messages. */
#define SEGMENTS_MAX 1024
/* walk_back() adds up the bytes of this many segments at a time. */
#define STRIDE 16

struct walk {
	u64 data;     /* user memory */
	u64 left;     /* bytes from `data` to the end of its segment */
	u64 segments; /* address of the next struct segment */
	u64 messages; /* address of the next struct mmsghdr; 0: only one message */
	u64 message_left; /* bytes of the current message after the current segment */
	u32 limit;      /* bytes of the call that are to be copied */
	u32 done;       /* bytes of the call behind the walk */
	u32 lost;       /* of these: lost */
	u32 unreadable; /* of these: not copied */
	u32 readable;   /* the walk is at the next byte of the call */
#ifdef ROUTE_SOCKET
	struct segment stride[STRIDE];
#endif
};

#ifdef ROUTE_SOCKET
/*
 * The iterator's pointer. Before 6.4 the union's first member was the pointer to segments, so
 * a load gives a typed pointer, on which the verifier permits no arithmetic: then the helper
 * reads it.
 */
#ifdef ITER_POINTER_IS_TYPED
#define ITER_POINTER(msg, name) READ_KERNEL(u64, (msg) + OFFSET_##name)
#else
#define ITER_POINTER(msg, name) FIELD(u64, msg, name)
#endif
/* The kernel's copy of the caller's array. */
#define READ_SEGMENT(to, from) probe_read_kernel(to, sizeof(*(to)), (void *)(from))
#else
#define READ_SEGMENT(to, from) probe_read_user(to, sizeof(*(to)), (void *)(from))
#endif

#ifdef ROUTE_SYSCALL
/* User space's struct msghdr and struct mmsghdr (recvmsg(2), recvmmsg(2)). */
#define MSGHDR_IOV     16
#define MMSGHDR_LENGTH 56
#define MMSGHDR_SIZE   64

static __always_inline int next_message(volatile struct walk *walk)
{
	u64 message = walk->messages;
	u64 segments;
	u32 length;

	if (probe_read_user(&segments, sizeof(segments), (void *)(message + MSGHDR_IOV)) ||
	    probe_read_user(&length, sizeof(length), (void *)(message + MMSGHDR_LENGTH)))
		return -1;
	walk->messages = message + MMSGHDR_SIZE;
	walk->segments = segments;
	walk->message_left = length;
	return 0;
}
#endif

/* Advance to the next segment. Returns 0, or -1 if its description cannot be read. */
static __always_inline int next_segment(volatile struct walk *walk)
{
	struct segment segment = {};
#ifdef ROUTE_SYSCALL
	if (walk->messages && !walk->message_left)
		return next_message(walk);
#endif
	if (READ_SEGMENT(&segment, walk->segments))
		return -1;
	if (segment.length > walk->message_left)
		segment.length = walk->message_left;
	walk->data = segment.base;
	walk->left = segment.length;
	walk->message_left -= segment.length;
	walk->segments += sizeof(struct segment);
	return 0;
}

/*
 * Most calls move few bytes in few segments: these are copied at once, without a walk. Both
 * functions return 0, or -1 if finding all the bytes requires a walk.
 */
#define SEGMENTS_AT_ONCE 4
#define BYTES_AT_ONCE    4095 /* also a mask */

static __always_inline int copy_range(struct event *event, u64 data, u32 size)
{
	if (size > PAYLOAD_MAX)
		return -1;
	SHOW_BOUND(size, PAYLOAD_MAX);
	return probe_read_user(event->payload, size, (void *)data) ? -1 : 0;
}

/* A piece of `length` bytes, where `left` bytes of the call still have to be copied. */
static __always_inline int
copy_piece(struct event *event, u64 data, u64 length, u64 left)
{
	SHOW_BOUND(left, BYTES_AT_ONCE);
	SHOW_BOUND(length, BYTES_AT_ONCE);
	return probe_read_user(event->payload + left, length, (void *)data) ? -1 : 0;
}

#ifdef ROUTE_SOCKET
static __always_inline u32 iter_type(u64 msg)
{
	return FIELD(ITER_TYPE_T, msg, msghdr_iter_type) & ~ITER_DIRECTION_BIT;
}

/* The address of a finished call's bytes, if its iterator is of one range; else 0. */
static __always_inline u64 flat_data(u64 msg, u32 size)
{
#ifdef ITER_UBUF
	if (iter_type(msg) == ITER_UBUF)
		return ITER_POINTER(msg, msghdr_iter_ubuf) + FIELD(u64, msg, msghdr_iter_offset) - size;
#endif
	return 0;
}

/* The iterator of a finished call points after its last byte, see walk_back(). */
static __always_inline int copy_at_once(struct event *event, u64 msg, u32 size)
{
	u64 range = flat_data(msg, size);

	if (range)
		return copy_range(event, range, size);
	if (iter_type(msg) != ITER_IOVEC)
		return -1;

	u64 offset = FIELD(u64, msg, msghdr_iter_offset);
	u64 segments = ITER_POINTER(msg, msghdr_iter_iov) + (offset ? sizeof(struct segment) : 0);
	u64 left = size;
#ifndef CAST_FUNCTION
	struct segment last[SEGMENTS_AT_ONCE];

	if (probe_read_kernel(last, sizeof(last), (void *)(segments - sizeof(last))))
		return -1;
#endif
#pragma unroll
	for (int i = 1; i <= SEGMENTS_AT_ONCE; i++) {
#ifdef CAST_FUNCTION
		const volatile struct segment *segment =
			(void *)CAST(iovec, segments - i * sizeof(struct segment));
#else
		struct segment *segment = &last[SEGMENTS_AT_ONCE - i];
#endif
		u64 base = segment->base;
		u64 behind = base + (i == 1 && offset ? offset : segment->length);

		if (i == 1 && left <= behind - base)
			return copy_range(event, behind - left, left);
		if (size > BYTES_AT_ONCE)
			return -1;
		u64 length = lesser(behind - base, left);

		left -= length;
		if (length && copy_piece(event, behind - length, length, left))
			return -1;
		if (!left)
			return 0;
	}
	return -1;
}
#endif

#ifdef ROUTE_SOCKET
/*
 * Move to the first of the `size` bytes that a finished call moved.
 *
 * The iterator points after the last of them: the first is that many bytes back in an
 * ITER_UBUF, and perhaps some segments back in an ITER_IOVEC. (After a call used up its last
 * segment, the iterator is at the beginning of the next one, which may not exist and is not
 * read.) Returns 0, or -1 if the data is not in user memory, as with sendfile and splice.
 */
static __always_inline int walk_back(volatile struct walk *walk, u64 msg, u32 size)
{
	u64 range = flat_data(msg, size);

	if (range) {
		walk->data = range;
		walk->left = size;
		return 0;
	}
	if (iter_type(msg) != ITER_IOVEC)
		return -1;

	struct segment segment = {};
	u64 offset = FIELD(u64, msg, msghdr_iter_offset);
	u64 segments = ITER_POINTER(msg, msghdr_iter_iov);
	if (size <= offset) {
		if (READ_SEGMENT(&segment, segments))
			return -1;
		walk->data = segment.base + offset - size;
		walk->left = size;
		return 0;
	}
	walk->segments = segments;
	walk->left = size - offset; /* still to go back */
	/*
	 * First in strides, because the verifier follows each iteration. The stride that
	 * contains the first byte may begin before the array: what it reads there only
	 * increases a sum that is already large enough. The sum cannot wrap, because no
	 * length has more than 31 bits (MAX_RW_COUNT).
	 */
#pragma clang loop unroll(disable)
	for (int i = 0; i < SEGMENTS_MAX / STRIDE; i++) {
		u64 bytes = 0;

		if (probe_read_kernel((void *)walk->stride, sizeof(walk->stride),
				      (void *)(walk->segments - sizeof(walk->stride))))
			break;
#pragma unroll
		for (int j = 0; j < STRIDE; j++)
			bytes += *(volatile u32 *)&walk->stride[j].length;
		if (walk->left <= bytes)
			break;
		walk->left -= bytes;
		walk->segments -= sizeof(walk->stride);
	}
#pragma clang loop unroll(disable)
	for (int i = 0; i < STRIDE; i++) {
		walk->segments -= sizeof(segment);
		if (READ_SEGMENT(&segment, walk->segments))
			return -1;
		if (walk->left <= segment.length) {
			walk->data = segment.base + segment.length - walk->left;
			walk->segments += sizeof(segment);
			walk->message_left = size - walk->left;
			return 0;
		}
		walk->left -= segment.length;
	}
	return -1;
}
#endif

#endif
