/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reading the kernel's structures without its headers.
 *
 * OFFSET_* are generated from the running kernel's BTF. On the socket route a
 * pointer comes from the traced function's arguments, so the verifier knows its
 * type and lets a plain load through: no helper call, and a NULL on the way
 * reads as zero. On the syscall route, and sometimes on the other, a pointer is a number:
 * kernels from 6.2 on can cast it to a typed pointer; on older ones a helper has to read.
 */
#ifndef HTTP_PROFILER_KERNEL_H
#define HTTP_PROFILER_KERNEL_H

#include "helpers.h"

#define AF_UNIX     1
#define AF_INET     2
#define AF_INET6    10
#define SOCK_STREAM 1
#define IPPROTO_TCP 6
#define S_IFMT      0170000
#define S_IFSOCK    0140000

/*
 * A number that is not known to the compiler, so that what it made serves the next start as
 * well: profiler/ingest/probe/load.py writes it over its placeholder when the program is loaded.
 */
static __always_inline u64 written_over(u64 placeholder)
{
	asm volatile("" : "+r"(placeholder));
	return placeholder;
}

/* How the hooked function is called: a byte each (Calling of profiler/ingest/probe/calling.py). */
enum calling {
	CALLING_DIRECTION,
	CALLING_SOCKET,  /* positions of parameters: the socket, */
	CALLING_MESSAGE, /* the message, */
	CALLING_FLAGS,   /* the flags, */
	CALLING_RESULT,  /* and the result: one of them, or what follows the last */
	CALLING_LEVEL,   /* route_socket.h */
	CALLING_LOOK,    /* call.h */
	CALLING_SLOT,    /* call.h */
};

#define CALLING(number) written_over(CALLING_PLACEHOLDER + (number))

#define MSG_OOB      0x1
#define MSG_PEEK     0x2
#define MSG_TRUNC    0x20
#define MSG_ERRQUEUE 0x2000
/* A call with one of these does not move bytes of the stream. */
#define MSG_NOT_STREAM (MSG_OOB | MSG_PEEK | MSG_ERRQUEUE)

#define RCV_SHUTDOWN 1
#define TCP_CLOSE    7
#define PF_EXITING   0x4

#define EPIPE      32
#define ECONNRESET 104

#define READ_KERNEL(type, address)                                             \
	({                                                                     \
		type value_ = 0;                                               \
		probe_read_kernel(&value_, sizeof(value_), (void *)(address)); \
		value_;                                                        \
	})

#define LOAD(type, base, name) (*(volatile type *)((u64)(base) + OFFSET_##name))

#if defined(ROUTE_SOCKET) || defined(CAST_FUNCTION)
#define FIELD(type, base, name) LOAD(type, base, name)
#else
#define FIELD(type, base, name) READ_KERNEL(type, (u64)(base) + OFFSET_##name)
#endif

/*
 * A pointer to a structure, for FIELD() to load from, out of a number. It is a function of
 * the kernel's, by its BTF id: profiler/ingest/probe/load.py makes a call of that out of a helper's.
 */
#ifdef CAST_FUNCTION
static u64 (*const rdonly_cast)(u64 pointer, u32 type) = (void *)CAST_FUNCTION;
#define CAST(name, pointer) rdonly_cast(pointer, TYPE_##name)
#else
#define CAST(name, pointer) (pointer)
#endif

/*
 * The current task, likewise: a typed pointer where the kernel has the helper
 * (5.11). HELPER_* are the helpers' numbers, from the kernel's BTF.
 */
#ifdef HELPER_get_current_task_btf
static u64 (*const get_current_task_btf)(void) = (void *)HELPER_get_current_task_btf;
#define current_task() get_current_task_btf()
#define TASK_FIELD(type, base, name) LOAD(type, base, name)
#else
#define current_task() get_current_task()
#define TASK_FIELD(type, base, name) READ_KERNEL(type, (u64)(base) + OFFSET_##name)
#endif

/*
 * The struct tcp_sock that a struct sock of a stream is, or 0: a pointer of that type where
 * the kernel has the helper (5.9), since plain loads end with the type's end.
 */
