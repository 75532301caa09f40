/* boxshim.so: preloaded into a kernel and all its children, so that what they
 * share through /dev/shm can be saved and restored.
 *
 * CRIU saves a shared mapping of a file by the file's name. Two habits take the
 * name away: unlinking a segment as soon as everybody has mapped it, and glibc's
 * sem_open(), which maps a semaphore through a temporary name that it unlinks.
 * Spawned process pools, joblib and Dask do both. Hence
 *
 *   - deleting a regular file on /dev/shm renames it into a hidden folder, and
 *     what nobody has open or mapped any more is deleted from there for real;
 *   - sem_open() and sem_close() are done anew, keeping the mapped name;
 *   - io_uring_setup answers ENOSYS: no version of CRIU can save a ring, and
 *     every program that uses rings has another way.
 *
 * The hidden folder is /dev/shm/.box, private to a box; where kernels share the
 * host's /dev/shm, JUPYTER_CKPT_SHM_HIDDEN names one per kernel. Should the
 * hidden folder be unusable, everything behaves as without the shim.
 *
 * Programs that are statically linked, or call the kernel directly, bypass it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
#define SHM "/dev/shm"
#define DEFAULT_HIDDEN SHM "/.box"
#define HIDDEN_VARIABLE "JUPYTER_CKPT_SHM_HIDDEN"
#define SWEEP_INTERVAL_S 1
#define MAX_TRIES 1000

#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif

/* ---- the functions we stand in front of ------------------------------- */

static long (*real_syscall)(long, ...);
static int (*real_unlinkat)(int, const char *, int);
static char hidden_folder[PATH_MAX] = DEFAULT_HIDDEN;

/* Another preloaded library's constructor may call us before our own ran. */
static void resolve(void)
{
	if (real_unlinkat)
		return;
	real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	real_unlinkat = (int (*)(int, const char *, int))dlsym(RTLD_NEXT, "unlinkat");
}

static void before_fork(void);
static void after_fork(void);

__attribute__((constructor)) static void start(void)
{
	const char *wanted = getenv(HIDDEN_VARIABLE);

	resolve();
	if (wanted && wanted[0] == '/' && strlen(wanted) < sizeof hidden_folder - NAME_MAX - 2)
		strcpy(hidden_folder, wanted);
	pthread_atfork(before_fork, after_fork, after_fork);
}

/* The kernel takes at most six arguments; reading more than the caller passed
 * yields garbage that the kernel ignores, exactly as in libc's own syscall(). */
EXPORT long syscall(long number, ...)
{
	long a[6];
	va_list args;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_io_uring_setup) {
		errno = ENOSYS;
		return -1;
	}
	resolve();
	return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* ---- deleting becomes hiding ------------------------------------------ */

/* Tell whether nobody but us has the file of `fd` open or mapped: only then
 * does the kernel grant a write lease. The lease ends with close(fd). */
static int is_unused(int fd)
{
	/* Should somebody open the file now, the notice must not kill us as
	 * the default SIGIO would; SIGURG is ignored unless asked for. */
	return fcntl(fd, F_SETSIG, SIGURG) == 0 && fcntl(fd, F_SETLEASE, F_WRLCK) == 0;
}

/* Delete `name` below `dir` for good unless somebody uses it. */
static void delete_unused(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return;
	if (is_unused(fd))
		real_unlinkat(dir, name, 0);
	close(fd);
}

/* Delete the files of the hidden folder that nobody uses any more: at most once
 * in SWEEP_INTERVAL_S, one process at a time. Keeps errno. */
static void sweep(void)
{
	static _Atomic time_t last;
	struct timespec now;
	struct dirent *entry;
	DIR *folder;
	int saved = errno;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
	if (now.tv_sec - atomic_load(&last) < SWEEP_INTERVAL_S)
		return;
	atomic_store(&last, now.tv_sec);
	folder = opendir(hidden_folder);
	if (folder && flock(dirfd(folder), LOCK_EX | LOCK_NB) == 0) {
		while ((entry = readdir(folder)))
			delete_unused(dirfd(folder), entry->d_name);
	}
	if (folder)
		closedir(folder);
	errno = saved;
}

static int same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

/* Tell whether deleting `path` should hide it: a regular file with this one
 * name, on the /dev/shm file system, not in the hidden folder itself. */
