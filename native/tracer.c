/* The tracer of a dump: seizes tasks and works on them in criu's name, and outlives it.
 *
 * A criu that dies as the tracer of a tree lets every task go at that instant, also
 * one that runs on borrowed registers or bytes, and that one dies, too. So criu's
 * shim (criushim.c) hands its ptrace and wait calls over to this process, criu's
 * parent. It notes what a task was like before criu first altered it, and when criu
 * ends, in whatever way, while it holds tasks, puts them back (putback.c).
 *
 * The requests themselves are carried out as they are: criu notices no difference.
 * Should this process be killed, Linux lets the tasks go as it did before, and criu
 * ends with an error.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/ptrace.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "guard.h"
#include "tracer.h"

#define CONTINUE_AFTER_MS 100
#define FLUSH_MS 1
#define OWN_ERROR 125
#define GET_THREAD_AREA 25
#define ARCH_PRCTL 30

#if defined(__x86_64__)

static struct guard_page *page;
static struct guard_request *asked; /* what is being carried out */
static int sock, signals;
static pid_t criu;
static int criu_status;
static bool criu_ended;

static bool is_stop_signal(int number)
{
	return number == SIGSTOP || number == SIGTSTP || number == SIGTTIN || number == SIGTTOU;
}

static void before(struct task *task)
{
	switch (asked->request) {
	case PTRACE_POKETEXT:
	case PTRACE_POKEDATA:
		note_poke(task, asked->addr, asked->data);
		break;
	case PTRACE_POKEUSR:
		if (asked->addr >= offsetof(struct user, u_debugreg))
			task->debugged = true;
		else
			note_original(task);
		break;
	case PTRACE_SETREGSET:
		note_original(task);
		if (asked->addr == 1 /* NT_PRSTATUS */ && asked->size == sizeof task->regs)
			note_registers(task, (void *)asked->bytes);
		break;
	case PTRACE_SETREGS:
	case PTRACE_SETFPREGS:
	case PTRACE_SETSIGMASK:
		note_original(task);
		break;
	case PTRACE_CONT:
	case PTRACE_SYSCALL:
		if (!asked->data && task->status && is_stop_signal(WSTOPSIG(task->status)))
			task->stop_signal = WSTOPSIG(task->status);
		break;
	}
}

static void after(struct task *task)
{
	switch (asked->request) {
	case PTRACE_SEIZE:
		/* What cannot be kept track of is not held either. */
		if (!add_task(asked->pid)) {
			raw_ptrace(PTRACE_DETACH, asked->pid, 0, 0);
			asked->result = -ENOMEM;
		}
		break;
	case PTRACE_DETACH:
		remove_task(task);
		break;
	case PTRACE_CONT:
	case PTRACE_SYSCALL:
		task->status = 0;
		task->fresh = false;
		break;
	}
}

/* ---- what is asked --------------------------------------------------------- */

/* Bring along what criu will ask next of this task: to ask would cost it more. */
static void show(struct task *task, int request, unsigned long key)
{
	struct guard_shown *shown = &page->shown[page->shown_count];
	uint32_t at = page->shown_count ? shown[-1].at + ((shown[-1].size + 63) & ~63U) : 0;
	struct iovec vector = { page->album + at, sizeof page->album - at };
	unsigned long addr = key, data = (unsigned long)vector.iov_base;

	if (page->shown_count == GUARD_SHOWN)
		return;
	memset(shown, 0, sizeof *shown);
	shown->size = request == PTRACE_GETSIGINFO ? sizeof(siginfo_t)
		      : request == PTRACE_GETFPREGS ? 512
		      : request == GET_THREAD_AREA  ? 16
		      : request == GET_RSEQ	    ? (uint32_t)key
						    : 8;
	if (request == PTRACE_GETREGSET)
		data = (unsigned long)&vector;
	if (request == ARCH_PRCTL)
		addr = data, data = key;
	long result = syscall(SYS_ptrace, request, task->tid, addr, data);

	shown->result = result < 0 ? -errno : result;
	if (request == PTRACE_GETREGSET)
		shown->size = (uint32_t)vector.iov_len;
	shown->request = request;
	shown->key = key;
	shown->at = at;
	page->shown_pid = task->tid;
	page->shown_count++;
}