#if defined(ROUTE_SOCKET) && defined(HELPER_skc_to_tcp_sock)
static u64 (*const skc_to_tcp_sock)(u64 sk) = (void *)HELPER_skc_to_tcp_sock;
#define TCP_SOCK(sk) skc_to_tcp_sock(sk)
#define TCP_FIELD(type, tcp, name) LOAD(type, tcp, name)
#elif defined(ROUTE_SYSCALL) && defined(CAST_FUNCTION)
#define TCP_SOCK(sk) (is_tcp(sk) ? CAST(tcp_sock, sk) : 0)
#define TCP_FIELD(type, tcp, name) LOAD(type, tcp, name)
#else
#define TCP_SOCK(sk) (is_tcp(sk) ? (sk) : 0)
#define TCP_FIELD(type, tcp, name) READ_KERNEL(type, (u64)(tcp) + OFFSET_##name)
#endif

/* The numbers of the current process and, below, of its thread `task`. */
static __always_inline u64 current_id(u64 task)
{
#ifdef HELPER_get_current_task_btf
	return (u64)TASK_FIELD(u32, task, task_struct_tgid) << 32 | TASK_FIELD(u32, task, task_struct_pid);
#else
	return get_current_pid_tgid();
#endif
}

/* The name of the current thread, `task`. */
static __always_inline void read_comm(u8 *comm, u64 task)
{
#ifdef HELPER_get_current_task_btf
	((u64 *)comm)[0] = TASK_FIELD(u64, task, task_struct_comm);
	((u64 *)comm)[1] = TASK_FIELD(u64, task + 8, task_struct_comm);
#else
	get_current_comm(comm, 16);
#endif
}

#ifdef ROUTE_SOCKET
/*
 * Number of the system call that the current task is in, from the registers it saved on
 * its way into the kernel: where they are is known to a helper from 5.15 on;
 * before that they end at the top of the kernel stack.
 */
static __always_inline s32 current_syscall(u64 task)
{
#if defined(HELPER_get_current_task_btf) && defined(HELPER_task_pt_regs)
	u64 (*const task_pt_regs)(u64 task) = (void *)HELPER_task_pt_regs;
	return FIELD(s32, task_pt_regs(task), pt_regs_syscall);
#else
	u64 stack = READ_KERNEL(u64, task + OFFSET_task_struct_stack);
	return READ_KERNEL(s32, stack + THREAD_SIZE - SIZE_pt_regs + OFFSET_pt_regs_syscall);
#endif
}
#endif

/*
 * Nanoseconds of the clock that goes on while the machine is suspended, where the
 * kernel can tell it (5.8); START_TIME is a task's, by the same clock.
 */
#ifdef HELPER_ktime_get_boot_ns
static u64 (*const ktime_get_boot_ns)(void) = (void *)HELPER_ktime_get_boot_ns;
#define now() ktime_get_boot_ns()
#define OFFSET_start_time OFFSET_task_struct_start_boottime
#else
#define now() ktime_get_ns()
#define OFFSET_start_time OFFSET_task_struct_start_time
#endif

/*
 * Add to a shared number and return what it was. Kernels before 5.12, on arm64
 * before 5.18, cannot do both at once: there, two threads that send on one socket
 * at the same moment may get the same answer. The compiler of BCC does not know the
 * newer instruction, so it is told that the older one changes its operand, and
 * profiler/ingest/probe/load.py makes it the newer one.
 */
static __always_inline u64 fetch_and_add(u64 *number, u64 added)
{
#ifdef FETCH_AND_ADD
	asm volatile("lock *(u64 *)(%1 + 0) += %0" : "+r"(added) : "r"(number) : "memory");
	return added;
#else
	u64 old = *number;
	*number = old + added;
	return old;
#endif
}

/*
 * Show the verifier that `value` is within `mask`. Clang, which knows it already,
 * would leave the operation out; the empty asm makes it forget.
 */
#define SHOW_BOUND(value, mask)                  \
	({                                       \
		asm volatile("" : "+r"(value));  \
		value &= (mask);                 \
	})

/* struct iovec of user space; the kernel's copy of an array has the same shape. */
struct segment {
	u64 base;
	u64 length;
};

#endif
