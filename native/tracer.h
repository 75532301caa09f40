/* The tasks that the tracer holds for criu: what it needs to put them back. */
#ifndef CKPT_TRACER_H
#define CKPT_TRACER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/user.h>

struct poke {
	struct poke *next;
	unsigned long addr, word; /* the word that was there */
};

struct task {
	struct task *next;
	pid_t tid;
	int status; /* of its present stop or its end; 0 while it runs */
	bool fresh; /* criu has not been told of `status` yet */
	bool gone;  /* it has ended */
	bool ran;   /* on its own or in criu's code when criu ended, not in a call */
	bool failed; /* at something that criu did not wait for */

	/* Before anything of it was altered. */
	bool saved;
	struct user_regs_struct regs;
	uint64_t mask;
	void *xstate;
	size_t xstate_bytes;

	struct poke *pokes;
	bool debugged;   /* has a breakpoint in a debug register */
	int stop_signal; /* it was stopped by this, and was continued to work on it */

	/* The system call that criu makes it do, and what such calls left in it. */
	bool calling;
	struct user_regs_struct call;
	unsigned long call_at; /* where it can be made to do one: 0, nowhere yet */
	unsigned long map, map_bytes;
	int memfd; /* -1: none */
};

#define TRACER_NAME "ckpt-tracer"
#define GET_RSEQ 0x420f /* PTRACE_GET_RSEQ_CONFIGURATION: headers may be older */

/* tracer.c */
void run_guarded(char **command);
int trace_main(char **command);
bool take_event(int options);

/* tasks.c */
extern struct task *tasks;
long raw_ptrace(int request, pid_t pid, unsigned long addr, unsigned long data);
bool open_tasks(void);
struct task *task_of(pid_t tid);
bool add_task(pid_t tid);
void remove_task(struct task *task);
void note_original(struct task *task);
void note_poke(struct task *task, unsigned long addr, unsigned long word);
void note_registers(struct task *task, const struct user_regs_struct *regs);
void note_call(struct task *task);

/* putback.c */
void put_back(void);

/* sockets.c */
void unpause_connections(pid_t pid);

#endif