/* In the order in which it asks (criu 4.2). Other orders cost time, nothing else. */
static void show_what_follows(struct task *task)
{
	/* criu reads what is shown until it waits for the answer to one of these. */
	if (asked->form != GUARD_WAIT && asked->request != PTRACE_GETSIGMASK &&
	    asked->request != GET_RSEQ)
		return;
	page->shown_pid = 0;
	page->shown_count = 0;
	if (asked->form == GUARD_WAIT) {
		show(task, PTRACE_GETSIGINFO, 0);
		show(task, PTRACE_GETREGSET, 1 /* NT_PRSTATUS */);
	} else if (asked->request == PTRACE_GETSIGMASK) {
		show(task, PTRACE_GETREGSET, 1);
		show(task, PTRACE_GETREGSET, 0x202 /* NT_X86_XSTATE */);
		show(task, PTRACE_GETFPREGS, 0);
		show(task, ARCH_PRCTL, 0x5005 /* ARCH_SHSTK_STATUS */);
		for (unsigned long entry = 12; entry < 15; entry++)
			show(task, GET_THREAD_AREA, entry);
	} else {
		show(task, GET_RSEQ, asked->addr);
	}
}

static bool is_running_on(int request)
{
	return request == PTRACE_CONT || request == PTRACE_SYSCALL;
}

/* What criu does not wait for must not be gone on with when it fails. Others it sees
 * fail itself, and some it asks only to learn whether they can be had. */
static bool is_part_of_work(int request)
{
	return request == PTRACE_POKETEXT || request == PTRACE_POKEDATA ||
	       request == PTRACE_POKEUSR || request == PTRACE_SETREGS ||
	       request == PTRACE_SETFPREGS || request == PTRACE_SETREGSET ||
	       request == PTRACE_SETSIGMASK || is_running_on(request);
}

static void carry_out(void)
{
	struct task *task = task_of(asked->pid);
	unsigned long addr = asked->addr, data = asked->data;
	struct iovec vector = { asked->bytes, asked->size };

	asked->result = -ESRCH;
	if (asked->size > GUARD_DATA_BYTES || (!task && asked->request != PTRACE_SEIZE) ||
	    (task && task->failed && is_running_on(asked->request))) {
		/* It may wait for what the task was to do, and not for the task. */
		if (is_running_on(asked->request))
			kill(criu, SIGCHLD);
		return;
	}
	if (asked->form == GUARD_DATA || asked->form == GUARD_PEEK)
		data = (unsigned long)asked->bytes;
	else if (asked->form == GUARD_ADDR)
		addr = (unsigned long)asked->bytes;
	else if (asked->form == GUARD_VECTOR)
		data = (unsigned long)&vector;
	else if (asked->form == GUARD_SIGINFOS)
		addr = (unsigned long)asked->bytes,
		data = (unsigned long)asked->bytes + GUARD_SIGINFOS_AT;
	if (task)
		before(task);
	long result = syscall(SYS_ptrace, asked->request, asked->pid, addr, data);

	asked->result = result < 0 ? -errno : result;
	if (asked->form == GUARD_VECTOR)
		asked->size = (uint32_t)vector.iov_len;
	if (asked->result >= 0)
		after(task);
	else if (task && is_part_of_work(asked->request)) {
		task->failed = true;
		if (is_running_on(asked->request))
			kill(criu, SIGCHLD);
	}
	if (asked->result >= 0 && task)
		show_what_follows(task);
}

/* criu may have been stopped by whoever: it holds a tree, so it is continued, not
 * too fast for one who insists. */
static void continue_criu(void)
{
	struct timespec pause = { .tv_nsec = CONTINUE_AFTER_MS * 1000000L };

	nanosleep(&pause, NULL);
	kill(criu, SIGCONT);
}

