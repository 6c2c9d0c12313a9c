#define _GNU_SOURCE
#include "core.h"

#include <errno.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "child.h"
#include "sys.h"
#include "transport.h"

enum {
    PROT_READ_WRITE = 3,
    MAP_PRIVATE_ANONYMOUS = 0x22,
    MAP_CHILD = MAP_PRIVATE_ANONYMOUS | 0x4000, /* MAP_NORESERVE */
    MADV_NOHUGE = 15,
    RANGES_MOST = 16384, /* of a stack, for file descriptors to close */
    STACK_ABOVE = 16, /* of the stack; clone3 wants an address and a size, and uses their sum */
};

#ifndef CLONE_CLEAR_SIGHAND
#define CLONE_CLEAR_SIGHAND 0x100000000ull
#endif
#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ull
#endif

int64_t rs_direct(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                  uint64_t a5) {
    return rs_client_call(nr, a0, a1, a2, a3, a4, a5);
}

int32_t rs_direct_request(uint8_t *body, uint32_t len, uint8_t *reply, uint32_t room) {
    struct rs_guard nothing = {.fds = {-1, -1}};
    return rs_guarded_request(&nothing, body, len, reply, room);
}

int32_t rs_guarded_request(struct rs_guard *guard, uint8_t *body, uint32_t len, uint8_t *reply,
                           uint32_t room) {
    struct rs_entry entries[RS_LIMIT_DATA_MAX];
    struct rs_batch batch;
    struct rs_request request;
    struct rs_limits limits;
    const char *why;
    int32_t out_fd;

    rs_limits_default(&limits);
    limits.fds = 0; /* there is no frame that could bring any */
    int err = rs_decode_request(body, len, RS_CALLS_AND_COPIES | 1 << RS_MSG_BATCH, &limits, entries, &batch,
                                &request, &why);
    if (err)
        return -err;
    if (request.reserve > room)
        return -RS_ERR_OVERSIZE;
    if (request.type == RS_MSG_BATCH)
        return (int32_t)rs_run(&request, &limits, entries, &batch, 0, guard, reply);
    request.flags = 0; /* a new descriptor is already where it should be */
    return (int32_t)rs_execute(&request, entries, 0, guard, reply, &out_fd);
}

/* clone3(2), which alone can clear the handlers, or put a child into a cgroup; its struct in the
 * first version, unless the latter is wanted. */
static int64_t clone_cleared(uint64_t flags, uint64_t stack, int32_t *pidfd, int32_t cgroup) {
    uint64_t args[11] = {
        flags | CLONE_CLEAR_SIGHAND, rs_addr(pidfd), 0, 0, 0, stack - STACK_ABOVE, STACK_ABOVE};
    uint64_t size = 8 * sizeof args[0];
    if (cgroup >= 0) {
        args[0] |= CLONE_INTO_CGROUP;
        args[10] = (uint64_t)cgroup;
        size = sizeof args;
    }
    return rs_clone_call(RS_NR_clone3, rs_addr(args), size, 0, 0, 0, 0);
}

int64_t rs_clone_bare(uint64_t flags, uint64_t stack, int32_t *pidfd) {
    const uint64_t all = UINT64_MAX;
    uint64_t mask = 0;
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&all), rs_addr(&mask), 8, 0, 0);
    int64_t pid = clone_cleared(flags, stack, pidfd, -1);
    if (pid == -RS_ENOSYS || pid == -RS_EPERM)
        pid = rs_clone_call(RS_NR_clone, flags, stack, rs_addr(pidfd), 0, 0, 0);
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&mask), 0, 8, 0, 0);
    return pid;
}

int64_t rs_clone(uint64_t flags, uint64_t stack, int32_t *pidfd, int32_t cgroup) {
    struct rs_child *child = (struct rs_child *)(uintptr_t)(stack + sizeof(uint64_t));
    uint64_t all = UINT64_MAX;
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&all), rs_addr(&child->mask), 8, 0, 0);
    uint64_t mask = child->mask;
    child->flags |= RS_CHILD_CLEARED;
    int64_t pid = clone_cleared(flags, stack, pidfd, cgroup);
    /* A filter may refuse what it cannot look into. */
    if (cgroup < 0 && (pid == -RS_ENOSYS || pid == -RS_EPERM)) {
        child->flags &= ~(uint32_t)RS_CHILD_CLEARED;
        pid = rs_clone_call(RS_NR_clone, flags, stack, rs_addr(pidfd), 0, 0, 0);
    }
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&mask), 0, 8, 0, 0);
    return pid;
}

