/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Finds the option that excludes a call. One program serves all filters:
 * profiler/ingest/probe/macros.py defines GIVEN_* and WANTED_*, whose values are written when
 * the program is loaded. The verifier then knows them, and removes the tests of absent options.
 * FILTER_SLOTS is the number of values of one option that the program holds.
 */
#ifndef HTTP_PROFILER_FILTER_H
#define HTTP_PROFILER_FILTER_H

#include "counters.h"
#include "socket.h"

#define FILTER_VALUE(number) written_over(FILTER_PLACEHOLDER + (number))

/* The directory of each group; profiler/ingest/probe/bcc.py writes them. */
DEFINE_MAP(cgroups, MAP_TYPE_CGROUP_ARRAY, u32, u32, FILTER_SLOTS)

/* Is it the profiler: the process that reads, or the one that exports? */
static __always_inline int is_own(u32 pid)
{
	return pid == written_over(SELF_PLACEHOLDER) || pid == written_over(EXPORTER_PLACEHOLDER);
}

/* Is the current task in this group, or in one below it? */
#define IN_CGROUP(index) (current_task_under_cgroup(MAP(cgroups), index) == 1)

/* Bytes 8 to 15 of an IPv4 address in its IPv4-mapped form (RFC 4291, 2.5.5.2). */
#define MAPPED(address) ((u64)(address) << 32 | 0xffff0000)

static __always_inline int has_wanted_address(u64 sk)
{
	u16 family = FIELD(u16, sk, sock___sk_common_skc_family);

	if (family == AF_INET) {
		u64 local = MAPPED(FIELD(u32, sk, sock___sk_common_skc_rcv_saddr));
		u64 remote = MAPPED(FIELD(u32, sk, sock___sk_common_skc_daddr));

		return WANTED_ADDRESS(0, local) || WANTED_ADDRESS(0, remote);
	}
	if (family == AF_INET6) {
		u64 local = FIELD(u64, sk, sock___sk_common_skc_v6_rcv_saddr);
		u64 local_rest = FIELD(u64, sk + 8, sock___sk_common_skc_v6_rcv_saddr);
		u64 remote = FIELD(u64, sk, sock___sk_common_skc_v6_daddr);
		u64 remote_rest = FIELD(u64, sk + 8, sock___sk_common_skc_v6_daddr);

		return WANTED_ADDRESS(local, local_rest) || WANTED_ADDRESS(remote, remote_rest);
	}
	return 0;
}

/* The same for ends that were read before. */
static __always_inline int are_wanted(struct ends *ends)
{
	if (ends->family == AF_INET) {
		u64 local = MAPPED((u32)ends->local[0]), remote = MAPPED((u32)ends->remote[0]);

		return WANTED_ADDRESS(0, local) || WANTED_ADDRESS(0, remote);
	}
	return ends->family == AF_INET6 && (WANTED_ADDRESS(ends->local[0], ends->local[1]) ||
					    WANTED_ADDRESS(ends->remote[0], ends->remote[1]));
}

/* The option that excludes the current process; FILTERED_REASONS if none does. */
static __always_inline u32 why_not_this_process(u32 pid)
{
	if (GIVEN_PID && !WANTED_PID(pid))
		return FILTERED_PID;
	if (GIVEN_COMM) {
		u64 comm[COMM_SIZE / sizeof(u64)] = {};

		get_current_comm(comm, sizeof(comm));
		if (!WANTED_COMM(comm[0], comm[1]))
			return FILTERED_COMM;
	}
	if (GIVEN_USER) {
		u32 user = get_current_uid_gid();

		if (!WANTED_USER(user))
			return FILTERED_USER;
	}
	if (GIVEN_CGROUP && !WANTED_CGROUP)
		return FILTERED_CGROUP;
	return FILTERED_REASONS;
}

/* The option that excludes the current task's call on a socket; FILTERED_REASONS if none does. */
static __always_inline u32 why_not_asked_for(u64 sk, u32 pid)
{
	u32 why = why_not_this_process(pid);

	if (why < FILTERED_REASONS)
		return why;
	if (GIVEN_PORT) {
		u16 local = local_port(sk), remote = remote_port(sk);

		/* A Unix socket has no port. */
		if (FIELD(u16, sk, sock___sk_common_skc_family) == AF_UNIX ||
		    !(WANTED_PORT(local) || WANTED_PORT(remote)))
			return FILTERED_PORT;
	}
	if (GIVEN_ADDRESS && !has_wanted_address(sk))
		return FILTERED_ADDRESS;
	return FILTERED_REASONS;
}

/* Does only the process not match, so that another one with the same socket may? */
static __always_inline int is_about_process(u32 why)
{
	return why >= FILTERED_PID && why <= FILTERED_CGROUP;
}

#endif
