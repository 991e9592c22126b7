/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Is this byte stream HTTP?
 *
 * Decided from the first WINDOW bytes of a direction, which may arrive in any number of
 * calls. The rule is generous: user space recognises a false match by its first line and
 * silences the connection (VERDICT_OTHER). But the rule never rejects a start line:
 *
 *     response   "HTTP/1."
 *     request    a token, one space, then what a request target can begin with:
 *                "/" "*" "h" "H", or anything after CONNECT   (RFC 9112, 3.2);
 *                HTTP/2's preface is "PRI * ..." and passes   (RFC 9113, 3.4)
 *                after "PROXY ", "TCP" or "UNKNOWN": version 1 of the PROXY protocol
 *     PROXY      version 2 of it: "\r\n\r\n\0\r\nQ", the beginning of its signature
 *     HTTP/2     a server may speak first: a SETTINGS frame;
 *                on a connection first seen mid-stream: a HEADERS frame  (RFC 9113, 4.1)
 *     TLS        with --tls-keys, at the beginning of a connection: a handshake (RFC 8446, 5.1),
 *                because user space decrypts what follows
 *
 * A method of more than WINDOW - 2 bytes is not recognised.
 */
#ifndef HTTP_PROFILER_CLASSIFY_H
#define HTTP_PROFILER_CLASSIFY_H

#include "helpers.h"

#define WINDOW 24

enum verdict {
	VERDICT_OPEN,  /* not enough bytes yet */
	VERDICT_HTTP,
	VERDICT_OTHER,
};

/* "HTTP/1." as its bytes read on a little-endian machine. */
#define RESPONSE_START  0x2e312f50545448ULL
#define RESPONSE_LENGTH 7

static __always_inline u8 judge_response(const u8 *bytes, u64 length)
{
	u64 known = length < RESPONSE_LENGTH ? length : RESPONSE_LENGTH;
	u64 mask = (1ULL << (8 * known)) - 1;

	if ((*(const u64 *)bytes ^ RESPONSE_START) & mask)
		return VERDICT_OTHER;
	return known == RESPONSE_LENGTH ? VERDICT_HTTP : VERDICT_OPEN;
}

/* Eight bytes of the signature of the PROXY protocol's version 2, on a little-endian machine. */
#define PROXY_START  0x510a0d000a0d0a0dULL
#define PROXY_LENGTH 8

static __always_inline u8 judge_proxy(const u8 *bytes, u64 length)
{
	u64 known = length < PROXY_LENGTH ? length : PROXY_LENGTH;
	u64 mask = known == PROXY_LENGTH ? -1ULL : (1ULL << (8 * known)) - 1;

	if ((*(const u64 *)bytes ^ PROXY_START) & mask)
		return VERDICT_OTHER;
	return known == PROXY_LENGTH ? VERDICT_HTTP : VERDICT_OPEN;
}

/* The length is reloaded in each iteration, so that the verifier does not distinguish them by it. */
static __always_inline u8 judge_request(const u8 *bytes, const volatile u8 *length)
{
#pragma clang loop unroll(disable)
	for (u32 i = 0; i < WINDOW - 1; i++) {
		if (i >= *length)
			return VERDICT_OPEN;
		u8 byte = bytes[i];
		if (byte == ' ') {
			if (i == 0)
				return VERDICT_OTHER;
			if (i == 7 && bytes[0] == 'C' && bytes[1] == 'O' && bytes[2] == 'N')
				return VERDICT_HTTP;
			if (i + 1 >= *length)
				return VERDICT_OPEN;
			byte = bytes[i + 1];
			if (byte == '/' || byte == '*' || byte == 'h' || byte == 'H')
				return VERDICT_HTTP;
			if (i == 5 && bytes[0] == 'P' && bytes[3] == 'X' &&
			    (byte == 'T' || byte == 'U'))
				return VERDICT_HTTP;
			return VERDICT_OTHER;
		}
		if (byte <= 0x20 || byte >= 0x7f)
			return VERDICT_OTHER;
	}
	return VERDICT_OTHER;
}

/*
 * The header of a frame: length (3 bytes), type, flags, stream (4 bytes, the first bit
 * reserved), as numbers on a little-endian machine. Below, each mask and the value it must
 * give: SETTINGS of stream 0, without flags, of less than 2 KiB; HEADERS of less than
 * 64 KiB with known flags only.
 */
#define FRAME_HEADER  9
#define SETTINGS_MASK 0xffffffffff00f8ffULL
#define SETTINGS_IS   0x0000000004000000ULL
#define HEADERS_MASK  0x000080d2ff0000ffULL
#define HEADERS_IS    0x0000000001000000ULL

static __always_inline u8 judge_frame(const u8 *bytes, u64 length, int joined)
{
	u64 first = *(const u64 *)bytes;
	u64 mask = joined ? HEADERS_MASK : SETTINGS_MASK;
	u64 is = joined ? HEADERS_IS : SETTINGS_IS;

	if (length < 8)
		mask &= (1ULL << (8 * length)) - 1;
	if ((first ^ is) & mask)
		return VERDICT_OTHER;
	if (length < FRAME_HEADER)
		return VERDICT_OPEN;
	/* Stream 0, or any other. */
	return (bytes[8] || first >> 40) == !!joined ? VERDICT_HTTP : VERDICT_OTHER;
}

/* The content type of a handshake and the major version, on a little-endian machine. */
#define TLS_START  0x0316
#define TLS_LENGTH 2

static __always_inline u8 judge_handshake(const u8 *bytes, u64 length, int joined)
{
#ifdef TLS_KEYS
	u64 known = length < TLS_LENGTH ? length : TLS_LENGTH;
	u64 mask = (1ULL << (8 * known)) - 1;

	if (joined || (*(const u64 *)bytes ^ TLS_START) & mask)
		return VERDICT_OTHER;
	return known == TLS_LENGTH ? VERDICT_HTTP : VERDICT_OPEN;
#else
	return VERDICT_OTHER;
#endif
}

static __always_inline u8 judge(const u8 *bytes, const volatile u8 *length, int joined)
{
	u8 handshake = judge_handshake(bytes, *length, joined);
	if (handshake != VERDICT_OTHER)
		return handshake;
	u8 response = judge_response(bytes, *length);
	if (response != VERDICT_OTHER)
		return response;
	u8 proxy = judge_proxy(bytes, *length);
	if (proxy != VERDICT_OTHER)
		return proxy;
	u8 frame = judge_frame(bytes, *length, joined);
	if (frame != VERDICT_OTHER)
		return frame;
	return judge_request(bytes, length);
}

#endif
