/* Preloaded into the criu of a dump: hands its ptrace and wait calls to the process
 * that outlives it (tracer.c). Were criu the tracer itself, its death would let go
 * every task at once, also one whose registers it has borrowed.
 *
 * Only tasks that this very process seized are handed over. Its own children, what
 * it probes in them, and the processes it forks go to the kernel as ever. Without
 * the descriptors that GUARD_VARIABLE names everything does.
 *
 * No function of the C library but __errno_location: criu may have come with a
 * library of its own, older than the one of this machine.
 */
#include "guard.h"

#if defined(__x86_64__)

#include <asm/unistd.h>
#include <errno.h>
#include <linux/ptrace.h>
#include <linux/time_types.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/types.h>

#define EXPORT __attribute__((visibility("default")))
#define WAIT_NO_HANG 1
#define WAIT_ALL 0x40000000 /* __WALL */
#define SIGNAL_KILL 9
#define SIGNAL_USR1 10
#define SIGNAL_CHILD 17
#define SIGINFO_BYTES 128
#ifndef PTRACE_GET_RSEQ_CONFIGURATION
#define PTRACE_GET_RSEQ_CONFIGURATION 0x420f
#endif
#define GET_REGS 12
#define SET_REGS 13
#define GET_FPREGS 14
#define SET_FPREGS 15
#define GET_THREAD_AREA 25
#define SET_THREAD_AREA 26
#define ARCH_PRCTL 30

struct vector {
	void *base;
	size_t size;
};

extern int *__errno_location(void);
extern char **environ;
EXPORT long ptrace(int request, ...);
EXPORT pid_t wait4(pid_t pid, int *status, int options, void *usage);
EXPORT pid_t waitpid(pid_t pid, int *status, int options);
EXPORT pid_t wait(int *status);

static struct guard_page *page;
static int sock, owner, seized_count;
static int absent; /* there is no tracer: never ask again */
static int dead;   /* there was one */
static volatile int busy, missed;
static unsigned char seized[GUARD_PID_LIMIT / 8];

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall" : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static long told(long result)
{
	if (result >= 0 || result < -4095)
		return result;
	*__errno_location() = (int)-result;
	return -1;
}

static void copy(void *to, const void *from, size_t size)
{
	__builtin_memcpy(to, from, size);
}

static int is_seized(pid_t pid)
{
	return pid > 0 && pid < GUARD_PID_LIMIT && (seized[pid / 8] >> (pid % 8) & 1);
}

static void mark(pid_t pid, int on)
{
	if (pid <= 0 || pid >= GUARD_PID_LIMIT || is_seized(pid) == on)
		return;
	seized[pid / 8] ^= 1 << (pid % 8);
	seized_count += on ? 1 : -1;
}

/* A forked child has our memory, but none of our tasks. */
static int is_mine(void)
{
	return page && owner == call(__NR_getpid, 0, 0, 0, 0, 0, 0);
}

static const char *number(const char *text, int *value)
{
	for (*value = 0; *text >= '0' && *text <= '9'; text++)
		*value = 10 * *value + *text - '0';
	return text;
}

/* Find the tracer when the first task is to be seized; false: there is none. */
static int has_tracer(void)
{
	static const char name[] = GUARD_VARIABLE "=";
	const char *value = NULL;
	int memory;

	if (page || absent)
		return is_mine();
	absent = 1;
	for (char **each = environ; each && *each; each++)
		if (!__builtin_memcmp(*each, name, sizeof name - 1))
			value = *each + sizeof name - 1;
	if (!value)
		return 0;
	value = number(value, &sock);
	if (*value != ',')
		return 0;
	number(value + 1, &memory);
	long found = call(__NR_mmap, 0, GUARD_BYTES, 3, 1, memory, 0);

	if (found < 0 && found > -4096)
		return 0;
	if (((struct guard_page *)found)->magic != GUARD_MAGIC) {
		call(__NR_munmap, found, GUARD_BYTES, 0, 0, 0, 0);
		return 0;
	}
	page = (struct guard_page *)found;
	owner = (int)call(__NR_getpid, 0, 0, 0, 0, 0, 0);
	/* A tracer that dies lets go what it holds. SIGCHLD, for criu looks then for
	 * what became of its tasks, and hears from us that they are lost. */
	call(__NR_prctl, 1 /* PR_SET_PDEATHSIG */, SIGNAL_CHILD, 0, 0, 0, 0);
	return 1;
}