/* Take one event of a task or of criu itself; false when there is none. */
bool take_event(int options)
{
	int status;
	pid_t pid = waitpid(-1, &status, options | __WALL | WUNTRACED);
	struct task *task = task_of(pid);

	if (pid <= 0)
		return false;
	if (task) {
		task->status = status;
		task->fresh = true;
		task->gone = !WIFSTOPPED(status);
		if (!task->gone)
			note_call(task);
	} else if (pid == criu && WIFSTOPPED(status)) {
		continue_criu();
	} else if (pid == criu) {
		criu_ended = true;
		criu_status = status;
	}
	return true;
}

static struct task *fresh_task(pid_t pid)
{
	struct task *task = pid > 0 ? task_of(pid) : tasks;

	while (task && !task->fresh)
		task = pid > 0 ? NULL : task->next;
	return task;
}

static struct task *failed_task(pid_t pid)
{
	struct task *task = pid > 0 ? task_of(pid) : tasks;

	while (task && !task->failed)
		task = pid > 0 ? NULL : task->next;
	return task;
}

static void wait_for_task(void)
{
	struct task *task;

	while (!(task = fresh_task(asked->pid))) {
		asked->result = -ECHILD;
		if (asked->pid > 0 ? !task_of(asked->pid) : !tasks)
			return;
		if ((task = failed_task(asked->pid))) {
			/* As good as killed for whoever looks for such. */
			task->failed = false;
			asked->result = asked->pid > 0 ? -ESRCH : task->tid;
			asked->status = SIGKILL;
			return;
		}
		asked->result = -EINTR;
		if (criu_ended || atomic_load(&page->cancelled))
			return;
		if (!take_event(asked->options & WNOHANG) && asked->options & WNOHANG) {
			asked->result = 0;
			return;
		}
	}
	asked->result = task->tid;
	asked->status = task->status;
	task->fresh = false;
	if (task->gone)
		remove_task(task);
	else
		show_what_follows(task);
}

static bool is_asked(void)
{
	return atomic_load(&page->asked) != atomic_load(&page->answered);
}