/* Pairs of the first and the last number of each gap between those that are kept, and our two.
 * Returns how many, without writing any if there is no room. */
static uint32_t gaps(const struct rs_start *start, uint32_t *range) {
    int32_t low = start->its_socket, high = start->its_pidfd;
    uint32_t next = 0, count = 0;
    if (high >= 0 && high < low) {
        low = high;
        high = start->its_socket;
    }
    for (uint32_t i = 0;;) {
        uint32_t number = UINT32_MAX;
        if (i < start->kept)
            number = (uint32_t)start->keep[i];
        if (low >= 0 && (uint32_t)low < number) {
            number = (uint32_t)low;
            low = high;
            high = -1;
        } else {
            i++;
        }
        if (number > next || number == UINT32_MAX) {
            if (range) {
                range[2 * count] = next;
                range[2 * count + 1] = number == UINT32_MAX ? number : number - 1;
            }
            count++;
        }
        if (number == UINT32_MAX)
            return count;
        next = number + 1;
    }
}

static int64_t start_failed(struct rs_start *start, int64_t nr, int64_t err) {
    start->failed = nr;
    if (start->socket >= 0) {
        rs_close(start->socket);
        rs_close(start->its_socket);
    }
    if (start->its_pidfd >= 0 && !start->sees_us)
        rs_close(start->its_pidfd);
    return err;
}

int64_t rs_start_child(struct rs_start *start) {
    int32_t ends[2] = {-1, -1};
    start->dumpable = (int32_t)rs_sys3(RS_NR_prctl, PR_GET_DUMPABLE, 0, 0);
    if (start->used)
        rs_child_clear(start->session, start->halves, start->size);
    int64_t result = rs_sys(RS_NR_socketpair, AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                            0, rs_addr(ends), 0, 0);
    start->socket = ends[0];
    start->its_socket = ends[1];
    start->its_pidfd = start->pidfd = -1;
    if (result < 0)
        return start_failed(start, RS_NR_socketpair, result);
    if (start->sees_us) {
        start->its_pidfd = start->socket; /* which it needs no more than others do */
    } else {
        result = rs_sys(RS_NR_pidfd_open, (uint64_t)rs_getpid(), 0, 0, 0, 0, 0);
        if (result < 0)
            return start_failed(start, RS_NR_pidfd_open, result);
        start->its_pidfd = (int32_t)result;
    }

    uint32_t count = gaps(start, 0);
    uint64_t length = (sizeof(uint64_t) + sizeof(struct rs_child) + 8ull * count + 15) & ~15ull;
    if (length > RANGES_MOST)
        return start_failed(start, RS_NR_close_range, -E2BIG);
    uint64_t stack = start->session - length;
    uint64_t *entry = (uint64_t *)(uintptr_t)stack;
    struct rs_child *child = (struct rs_child *)(entry + 1);
    *entry = rs_child_address();
    *child = (struct rs_child){
        .session = start->session,
        .ranges = rs_addr(child + 1),
        .data = start->halves,
        .range_count = count,
        .flags = start->child_flags,
        .socket = start->its_socket,
        .pidfd = start->its_pidfd,
        .page_size = start->page_size,
        .size = start->size,
        .spin_us = start->spin_us,
        .spin_turns = start->spin_turns,
        .client = start->sees_us ? (int32_t)rs_getpid() : 0,
    };
    gaps(start, (uint32_t *)(child + 1));
    result = rs_clone(start->flags, stack, &start->pidfd, -1);
    if (result < 0)
        return start_failed(start, RS_NR_clone, result);
    /* In the child's table they are still there. */
    rs_close(start->its_socket);
    if (!start->sees_us)
        rs_close(start->its_pidfd);
    return result;
}