static int is_answered(void)
{
	return atomic_load(&page->answered) == atomic_load(&page->asked);
}

static void ring(void)
{
	call(__NR_sendto, sock, (long)"", 1, 0x4000 /* MSG_NOSIGNAL */, 0, 0);
}

/* A handler that interrupts (criu's alarm) interrupts what we wait for, too. The
 * tracer may only just be about to wait, so it is told more than once. */
static void cancel(void)
{
	struct __kernel_timespec pause = { .tv_nsec = 1000000 };

	atomic_store(&page->cancelled, 1);
	while (!is_answered()) {
		char byte;

		call(__NR_kill, page->tracer, SIGNAL_USR1, 0, 0, 0, 0);
		call(__NR_nanosleep, (long)&pause, 0, 0, 0, 0, 0);
		if (call(__NR_recvfrom, sock, (long)&byte, 1, 0x40 /* MSG_DONTWAIT */, 0, 0) == 0) {
			dead = 1;
			return;
		}
	}
}

/* From before the page is filled until after it was read; what a handler (criu's for
 * SIGCHLD) asked meanwhile it is made to ask again. */
static void begin(void)
{
	busy = 1;
}

static void end(void)
{
	busy = 0;
	if (missed) {
		missed = 0;
		call(__NR_kill, owner, SIGNAL_CHILD, 0, 0, 0, 0);
	}
}

/* Wait until everything that was asked is answered; false: the tracer is dead. */
static int await_answer(int form)
{
	char byte;

	if (!dead && !is_answered()) {
		atomic_store(&page->criu_sleeps, 1);
		while (!dead && !is_answered()) {
			long size = call(__NR_read, sock, (long)&byte, 1, 0, 0, 0);

			if (size == -EINTR && form == GUARD_WAIT)
				cancel();
			else if (size != 1 && size != -EINTR)
				dead = !is_answered();
		}
		atomic_store(&page->criu_sleeps, 0);
	}
	return !dead;
}

/* A place at the end of the queue for a request with room for `size` bytes. */
static struct guard_request *new_request(int form, int request, pid_t pid, uint32_t size)
{
	static uint32_t end;
	uint32_t asked = atomic_load(&page->asked), answered = atomic_load(&page->answered);
	uint32_t needed = (sizeof(struct guard_request) + size + 63) & ~63U;

	if (asked - answered >= GUARD_REQUESTS - 1 || end + needed > GUARD_ROOM_BYTES) {
		if (atomic_load(&page->tracer_sleeps))
			ring();
		await_answer(form == GUARD_WAIT ? GUARD_VALUES : form);
		answered = asked;
	}
	if (answered == asked)
		end = 0;
	page->at[asked % GUARD_REQUESTS] = end;
	struct guard_request *found = (struct guard_request *)(page->room + end);

	end += needed;
	found->form = form;
	found->request = request;
	found->pid = pid;
	found->size = size;
	return found;
}

/* Ask it, for an answer that nobody waits for; `now`: something waits for the deed. */
static void post(int now)
{
	atomic_fetch_add(&page->asked, 1);
	if (now && atomic_load(&page->tracer_sleeps))
		ring();
}

/* Ask it and wait for the answer; false: the tracer is dead. */
static int ask(int form)
{
	atomic_store(&page->cancelled, 0);
	post(1);
	return await_answer(form);
}

/* ---- ptrace ------------------------------------------------------------ */

/* The words that were poked last: they may still be in the queue. */
static struct poked {
	pid_t pid;
	uint32_t number;
	uint64_t addr, word;
} poked[16];
static unsigned poked_next;

/* The task of which what the page shows is known without asking; 0: none. */
static pid_t seen_pid;

/* What tells requests of one kind apart. */
static uint64_t key_of(int request, long addr, long data)
{
	return request == ARCH_PRCTL ? (uint64_t)data : (uint64_t)addr;
}

