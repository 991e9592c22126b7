/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Data that is sent once rather than with every event: the identity of a process, and the
 * names of a Unix connection's ends. It precedes the first event that needs it.
 */
#ifndef HTTP_PROFILER_INTRODUCE_H
#define HTTP_PROFILER_INTRODUCE_H

#include "call.h"
#include "connection.h"

/* A process's identity, as last sent to user space. */
struct known_process {
	u64 start_time; /* differs: another process has the pid now */
	u64 exec_id;    /* differs: the process runs another program */
};

DEFINE_MAP(processes, MAP_TYPE_LRU_HASH, u32, struct known_process, PROCESSES_MAX)

static __always_inline void
remember_process(struct connection *connection, struct known_process *process, u32 pid)
{
	connection->pid = pid;
	connection->start_time = process->start_time;
	connection->exec_id = process->exec_id;
}

/* Send the current process's identity, unless already sent: later the process may be gone. */
static __always_inline void
introduce_process(struct call *call, struct connection *connection, u64 leader, u64 start_time,
		  u32 pid)
{
	struct known_process present = {
		.start_time = start_time,
		.exec_id = TASK_FIELD(u64, leader, task_struct_self_exec_id),
	};
	/* Most connections stay with one process: then the table is not needed. */
	if (connection->pid == pid && connection->start_time == start_time &&
	    connection->exec_id == present.exec_id)
		return;
	struct known_process *known = LOOKUP(processes, &pid);
	if (known && known->start_time == start_time && known->exec_id == present.exec_id) {
		remember_process(connection, &present, pid);
		return;
	}

	struct workspace *work = workspace_of(call);
	if (!work)
		return;
	struct process_event *event = (void *)&work->event;
	u64 mm = READ_KERNEL(u64, get_current_task() + OFFSET_task_struct_mm);
	u64 from = READ_KERNEL(u64, mm + OFFSET_mm_struct_arg_start);
	u64 size = READ_KERNEL(u64, mm + OFFSET_mm_struct_arg_end) - from;
	if (size > CMDLINE_MAX)
		size = CMDLINE_MAX;
	SHOW_BOUND(size, CMDLINE_MAX);
	if (probe_read_user(event->cmdline, size, (void *)from))
		size = 0;
	SHOW_BOUND(size, CMDLINE_MAX);
	event->kind = EVENT_PROCESS;
	event->unused[0] = event->unused[1] = event->unused[2] = 0;
	event->pid = pid;
	event->start_time = start_time;
	event->cgroup = get_current_cgroup_id();
	event->uid = get_current_uid_gid();
	event->size = size;
	/* Sent again with the next event if there was no room for it now. */
	if (!output(call, event, PROCESS_HEADER + size)) {
		UPDATE(processes, &pid, &present);
		remember_process(connection, &present, pid);
	}
}

/* Send the names of a Unix connection's ends to user space, unless already sent. */
static __always_inline void
introduce_socket(struct call *call, struct connection *connection, u64 inode)
{
	if (connection->named || connection->ends.family != AF_UNIX)
		return;
	struct workspace *work = workspace_of(call);
	if (!work)
		return;
	struct names_event *names = (void *)&work->event;
	name_socket(names, inode, call->sk);
	if (!output(call, names, sizeof(*names)))
		connection->named = 1;
}

#endif
