/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The BPF environment: types, helper functions, maps. It needs no header of the kernel or of
 * BCC and includes none: BCC would read them three times.
 *
 * Numbers of helpers are part of the kernel's ABI (include/uapi/linux/bpf.h).
 * HELPER_* are those that not every supported kernel has, from its BTF.
 */
#ifndef HTTP_PROFILER_HELPERS_H
#define HTTP_PROFILER_HELPERS_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int s32;
typedef long long s64;

#define __always_inline inline __attribute__((always_inline))
/* With either, BCC appends the licence to the program. */
#define SEC(name)     __attribute__((section(name), used))
#define BCC_SEC(name) SEC(name)

/* Without "bpf_", because BCC rewrites calls of functions with those names. */
static void *(*const map_lookup_elem)(void *map, const void *key) = (void *)1;
static s64 (*const map_update_elem)(void *map, const void *key, const void *value, u64 flags) = (void *)2;
static s64 (*const map_delete_elem)(void *map, const void *key) = (void *)3;
static u64 (*const ktime_get_ns)(void) = (void *)5;
static u64 (*const get_current_pid_tgid)(void) = (void *)14;
static u64 (*const get_current_uid_gid)(void) = (void *)15;
static s64 (*const get_current_comm)(void *to, u32 size) = (void *)16;
static s64 (*const perf_event_output)(void *context, void *map, u64 flags, void *data, u64 size) = (void *)25;
static u64 (*const get_current_task)(void) = (void *)35;
static s64 (*const current_task_under_cgroup)(void *map, u32 index) = (void *)37;
static u64 (*const get_current_cgroup_id)(void) = (void *)80;
static s64 (*const probe_read_user)(void *to, u32 size, const void *from) = (void *)112;
static s64 (*const probe_read_kernel)(void *to, u32 size, const void *from) = (void *)113;
static s64 (*const ringbuf_output)(void *map, void *data, u64 size, u64 flags) = (void *)130;
static void *(*const ringbuf_reserve)(void *map, u64 size, u64 flags) = (void *)131;
static void (*const ringbuf_submit)(void *record, u64 flags) = (void *)132;
static u64 (*const ringbuf_query)(void *map, u64 flags) = (void *)134;

/* enum bpf_map_type */
#define MAP_TYPE_HASH         1
#define MAP_TYPE_ARRAY        2
#define MAP_TYPE_PERCPU_ARRAY 6
#define MAP_TYPE_CGROUP_ARRAY 8
#define MAP_TYPE_LRU_HASH     9
#define MAP_TYPE_TASK_STORAGE 29

#define BPF_F_CURRENT_CPU 0xffffffffULL

/* Flags of the ring buffer's output, and the properties to query. */
#define BPF_RB_NO_WAKEUP    1
#define BPF_RB_FORCE_WAKEUP 2
#define BPF_RB_AVAIL_DATA   0

/*
 * An instruction refers to a map by a number, MAP_NUMBER_<name>, which
 * profiler/ingest/probe/load.py replaces with the map's descriptor. It reads what to create
 * from describe_<name>, a function that is compiled and never run.
 */
u64 bpf_pseudo(u64 kind, u64 number) asm("llvm.bpf.pseudo");
#define PSEUDO_MAP 1
#define MAP(name)  ((void *)bpf_pseudo(PSEUDO_MAP, MAP_NUMBER_##name))

#define DEFINE_MAP(name, type, key, value, entries)                              \
	u64 describe_##name(void *ctx)                                           \
	{                                                                        \
		return (u64)(type) << 56 | (u64)sizeof(key) << 48 |              \
		       (u64)sizeof(value) << 24 | (u64)(entries);                \
	}

/*
 * Without a branch, because the verifier follows both sides of a branch, again in each
 * iteration of a loop. (The asm hides the meaning from the compiler, which would otherwise
 * make a branch of either.)
 */
static __always_inline u64 is_negative(s64 number)
{
	u64 bit = (u64)number >> 63;

	asm volatile("" : "+r"(bit));
	return bit;
}

static __always_inline u64 is_zero(u64 number)
{
	return is_negative(~number & (number - 1));
}

/* The smaller of two numbers below 1 << 63. */
static __always_inline u64 lesser(u64 one, u64 other)
{
	u64 more = one - other;

	return other + more * is_negative(more);
}

#define LOOKUP(name, key)        map_lookup_elem(MAP(name), key)
#define UPDATE(name, key, value) map_update_elem(MAP(name), key, value, 0)
#define DELETE(name, key)        map_delete_elem(MAP(name), key)

#endif
