#include "execute.h"

#include "plain.h"
#include "sys.h"

/* Bytes of a RESULT in front of its first output: frame header, array, type, id, nfds, result,
 * array of outputs. */
enum { HEAD = RS_SIZE_HEADER + 1 + 1 + 9 + 1 + 9 + 5 };
_Static_assert(HEAD <= RS_SIZE_REPLY_BASE, "what a request reserves must hold a RESULT");

int rs_may_block(const struct rs_request *req) {
    if (req->type == RS_MSG_BATCH || req->type == RS_MSG_RUN)
        return 1; /* perhaps; and a thousand calls take their time anyway */
    return (req->classes & RS_CALL_BLOCKS) != 0;
}

static int guarded(const struct rs_guard *guard, uint64_t fd) {
    /* The kernel looks at the low 32 bits of a descriptor; so must we. */
    int32_t n = (int32_t)(uint32_t)fd;
    if (n < 0)
        return 0;
    if (n == guard->fds[0] || n == guard->fds[1])
        return 1;
    if (!guard->made_bits)
        return 0;
    return (uint32_t)n >= guard->made_bits || !(guard->made[n / 8] & 1u << n % 8);
}

/* Calls that nobody who serves could survive, or whose control would not come back here. a: all six
 * arguments, for one that the request leaves out is zero, which is a descriptor like any other. */
static int64_t refuse(uint64_t nr, const uint64_t *a, const struct rs_guard *guard) {
    if (nr >= RS_CALLS)
        return 0;
    uint8_t flags = rs_call_flags[nr];
    if (flags & RS_CALL_REFUSED)
        return -RS_EPERM;
    if (guard->made_bits && flags & RS_CALL_REFUSED_IN_PROCESS)
        return -RS_EPERM;
    if (!(flags & RS_CALL_JUDGED))
        return 0;
    if (nr == RS_NR_clone) /* on our own stack the child would answer our client, too */
        return a[1] ? 0 : -RS_EPERM;
    if (nr == RS_NR_clone3) {
        uint64_t args[8] = {0}; /* clone_args up to its stack, and tls */
        const struct rs_iovec to = {rs_addr(args), sizeof args}, from = {a[0], sizeof args};
        int64_t n = rs_client_call(RS_NR_process_vm_readv, (uint64_t)rs_getpid(), rs_addr(&to), 1,
                                   rs_addr(&from), 1, 0);
        return a[1] >= sizeof args && n == sizeof args && args[5] ? 0 : -RS_EPERM;
    }
    if (nr == RS_NR_close)
        return guarded(guard, a[0]) ? -RS_EPERM : 0;
    if (nr == RS_NR_close_range) {
        if (guard->made_bits)
            return -RS_EPERM;
        uint32_t lo = (uint32_t)a[0];
        uint32_t hi = (uint32_t)a[1];
        /* CLOSE_RANGE_CLOEXEC closes nothing yet, but would at an exec: which ends us anyway. */
        if ((uint32_t)a[2] & 4)
            return 0;
        for (int i = 0; i < 2; i++)
            if (guard->fds[i] >= 0 && lo <= (uint32_t)guard->fds[i] &&
                (uint32_t)guard->fds[i] <= hi)
                return -RS_EPERM;
        return 0;
    }
    /* dup2, dup3: onto a free number is fine in our own process, and unknowable in another's. */
    return guarded(guard, a[1]) ? -RS_EPERM : 0;
}

static int returns_fd(uint64_t nr, const uint64_t *a) {
    if (nr == RS_NR_fcntl)
        return (uint32_t)a[1] == RS_F_DUPFD || (uint32_t)a[1] == RS_F_DUPFD_CLOEXEC;
    if (nr == RS_NR_landlock_create_ruleset) /* asked for its version it returns a number */
        return a[2] == 0;
    return nr < RS_CALLS && rs_call_flags[nr] & RS_CALL_RETURNS_FD;
}

static void mark(const struct rs_guard *guard, int64_t fd, int made) {
    if (fd < 0 || fd >= guard->made_bits)
        return;
    if (made)
        guard->made[fd / 8] |= (uint8_t)(1u << fd % 8);
    else
        guard->made[fd / 8] &= (uint8_t) ~(1u << fd % 8);
}

void rs_forget(const struct rs_guard *guard, int32_t fd) { mark(guard, fd, 0); }

#ifdef RS_INSIDE
/* A message was received: the descriptors that came with it, wherever the kernel has put them. */
static void remember_rights(const struct rs_guard *guard, uint64_t msghdr) {
    struct rs_msghdr msg;
    struct rs_cmsghdr head;
    memcpy(&msg, (const void *)(uintptr_t)msghdr, sizeof msg);
    uint64_t left = msg.controllen;
    const uint8_t *p = (const uint8_t *)(uintptr_t)msg.control;
    while (left >= sizeof head) {
        memcpy(&head, p, sizeof head);
        if (head.len < sizeof head || head.len > left)
            return;
        if (head.level == RS_SOL_SOCKET && head.type == RS_SCM_RIGHTS)
            for (uint64_t at = sizeof head; at + 4 <= head.len; at += 4) {
                int32_t fd;
                memcpy(&fd, p + at, sizeof fd);
                mark(guard, fd, 1);
            }
        uint64_t size = (head.len + 7) & ~7ull;
        if (size > left)
            return;
        p += size;
        left -= size;
    }
}
#endif