static int to_be_hidden(int dir, const char *path)
{
	struct stat file, shm, dev, parent, hidden;
	char folder[PATH_MAX];
	const char *slash = path ? strrchr(path, '/') : NULL;

	if (!path || (path[0] == '/' && strncmp(path, SHM "/", sizeof SHM) != 0))
		return 0;
	if (fstatat(dir, path, &file, AT_SYMLINK_NOFOLLOW) || !S_ISREG(file.st_mode) ||
	    file.st_nlink != 1)
		return 0;
	if (stat(SHM, &shm) || shm.st_dev != file.st_dev)
		return 0;
	/* Not a file system of its own: then only what is named /dev/shm/... */
	if (path[0] != '/' && (stat("/dev", &dev) || dev.st_dev == shm.st_dev))
		return 0;
	if ((size_t)(slash ? slash - path : 0) >= sizeof folder)
		return 0;
	snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) : 1,
		 slash ? path : ".");
	return stat(hidden_folder, &hidden) || fstatat(dir, folder, &parent, 0) ||
	       !same_file(&parent, &hidden);
}

/* Delete by renaming into the hidden folder; for real where that fails. */
static int hide(int dir, const char *path)
{
	static atomic_uint sequence;
	const char *slash = strrchr(path, '/');
	char name[PATH_MAX + NAME_MAX];
	int saved = errno;

	mkdir(hidden_folder, 0700);
	for (int i = 0; i < MAX_TRIES; i++) {
		snprintf(name, sizeof name, "%s/%.200s.%d.%u", hidden_folder,
			 slash ? slash + 1 : path, (int)getpid(), atomic_fetch_add(&sequence, 1));
		if (renameat2(dir, path, AT_FDCWD, name, RENAME_NOREPLACE) == 0) {
			/* Its memory is free at once if this was its last user. */
			delete_unused(AT_FDCWD, name);
			sweep();
			errno = saved;
			return 0;
		}
		if (errno != EEXIST)
			break;
	}
	return real_unlinkat(dir, path, 0);
}

static int delete_file(int dir, const char *path)
{
	int saved = errno, result;

	resolve();
	result = to_be_hidden(dir, path) ? hide(dir, path) : real_unlinkat(dir, path, 0);
	if (result == 0)
		errno = saved; /* what the probing set is not the caller's business */
	return result;
}

EXPORT int unlink(const char *path)
{
	return delete_file(AT_FDCWD, path);
}

EXPORT int unlinkat(int dir, const char *path, int flags)
{
	resolve();
	return flags ? real_unlinkat(dir, path, flags) : delete_file(dir, path);
}

EXPORT int remove(const char *path)
{
	int result = delete_file(AT_FDCWD, path);

	return result && errno == EISDIR ? rmdir(path) : result;
}

/* Write the path of a POSIX shared memory object or semaphore: `name` must be
 * one path component after its leading slashes. */
static int object_path(char *path, size_t size, const char *prefix, const char *name)
{
	while (*name == '/')
		name++;
	if (!*name || strchr(name, '/') || strlen(prefix) + strlen(name) > NAME_MAX) {
		errno = EINVAL;
		return -1;
	}
	snprintf(path, size, SHM "/%s%s", prefix, name);
	return 0;
}

EXPORT int shm_unlink(const char *name)
{
	char path[PATH_MAX];

	return object_path(path, sizeof path, "", name) ? -1 : delete_file(AT_FDCWD, path);
}

EXPORT int sem_unlink(const char *name)
{
	char path[PATH_MAX];

	if (object_path(path, sizeof path, "sem.", name)) {
		errno = ENOENT; /* as glibc: no such semaphore can exist */
		return -1;
	}
	return delete_file(AT_FDCWD, path);
}

/* ---- named semaphores -------------------------------------------------- */

/* POSIX: opening a semaphore twice gives the same address, closed as often. */
struct semaphore {
	struct semaphore *next;
	dev_t device;
	ino_t inode;
	sem_t *address;
	unsigned users;
};

static struct semaphore *semaphores;
static pthread_mutex_t semaphores_lock = PTHREAD_MUTEX_INITIALIZER;

static void before_fork(void)
{
	pthread_mutex_lock(&semaphores_lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&semaphores_lock);
}

/* Tell whether `one` still maps the file it was made for. A restore puts the
 * same content into new files, whose numbers may by chance be those of another
 * semaphore of before: only the kernel's list of mappings is to be believed. */
static int still_maps(const struct semaphore *one)
{
	unsigned long start, inode;
	unsigned major_number, minor_number;
	char *line = NULL;
	size_t size = 0;
	int found = 0;
	FILE *maps = fopen("/proc/self/maps", "re");

	while (maps && !found && getline(&line, &size, maps) > 0)
		found = sscanf(line, "%lx-%*x %*s %*x %x:%x %lu", &start, &major_number,
			       &minor_number, &inode) == 4 &&
			start == (unsigned long)one->address && inode == one->inode &&
			makedev(major_number, minor_number) == one->device;
	free(line);
	if (maps)
		fclose(maps);
	return found;
}

