/* ckpt-box: the processes around a kernel that must be small, static and free of
 * threads: PID 1 of a box, the way into a box, the dump root, and the answer to
 * CRIU's phase notifications.
 *
 *   ckpt-box init   [--user] [--runtime DIR] [--pid-floor N] [--empty-deadline S]
 *       Make a box (pid and mount namespace, user namespace with --user), print
 *       the host pid of its PID 1 and leave it running. PID 1 ends, and the box
 *       with it, when the process with pid ROOT_PID in it ends, or when there is
 *       none and nothing else in the box after S seconds (default 300): whoever
 *       made it has died.
 *   ckpt-box enter  PID [--caps] [--cwd DIR] -- CMD...
 *       Run CMD in the box of PID 1 PID, wait, exit as it did. A CMD that is
 *       stopped meanwhile is continued: it may be the criu that holds a tree. With
 *       CKPT_CRIU_SHIM set it is, and its tracer stands between: see tracer.c.
 *   ckpt-box watch  -- CMD...
 *       The same without a box.
 *   ckpt-box enter  PID --detach LOG [--cwd DIR] -- CMD...
 *       Start CMD as the dump root: pid ROOT_PID, leader of a session of its own,
 *       its output appended to LOG (opened inside the box), then return.
 *   ckpt-box detach LOG [--spread N] [--cwd DIR] -- CMD...
 *       The same without a box; first lets N pids go by. Prints the pid.
 *   ckpt-box root   -- CMD...
 *       The dump root: adopts orphans, so that the dumped tree is complete, and
 *       ends with the status of CMD (the kernel), which it writes beside its log.
 *   ckpt-notify (a link to ckpt-box)
 *       CRIU's action script: tells the agent, over notify.sock beside the link,
 *       that all images are written, and waits for its word before the thaw;
 *       without a sign of life for CKPT_NOTIFY_SILENCE_MS (10 s) it gives up.
 *
 * Errors go to stderr as one line; the exit status is 125 for errors of ours.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tracer.h"

#define ROOT_PID 100 /* the dump root's pid in every box: PID 1 watches it */
#define BOX_RUNTIME "/dev/shm/.jupyter_ckpt"
#define OWN_ERROR 125
#define NOTIFY_SILENCE_MS (10 * 1000)
#define CONTINUE_AFTER_MS 100
#define EMPTY_DEADLINE_S (5 * 60)
#define ORPHAN_TRIES 200
#define ORPHAN_PAUSE_US (10 * 1000)

static void die(const char *format, ...)
{
	va_list args;
	int saved = errno;

	va_start(args, format);
	fputs("ckpt-box: ", stderr);
	vfprintf(stderr, format, args);
	va_end(args);
	fprintf(stderr, saved ? ": %s\n" : "\n", strerror(saved));
	exit(OWN_ERROR);
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		die("write %s", path);
	close(fd);
}