static int form_of(int request, long addr, long data, uint32_t *size)
{
	switch (request) {
	case PTRACE_PEEKTEXT: case PTRACE_PEEKDATA: case PTRACE_PEEKUSR:
		return GUARD_PEEK;
	case GET_REGS: case SET_REGS:
		*size = 27 * 8;
		return GUARD_DATA;
	case GET_FPREGS: case SET_FPREGS:
		*size = 512;
		return GUARD_DATA;
	case GET_THREAD_AREA: case SET_THREAD_AREA:
		*size = 16;
		return GUARD_DATA;
	case PTRACE_GETEVENTMSG:
		*size = 8;
		return GUARD_DATA;
	case PTRACE_GETSIGINFO: case PTRACE_SETSIGINFO:
		*size = SIGINFO_BYTES;
		return GUARD_DATA;
	case PTRACE_SECCOMP_GET_FILTER:
		*size = data ? GUARD_DATA_BYTES : 0;
		return data ? GUARD_DATA : GUARD_VALUES;
	case ARCH_PRCTL: /* ARCH_GET_FS, ARCH_GET_GS, ARCH_SHSTK_STATUS */
		*size = 8;
		return data == 0x1003 || data == 0x1004 || data == 0x5005 ? GUARD_ADDR
									   : GUARD_VALUES;
	case PTRACE_GETREGSET: case PTRACE_SETREGSET:
		*size = (uint32_t)((struct vector *)data)->size;
		return GUARD_VECTOR;
	case PTRACE_PEEKSIGINFO:
		*size = ((struct ptrace_peeksiginfo_args *)addr)->nr * SIGINFO_BYTES;
		return GUARD_SIGINFOS;
	}
	/* Since PTRACE_GETSIGMASK what data leads to is as long as addr says. */
	if (request >= PTRACE_GETSIGMASK && request < 0x4300) {
		*size = (uint32_t)addr;
		return GUARD_DATA;
	}
	return GUARD_VALUES;
}

/* What only reads need not be carried there, and the other way round. */
static int is_read(int request)
{
	return request == GET_REGS || request == GET_FPREGS || request == PTRACE_GETSIGINFO ||
	       request == PTRACE_GETREGSET || request == PTRACE_GETSIGMASK ||
	       request == PTRACE_SECCOMP_GET_FILTER || request == PTRACE_GETEVENTMSG;
}

static int is_written(int request)
{
	return request == SET_REGS || request == SET_FPREGS || request == PTRACE_SETSIGINFO ||
	       request == PTRACE_SETREGSET || request == PTRACE_SETSIGMASK ||
	       request == SET_THREAD_AREA;
}

static void carry_there(struct guard_request *to, int request, void *addr, void *data)
{
	if (to->form == GUARD_DATA && !is_read(request))
		copy(to->bytes, data, to->size);
	else if (to->form == GUARD_ADDR)
		copy(to->bytes, addr, to->size);
	else if (to->form == GUARD_VECTOR && !is_read(request))
		copy(to->bytes, ((struct vector *)data)->base, to->size);
	else if (to->form == GUARD_SIGINFOS)
		copy(to->bytes, addr, sizeof(struct ptrace_peeksiginfo_args));
}

static void carry_back(struct guard_request *from, int request, void *addr, void *data)
{
	uint32_t size = from->size;

	if (request == PTRACE_SECCOMP_GET_FILTER)
		size = (uint32_t)from->result * 8;
	if (from->form == GUARD_DATA && !is_written(request)) {
		copy(data, from->bytes, size);
	} else if (from->form == GUARD_ADDR) {
		copy(addr, from->bytes, size);
	} else if (from->form == GUARD_VECTOR) {
		if (!is_written(request))
			copy(((struct vector *)data)->base, from->bytes, size);
		((struct vector *)data)->size = size;
	} else if (from->form == GUARD_SIGINFOS) {
		copy(data, from->bytes + GUARD_SIGINFOS_AT,
		     (size_t)from->result * SIGINFO_BYTES);
	}
}

/* Requests that fail only when the task has been killed (the next wait tells) or when
 * criu is at its end (the tracer refuses what comes next): nobody waits for them. */
