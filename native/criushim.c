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
#define SIGNAL_KILL 9
#define SIGNAL_USR1 10
#define SIGNAL_CHILD 17
#define SIGINFO_BYTES 128
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

static long now_ns(void)
{
	struct __kernel_timespec time;

	call(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, (long)&time, 0, 0, 0, 0);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static int is_answered(void)
{
	return atomic_load(&page->answered) == atomic_load(&page->asked);
}

static int is_answered_soon(void)
{
	if (!page->spin_ns)
		return is_answered();
	for (long end = now_ns() + page->spin_ns; now_ns() < end;)
		for (int i = 0; i < 64; i++) {
			if (is_answered())
				return 1;
			__builtin_ia32_pause();
		}
	return 0;
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

/* Ask what the page holds and wait for the answer; false: the tracer is dead. */
static int ask(void)
{
	char byte;

	atomic_store(&page->cancelled, 0);
	atomic_fetch_add(&page->asked, 1);
	if (atomic_load(&page->tracer_sleeps))
		ring();
	if (!is_answered_soon()) {
		atomic_store(&page->criu_sleeps, 1);
		while (!dead && !is_answered()) {
			long size = call(__NR_read, sock, (long)&byte, 1, 0, 0, 0);

			if (size == -EINTR && page->form == GUARD_WAIT)
				cancel();
			else if (size != 1 && size != -EINTR)
				dead = !is_answered();
		}
		atomic_store(&page->criu_sleeps, 0);
	}
	return !dead;
}

/* ---- ptrace ------------------------------------------------------------ */

/* criu reads areas word by word: what lies behind a word comes with it, and is
 * good for as long as nothing else is asked. */
static struct {
	pid_t pid;
	uint64_t addr;
	uint32_t size;
	unsigned char bytes[GUARD_PEEKED * 8];
} peeked;

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
		*size = data ? GUARD_BUFFER_BYTES : 0;
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

static void carry_there(int form, int request, void *addr, void *data, uint32_t size)
{
	if (form == GUARD_DATA && !is_read(request))
		copy(page->buffer, data, size);
	else if (form == GUARD_ADDR)
		copy(page->buffer, addr, size);
	else if (form == GUARD_VECTOR && !is_read(request))
		copy(page->buffer, ((struct vector *)data)->base, size);
	else if (form == GUARD_SIGINFOS)
		copy(page->buffer, addr, sizeof(struct ptrace_peeksiginfo_args));
}

static void carry_back(int form, int request, void *addr, void *data)
{
	uint32_t size = page->size;

	if (request == PTRACE_SECCOMP_GET_FILTER)
		size = (uint32_t)page->result * 8;
	if (form == GUARD_DATA && !is_written(request)) {
		copy(data, page->buffer, size);
	} else if (form == GUARD_ADDR) {
		copy(addr, page->buffer, size);
	} else if (form == GUARD_VECTOR) {
		if (!is_written(request))
			copy(((struct vector *)data)->base, page->buffer, size);
		((struct vector *)data)->size = size;
	} else if (form == GUARD_SIGINFOS) {
		copy(data, page->buffer + GUARD_SIGINFOS_AT,
		     (size_t)page->result * SIGINFO_BYTES);
	}
}

static long peek(int request, pid_t pid, uint64_t addr)
{
	long word;

	if (request == PTRACE_PEEKUSR || peeked.pid != pid || addr < peeked.addr ||
	    addr + 8 > peeked.addr + peeked.size) {
		peeked.pid = 0;
		page->form = GUARD_PEEK;
		page->request = request;
		page->pid = pid;
		page->addr = addr;
		if (!ask())
			return told(-ESRCH);
		if (page->result < 0)
			return told(page->result);
		peeked.addr = addr;
		peeked.size = page->size;
		copy(peeked.bytes, page->buffer, sizeof peeked.bytes);
		if (request != PTRACE_PEEKUSR)
			peeked.pid = pid;
	}
	copy(&word, peeked.bytes + (addr - peeked.addr), sizeof word);
	*__errno_location() = 0;
	return word;
}

static long hand_over(int request, pid_t pid, long addr, long data)
{
	uint32_t size = 0;
	int form = form_of(request, addr, data, &size);

	if (dead)
		return told(-ESRCH);
	if (form == GUARD_PEEK)
		return peek(request, pid, (uint64_t)addr);
	peeked.pid = 0;
	if (size > GUARD_BUFFER_BYTES - (form == GUARD_SIGINFOS ? GUARD_SIGINFOS_AT : 0))
		return told(-EIO);
	page->form = form;
	page->request = request;
	page->pid = pid;
	page->addr = (uint64_t)addr;
	page->data = (uint64_t)data;
	page->size = size;
	carry_there(form, request, (void *)addr, (void *)data, size);
	if (!ask())
		return told(-ESRCH);
	if (page->result < 0)
		return told(page->result);
	carry_back(form, request, (void *)addr, (void *)data);
	if (request == PTRACE_SEIZE || request == PTRACE_DETACH)
		mark(pid, request == PTRACE_SEIZE);
	return (long)page->result;
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
	if (dead || (page->form = GUARD_WAIT, page->pid = pid, page->options = options, !ask())) {
		/* All tasks run again; for criu they are as good as killed. */
		int lost = pid > 0 ? pid : lost_task();

		mark(lost, 0);
		if (status)
			*status = SIGNAL_KILL;
		return lost ? lost : -ECHILD;
	}
	peeked.pid = 0;
	if (page->result > 0) {
		if (status)
			*status = page->status;
		if ((page->status & 0xff) != 0x7f) /* it has ended */
			mark((pid_t)page->result, 0);
	}
	return (long)page->result;
}

pid_t wait4(pid_t pid, int *status, int options, void *usage)
{
	long result = 0;

	if (seized_count && (pid == -1 || is_seized(pid)) && is_mine()) {
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