static int exit_status(int status)
{
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

/* Standard input from nowhere, both outputs to `out`, everything else closed. */
static void plug_standard_streams(int out)
{
	int null = open("/dev/null", O_RDWR);

	if (null < 0)
		die("open /dev/null");
	dup2(null, 0);
	dup2(out < 0 ? null : out, 1);
	dup2(out < 0 ? null : out, 2);
	if (close_range(3, ~0U, 0) != 0)
		for (int fd = 3; fd < 65536; fd++)
			close(fd);
}

/* ---- init ------------------------------------------------------------- */

static void mount_or_die(const char *source, const char *target, const char *type,
			 unsigned long flags, const char *data)
{
	if (mount(source, target, type, flags, data) != 0)
		die("mount %s on %s", type ? type : source, target);
}

static void map_own_ids(uid_t uid, gid_t gid)
{
	char line[64];

	write_text("/proc/self/setgroups", "deny");
	snprintf(line, sizeof line, "%u %u 1", uid, uid);
	write_text("/proc/self/uid_map", line);
	snprintf(line, sizeof line, "%u %u 1", gid, gid);
	write_text("/proc/self/gid_map", line);
}

static void furnish_box(const char *runtime, const char *pid_floor)
{
	struct stat ptmx;

	mount_or_die("none", "/", NULL, MS_REC | MS_SLAVE, NULL);
	mount_or_die("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL);
	mount_or_die("shm", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777");
	mount_or_die("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		     "newinstance,ptmxmode=0666,mode=620");
	if (lstat("/dev/ptmx", &ptmx) == 0 && !S_ISLNK(ptmx.st_mode))
		mount_or_die("/dev/pts/ptmx", "/dev/ptmx", NULL, MS_BIND, NULL);
	if (runtime) {
		if (mkdir(BOX_RUNTIME, 0700) != 0)
			die("mkdir " BOX_RUNTIME);
		mount_or_die(runtime, BOX_RUNTIME, NULL, MS_BIND, NULL);
	}
	/* Helpers that enter a box take pids in it; above the floor they cannot
	 * take one that an image is about to need. */
	if (pid_floor)
		write_text("/proc/sys/kernel/ns_last_pid", pid_floor);
}

static volatile sig_atomic_t alarmed;

static void on_signal(int number)
{
	if (number == SIGTERM)
		_exit(0);
	if (number == SIGALRM)
		alarmed = 1;
}

static void reap_until_root_ends(unsigned empty_deadline)
{
	struct sigaction action = { .sa_handler = on_signal };
	sigset_t blocked, before;

	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGCHLD, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGCHLD);
	sigaddset(&blocked, SIGALRM);
	sigprocmask(SIG_BLOCK, &blocked, &before);
	alarm(empty_deadline);
	for (;;) {
		/* Somebody at work in here (criu, most likely) may yet make the root. */
		if (alarmed && kill(ROOT_PID, 0) != 0) {
			alarmed = 0;
			if (kill(-1, 0) != 0)
				_exit(0);
			alarm(empty_deadline);
		}
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);

		if (pid == ROOT_PID)
			_exit(exit_status(status));
		if (pid <= 0)
			sigsuspend(&before);
	}
}

static int init_main(int argc, char **argv)
{
	const char *runtime = NULL, *pid_floor = NULL;
	unsigned empty_deadline = EMPTY_DEADLINE_S;
	int user = 0, ready[2];
	uid_t uid = getuid();
	gid_t gid = getgid();

	for (int i = 0; i < argc; i++) {
		if (!strcmp(argv[i], "--user"))
			user = 1;
		else if (!strcmp(argv[i], "--runtime") && i + 1 < argc)
			runtime = argv[++i];
		else if (!strcmp(argv[i], "--pid-floor") && i + 1 < argc)
			pid_floor = argv[++i];
		else if (!strcmp(argv[i], "--empty-deadline") && i + 1 < argc)
			empty_deadline = strtoul(argv[++i], NULL, 10);
		else
			errno = 0, die("unknown argument %s", argv[i]);
	}
	if (unshare(CLONE_NEWNS | CLONE_NEWPID | (user ? CLONE_NEWUSER : 0)) != 0)
		die("unshare");
	if (user)
		map_own_ids(uid, gid);
	if (pipe2(ready, O_CLOEXEC) != 0)
		die("pipe");
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid > 0) {
		char word;

		close(ready[1]);
		if (read(ready[0], &word, 1) != 1)
			return OWN_ERROR; /* the child said why on stderr */
		printf("%d\n", pid);
		return 0;
	}
	setsid();
	umask(0);
	furnish_box(runtime, pid_floor);
	umask(077);
	if (chdir("/") != 0)
		die("chdir /");
	prctl(PR_SET_NAME, "ckpt-box-init", 0, 0, 0);
	if (write(ready[1], "k", 1) != 1)
		die("report readiness");
	plug_standard_streams(-1);
	reap_until_root_ends(empty_deadline);
	return 0;
}

/* ---- enter, detach, root ---------------------------------------------- */

static int same_namespace(const char *pid, const char *name)
{
	char path[64];
	struct stat mine, theirs;

	snprintf(path, sizeof path, "/proc/self/ns/%s", name);
	if (stat(path, &mine) != 0)
		die("stat %s", path);
	snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, name);
	if (stat(path, &theirs) != 0)
		die("stat %s", path);
	return mine.st_ino == theirs.st_ino && mine.st_dev == theirs.st_dev;
}

