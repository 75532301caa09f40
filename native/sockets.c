/* Taking TCP connections out of the state in which criu dumps them (TCP_REPAIR): a
 * connection neither sends nor answers in it, and nobody but criu or we ends it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tracer.h"

static void unpause(int fd)
{
	int value = 0, on = 1, off = 0;
	socklen_t size = sizeof value;

	if (getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &value, &size) != 0 || value != IPPROTO_TCP)
		return;
	size = sizeof value;
	if (getsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &value, &size) != 0 || value != 1)
		return;
	setsockopt(fd, IPPROTO_TCP, TCP_REPAIR, &off, sizeof off);
	/* Lost with that state. With it a server can listen again on its port while old
	 * connections are there, and nobody can without setting it himself. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
}

/* Let the connections of process `pid` live again; does nothing for a thread. */
void unpause_connections(pid_t pid)
{
	char path[64];
	DIR *folder;
	struct dirent *entry;
	int process = (int)syscall(SYS_pidfd_open, pid, 0);

	if (process < 0)
		return;
	snprintf(path, sizeof path, "/proc/%d/fd", pid);
	folder = opendir(path);
	while (folder && (entry = readdir(folder))) {
		int fd = (int)syscall(SYS_pidfd_getfd, process, atoi(entry->d_name), 0);

		if (fd >= 0) {
			unpause(fd);
			close(fd);
		}
	}
	if (folder)
		closedir(folder);
	close(process);
}
