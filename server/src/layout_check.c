/* Our layouts and constants against the kernel's and libc's headers. Compiled, never linked. */
#define _GNU_SOURCE
#include <asm/unistd.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "sys.h"

#define SAME(ours, theirs) _Static_assert((ours) == (theirs), #ours " differs from " #theirs)
#define SAME_FIELD(a, x, b, y)                                                                     \
    SAME(offsetof(a, x), offsetof(b, y));                                                          \
    SAME(sizeof(((a *)0)->x), sizeof(((b *)0)->y))

SAME(sizeof(struct rs_pollfd), sizeof(struct pollfd));
SAME_FIELD(struct rs_pollfd, revents, struct pollfd, revents);
SAME(sizeof(struct rs_iovec), sizeof(struct iovec));
SAME_FIELD(struct rs_iovec, len, struct iovec, iov_len);
SAME(sizeof(struct rs_msghdr), sizeof(struct msghdr));
SAME_FIELD(struct rs_msghdr, iov, struct msghdr, msg_iov);
SAME_FIELD(struct rs_msghdr, iovlen, struct msghdr, msg_iovlen);
SAME_FIELD(struct rs_msghdr, control, struct msghdr, msg_control);
SAME_FIELD(struct rs_msghdr, controllen, struct msghdr, msg_controllen);
SAME_FIELD(struct rs_msghdr, flags, struct msghdr, msg_flags);
SAME(sizeof(struct rs_cmsghdr), sizeof(struct cmsghdr));
SAME_FIELD(struct rs_cmsghdr, type, struct cmsghdr, cmsg_type);
SAME(sizeof(struct rs_ucred), sizeof(struct ucred));
SAME_FIELD(struct rs_ucred, gid, struct ucred, gid);

SAME(RS_EPERM, EPERM);
SAME(RS_EINTR, EINTR);
SAME(RS_EBADF, EBADF);
SAME(RS_EAGAIN, EAGAIN);
SAME(RS_ENOMEM, ENOMEM);
SAME(RS_EFAULT, EFAULT);
SAME(RS_ENFILE, ENFILE);
SAME(RS_EMFILE, EMFILE);
SAME(RS_ENOTSOCK, ENOTSOCK);
SAME(RS_ECONNABORTED, ECONNABORTED);
SAME(RS_ENOBUFS, ENOBUFS);
SAME(RS_POLLIN, POLLIN);
SAME(RS_POLLOUT, POLLOUT);
SAME(RS_SOL_SOCKET, SOL_SOCKET);
SAME(RS_SO_TYPE, SO_TYPE);
SAME(RS_SO_PEERCRED, SO_PEERCRED);
SAME(RS_SO_ACCEPTCONN, SO_ACCEPTCONN);
#ifdef SO_PEERPIDFD
SAME(RS_SO_PEERPIDFD, SO_PEERPIDFD);
#endif
SAME(RS_SCM_RIGHTS, SCM_RIGHTS);
SAME(RS_SOCK_STREAM, SOCK_STREAM);
SAME(RS_SOCK_CLOEXEC, SOCK_CLOEXEC);
SAME(RS_SHUT_WR, SHUT_WR);
SAME(RS_MSG_CTRUNC, MSG_CTRUNC);
SAME(RS_MSG_DONTWAIT, MSG_DONTWAIT);
SAME(RS_MSG_NOSIGNAL, MSG_NOSIGNAL);
SAME(RS_MSG_CMSG_CLOEXEC, MSG_CMSG_CLOEXEC);
SAME(RS_F_DUPFD, F_DUPFD);
SAME(RS_F_DUPFD_CLOEXEC, F_DUPFD_CLOEXEC);
SAME(RS_F_GETFD, F_GETFD);
SAME(RS_F_SETFD, F_SETFD);
SAME(RS_FD_CLOEXEC, FD_CLOEXEC);
SAME(RS_MADV_DONTNEED, MADV_DONTNEED);
SAME(RS_EINVAL, EINVAL);
SAME(RS_PROT_READ, PROT_READ);
SAME(RS_PROT_WRITE, PROT_WRITE);
SAME(RS_MAP_SHARED, MAP_SHARED);
SAME(RS_MAP_PRIVATE, MAP_PRIVATE);
SAME(RS_MAP_ANONYMOUS, MAP_ANONYMOUS);
SAME(RS_MAP_POPULATE, MAP_POPULATE);
SAME(RS_MFD_CLOEXEC, MFD_CLOEXEC);
SAME(RS_MFD_ALLOW_SEALING, MFD_ALLOW_SEALING);
SAME(RS_F_ADD_SEALS, F_ADD_SEALS);
SAME(RS_F_SEAL_SEAL, F_SEAL_SEAL);
SAME(RS_F_SEAL_SHRINK, F_SEAL_SHRINK);
SAME(RS_F_SEAL_GROW, F_SEAL_GROW);
SAME(RS_F_SEAL_FUTURE_WRITE, F_SEAL_FUTURE_WRITE);
SAME(RS_CLOCK_MONOTONIC, CLOCK_MONOTONIC);

/* The data file's numbers, for the calls that the server itself makes. */
SAME(RS_NR_close, __NR_close);
SAME(RS_NR_getsockopt, __NR_getsockopt);
SAME(RS_NR_ppoll, __NR_ppoll);
SAME(RS_NR_recvmsg, __NR_recvmsg);
SAME(RS_NR_sendmsg, __NR_sendmsg);
SAME(RS_NR_shutdown, __NR_shutdown);
SAME(RS_NR_madvise, __NR_madvise);
SAME(RS_NR_mmap, __NR_mmap);
SAME(RS_NR_munmap, __NR_munmap);
SAME(RS_NR_memfd_create, __NR_memfd_create);
SAME(RS_NR_ftruncate, __NR_ftruncate);
SAME(RS_NR_fcntl, __NR_fcntl);
SAME(RS_NR_clock_gettime, __NR_clock_gettime);
SAME(RS_NR_sched_getaffinity, __NR_sched_getaffinity);
SAME(RS_NR_pidfd_open, __NR_pidfd_open);
SAME(RS_NR_process_vm_readv, __NR_process_vm_readv);
SAME(RS_NR_process_vm_writev, __NR_process_vm_writev);