/* All capabilities of the box's user namespace, kept over exec. Without a uid 0
 * in the map CAP_SETUID must stay out: criu calls setuid(0) when it has it. */
static void keep_capabilities(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct data[2];

	if (syscall(SYS_capget, &header, data) != 0)
		die("capget");
	for (int cap = 0; cap < 64; cap++) {
		uint32_t bit = 1U << (cap % 32);
		struct __user_cap_data_struct *word = &data[cap / 32];

		if (cap == CAP_SETUID)
			word->permitted &= ~bit, word->effective &= ~bit;
		if (word->permitted & bit)
			word->inheritable |= bit, word->effective |= bit;
	}
	if (syscall(SYS_capset, &header, data) != 0)
		die("capset");
	for (int cap = 0; cap < 64; cap++)
		if (data[cap / 32].permitted & (1U << (cap % 32)))
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
}

static void join_box(const char *pid, int caps)
{
	static const char *const names[] = { "user", "mnt", "pid" };
	int fds[3];
	int foreign_user = !same_namespace(pid, "user");

	for (int i = 0; i < 3; i++) {
		char path[64];

		snprintf(path, sizeof path, "/proc/%s/ns/%s", pid, names[i]);
		fds[i] = open(path, O_RDONLY | O_CLOEXEC);
		if (fds[i] < 0)
			die("open %s", path);
	}
	for (int i = foreign_user ? 0 : 1; i < 3; i++)
		if (setns(fds[i], 0) != 0)
			die("setns %s", names[i]);
	if (caps && foreign_user)
		keep_capabilities();
}

static pid_t fork_with_pid(pid_t wanted)
{
	struct clone_args args = { .exit_signal = SIGCHLD };

	args.set_tid = (uint64_t)(uintptr_t)&wanted;
	args.set_tid_size = 1;
	return (pid_t)syscall(SYS_clone3, &args, sizeof args);
}

static void go_to(const char *cwd)
{
	if (cwd && chdir(cwd) != 0 && chdir("/") != 0)
		die("chdir %s", cwd);
}

static void run_detached(const char *log, char **command)
{
	int out = open(log, O_WRONLY | O_CREAT | O_APPEND | O_NOFOLLOW, 0600);

	if (out < 0)
		die("open %s", log);
	if (setsid() < 0)
		die("setsid");
	plug_standard_streams(out);
	execvp(command[0], command);
	die("exec %s", command[0]);
}

/* Wait for `pid` and return its exit status. Whoever stops it stops a tree that it
 * may hold, so it is continued, not too fast for one who insists. */
static int wait_helping(pid_t pid)
{
	struct timespec pause = { .tv_nsec = CONTINUE_AFTER_MS * 1000000L };
	int status;

	for (;;) {
		if (waitpid(pid, &status, WUNTRACED) < 0) {
			if (errno != EINTR)
				die("wait");
		} else if (WIFSTOPPED(status)) {
			nanosleep(&pause, NULL);
			kill(pid, SIGCONT);
		} else {
			return exit_status(status);
		}
	}
}

static int watch_main(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[0], "--"))
		errno = 0, die("watch needs -- and a command");
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		run_guarded(argv + 1);
	return wait_helping(pid);
}