static int needs_no_answer(int request, long data)
{
	switch (request) {
	case PTRACE_POKETEXT: case PTRACE_POKEDATA: case PTRACE_POKEUSR:
	case PTRACE_CONT: case PTRACE_SYSCALL: case PTRACE_INTERRUPT:
	case SET_REGS: case SET_FPREGS: case PTRACE_SETREGSET: case PTRACE_SETSIGMASK:
		return 1;
	case PTRACE_SETOPTIONS:
		return data == 1; /* PTRACE_O_TRACESYSGOOD; others may be refused */
	case PTRACE_DETACH:
		return seized_count > 1; /* the last waits for all: then the pause is over */
	}
	return 0;
}

/* Until these are carried out, what criu waits for does not happen. */
static int is_urgent(int request)
{
	return request == PTRACE_CONT || request == PTRACE_SYSCALL ||
	       request == PTRACE_INTERRUPT || request == PTRACE_DETACH;
}

/* Keep in step what is known without asking. */
static void note_posted(int request, pid_t pid, uint64_t addr, uint64_t data)
{
	if (request == PTRACE_POKEDATA || request == PTRACE_POKETEXT) {
		poked[poked_next++ % 16] =
			(struct poked){ pid, atomic_load(&page->asked), addr, data };
	} else if (pid == seen_pid && request != PTRACE_SETSIGMASK &&
		   request != PTRACE_SETOPTIONS) {
		seen_pid = 0;
	}
}

/* A word of memory: read directly, for the tracer need not be woken for that, with
 * what is on its way there. */
static int read_directly(pid_t pid, uint64_t addr, long *word)
{
	struct vector here = { word, 8 }, there = { (void *)addr, 8 };
	uint32_t answered = atomic_load(&page->answered);

	if (call(__NR_process_vm_readv, pid, (long)&here, 1, (long)&there, 1, 0) != 8)
		return 0;
	for (unsigned i = 0; i < 16; i++) {
		/* From the oldest on: a later one may be of the same word. */
		struct poked *each = &poked[(poked_next + i) % 16];

		if (each->pid != pid || (int32_t)(each->number - answered) < 0 || addr + 8 <= each->addr || each->addr + 8 <= addr)
			continue;
		if (each->addr != addr)
			return 0;
		*word = (long)each->word;
	}
	return 1;
}

static long peek(int request, pid_t pid, uint64_t addr)
{
	long word = 0;

	if (request == PTRACE_PEEKUSR || !read_directly(pid, addr, &word)) {
		struct guard_request *asked = new_request(GUARD_PEEK, request, pid, 8);

		asked->addr = addr;
		seen_pid = 0;
		if (!ask(GUARD_PEEK))
			return told(-ESRCH);
		if (asked->result < 0)
			return told(asked->result);
		copy(&word, asked->bytes, sizeof word);
	}
	*__errno_location() = 0;
	return word;
}

/* What the last stop or look of the task has brought along; NULL: it must be asked. */
static const struct guard_shown *known(int request, pid_t pid, long addr, long data)
{
	if (pid != seen_pid)
		return NULL;
	for (uint32_t i = 0; i < page->shown_count; i++)
		if (page->shown[i].request == request &&
		    page->shown[i].key == key_of(request, addr, data))
			return &page->shown[i];
	return NULL;
}

static long take_known(const struct guard_shown *shown, int form, long addr, long data)
{
	struct vector *vector = (struct vector *)data;
	uint32_t size = shown->size;

	if (shown->result < 0)
		return told(shown->result);
	if (form == GUARD_VECTOR) {
		if (size > vector->size)
			size = (uint32_t)vector->size;
		vector->size = size;
		data = (long)vector->base;
	}
	copy((void *)(form == GUARD_ADDR ? addr : data), page->album + shown->at, size);
	return (long)shown->result;
}