/* In somebody's interpreter: keep count of the descriptors that our calls made. */
static void remember(const struct rs_guard *guard, uint64_t nr, const uint64_t *a, int64_t result) {
    uint64_t pair = 0;
    if (!guard->made_bits || result < 0)
        return;
    if (returns_fd(nr, a))
        mark(guard, result, 1);
#ifdef RS_NR_pipe
    if (nr == RS_NR_pipe)
        pair = a[0];
#endif
#ifdef RS_INSIDE
    if (nr == RS_NR_recvmsg)
        remember_rights(guard, a[1]);
#endif
    if (nr == RS_NR_pipe2)
        pair = a[0];
    if (nr == RS_NR_socketpair)
        pair = a[3];
    if (pair) { /* the kernel has just written there */
        int32_t fds[2];
        memcpy(fds, (const void *)(uintptr_t)pair, sizeof fds);
        mark(guard, fds[0], 1);
        mark(guard, fds[1], 1);
    }
}

/* What an entry of a batch stands for: a number, or an address of data in the RUN. */
static void resolve(struct rs_entry *e, const struct rs_batch *batch, const int32_t *fds) {
    if (e->type == RS_ARG_REF) {
        uint64_t step = e->value;
        int32_t number;
        if (e->offset == RS_REF_RESULT) {
            e->value = (uint64_t)batch->results[step];
        } else {
            memcpy(&number, batch->outs[step] + e->offset, sizeof number);
            e->value = (uint64_t)(int64_t)number;
        }
    } else {
        const struct rs_entry *given = &batch->parameters[e->value];
        e->value = given->type == RS_ARG_IN   ? rs_addr(given->in)
                   : given->type == RS_ARG_FD ? (uint64_t)(int64_t)fds[given->value]
                                              : given->value;
    }
}

/* Give every entry its value; outputs are placed inside the reply itself. Returns the end. */
static uint8_t *place(struct rs_entry *e, uint32_t count, const struct rs_batch *batch,
                      const int32_t *fds, uint8_t *p, uint32_t *outs) {
    int pointers = 0;
    for (uint32_t i = 0; i < count; i++) {
        switch (e[i].type) {
        case RS_ARG_IN:
            e[i].value = rs_addr(e[i].in);
            break;
        case RS_ARG_OUT:
        case RS_ARG_RET:
            p = rs_put_be(p, RS_TAG_BIN32, e[i].len, 4);
            e[i].value = rs_addr(p);
            if (e[i].type == RS_ARG_OUT)
                memset(p, 0, e[i].len);
            p += e[i].len;
            ++*outs;
            break;
        case RS_ARG_INOUT:
            e[i].value = rs_addr(p + 5);
            p = rs_put_bytes(p, RS_TAG_BIN32, e[i].in, e[i].len);
            ++*outs;
            break;
        case RS_ARG_REF:
        case RS_ARG_PARAM:
            resolve(&e[i], batch, fds);
            break;
        case RS_ARG_STRUCT: {
            e[i].value = rs_addr(e[i].in);
            pointers = 1;
            if (e[i].out_count == 0)
                break;
            /* Reserve the place now; the fields are copied once the call has written them. */
            struct rs_reader pairs = e[i].outs;
            uint64_t n = 0;
            for (uint32_t k = 0; k < e[i].out_count; k++) {
                rs_number(&pairs);
                n += rs_number(&pairs);
            }
            p = rs_put_be(p, RS_TAG_BIN32, n, 4) + n;
            ++*outs;
            break;
        }
        case RS_ARG_FD:
            e[i].value = (uint64_t)(int64_t)fds[e[i].value];
            break;
        default:
            break;
        }
    }
    for (uint32_t i = 0; pointers && i < count; i++) {
        struct rs_reader pairs = e[i].relocations;
        for (uint32_t k = 0; k < e[i].relocation_count; k++) {
            uint64_t offset = rs_number(&pairs);
            const struct rs_entry *target = &e[rs_number(&pairs)];
            /* The frame is our private copy: it may be written. */
            memcpy((uint8_t *)(uintptr_t)e[i].value + offset, &target->value,
                   target->type == RS_ARG_REF ? target->len : sizeof target->value);
        }
    }
    return p;
}

