/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The identity of a struct socket or a file descriptor: inode, addresses, network namespace.
 * Read when data moves, so it does not matter when or by which process the connection was
 * opened.
 */
#ifndef HTTP_PROFILER_SOCKET_H
#define HTTP_PROFILER_SOCKET_H

#include "event.h"
#include "kernel.h"

/* The inode number of a socket, or 0 when no file refers to it. */
static __always_inline u64 socket_inode(u64 socket)
{
	u64 file = FIELD(u64, socket, socket_file);
	if (!file)
		return 0;
	u64 inode = FIELD(u64, file, file_f_inode);
	if (!inode)
		return 0;
	return FIELD(u64, inode, inode_i_ino);
}

/* The same for a socket that may have no file yet: its inode is allocated beside it. */
static __always_inline u64 inode_beside(u64 socket)
{
	return READ_KERNEL(u64, socket + OFFSET_socket_alloc_vfs_inode + OFFSET_inode_i_ino);
}

/* Does a struct sock carry a byte stream: TCP, MPTCP, with or without kernel TLS, or Unix? */
static __always_inline int is_stream(u64 sk)
{
	u16 family = FIELD(u16, sk, sock___sk_common_skc_family);

	if (family != AF_INET && family != AF_INET6 && family != AF_UNIX)
		return 0;
	return FIELD(u16, sk, sock_sk_type) == SOCK_STREAM;
}

static __always_inline int is_tcp(u64 sk)
{
	return FIELD(u16, sk, sock___sk_common_skc_family) != AF_UNIX &&
	       FIELD(SK_PROTOCOL_T, sk, sock_sk_protocol) == IPPROTO_TCP;
}

/*
 * A stream's struct tcp_sock, if it is TCP without a protocol above it that has its own
 * stream, such as kernel TLS; else 0.
 */
static __always_inline u64 plain_tcp(u64 sk)
{
	u64 tcp = TCP_SOCK(sk);

	if (!tcp || TCP_FIELD(u64, tcp, inet_connection_sock_icsk_ulp_ops))
		return 0;
	return tcp;
}

static __always_inline u16 local_port(u64 sk)
{
	u16 port = FIELD(u16, sk, sock___sk_common_skc_num);
	/* Both ends have closed and unread data is read: the port is already released. */
	if (!port)
		port = __builtin_bswap16(READ_KERNEL(u16, sk + OFFSET_inet_sock_inet_sport));
	return port;
}

static __always_inline u16 remote_port(u64 sk)
{
	return __builtin_bswap16(FIELD(u16, sk, sock___sk_common_skc_dport));
}

/* The names of a connection's two ends. */
struct ends {
	u64 local[2]; /* addresses, as in struct event */
	u64 remote[2];
	u32 netns;
	u32 ports_seen; /* as the kernel had them when the rest was read */
	u16 local_port;
	u16 remote_port;
	u32 family; /* 0: not yet read */
};

/*
 * Read once: reading the kernel's structures costs more than remembering. Only the ports are
 * read again, because a socket can be connected to another peer.
 */
static __always_inline void find_ends(struct ends *ends, u64 sk)
{
	u32 ports = FIELD(u32, sk, sock___sk_common_skc_dport);

	if (ends->family && ends->ports_seen == ports)
		return;
	u16 family = FIELD(u16, sk, sock___sk_common_skc_family);
	if (family == AF_INET6) {
		ends->local[0] = FIELD(u64, sk, sock___sk_common_skc_v6_rcv_saddr);
		ends->local[1] = FIELD(u64, sk + 8, sock___sk_common_skc_v6_rcv_saddr);
		ends->remote[0] = FIELD(u64, sk, sock___sk_common_skc_v6_daddr);
		ends->remote[1] = FIELD(u64, sk + 8, sock___sk_common_skc_v6_daddr);
	} else if (family == AF_INET) {
		ends->local[0] = FIELD(u32, sk, sock___sk_common_skc_rcv_saddr);
		ends->remote[0] = FIELD(u32, sk, sock___sk_common_skc_daddr);
	}
	if (family != AF_UNIX) {
		ends->local_port = local_port(sk);
		ends->remote_port = remote_port(sk);
	}
	u64 net = FIELD(u64, sk, sock___sk_common_skc_net);
	ends->netns = FIELD(u32, net, net_ns_inum);
	ends->ports_seen = ports;
	ends->family = family;
}

