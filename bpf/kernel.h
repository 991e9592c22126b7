/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Reads the kernel's structures without its headers.
 *
 * OFFSET_* are generated from the running kernel's BTF. On the socket route a pointer comes
 * from the traced function's arguments, so the verifier knows its type and permits plain
 * loads: no helper call, and a NULL on the way reads as zero. On the syscall route, and
 * sometimes on the other one, a pointer is a number: kernels since 6.2 can cast it to a typed
 * pointer; on older ones a helper must read.
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
 * A number unknown to the compiler, so that the compiled program can be reused by the next
 * start: profiler/ingest/probe/load.py replaces its placeholder when it loads the program.
 */
static __always_inline u64 written_over(u64 placeholder)
{
	asm volatile("" : "+r"(placeholder));
	return placeholder;
}

/* How the hooked function is called, one byte each (Calling in profiler/ingest/probe/calling.py). */
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
 * Turn a number into a pointer to a structure, for FIELD() to load from. This is a kernel
 * function, called by its BTF id: profiler/ingest/probe/load.py rewrites a helper call to it.
 */
#ifdef CAST_FUNCTION
static u64 (*const rdonly_cast)(u64 pointer, u32 type) = (void *)CAST_FUNCTION;
#define CAST(name, pointer) rdonly_cast(pointer, TYPE_##name)
#else
#define CAST(name, pointer) (pointer)
#endif

/*
 * The current task: a typed pointer where the kernel has the helper (5.11). HELPER_* are the
 * helpers' numbers, from the kernel's BTF.
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
 * The struct tcp_sock of a stream's struct sock, or 0: a typed pointer where the kernel has
 * the helper (5.9), because plain loads are limited to the type's size.
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
 * The number of the current task's system call, from the registers that it saved when it
 * entered the kernel. Since 5.15 a helper returns where they are; before that they are at
 * the top of the kernel stack.
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
 * Nanoseconds of the clock that includes suspend, where the kernel has the helper (5.8);
 * START_TIME is the start of a task on the same clock.
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
 * Add to a shared number and return its old value. Kernels before 5.12, on arm64 before
 * 5.18, cannot do both atomically: there, two threads that send on one socket at the same
 * moment may get the same value. BCC's compiler does not know the newer instruction. So the
 * asm declares that the older one changes its operand, and profiler/ingest/probe/load.py
 * replaces it with the newer one.
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
 * Show the verifier that `value` is within `mask`. Clang knows this already and would omit
 * the operation; the empty asm makes Clang forget it.
 */
#define SHOW_BOUND(value, mask)                  \
	({                                       \
		asm volatile("" : "+r"(value));  \
		value &= (mask);                 \
	})

/* User space's struct iovec; the kernel's copy of an array has the same layout. */
struct segment {
	u64 base;
	u64 length;
};

#endif