/* Return the address at which the semaphore of file `fd` is mapped. */
static sem_t *map_semaphore(int fd)
{
	struct semaphore *one;
	struct stat file;
	sem_t *found = SEM_FAILED;

	if (fstat(fd, &file))
		return SEM_FAILED;
	if (file.st_size < (off_t)sizeof(sem_t)) {
		errno = EINVAL; /* not a semaphore; touching the mapping would be SIGBUS */
		return SEM_FAILED;
	}
	pthread_mutex_lock(&semaphores_lock);
	for (one = semaphores; one; one = one->next)
		if (one->device == file.st_dev && one->inode == file.st_ino &&
		    still_maps(one))
			break;
	if (one) {
		one->users++;
		found = one->address;
	} else if ((one = malloc(sizeof *one))) {
		void *address = mmap(NULL, sizeof(sem_t), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

		if (address == MAP_FAILED) {
			free(one);
		} else {
			*one = (struct semaphore){semaphores, file.st_dev, file.st_ino, address, 1};
			semaphores = one;
			found = address;
		}
	}
	pthread_mutex_unlock(&semaphores_lock);
	return found;
}

/* Create the semaphore file `path`, visible only when initialised. Returns its
 * descriptor; -1 with EEXIST when somebody else was faster. */
static int create_semaphore(const char *path, mode_t mode, unsigned value)
{
	static atomic_uint sequence;
	union {
		sem_t semaphore;
		char bytes[sizeof(sem_t)];
	} fresh;
	char temporary[PATH_MAX];
	int fd, saved;

	memset(&fresh, 0, sizeof fresh);
	if (sem_init(&fresh.semaphore, 1, value)) /* EINVAL above SEM_VALUE_MAX */
		return -1;
	do {
		snprintf(temporary, sizeof temporary, SHM "/.sem.%d.%u", (int)getpid(),
			 atomic_fetch_add(&sequence, 1));
		fd = open(temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode);
	} while (fd < 0 && errno == EEXIST);
	if (fd < 0)
		return -1;
	if (write(fd, &fresh, sizeof fresh) == (ssize_t)sizeof fresh &&
	    renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) == 0)
		return fd;
	saved = errno;
	close(fd);
	real_unlinkat(AT_FDCWD, temporary, 0);
	errno = saved;
	return -1;
}

static int open_semaphore(const char *path, int flags, mode_t mode, unsigned value)
{
	for (;;) {
		int fd = -1;

		errno = ENOENT;
		if ((flags & (O_CREAT | O_EXCL)) != (O_CREAT | O_EXCL))
			fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
		if (fd >= 0 || errno != ENOENT || !(flags & O_CREAT))
			return fd;
		fd = create_semaphore(path, mode, value);
		if (fd >= 0 || errno != EEXIST || (flags & O_EXCL))
			return fd;
		/* Created by another process in between: open that one. */
	}
}

EXPORT sem_t *sem_open(const char *name, int flags, ...)
{
	char path[PATH_MAX];
	mode_t mode = 0;
	unsigned value = 0;
	sem_t *found;
	int fd, saved;

	if (flags & O_CREAT) {
		va_list args;

		va_start(args, flags);
		mode = va_arg(args, mode_t);
		value = va_arg(args, unsigned);
		va_end(args);
	}
	resolve();
	if (object_path(path, sizeof path, "sem.", name))
		return SEM_FAILED;
	fd = open_semaphore(path, flags, mode, value);
	if (fd < 0)
		return SEM_FAILED;
	found = map_semaphore(fd);
	saved = errno;
	close(fd);
	errno = saved;
	return found;
}

EXPORT int sem_close(sem_t *semaphore)
{
	int result = -1;

	pthread_mutex_lock(&semaphores_lock);
	for (struct semaphore **link = &semaphores; *link; link = &(*link)->next) {
		struct semaphore *one = *link;

		if (one->address != semaphore)
			continue;
		result = 0;
		if (--one->users == 0) {
			*link = one->next;
			munmap(semaphore, sizeof *semaphore);
			free(one);
		}
		break;
	}
	pthread_mutex_unlock(&semaphores_lock);
	if (result)
		errno = EINVAL;
	else
		sweep();
	return result;
}
