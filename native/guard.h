/* What criu's shim (criushim.c) and the tracer of its tasks (tracer.c, putback.c)
 * share: a page of memory for one request at a time, and a socket that wakes.
 *
 * The asker fills the page, raises `asked` and, if the other says that it sleeps,
 * sends a byte; the answerer sets `answered` to the same and does likewise. A byte
 * too many only makes one look once more. The end of the socket is the end of the
 * other side, however it came.
 */
#ifndef CKPT_GUARD_H
#define CKPT_GUARD_H

#include <stdatomic.h>
#include <stdint.h>

#define GUARD_VARIABLE "CKPT_GUARD" /* SOCKET,MEMORY: descriptors that criu inherits */
#define GUARD_SHIM_VARIABLE "CKPT_CRIU_SHIM"
#define GUARD_MAGIC 0x64726775U
#define GUARD_PID_LIMIT (4 * 1024 * 1024) /* the kernel's PID_MAX_LIMIT */
#define GUARD_SPIN_NS 50000 /* looking this long costs less than being woken */
#define GUARD_BUFFER_BYTES (64 * 1024) /* the longest: a seccomp filter, 32 KiB */
#define GUARD_BYTES (GUARD_BUFFER_BYTES + 4096)
#define GUARD_SIGINFOS_AT 64 /* behind the arguments of PTRACE_PEEKSIGINFO */
#define GUARD_PEEKED 8 /* words that one PTRACE_PEEKDATA brings */

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

struct guard_page {
	uint32_t magic;
	int32_t spin_ns; /* none on a machine with one processor */
	int32_t tracer;
	_Atomic uint32_t asked, answered;
	_Atomic uint32_t tracer_sleeps, criu_sleeps, cancelled;
	int32_t form, request, pid, options, status;
	uint32_t size;
	uint64_t addr, data;
	int64_t result; /* or a negative errno */
	unsigned char buffer[GUARD_BUFFER_BYTES] __attribute__((aligned(64)));
};

_Static_assert(sizeof(struct guard_page) <= GUARD_BYTES, "the page is too small");

#endif