/* After the call: bring the outputs into their final form and place. Returns the end. */
static uint8_t *collect(const struct rs_entry *e, uint32_t count, int64_t result, uint8_t *p) {
    uint8_t *from = p; /* where the entry was placed; p is where it belongs */
    for (uint32_t i = 0; i < count; i++) {
        uint64_t placed = 0, keep = 0;
        switch (e[i].type) {
        case RS_ARG_OUT:
        case RS_ARG_INOUT:
            placed = keep = e[i].len;
            break;
        case RS_ARG_RET:
            placed = e[i].len;
            keep = result < 0 ? 0 : (uint64_t)result < placed ? (uint64_t)result : placed;
            break;
        case RS_ARG_STRUCT: {
            if (e[i].out_count == 0)
                continue;
            struct rs_reader pairs = e[i].outs;
            for (uint32_t k = 0; k < e[i].out_count; k++) {
                uint64_t offset = rs_number(&pairs), n = rs_number(&pairs);
                memcpy(from + 5 + placed, (const uint8_t *)(uintptr_t)e[i].value + offset, n);
                placed += n;
            }
            keep = placed;
            break;
        }
        default:
            continue;
        }
        rs_put_be(p, RS_TAG_BIN32, keep, 4);
        if (p != from)
            memmove(p + 5, from + 5, keep);
        p += 5 + keep;
        from += 5 + placed;
    }
    return p;
}

static uint32_t finish(uint8_t *reply, uint8_t *end, uint64_t id, uint32_t nfds, int64_t result,
                       uint32_t outs) {
    uint8_t *p = rs_put_be(reply, RS_TAG_UINT32, (uint64_t)(end - reply) - RS_SIZE_HEADER, 4);
    *p++ = RS_FIXARRAY | 5;
    *p++ = RS_MSG_RESULT;
    p = rs_put_be(p, RS_TAG_UINT64, id, 8);
    *p++ = (uint8_t)nfds;
    p = rs_put_be(p, RS_TAG_INT64, (uint64_t)result, 8);
    rs_put_be(p, RS_TAG_ARRAY32, outs, 4);
    return (uint32_t)(end - reply);
}

uint32_t rs_result(uint64_t id, int64_t result, uint8_t *reply) {
    return finish(reply, reply + HEAD, id, 0, result, 0);
}

/* By way of the kernel, so that a bad address is an answer and not the end of us. */
__attribute__((cold)) static int64_t copy(const struct rs_request *req, uint8_t *room) {
    struct rs_iovec local = {req->type == RS_MSG_READ ? rs_addr(room) : rs_addr(req->in),
                             req->length};
    struct rs_iovec remote = {req->address, req->length};
    if (req->length == 0)
        return 0;
    return rs_client_call(req->type == RS_MSG_READ ? RS_NR_process_vm_readv
                                                   : RS_NR_process_vm_writev,
                          (uint64_t)rs_getpid(), rs_addr(&local), 1, rs_addr(&remote), 1, 0);
}

int64_t rs_call(uint64_t nr, struct rs_entry *e, uint32_t count, const struct rs_batch *batch,
                const int32_t *fds, const struct rs_guard *guard, uint64_t a[6], uint8_t **reply,
                uint32_t *outs) {
    uint32_t before = *outs;
    place(e, count, batch, fds, *reply, outs);
    for (uint32_t i = 0; i < 6; i++)
        a[i] = i < count ? e[i].value : 0;
    int64_t result = atomic_load_explicit(&guard->stop, memory_order_relaxed);
    if (result == 0)
        result = refuse(nr, a, guard);
    if (result == 0) {
        if (nr == RS_NR_close) /* before: once closed, the number may be somebody else's */
            mark(guard, (int32_t)(uint32_t)a[0], 0);
        if (nr == RS_NR_clone || nr == RS_NR_clone3)
            result = rs_team_clone(guard->work, nr, a);
        else if (guard->work && (nr >= RS_CALLS || rs_call_flags[nr] & RS_CALL_BLOCKS))
            result = rs_team_call(guard->work, nr, a);
        else
#ifdef RS_INSIDE /* the interpreter's own calls can be interrupted, too */
            result = rs_wait_client_call((int64_t)nr, a[0], a[1], a[2], a[3], a[4], a[5],
                                         &guard->stop);
#else
            result = rs_client_call((int64_t)nr, a[0], a[1], a[2], a[3], a[4], a[5]);
#endif
        remember(guard, nr, a, result);
    }
    if (*outs != before)
        *reply = collect(e, count, result, *reply);
    return result;
}

uint32_t rs_execute(struct rs_request *req, struct rs_entry *e, const int32_t *fds,
                    const struct rs_guard *guard, uint8_t *reply, int32_t *out_fd) {
    uint8_t *p = reply + HEAD;
    uint32_t outs = 0;
    int64_t result;

    *out_fd = -1;
    if (req->type != RS_MSG_CALL) {
        result = copy(req, p + 5);
        if (req->type == RS_MSG_READ && result >= 0) {
            p = rs_put_be(p, RS_TAG_BIN32, (uint64_t)result, 4) + result;
            outs = 1;
        }
        return finish(reply, p, req->id, 0, result, outs);
    }

    uint64_t a[6];
    result = rs_call(req->nr, e, req->count, 0, fds, guard, a, &p, &outs);
    /* Only what is a new descriptor for certain: it will be closed here once it is sent. */
    if (req->flags & RS_CALLFLAG_RETURN_FD && result >= 0 && returns_fd(req->nr, a))
        *out_fd = (int32_t)result;
    return finish(reply, p, req->id, *out_fd >= 0, result, outs);
}
