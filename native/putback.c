/* Putting tasks back as they were before criu began with them (see tracer.c).
 *
 * criu has gone, so nobody else works on them, but each may be anywhere: running
 * criu's code on borrowed registers, in a system call that it was made to do, in the
 * loop in which a process leader answers criu, or stopped in between. All are halted
 * first, then repaired, and only then let go: criu's code and mapping, which threads
 * share, must not vanish under one of them.
 *
 * A task that cannot be had in time (it hangs in the kernel) is let go by our end, as
 * Linux does by itself; the rest is not kept waiting for it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/ptrace.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tracer.h"

#if defined(__x86_64__)

#define DEADLINE_MS 10000
#define SYSCALL_STOP (SIGTRAP | 0x80)
#define CODE_SYSCALL 0xcccccccccccc050fUL /* syscall; int3... */
#define CODE_BYTES 3 /* of it, when the int3 has been met */
#define TRAP_AND_DIRECTION 0x500UL /* flags */

static long deadline_ms;

static long now_ms(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

static long trace(int request, struct task *task, unsigned long addr, const void *data)
{
	return syscall(SYS_ptrace, request, task->tid, addr, data);
}

static bool stands(const struct task *task)
{
	return task->status && !task->gone;
}

/* Wait until `task` stands still; false when it has ended or time is up. The events of
 * all are taken: the end of a leader is told only after its threads'. */
static bool await_stop(struct task *task)
{
	struct timespec pause = { .tv_nsec = 50000 };

	while (!task->status && now_ms() <= deadline_ms)
		if (!take_event(WNOHANG))
			nanosleep(&pause, NULL);
	return stands(task);
}

static bool run_on(struct task *task, int request)
{
	if (trace(request, task, 0, NULL) != 0)
		return false;
	task->status = 0;
	return await_stop(task);
}

static bool is_event(const struct task *task)
{
	return task->status >> 16 != 0;
}

static bool has_crashed(const struct task *task)
{
	int number = WSTOPSIG(task->status);

	return !is_event(task) && (number == SIGSEGV || number == SIGBUS || number == SIGILL);
}

/* A signal on its way to the task that is not of our making; 0: none. Of our making is
 * what an instruction of criu's code caused, and the SIGPIPE for what that code wrote
 * into a pipe whose other end died with criu. */
static int foreign_signal(struct task *task)
{
	int number = WSTOPSIG(task->status);
	siginfo_t info;

	if (is_event(task) || number == SYSCALL_STOP)
		return 0;
	if (!task->saved || trace(PTRACE_GETSIGINFO, task, 0, &info) != 0)
		return number;
	if ((number == SIGTRAP || has_crashed(task)) && info.si_code > 0)
		return 0;
	if (number == SIGPIPE && task->map && info.si_pid == task->tid)
		return 0;
	return number;
}

static void keep_foreign_signal(struct task *task)
{
	int number = foreign_signal(task);

	if (number)
		task->stop_signal = number;
}

static bool is_in_map(struct task *task)
{
	struct user_regs_struct now;

	return task->map && trace(PTRACE_GETREGS, task, 0, &now) == 0 &&
	       now.rip - task->map < task->map_bytes;
}

/* The leader of a process runs criu's loop there. Without criu it ends the loop,
 * takes back what it did in the process and returns to the registers it once had. */
static bool leave_loop(struct task *task)
{
	while (is_in_map(task)) {
		keep_foreign_signal(task);
		/* If it has crashed, its registers are set by force. */
		if (has_crashed(task) || !run_on(task, PTRACE_SYSCALL))
			return false;
	}
	return true;
}

/* Linux restarts an interrupted system call on the way from a signal to the program,
 * but not on the way from the stop at a system call's end: go on to the former. */
static bool leave_syscall(struct task *task)
{
	if (is_event(task) || WSTOPSIG(task->status) != SYSCALL_STOP)
		return true;
	return trace(PTRACE_INTERRUPT, task, 0, NULL) == 0 && run_on(task, PTRACE_CONT);
}

/* The same SIGPIPE where it waits for the mask of the loop to end. */
static void drop_pipe_signal(struct task *task)
{
	uint64_t mask = ~(1UL << (SIGPIPE - 1));
	char path[64], line[256];
	unsigned long pending = 0;
	FILE *status;

	snprintf(path, sizeof path, "/proc/%d/status", task->tid);
	status = fopen(path, "r");
	while (status && fgets(line, sizeof line, status))
		if (sscanf(line, "SigPnd: %lx", &pending) == 1)
			break;
	if (status)
		fclose(status);
	if (!(pending & ~mask) || trace(PTRACE_SETSIGMASK, task, sizeof mask, &mask) != 0 ||
	    !run_on(task, PTRACE_CONT) || is_event(task) || WSTOPSIG(task->status) != SIGPIPE)
		return;
	/* Continued without it, and stopped before it runs anything of its own. */
	if (trace(PTRACE_INTERRUPT, task, 0, NULL) == 0)
		run_on(task, PTRACE_CONT);
}

static void set_registers(struct task *task)
{
	struct iovec xstate = { task->xstate, task->xstate_bytes };

	if (task->xstate)
		trace(PTRACE_SETREGSET, task, 0x202 /* NT_X86_XSTATE */, &xstate);
	trace(PTRACE_SETREGS, task, 0, &task->regs);
	trace(PTRACE_SETSIGMASK, task, sizeof task->mask, &task->mask);
}

static void set_bytes(struct task *task)
{
	for (struct poke *poke = task->pokes; poke; poke = poke->next)
		trace(PTRACE_POKEDATA, task, poke->addr, (void *)poke->word);
}

/* Make the task do a system call, as criu does. */
static void do_call(struct task *task, long number, unsigned long a, unsigned long b)
{
	struct user_regs_struct regs = task->regs;
	uint64_t mask = ~(1UL << (SIGTRAP - 1));
	unsigned long word;

	if (!stands(task) || trace(PTRACE_PEEKDATA, task, task->call_at, &word) != 0)
		return;
	regs.rip = task->call_at;
	regs.rax = (unsigned long)number;
	regs.orig_rax = ~0UL;
	regs.rdi = a;
	regs.rsi = b;
	regs.eflags &= ~TRAP_AND_DIRECTION;
	if (trace(PTRACE_POKEDATA, task, task->call_at, (void *)CODE_SYSCALL) != 0)
		return;
	if (trace(PTRACE_SETSIGMASK, task, sizeof mask, &mask) == 0 &&
	    trace(PTRACE_SETREGS, task, 0, &regs) == 0 && run_on(task, PTRACE_CONT))
		while ((is_event(task) || WSTOPSIG(task->status) != SIGTRAP) && !has_crashed(task)) {
			keep_foreign_signal(task); /* nothing else passes the mask */
			if (!run_on(task, PTRACE_CONT))
				break;
		}
	trace(PTRACE_POKEDATA, task, task->call_at, (void *)word);
	if (stands(task))
		set_registers(task);
}

static void halt(void)
{
	struct task *task;

	for (task = tasks; task; task = task->next)
		if (!task->status) {
			task->ran = !task->calling;
			trace(PTRACE_INTERRUPT, task, 0, NULL);
		}
	for (task = tasks; task; task = task->next)
		await_stop(task);
}

/* It had left the loop before it was halted, and was on its own already: where it is
 * now is where it goes on. */
static void keep_place(struct task *task)
{
	if (!leave_syscall(task))
		return;
	bool has_signal = foreign_signal(task) != 0;

	task->saved = false;
	if (has_signal)
		task->map = 0; /* the mapping stays: no call may come before the signal */
	else
		note_original(task);
}

static void repair(struct task *task)
{
	if (task->debugged)
		trace(PTRACE_POKEUSR, task, offsetof(struct user, u_debugreg[7]), NULL);
	if (!task->saved)
		return;
	note_call(task); /* halted, it has either done its call or not begun it */
	if (is_in_map(task)) {
		if (leave_loop(task))
			drop_pipe_signal(task);
	} else if (task->ran && task->map) {
		keep_place(task);
		return;
	}
	if (!stands(task))
		return;
	keep_foreign_signal(task);
	if (leave_syscall(task))
		set_registers(task);
}

static void let_go(struct task *task)
{
	int number = task->saved ? 0 : foreign_signal(task);

	/* Sent anew: the stop in which it could be passed on may be over. */
	if (task->stop_signal)
		kill(task->tid, task->stop_signal);
	trace(PTRACE_DETACH, task, 0, (void *)(long)number);
}

/* Put back and let go all tasks. */
void put_back(void)
{
	struct task *task;
	bool all_stand = true;

	deadline_ms = now_ms() + DEADLINE_MS;
	halt();
	for (task = tasks; task; task = task->next)
		if (stands(task))
			repair(task);
	for (task = tasks; task; task = task->next)
		if (stands(task))
			set_bytes(task);
	for (task = tasks; task; task = task->next)
		all_stand = all_stand && task->status;
	/* Who was not halted may still be in the mapping. */
	for (task = all_stand ? tasks : NULL; task; task = task->next) {
		if (stands(task) && task->memfd >= 0)
			do_call(task, SYS_close, (unsigned long)task->memfd, 0);
		if (stands(task) && task->map)
			do_call(task, SYS_munmap, task->map, task->map_bytes);
	}
	for (task = tasks; task; task = task->next)
		unpause_connections(task->tid);
	for (task = tasks; task; task = task->next)
		if (stands(task))
			let_go(task);
}

#endif