static long hand_over(int request, pid_t pid, long addr, long data)
{
	uint32_t size = 0;
	int form = form_of(request, addr, data, &size);

	if (dead)
		return told(-ESRCH);
	if (form == GUARD_PEEK)
		return peek(request, pid, (uint64_t)addr);
	const struct guard_shown *shown = known(request, pid, addr, data);

	if (shown)
		return take_known(shown, form, addr, data);
	if (form == GUARD_SIGINFOS)
		size += GUARD_SIGINFOS_AT;
	if (size > GUARD_DATA_BYTES)
		return told(-EIO);
	struct guard_request *asked = new_request(form, request, pid, size);

	asked->addr = (uint64_t)addr;
	asked->data = (uint64_t)data;
	carry_there(asked, request, (void *)addr, (void *)data);
	if (needs_no_answer(request, data)) {
		note_posted(request, pid, (uint64_t)addr, (uint64_t)data);
		post(is_urgent(request));
		if (request == PTRACE_DETACH)
			mark(pid, 0);
		return 0;
	}
	seen_pid = 0;
	if (!ask(form))
		return told(-ESRCH);
	if (request == PTRACE_GETSIGMASK || request == PTRACE_GET_RSEQ_CONFIGURATION)
		seen_pid = page->shown_pid;
	if (asked->result < 0)
		return told(asked->result);
	carry_back(asked, request, (void *)addr, (void *)data);
	if (request == PTRACE_SEIZE || request == PTRACE_DETACH)
		mark(pid, request == PTRACE_SEIZE);
	return (long)asked->result;
}

long ptrace(int request, ...)
{
	va_list args;

	va_start(args, request);
	pid_t pid = va_arg(args, pid_t);
	long addr = va_arg(args, long), data = va_arg(args, long), word = 0;
	va_end(args);
	if (request == PTRACE_SEIZE ? has_tracer() : is_seized(pid) && is_mine()) {
		begin();
		word = hand_over(request, pid, addr, data);
		end();
		return word;
	}
	int peeks = request >= PTRACE_PEEKTEXT && request <= PTRACE_PEEKUSR;
	long result = told(call(__NR_ptrace, request, pid, addr,
				peeks ? (long)&word : data, 0, 0));

	if (!peeks || result < 0)
		return result;
	*__errno_location() = 0;
	return word;
}

/* ---- wait -------------------------------------------------------------- */

static int lost_task(void)
{
	for (int pid = 1; pid < GUARD_PID_LIMIT; pid++)
		if (is_seized(pid))
			return pid;
	return 0;
}

static long wait_handed_over(pid_t pid, int *status, int options)
{
	struct guard_request *asked = dead ? NULL : new_request(GUARD_WAIT, 0, pid, 0);

	if (asked)
		asked->options = options;
	if (!asked || !ask(GUARD_WAIT)) {
		/* All tasks run again; for criu they are as good as killed. */
		int lost = pid > 0 ? pid : lost_task();

		mark(lost, 0);
		if (status)
			*status = SIGNAL_KILL;
		return lost ? lost : -ECHILD;
	}
	seen_pid = 0;
	if (asked->result > 0) {
		if (status)
			*status = asked->status;
		if ((asked->status & 0xff) == 0x7f)
			seen_pid = page->shown_pid;
		else
			mark((pid_t)asked->result, 0); /* it has ended */
	}
	return (long)asked->result;
}

pid_t wait4(pid_t pid, int *status, int options, void *usage)
{
	long result = 0;

	/* For its tasks criu says WAIT_ALL, for children of its own it does not; its handler
	 * asks for both, and does not wait. */
	int any = pid == -1 && (options & (WAIT_ALL | WAIT_NO_HANG));

	if (seized_count && (any || is_seized(pid)) && is_mine()) {
		/* In a handler that interrupted a request: it comes again after that. */
		if (busy) {
			missed = 1;
		} else {
			begin();
			result = wait_handed_over(pid, status, options);
			end();
		}
		if (result || pid > 0 || !(options & WAIT_NO_HANG))
			return (pid_t)told(result);
	}
	return (pid_t)told(call(__NR_wait4, pid, (long)status, options, (long)usage, 0, 0));
}

pid_t waitpid(pid_t pid, int *status, int options)
{
	return wait4(pid, status, options, NULL);
}

pid_t wait(int *status)
{
	return wait4(-1, status, 0, NULL);
}

#endif
