/* What criu's shim (criushim.c) and the tracer of its tasks (tracer.c, putback.c)
 * share: memory with a queue of requests, and a socket that wakes.
 *
 * The asker writes requests one behind the other and raises `asked`; the answerer
 * carries them out in that order and raises `answered`. When both are equal the queue
 * begins anew. Only who needs an answer waits for it: to be woken by the other costs
 * more than most requests, above all where the processors are busy. Who says that it
 * sleeps is sent a byte; one too many only makes it look once more. The end of the
 * socket is the end of the other side, however it came.
 */
#ifndef CKPT_GUARD_H
#define CKPT_GUARD_H

#include <stdatomic.h>
#include <stdint.h>

#define GUARD_VARIABLE "CKPT_GUARD" /* SOCKET,MEMORY: descriptors that criu inherits */
#define GUARD_SHIM_VARIABLE "CKPT_CRIU_SHIM"
#define GUARD_MAGIC 0x64726775U
#define GUARD_PID_LIMIT (4 * 1024 * 1024) /* the kernel's PID_MAX_LIMIT */
#define GUARD_SHOWN 8
#define GUARD_REQUESTS 128 /* in the queue at most */
#define GUARD_DATA_BYTES (64 * 1024) /* of one; the longest: a seccomp filter, 32 KiB */
#define GUARD_ROOM_BYTES (4 * GUARD_DATA_BYTES)
#define GUARD_SIGINFOS_AT 64 /* behind the arguments of PTRACE_PEEKSIGINFO */

/* Where the pointers of a ptrace request lead. */
enum guard_form {
	GUARD_WAIT,     /* no ptrace at all: wait4(pid, options) */
	GUARD_VALUES,   /* addr and data are numbers */
	GUARD_PEEK,     /* a word is the answer */
	GUARD_DATA,     /* data leads to `size` bytes */
	GUARD_ADDR,     /* addr leads to `size` bytes */
	GUARD_VECTOR,   /* data leads to an iovec of `size` bytes */
	GUARD_SIGINFOS, /* addr leads to arguments, data to siginfos */
};

struct guard_request {
	int32_t form, request, pid, options, status;
	uint32_t size;
	uint64_t addr, data;
	int64_t result; /* or a negative errno */
	unsigned char bytes[] __attribute__((aligned(64)));
};

struct guard_shown {
	int32_t request;
	uint32_t at, size; /* in the album */
	uint64_t key;
	int64_t result;
};

struct guard_page {
	uint32_t magic;
	int32_t tracer;
	_Atomic uint32_t asked, answered;
	_Atomic uint32_t tracer_sleeps, criu_sleeps, cancelled;
	uint32_t at[GUARD_REQUESTS]; /* where in the room each is */

	/* What criu will ask next of the task that `shown_pid` names, brought along. */
	int32_t shown_pid;
	uint32_t shown_count;
	struct guard_shown shown[GUARD_SHOWN];
	unsigned char album[GUARD_DATA_BYTES];
	unsigned char room[GUARD_ROOM_BYTES] __attribute__((aligned(64)));
};

#define GUARD_BYTES ((sizeof(struct guard_page) + 4095) & ~4095UL)

#endif