int32_t rs_wait_readable(int32_t fd, uint32_t spin_us, uint32_t sleep_us) {
    uint64_t start = 0, limit = (uint64_t)spin_us * 1000, sleep = 0;
    for (;;) {
        struct rs_pollfd entry = {fd, RS_POLLIN, 0};
        uint64_t time[2] = {0, sleep};
        int64_t n = rs_sys(RS_NR_ppoll, rs_addr(&entry), 1, rs_addr(time), 0, 8, 0);
        if (n || sleep)
            return n > 0;
        uint64_t now = limit ? rs_clock() : 0;
        if (!start)
            start = now;
        if (now - start >= limit) {
            sleep = (uint64_t)sleep_us * 1000;
            if (!sleep)
                return 0;
        }
    }
}

uint64_t rs_child_address(void) { return (uint64_t)(uintptr_t)rs_child_entry; }

void rs_child_clear(uint64_t session, uint64_t halves, uint32_t size) {
    struct rs_session *s = (struct rs_session *)(uintptr_t)session;
    uint8_t *half = (uint8_t *)(uintptr_t)halves;
    memset(s, 0, offsetof(struct rs_session, made));
    memset(&s->first, 0, offsetof(struct rs_work, packets));
    memset(&s->store, 0, offsetof(struct rs_store, bytes));
    for (int i = 0; i < 2; i++, half += RS_SIZE_RING_HEADER + size)
        memset(half, 0, RS_SIZE_RING_PARKED + 64);
}

/* By way of the kernel: the child may have unmapped it. */
static int look(uint64_t address, void *to, uint64_t size) {
    struct rs_iovec local = {rs_addr(to), size}, remote = {address, size};
    return rs_sys(RS_NR_process_vm_readv, (uint64_t)rs_getpid(), rs_addr(&local), 1,
                  rs_addr(&remote), 1, 0) == (int64_t)size;
}

void rs_child_sweep(uint64_t session) {
    uint64_t slots[RS_SIZE_HELPERS], belongs;
    if (!look(session + offsetof(struct rs_session, slots[1]), slots, sizeof slots))
        return;
    for (uint32_t i = 0; i < RS_SIZE_HELPERS; i++) /* or have written there what came to its mind */
        if (slots[i] && slots[i] % 4096 == 0 && look(slots[i], &belongs, sizeof belongs) &&
            belongs == session)
            rs_sys3(RS_NR_munmap, slots[i] - RS_SIZE_HELPER_STACK, RS_SIZE_HELPER_MEMORY, 0);
}

int64_t rs_child_map(uint64_t length) {
    int64_t at = rs_sys(RS_NR_mmap, 0, length, PROT_READ_WRITE, MAP_CHILD, UINT64_MAX, 0);
    if (at < 0)
        return at;
    int64_t err = rs_sys3(RS_NR_mprotect, (uint64_t)at, 4096, 0);
    if (err < 0) {
        rs_sys3(RS_NR_munmap, (uint64_t)at, length, 0);
        return err;
    }
    /* Refused where there are no huge pages anyway. */
    rs_sys3(RS_NR_madvise, (uint64_t)at, length, MADV_NOHUGE);
    return at;
}

uint32_t rs_spin_turns(uint32_t us) {
    uint64_t halves[2 * (RS_SIZE_RING_HEADER + RS_SIZE_RING_MIN) / 8];
    struct rs_ring ring;
    memset(halves, 0, sizeof halves);
    rs_ring_init(&ring, halves, (uint8_t *)halves + sizeof halves / 2, RS_SIZE_RING_MIN);
    return rs_ring_turns(&ring, us);
}

int32_t rs_serve(int32_t fd) { return rs_serve_shared(fd, 0, 0); }

int32_t rs_serve_shared(int32_t fd, void *halves, uint32_t size) {
    int64_t memory = rs_sys(RS_NR_mmap, 0, sizeof(struct rs_session), PROT_READ_WRITE,
                            MAP_PRIVATE_ANONYMOUS, UINT64_MAX, 0);
    if (memory < 0) {
        rs_close(fd);
        return (int32_t)memory;
    }
    struct rs_session *session = (struct rs_session *)(uintptr_t)memory;
    int32_t pidfd = rs_client_pidfd(fd);
    rs_session_init(session, fd, pidfd, RS_IN_PROCESS, 4096);
    if (halves)
        rs_session_share(session, halves, size);
    rs_session_run(session);
    rs_close(fd);
    if (pidfd >= 0)
        rs_close(pidfd);
    rs_sys3(RS_NR_munmap, (uint64_t)memory, sizeof *session, 0);
    return 0;
}