static void answer(void)
{
	uint32_t at = page->at[atomic_load(&page->answered) % GUARD_REQUESTS];

	if (at < GUARD_ROOM_BYTES) { /* also where criu has gone mad */
		asked = (struct guard_request *)(page->room + at);
		if (asked->form == GUARD_WAIT)
			wait_for_task();
		else
			carry_out();
	}
	atomic_fetch_add(&page->answered, 1);
	if (!is_asked() && atomic_load(&page->criu_sleeps))
		send(sock, "", 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

/* Nothing is asked: sleep until it is, or a task or criu comes to something. */
static void sleep_until_needed(void)
{
	struct pollfd waits[] = { { .fd = signals, .events = POLLIN },
				  { .fd = sock, .events = POLLIN } };
	char bytes[64];
	struct signalfd_siginfo info;

	atomic_store(&page->tracer_sleeps, 1);
	/* criu does not ring for what nothing waits for, such as the last registers it
	 * puts back. That must not lie there until the tree is let go: see who may die. */
	if (!is_asked())
		poll(waits, 2, tasks ? FLUSH_MS : -1);
	atomic_store(&page->tracer_sleeps, 0);
	if (waits[1].revents && recv(sock, bytes, sizeof bytes, MSG_DONTWAIT) == 0) {
		close(sock); /* criu has gone, or has never been ours */
		sock = -1;
		put_back();
		while (tasks)
			remove_task(tasks);
	}
	if (waits[0].revents && read(signals, &info, sizeof info) > 0) {
		bool news = false;

		while (take_event(WNOHANG))
			;
		for (struct task *task = tasks; task; task = task->next)
			news = news || task->fresh;
		/* As the kernel tells a tracer: criu looks then at what it did not
		 * expect, such as the end of a task that should answer it. */
		if (news && !criu_ended)
			kill(criu, SIGCHLD);
	}
}

static void serve(void)
{
	while (!criu_ended) {
		if (is_asked())
			answer();
		else
			sleep_until_needed();
	}
}

/* ---- beginning and end ----------------------------------------------------- */

static void on_nudge(int number)
{
	(void)number; /* interrupts a wait that criu has given up */
}

static bool open_page(int *memory)
{
	*memory = memfd_create("ckpt-guard", 0);
	if (*memory < 0 || ftruncate(*memory, GUARD_BYTES) != 0)
		return false;
	page = mmap(NULL, GUARD_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, *memory, 0);
	if (page == MAP_FAILED || !open_tasks())
		return false;
	page->magic = GUARD_MAGIC;
	page->tracer = getpid();
	return true;
}

/* Neither of us for the memory of others: criu would lose a checkpoint, we a tree.
 * Only root may; both end with the dump, and nobody else inherits it. */
static void hide_from_oom_killer(void)
{
	int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);

	if (fd >= 0) {
		if (write(fd, "-1000", 5) < 0)
			errno = 0;
		close(fd);
	}
}

static void watch_over_criu(void)
{
	static const int deaf[] = { SIGINT, SIGHUP, SIGQUIT, SIGTERM, SIGPIPE };
	struct sigaction nudge = { .sa_handler = on_nudge };
	sigset_t child;

	for (size_t i = 0; i < sizeof deaf / sizeof *deaf; i++)
		signal(deaf[i], SIG_IGN);
	sigaction(SIGUSR1, &nudge, NULL);
	sigemptyset(&child);
	sigaddset(&child, SIGCHLD);
	sigprocmask(SIG_BLOCK, &child, NULL);
	signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
	/* Before the loop: criu may have ended before its end could be signalled. */
	while (take_event(WNOHANG))
		;
	serve();
	while (is_asked()) /* it may have ended without waiting for the last of it */
		answer();
	put_back();
	/* What it leaves when it is killed, such as a child that it tries the system
	 * with and that sleeps until it is told to end, would be waited for for ever. */
	kill(-criu, SIGKILL);
	_exit(WIFSIGNALED(criu_status) ? 128 + WTERMSIG(criu_status) : WEXITSTATUS(criu_status));
}

/* Fork: the child returns, to become criu, the parent is its tracer and never does. */
static void be_tracer(const char *shim)
{
	char value[64];
	int memory, ends[2];

	if (!open_page(&memory) || socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0)
		return;
	hide_from_oom_killer();
	criu = fork();
	if (criu > 0) {
		prctl(PR_SET_NAME, TRACER_NAME, 0, 0, 0);
		close(ends[1]);
		close(memory);
		sock = ends[0];
		watch_over_criu();
	}
	close(ends[0]);
	if (criu < 0)
		return;
	setpgid(0, 0);
	snprintf(value, sizeof value, "%d,%d", ends[1], memory);
	setenv(GUARD_VARIABLE, value, 1);
	setenv("LD_PRELOAD", shim, 1);
}

#endif

/* Become `command`, which is criu, as the child of what this process is then: its
 * tracer, which ends as criu did. Where there can be none criu runs without. */
int trace_main(char **command)
{
	const char *shim = getenv(GUARD_SHIM_VARIABLE);

#if defined(__x86_64__)
	if (shim)
		be_tracer(shim);
#else
	(void)shim;
#endif
	execvp(command[0], command);
	fprintf(stderr, "ckpt-box: exec %s: %s\n", command[0], strerror(errno));
	return OWN_ERROR;
}

/* Become `command`, by way of the tracer where a shim is named. That is this program
 * under a name of its own, for whoever looks at processes. */
void run_guarded(char **command)
{
	const char *shim = getenv(GUARD_SHIM_VARIABLE);
	size_t size = 1;

	while (command[size - 1])
		size++;
	char **traced = calloc(size + 1, sizeof *traced);

	if (traced && shim && access(shim, R_OK) == 0) {
		traced[0] = TRACER_NAME;
		memcpy(traced + 1, command, size * sizeof *traced);
		execv("/proc/self/exe", traced);
	}
	execvp(command[0], command);
	fprintf(stderr, "ckpt-box: exec %s: %s\n", command[0], strerror(errno));
	_exit(OWN_ERROR);
}