static int enter_main(int argc, char **argv)
{
	const char *cwd = NULL, *log = NULL;
	int caps = 0, i;

	if (argc < 1)
		errno = 0, die("enter needs the pid of a box");
	for (i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		if (!strcmp(argv[i], "--caps"))
			caps = 1;
		else if (!strcmp(argv[i], "--cwd") && i + 1 < argc)
			cwd = argv[++i];
		else if (!strcmp(argv[i], "--detach") && i + 1 < argc)
			log = argv[++i];
		else
			errno = 0, die("unknown argument %s", argv[i]);
	}
	char **command = argv + i + 1;
	if (i + 1 >= argc)
		errno = 0, die("nothing to run");
	join_box(argv[0], caps);
	go_to(cwd);
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0) {
		if (!log)
			run_guarded(command);
		/* Forked once more inside, so that the orphan falls to the box's
		 * PID 1 and not to the host's. */
		pid_t root = fork_with_pid(ROOT_PID);
		if (root < 0)
			die("start pid %d in the box", ROOT_PID);
		if (root == 0)
			run_detached(log, command);
		_exit(0);
	}
	return wait_helping(pid);
}

/* Puts an empty folder of the box's own over one that it has in common with all. */
static int cover_main(int argc, char **argv)
{
	if (argc != 2)
		errno = 0, die("cover needs the pid of a box and a folder");
	join_box(argv[0], 0);
	mount_or_die("tmpfs", argv[1], "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700");
	return 0;
}

/* Without a pid namespace a restore needs the very same pids to be free. Pids
 * are given out in order, so let some go by to leave room between kernels. */
static void let_pids_pass(long count)
{
	while (count-- > 0) {
		pid_t pid = vfork();

		if (pid == 0)
			_exit(0);
		if (pid > 0)
			waitpid(pid, NULL, 0);
	}
}

static int detach_main(int argc, char **argv)
{
	const char *cwd = NULL;
	long spread = 0;
	int i;

	if (argc < 1)
		errno = 0, die("detach needs a log file");
	for (i = 1; i < argc && strcmp(argv[i], "--"); i++) {
		if (!strcmp(argv[i], "--cwd") && i + 1 < argc)
			cwd = argv[++i];
		else if (!strcmp(argv[i], "--spread") && i + 1 < argc)
			spread = strtol(argv[++i], NULL, 10);
		else
			errno = 0, die("unknown argument %s", argv[i]);
	}
	if (i + 1 >= argc)
		errno = 0, die("nothing to run");
	go_to(cwd);
	let_pids_pass(spread);
	pid_t pid = fork();
	if (pid < 0)
		die("fork");
	if (pid == 0)
		run_detached(argv[0], argv + i + 1);
	printf("%d\n", pid);
	return 0;
}

/* How the kernel ended, for whoever has to tell a crash from a planned end:
 * "exit N" or "signal N" in the file "ended" beside the log, our standard output.
 * A box that is ended on purpose leaves nobody to write it, and that tells, too. */
