/* The least that the same work takes: each function does it n times and returns nanoseconds in all,
 * or -errno. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <spawn.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int64_t now(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

int64_t floor_getppid(int64_t n) {
    int64_t start = now();
    for (int64_t i = 0; i < n; i++)
        syscall(SYS_getppid); /* some C libraries have kept what getppid() returned */
    return now() - start;
}

int64_t floor_file(int64_t n, const char *path, int64_t size) {
    char buffer[4096];
    if (size > (int64_t)sizeof buffer)
        return -EINVAL;
    int64_t start = now();
    for (int64_t i = 0; i < n; i++) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd < 0 || read(fd, buffer, (size_t)size) != size || close(fd) < 0)
            return -errno;
    }
    return now() - start;
}

/* n requests of `len` bytes, one behind the other in `frames`; each reply comes in one piece. */
int64_t floor_socket(int64_t n, int fd, const char *frames, int64_t len) {
    char reply[64];
    int64_t start = now();
    for (int64_t i = 0; i < n; i++) {
        if (send(fd, frames + i * len, (size_t)len, MSG_NOSIGNAL) != len)
            return -errno;
        if (recv(fd, reply, sizeof reply, 0) <= 0)
            return errno ? -errno : -EPIPE;
    }
    return now() - start;
}

int64_t floor_copy(int64_t n, char *to, const char *from, int64_t size) {
    int64_t start = now();
    for (int64_t i = 0; i < n; i++) {
        memcpy(to, from, (size_t)size);
        __asm__ volatile("" : : "r"(to), "r"(from) : "memory");
    }
    return now() - start;
}

int64_t floor_far_read(int64_t n, int pid, uint64_t address, char *to, int64_t size) {
    struct iovec local = {to, (size_t)size}, remote = {(void *)(uintptr_t)address, (size_t)size};
    int64_t start = now();
    for (int64_t i = 0; i < n; i++)
        if (process_vm_readv(pid, &local, 1, &remote, 1, 0) != size)
            return -errno;
    return now() - start;
}

static int ends(void *unused) {
    (void)unused;
    _exit(0);
}

/* A child that shares our memory and ends at once. */
int64_t floor_clone(int64_t n) {
    static _Alignas(16) char stack[65536];
    int64_t start = now();
    for (int64_t i = 0; i < n; i++) {
        int pid = clone(ends, stack + sizeof stack, CLONE_VM, 0);
        if (pid < 0 || waitpid(pid, 0, __WALL) != pid)
            return -errno;
    }
    return now() - start;
}

int64_t floor_spawn(int64_t n, const char *path) {
    char *argv[] = {(char *)path, 0};
    int64_t start = now();
    for (int64_t i = 0; i < n; i++) {
        pid_t pid;
        int err = posix_spawn(&pid, path, 0, 0, argv, environ);
        if (err || waitpid(pid, 0, 0) != pid)
            return err ? -err : -errno;
    }
    return now() - start;
}