static uint8_t *put_length(uint8_t *p, uint8_t fix, uint32_t fixed, uint8_t tag8, uint32_t len) {
    if (fix && len < fixed) {
        *p = (uint8_t)(fix | len);
        return p + 1;
    }
    if (len <= 0xff && tag8)
        return rs_put_be(p, tag8, len, 1);
    /* The 16- and 32-bit forms follow the 8-bit one; containers have no 8-bit form. */
    uint8_t tag16 = tag8 ? (uint8_t)(tag8 + 1) : fix == RS_FIXARRAY ? 0xdc : 0xde;
    return len <= 0xffff ? rs_put_be(p, tag16, len, 2) : rs_put_be(p, (uint8_t)(tag16 + 1), len, 4);
}

static uint8_t *put_ext(uint8_t *p, const struct rs_value *v) {
    switch (v->len) {
    case 1:
    case 2:
    case 4:
    case 8:
    case 16: {
        uint8_t tag = 0xd4;
        for (uint32_t n = v->len; n > 1; n /= 2)
            tag++;
        *p++ = tag;
        break;
    }
    default:
        p = put_length(p, 0, 0, 0xc7, v->len);
    }
    *p++ = (uint8_t)v->ext;
    return p;
}

static uint8_t *put_nint(uint8_t *p, int64_t n) {
    if (n >= -32) {
        *p = (uint8_t)n;
        return p + 1;
    }
    uint32_t bytes = n >= INT8_MIN ? 1 : n >= INT16_MIN ? 2 : n >= INT32_MIN ? 4 : 8;
    uint8_t tag = bytes == 1 ? 0xd0 : bytes == 2 ? 0xd1 : bytes == 4 ? 0xd2 : 0xd3;
    return rs_put_be(p, tag, (uint64_t)n, bytes);
}

int32_t rs_recode(const uint8_t *in, uint32_t len, uint8_t *out, uint32_t room) {
    struct rs_reader r = {in, in + len};
    struct rs_value v;
    uint8_t *p = out;
    int err = rs_validate(in, len, RS_LIMIT_DEPTH_MAX);
    if (err)
        return -err;
    /* The shortest form of a value is never longer than the one it came in. */
    if (room < len)
        return -RS_ERR_OVERSIZE;
    while (r.p < r.end) {
        const uint8_t *start = r.p;
        rs_next(&r, &v);
        switch (v.kind) {
        case RS_UINT:
            p = rs_put_uint(p, v.number);
            break;
        case RS_NINT:
            p = put_nint(p, (int64_t)v.number);
            break;
        case RS_STR:
            p = put_length(p, 0xa0, 32, 0xd9, v.len);
            break;
        case RS_BIN:
            p = put_length(p, 0, 0, 0xc4, v.len);
            break;
        case RS_EXT:
            p = put_ext(p, &v);
            break;
        case RS_ARRAY:
            p = put_length(p, RS_FIXARRAY, 16, 0, v.len);
            break;
        case RS_MAP:
            p = put_length(p, RS_FIXMAP, 16, 0, v.len);
            break;
        default:
            memcpy(p, start, (size_t)(r.p - start));
            p += r.p - start;
        }
        if (v.kind == RS_STR || v.kind == RS_BIN || v.kind == RS_EXT) {
            memcpy(p, v.data, v.len);
            p += v.len;
        }
    }
    return (int32_t)(p - out);
}

int32_t rs_check_request(const uint8_t *body, uint32_t len) {
    struct rs_entry entries[RS_LIMIT_DATA_MAX];
    struct rs_batch batch;
    struct rs_request request;
    struct rs_limits limits;
    const char *why;
    rs_limits_default(&limits);
    return rs_decode_request(body, len, RS_WHEN_INIT | RS_WHEN_OPEN | RS_BATCHES | 1 << RS_MSG_RING | 1 << RS_MSG_CANCEL |
                                           1 << RS_MSG_WATCH,
                             &limits, entries, &batch, &request, &why);
}