static void note_end(int status)
{
	char path[PATH_MAX], text[32];
	ssize_t size = readlink("/proc/self/fd/1", path, sizeof path - sizeof "ended");
	char *slash;
	int fd;

	if (size <= 0)
		return;
	path[size] = 0;
	slash = strrchr(path, '/');
	if (!slash)
		return;
	strcpy(slash + 1, "ended");
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	snprintf(text, sizeof text, WIFSIGNALED(status) ? "signal %d\n" : "exit %d\n",
		 WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
	if (write(fd, text, strlen(text)) < 0)
		unlink(path);
	close(fd);
}

/* End what a kernel has left behind: no PID 1 does it in a box without namespaces.
 * Orphans come to us, so there is an end. Not for ever: one may hang in a disk. */
static void end_orphans(void)
{
	char path[64], list[4096];

	snprintf(path, sizeof path, "/proc/self/task/%d/children", (int)getpid());
	for (int i = 0; i < ORPHAN_TRIES; i++) {
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t size = fd < 0 ? -1 : read(fd, list, sizeof list - 1);

		if (fd >= 0)
			close(fd);
		if (size <= 0)
			return;
		list[size] = 0;
		for (char *next = list; *next;) {
			long pid = strtol(next, &next, 10);

			if (pid <= 0 || *next != ' ')
				break; /* the end, or a number that is cut */
			kill(pid, SIGKILL);
			next++;
		}
		usleep(ORPHAN_PAUSE_US);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static int root_main(int argc, char **argv)
{
	static const int deaf[] = { SIGINT, SIGHUP, SIGQUIT, SIGTSTP };

	if (argc < 2 || strcmp(argv[0], "--"))
		errno = 0, die("root needs -- and a command");
	prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0);
	prctl(PR_SET_NAME, "ckpt-dump-root", 0, 0, 0);
	pid_t kernel = fork();
	if (kernel < 0)
		die("fork");
	if (kernel == 0) {
		/* A process group of its own: an interrupt reaches the kernel and
		 * what it runs in the foreground, never the dump root. */
		setpgid(0, 0);
		execvp(argv[1], argv + 1);
		die("exec %s", argv[1]);
	}
	for (size_t i = 0; i < sizeof deaf / sizeof *deaf; i++)
		signal(deaf[i], SIG_IGN);
	for (;;) {
		int status;
		pid_t pid = wait(&status);

		if (pid == kernel) {
			note_end(status);
			end_orphans();
			return exit_status(status);
		}
		if (pid < 0 && errno == ECHILD)
			return OWN_ERROR;
	}
}

/* ---- notify ----------------------------------------------------------- */

/* Never the reason for a hanging dump: a dead or silent agent ends the wait. A
 * non-zero status makes criu give the dump up and let the tree run. The socket
 * lies beside the link we were started by; relative, for sun_path is short. */
static int notify_main(const char *self)
{
	const char *action = getenv("CRTOOLS_SCRIPT_ACTION");
	struct sockaddr_un agent = { .sun_family = AF_UNIX, .sun_path = "notify.sock" };
	char folder[PATH_MAX], answer = 'w';

	if (!action || strcmp(action, "post-dump"))
		return 0;
	snprintf(folder, sizeof folder, "%s", self);
	if (chdir(dirname(folder)) != 0)
		die("chdir %s", folder);
	signal(SIGPIPE, SIG_IGN);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd wait = { .fd = fd, .events = POLLIN };

	if (fd < 0 || connect(fd, (struct sockaddr *)&agent, sizeof agent) != 0)
		die("connect to the agent");
	if (write(fd, action, strlen(action)) < 0)
		die("tell the agent");
	const char *told = getenv("CKPT_NOTIFY_SILENCE_MS");
	int silence = told ? atoi(told) : NOTIFY_SILENCE_MS;

	while (answer == 'w')
		if (poll(&wait, 1, silence) <= 0 || read(fd, &answer, 1) != 1)
			die("hear from the agent");
	return answer == 'k' ? 0 : 1;
}

int main(int argc, char **argv)
{
	const char *verb = argc > 1 ? argv[1] : "";

	/* CRIU runs its action script without arguments: the name says it. */
	const char *slash = strrchr(argv[0], '/');
	if (!strcmp(slash ? slash + 1 : argv[0], "ckpt-notify"))
		return notify_main(argv[0]);
	if (!strcmp(argv[0], TRACER_NAME) && argc > 1)
		return trace_main(argv + 1);
	if (!strcmp(verb, "init"))
		return init_main(argc - 2, argv + 2);
	if (!strcmp(verb, "enter"))
		return enter_main(argc - 2, argv + 2);
	if (!strcmp(verb, "cover"))
		return cover_main(argc - 2, argv + 2);
	if (!strcmp(verb, "watch"))
		return watch_main(argc - 2, argv + 2);
	if (!strcmp(verb, "detach"))
		return detach_main(argc - 2, argv + 2);
	if (!strcmp(verb, "root"))
		return root_main(argc - 2, argv + 2);
	errno = 0, die("usage: ckpt-box init|enter|cover|watch|detach|root ...");
}
