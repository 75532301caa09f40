/* What the tracer of a dump (tracer.c) knows of each task that it holds for criu. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "guard.h"
#include "tracer.h"

#if defined(__x86_64__)

struct task *tasks;
static struct task **by_tid;

long raw_ptrace(int request, pid_t pid, unsigned long addr, unsigned long data)
{
	/* Not the library's: for PTRACE_PEEKDATA that has a way of its own. */
	return syscall(SYS_ptrace, request, pid, addr, data) < 0 ? -errno : 0;
}

bool open_tasks(void)
{
	by_tid = mmap(NULL, GUARD_PID_LIMIT * sizeof *by_tid, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return by_tid != MAP_FAILED;
}

struct task *task_of(pid_t tid)
{
	return tid > 0 && tid < GUARD_PID_LIMIT ? by_tid[tid] : NULL;
}

bool add_task(pid_t tid)
{
	struct task *task = calloc(1, sizeof *task);

	if (!task || tid <= 0 || tid >= GUARD_PID_LIMIT) {
		free(task);
		return false;
	}
	task->tid = tid;
	task->memfd = -1;
	task->next = tasks;
	tasks = by_tid[tid] = task;
	return true;
}

void remove_task(struct task *task)
{
	struct task **at = &tasks;

	while (*at != task)
		at = &(*at)->next;
	*at = task->next;
	by_tid[task->tid] = NULL;
	for (struct poke *poke = task->pokes, *next; poke; poke = next) {
		next = poke->next;
		free(poke);
	}
	free(task->xstate);
	free(task);
}

/* ---- what is noted ------------------------------------------------------- */

/* The critical section of a restartable sequence ends where the registers are taken
 * away: the kernel no longer knows then that the task was in one, and could not send
 * it to the abort handler, where it has to go on. */
static void leave_critical_section(struct task *task)
{
	struct {
		uint64_t pointer;
		uint32_t size, signature, flags, pad;
	} found;
	struct {
		uint32_t version, flags;
		uint64_t start, length, abort;
	} section;
	unsigned long at;
	struct iovec there = { .iov_len = sizeof at }, here = { &at, sizeof at };

	if (syscall(SYS_ptrace, GET_RSEQ, task->tid, sizeof found, &found) <= 0 ||
	    !found.pointer)
		return;
	there.iov_base = (void *)(found.pointer + 8);
	if (process_vm_readv(task->tid, &here, 1, &there, 1, 0) != sizeof at || !at)
		return;
	there = (struct iovec){ (void *)at, sizeof section };
	here = (struct iovec){ &section, sizeof section };
	if (process_vm_readv(task->tid, &here, 1, &there, 1, 0) == sizeof section &&
	    task->regs.rip - section.start < section.length)
		task->regs.rip = section.abort;
}

/* Before criu alters anything of a task; it stands still then. */
void note_original(struct task *task)
{
	static unsigned char room[64 * 1024];
	struct iovec xstate = { room, sizeof room };

	if (task->saved || raw_ptrace(PTRACE_GETREGS, task->tid, 0, (unsigned long)&task->regs) ||
	    raw_ptrace(PTRACE_GETSIGMASK, task->tid, sizeof task->mask, (unsigned long)&task->mask))
		return;
	leave_critical_section(task);
	free(task->xstate);
	task->xstate = NULL;
	if (!raw_ptrace(PTRACE_GETREGSET, task->tid, 0x202 /* NT_X86_XSTATE */,
			(unsigned long)&xstate)) {
		task->xstate = malloc(xstate.iov_len);
		if (task->xstate) {
			memcpy(task->xstate, room, xstate.iov_len);
			task->xstate_bytes = xstate.iov_len;
		}
	}
	task->saved = true;
}

void note_poke(struct task *task, unsigned long addr, unsigned long word)
{
	struct poke **at = &task->pokes, *poke;

	while (*at && (*at)->addr != addr)
		at = &(*at)->next;
	poke = *at;
	if (poke && poke->word == word) { /* criu itself puts it back */
		*at = poke->next;
		free(poke);
	} else if (!poke && (poke = calloc(1, sizeof *poke))) {
		poke->addr = addr;
		if (raw_ptrace(PTRACE_PEEKDATA, task->tid, addr, (unsigned long)&poke->word)) {
			free(poke);
			return;
		}
		poke->next = task->pokes;
		task->pokes = poke;
	}
}

/* Is criu about to make the task do a system call, at bytes it has poked? */
void note_registers(struct task *task, const struct user_regs_struct *regs)
{
	for (struct poke *poke = task->pokes; poke; poke = poke->next)
		if (poke->addr == regs->rip) {
			task->calling = true;
			task->call = *regs;
			task->call_at = regs->rip;
		}
}

/* What has come of that call, once the task stands still again. */
void note_call(struct task *task)
{
	struct user_regs_struct now;
	const struct user_regs_struct *call = &task->call;

	if (!task->calling || raw_ptrace(PTRACE_GETREGS, task->tid, 0, (unsigned long)&now) ||
	    now.rip == call->rip)
		return;
	task->calling = false;
	long result = (long)now.rax;
	bool failed = result < 0 && result > -4096;

	if (call->rax == SYS_memfd_create && !failed)
		task->memfd = (int)result;
	else if (call->rax == SYS_close && (int)call->rdi == task->memfd)
		task->memfd = -1;
	else if (call->rax == SYS_mmap && !failed)
		task->map = (unsigned long)result, task->map_bytes = call->rsi;
	else if (call->rax == SYS_munmap && !failed && call->rdi == task->map)
		task->map = 0;
}

#endif
