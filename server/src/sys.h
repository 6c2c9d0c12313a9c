/* What the server itself asks of the kernel. Everything here returns -errno on failure. */
#ifndef RS_SYS_H
#define RS_SYS_H

#include <stddef.h>
#include <stdint.h>

#include "rsyscall/syscalls.h"

/* arch/<arch>/syscall.S: the doors, see there. */
int64_t rs_sys(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
               uint64_t a5);
int64_t rs_sys3(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2); /* the others are 0 */
int64_t rs_client_call(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5);
/* The same two for what may sleep, and not at all once what stop points at is not zero. */
int64_t rs_wait_sys(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                    uint64_t a5, const void *stop);
int64_t rs_wait_client_call(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3,
                            uint64_t a4, uint64_t a5, const void *stop);
#ifdef RS_STUB
#define rs_clone_call rs_client_call
#else
int64_t rs_clone_call(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                      uint64_t a5);
#endif

static inline uint64_t rs_addr(const void *p) { return (uint64_t)(uintptr_t)p; }

/* GCC and clang turn loops and struct copies into these anyway; in the stub they are mem.c's. */
void *memcpy(void *restrict dst, const void *restrict src, size_t n);
void *memmove(void *dst, const void *src, size_t n);
void *memset(void *dst, int c, size_t n);
int memcmp(const void *a, const void *b, size_t n);

/* The kernel's layouts, checked against its headers in layout_check.c. libc's would do, but the
 * stub has none. */
struct rs_pollfd {
    int32_t fd;
    int16_t events;
    int16_t revents;
};

struct rs_iovec {
    uint64_t base;
    uint64_t len;
};

struct rs_msghdr {
    uint64_t name;
    int32_t namelen;
    int32_t pad0;
    uint64_t iov;
    uint64_t iovlen;
    uint64_t control;
    uint64_t controllen;
    uint32_t flags;
    uint32_t pad1;
};

struct rs_cmsghdr {
    uint64_t len;
    int32_t level;
    int32_t type;
};

struct rs_ucred {
    int32_t pid;
    uint32_t uid;
    uint32_t gid;
};

enum {
    RS_EPERM = 1,
    RS_EINTR = 4,
    RS_EBADF = 9,
    RS_EAGAIN = 11,
    RS_ENOMEM = 12,
    RS_EINVAL = 22,
    RS_EFAULT = 14,
    RS_EBUSY = 16,
    RS_ENFILE = 23,
    RS_EMFILE = 24,
    RS_ESRCH = 3,
    RS_ETIMEDOUT = 110,
    RS_ENOSYS = 38,
    RS_ENOTSOCK = 88,
    RS_ECONNABORTED = 103,
    RS_ENOBUFS = 105,

    RS_POLLIN = 0x1,
    RS_POLLOUT = 0x4,

    RS_SOL_SOCKET = 1,
    RS_SO_TYPE = 3,
    RS_SO_PEERCRED = 17,
    RS_SO_ACCEPTCONN = 30,
    RS_SO_PEERPIDFD = 77,
    RS_SCM_RIGHTS = 1,
    RS_SOCK_STREAM = 1,
    RS_SOCK_CLOEXEC = 0x80000,
    RS_SHUT_WR = 1,

    RS_MSG_CTRUNC = 0x8,
    RS_MSG_DONTWAIT = 0x40,
    RS_MSG_NOSIGNAL = 0x4000,
    RS_MSG_CMSG_CLOEXEC = 0x40000000,

    RS_F_DUPFD = 0,
    RS_F_GETFD = 1,
    RS_F_SETFD = 2,
    RS_F_DUPFD_CLOEXEC = 1030,
    RS_FD_CLOEXEC = 1,
    RS_MADV_DONTNEED = 4,
    RS_MADV_NOHUGEPAGE = 15,

    RS_PROT_READ = 1,
    RS_PROT_WRITE = 2,
    RS_MAP_SHARED = 1,
    RS_MAP_PRIVATE = 2,
    RS_MAP_ANONYMOUS = 0x20,
    RS_MAP_POPULATE = 0x8000,
    RS_MFD_CLOEXEC = 1,
    RS_MFD_ALLOW_SEALING = 2,
    RS_F_ADD_SEALS = 1033,
    RS_F_SEAL_SEAL = 1,
    RS_F_SEAL_SHRINK = 2,
    RS_F_SEAL_GROW = 4,
    RS_F_SEAL_FUTURE_WRITE = 16,
    RS_CLOCK_MONOTONIC = 1,

    RS_FUTEX_WAIT = 128, /* both of them private to this memory */
    RS_FUTEX_WAKE = 129,
    RS_MAP_NORESERVE = 0x4000,

    RS_SIG_BLOCK = 0,
    RS_SIG_UNBLOCK = 1,
    RS_SIG_SETMASK = 2,
    RS_SIG_DFL = 0,
    RS_SIG_IGN = 1,
    RS_SIGKILL = 9,
    RS_SIGPIPE = 13,
    RS_SIGTERM = 15,
    RS_SIGCHLD = 17,
    RS_SIGXFSZ = 25,
    RS_SIGNAL = 32, /* of ours: it is libc's for its own threads, so nobody else's */
    RS_SIGNALS = 64,
    RS_SA_RESTORER = 0x04000000,
};

static inline int64_t rs_close(int32_t fd) { return rs_sys3(RS_NR_close, (uint64_t)fd, 0, 0); }

static inline int64_t rs_getpid(void) { return rs_sys3(RS_NR_getpid, 0, 0, 0); }

static inline int64_t rs_sockopt(int32_t fd, int32_t name, void *value, uint32_t *len) {
    return rs_sys(RS_NR_getsockopt, (uint64_t)fd, RS_SOL_SOCKET, (uint64_t)name, rs_addr(value),
                  rs_addr(len), 0);
}

/* poll(2) by way of ppoll, which every architecture has. timeout in ms, negative: for ever. */
int64_t rs_poll(struct rs_pollfd *fds, uint32_t n, int64_t timeout_ms);

/* The same until the eight bytes at stop are not zero; see rs_wait_sys. */
int64_t rs_poll_until(struct rs_pollfd *fds, uint32_t n, int64_t timeout_ms, const void *stop);

/* Nanoseconds of CLOCK_MONOTONIC, by a real system call: for what happens seldom. */
uint64_t rs_clock(void);

/* Whether we may run on one CPU only, so that nobody can answer while we spin. */
int rs_one_cpu(void);

/* Have a signal handled so, by default or not at all. What was so before. */
uint64_t rs_dispose(uint32_t sig, uint64_t handler);

/* An address, or -errno. */
int64_t rs_mmap(uint64_t length, uint32_t prot, uint32_t flags, int32_t fd);

#endif