static __always_inline void name_ends(struct event *event, struct ends *ends)
{
	u64 *local = (u64 *)event->local_address;
	u64 *remote = (u64 *)event->remote_address;

	event->family = ends->family;
	event->netns = ends->netns;
	event->local_port = ends->local_port;
	event->remote_port = ends->remote_port;
	local[0] = ends->local[0];
	local[1] = ends->local[1];
	remote[0] = ends->remote[0];
	remote[1] = ends->remote[1];
}

/*
 * The path that a Unix socket is bound to (an abstract one begins with a NUL), written to
 * `path`, SUN_PATH_SIZE bytes. Returns how many of them are in use; 0: it has no path.
 */
static __always_inline u8 read_unix_path(u8 *path, u64 sk)
{
	u64 address = READ_KERNEL(u64, sk + OFFSET_unix_sock_addr);
	if (!address)
		return 0;
	/* The length counts sun_family, the two bytes before sun_path. */
	u32 size = READ_KERNEL(u32, address + OFFSET_unix_address_len) - 2;
	if (size > SUN_PATH_SIZE)
		return 0;
	SHOW_BOUND(size, 127);
	if (probe_read_kernel(path, size, (void *)(address + OFFSET_unix_address_name + 2)))
		return 0;
	return size;
}

static __always_inline void name_socket(struct names_event *names, u64 inode, u64 sk)
{
	u64 peer = READ_KERNEL(u64, sk + OFFSET_unix_sock_peer);

#pragma unroll
	for (u32 i = 0; i < sizeof(*names) / sizeof(u64); i++)
		((volatile u64 *)names)[i] = 0;
	names->kind = EVENT_NAMES;
	names->socket = inode;
	names->local_size = read_unix_path(names->local, sk);
	if (!peer)
		return;
	names->remote_size = read_unix_path(names->remote, peer);
	/* There is none until the connection is accepted. */
	u64 socket = READ_KERNEL(u64, peer + OFFSET_sock_sk_socket);
	if (socket)
		names->peer = inode_beside(socket);
}

/*
 * Did a connection carry bytes before this call, which moved `size` in `direction`?
 * bytes_acked counts an active opener's SYN, so one byte is allowed. Only plain TCP keeps
 * count; any other connection is assumed to have carried bytes (the beginning of a Unix
 * connection is seen directly, see open_socket).
 */
static __always_inline int carried_bytes_before(u64 sk, u8 direction, u32 size)
{
	if (!is_tcp(sk))
		return 1;
	u64 received = READ_KERNEL(u64, sk + OFFSET_tcp_sock_bytes_received);
	u32 unread = READ_KERNEL(u32, sk + OFFSET_tcp_sock_rcv_nxt) -
		     READ_KERNEL(u32, sk + OFFSET_tcp_sock_copied_seq);
	u64 acked = READ_KERNEL(u64, sk + OFFSET_tcp_sock_bytes_acked);
	u32 unacked = READ_KERNEL(u32, sk + OFFSET_tcp_sock_write_seq) -
		      READ_KERNEL(u32, sk + OFFSET_tcp_sock_snd_una);
	u64 before_recv = received - unread;
	u64 before_send = acked + unacked;

	if (direction == DIRECTION_RECV)
		before_recv -= size;
	else
		before_send -= size;
	return (s64)before_recv > 0 || (s64)before_send > 1;
}

#ifdef ROUTE_SYSCALL
/* The struct socket of a stream at the current process's descriptor `fd`, or 0. */
static __always_inline u64 stream_socket_of(u64 fd)
{
	u64 files = TASK_FIELD(u64, current_task(), task_struct_files);
	u64 table = TASK_FIELD(u64, files, files_struct_fdt);
	if ((u32)fd >= TASK_FIELD(u32, table, fdtable_max_fds))
		return 0;
	u64 array = TASK_FIELD(u64, table, fdtable_fd);
	u64 number = READ_KERNEL(u64, array + 8 * (u64)(u32)fd);
	if (!number)
		return 0;
	u64 file = CAST(file, number);
	u64 inode = FIELD(u64, file, file_f_inode);
	if ((FIELD(u16, inode, inode_i_mode) & S_IFMT) != S_IFSOCK)
		return 0;
	u64 socket = CAST(socket, FIELD(u64, file, file_private_data));
	return is_stream(FIELD(u64, socket, socket_sk)) ? socket : 0;
}
#endif

#endif
