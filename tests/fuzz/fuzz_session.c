/* libFuzzer: a whole session against a kernel that is made up. No system call is made.
 *
 * Byte 0 of the input: flags, see below. The rest is what the client sends, in pieces: two bytes of
 * length, a byte that says what happens on that read, and for FDS how many there are. Once there is a
 * ring, other bytes there say what the client does to its half of it: see `stroke`. */
#include <sanitizer/asan_interface.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "session.h"
#include "sys.h"
#include "transport.h"

enum flags { GREETED = 1, IN_PROCESS = 2, SLOW = 4, BROKEN = 8, REFUSED = 16, IDLE = 32, SHARED = 64,
             NO_RING = 128 };
enum event { DATA, FDS, TRUNCATED, OTHER_CONTROL, AGAIN, INTERRUPTED, RESET, EVENTS };
enum stroke { PUBLISH = EVENTS, READ_ALL, SET_TAIL, SET_HEAD, SET_PARKED, SPOIL, STROKES };
enum { SOCKET = 3, PIDFD = 4, FIRST = 100, MOST_FDS = 60000, MOST_OUTPUT = 64 << 20 };
enum { HALF = RS_SIZE_RING_HEADER + RS_SIZE_RING_MIN };
enum owner { NOBODY, SERVER, CLIENT };

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t hello[] = "\xce\0\0\0\x0f\x96\x01\xa8rsyscall\x01\x01\x07\x80";
static const uint8_t call_flags[RS_CALLS] = {
#define RS_FLAGS(nr, flags) [nr] = (flags),
    RS_CALL_FLAGS(RS_FLAGS)
#undef RS_FLAGS
};
static struct rs_session session;
static uint8_t owners[MOST_FDS]; /* who has to close a descriptor */
static int32_t next_fd;
static const uint8_t *input, *input_end;
static uint8_t flags;
static uint32_t greeting, turn;
static uint8_t *output;
static size_t output_len, output_room;
static _Alignas(4096) uint8_t halves[2][HALF]; /* the client's, the server's */
static uint32_t mapped, fails_at; /* halves; the call that makes a ring and fails, from 1 */
static uint32_t client_head;      /* what it has read of the server's half */
static uint8_t *ring_output;
static size_t ring_output_len, ring_output_room;
static int honest; /* it has read everything in its order so far */
static uint64_t now;
static uint64_t mask = FIRST; /* the signals that are blocked: some */

static int32_t open_fd(enum owner owner) {
    REQUIRE(next_fd < MOST_FDS);
    owners[next_fd] = owner;
    return next_fd++;
}

static int64_t close_fd(uint64_t fd) {
    REQUIRE(fd < MOST_FDS && owners[fd] != NOBODY);
    owners[fd] = NOBODY;
    return 0;
}

static uint8_t byte(void) { return input < input_end ? *input++ : 0; }

static void give_fds(struct rs_msghdr *msg, uint32_t n, int32_t type) {
    struct rs_cmsghdr head = {sizeof head + 4 * (uint64_t)n, RS_SOL_SOCKET, type};
    uint8_t *control = (uint8_t *)(uintptr_t)msg->control;
    if (n > RS_LIMIT_FDS_MAX)
        n = RS_LIMIT_FDS_MAX; /* the kernel's own limit */
    head.len = sizeof head + 4 * (uint64_t)n;
    if (!control) {
        msg->flags |= RS_MSG_CTRUNC;
        return;
    }
    REQUIRE(msg->controllen >= head.len);
    memcpy(control, &head, sizeof head);
    for (uint32_t i = 0; i < n; i++) {
        int32_t fd = type == RS_SCM_RIGHTS ? open_fd(SERVER) : -1;
        memcpy(control + sizeof head + 4 * i, &fd, 4);
    }
    msg->controllen = head.len;
}

static struct rs_half *half(int server) { return (struct rs_half *)halves[server]; }

static uint32_t number(void) {
    uint32_t n = byte();
    n |= (uint32_t)byte() << 8;
    n |= (uint32_t)byte() << 16;
    return n | (uint32_t)byte() << 24;
}

/* What the client does to its half while the server sleeps. */
static void stroke(uint8_t what, uint64_t len) {
    uint8_t *data = halves[0] + RS_SIZE_RING_HEADER;
    struct rs_half *mine = half(0);
    uint32_t at;
    switch (what) {
    case PUBLISH:
        for (at = mine->tail; len && input < input_end; len--)
            data[at++ % RS_SIZE_RING_MIN] = byte();
        mine->tail = at;
        break;
    case READ_ALL:
        for (; client_head != half(1)->tail; client_head++) {
            if (ring_output_len == ring_output_room)
                ring_output = realloc(ring_output, ring_output_room = 2 * ring_output_room + 4096);
            ring_output[ring_output_len++] =
                halves[1][RS_SIZE_RING_HEADER + client_head % RS_SIZE_RING_MIN];
            REQUIRE(!honest || half(1)->tail - client_head <= RS_SIZE_RING_MIN);
            if (!honest)
                client_head = half(1)->tail - 1;
        }
        mine->head = client_head;
        break;
    case SET_TAIL:
        mine->tail = number();
        break;
    case SET_HEAD:
        mine->head = number();
        honest = 0;
        break;
    case SET_PARKED:
        mine->parked = number();
        break;
    default:
        memset(halves[0], byte(), HALF);
        honest = 0;
    }
}

static int64_t fake_recvmsg(struct rs_msghdr *msg) {
    const struct rs_iovec *iov = (struct rs_iovec *)(uintptr_t)msg->iov;
    uint8_t *to = (uint8_t *)(uintptr_t)iov->base;
    uint64_t len = 0;
    uint8_t event = DATA, count = 0;
    int beside = to >= session.side.bytes && to < (uint8_t *)(&session.side + 1);
    if (beside)
        REQUIRE(to + iov->len <= session.side.bytes + sizeof session.side.bytes);
    else
        REQUIRE(to >= session.first.rx && to + iov->len <= session.first.rx + RS_RX_SIZE);
    REQUIRE(iov->len > 0); /* or nothing could come, which would look like the end */
    if (greeting < sizeof hello - 1) {
        memcpy(to, hello, len = sizeof hello - 1);
        greeting += (uint32_t)len;
    } else {
        len = byte();
        len |= (uint64_t)byte() << 8;
        event = byte() % (session.ring_on ? STROKES : EVENTS);
        if (event >= EVENTS) {
            ASAN_UNPOISON_MEMORY_REGION(session.first.rx, RS_RX_SIZE); /* for what the ring brings */
            stroke(event, len);
            return -RS_EAGAIN;
        }
        count = event == FDS || event == TRUNCATED ? byte() : 0;
        if (event == AGAIN)
            return -RS_EAGAIN;
        if (event == INTERRUPTED)
            return -RS_EINTR;
        if (event == RESET)
            return -104;
        if (len > (uint64_t)(input_end - input))
            len = (uint64_t)(input_end - input);
        if (len > iov->len)
            len = iov->len;
        /* Whatever lies behind was never received, and must not be looked at. */
        if (!beside)
            ASAN_UNPOISON_MEMORY_REGION(session.first.rx, RS_RX_SIZE);
        memcpy(to, input, len);
        input += len;
    }
    if (!beside)
        ASAN_POISON_MEMORY_REGION(to + len, (size_t)(session.first.rx + RS_RX_SIZE - (to + len)));
    msg->flags = event == TRUNCATED ? RS_MSG_CTRUNC : 0;
    if (len && (event == FDS || event == TRUNCATED) && count)
        give_fds(msg, count, RS_SCM_RIGHTS);
    else if (len && event == OTHER_CONTROL && msg->control)
        give_fds(msg, 3, 2);
    else
        msg->controllen = 0;
    return (int64_t)len;
}

static int64_t fake_sendmsg(const struct rs_msghdr *msg) {
    const struct rs_iovec *iov = (struct rs_iovec *)(uintptr_t)msg->iov;
    size_t len = iov->len;
    REQUIRE(len > 0);
    turn++;
    if (flags & BROKEN && turn > 3)
        return -32;
    if (flags & SLOW) {
        if (turn % 3 == 1)
            return -RS_EAGAIN;
        /* What goes beside a ring is too small for a socket to take in parts; so is its answer. */
        if (turn % 3 == 2 && len > 7 && iov->base >= rs_addr(session.first.tx) &&
            iov->base < rs_addr(session.first.tx + RS_TX_SIZE))
            len = 7;
    }
    if (msg->control) {
        const uint8_t *control = (uint8_t *)(uintptr_t)msg->control;
        struct rs_cmsghdr head;
        int32_t fd;
        memcpy(&head, control, sizeof head);
        REQUIRE(head.len <= msg->controllen);
        for (uint64_t at = sizeof head; at < head.len; at += 4) {
            memcpy(&fd, control + at, 4);
            REQUIRE(fd >= FIRST && fd < MOST_FDS && owners[fd] != NOBODY);
        }
        REQUIRE(*(uint8_t *)(uintptr_t)iov->base == RS_TAG_UINT32); /* a frame's first byte */
    }
    if (output_len + len > output_room)
        output = realloc(output, output_room = 2 * (output_len + len));
    memcpy(output + output_len, (void *)(uintptr_t)iov->base, len);
    output_len += len;
    REQUIRE(output_len < MOST_OUTPUT);
    return (int64_t)len;
}

static int64_t fake_poll(struct rs_pollfd *fds, uint64_t n, const int64_t *timeout) {
    if (flags & IDLE && timeout && turn++ % 2)
        return 0;
    REQUIRE(n >= 1 && fds[0].fd == SOCKET && fds[0].events);
    int sleeps = !timeout || timeout[0] || timeout[1];
    if (sleeps && session.ring_on && session.state != RS_STATE_FAILED) /* and has said so */
        REQUIRE(half(1)->parked & RS_PARKED_DATA);
    fds[0].revents = fds[0].events;
    for (uint64_t i = 1; i < n; i++) /* of what is watched some */
        fds[i].revents = i > 1 && (fds[i].fd + turn++) % 3 == 0 ? fds[i].events : 0;
    return 1;
}

static int fails(void) { return flags & NO_RING && fails_at && --fails_at == 0; }

int64_t rs_sys(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
               uint64_t a5) {
    (void)a3, (void)a5;
    switch (nr) {
    case RS_NR_recvmsg:
        return fake_recvmsg((struct rs_msghdr *)(uintptr_t)a1);
    case RS_NR_sendmsg:
        return fake_sendmsg((struct rs_msghdr *)(uintptr_t)a1);
    case RS_NR_ppoll:
        return fake_poll((struct rs_pollfd *)(uintptr_t)a0, a1, (int64_t *)(uintptr_t)a2);
    case RS_NR_close:
        return close_fd(a0);
    case RS_NR_getsockopt:
        REQUIRE(a0 == SOCKET);
        if (a2 == RS_SO_PEERCRED)
            memcpy((void *)(uintptr_t)a3, &(struct rs_ucred){7, 0, 0}, *(uint32_t *)(uintptr_t)a4);
        else if (a2 == RS_SO_PEERPIDFD)
            *(int32_t *)(uintptr_t)a3 = PIDFD;
        return 0;
    case RS_NR_madvise:
        REQUIRE(a0 >= rs_addr(&session) && a0 + a1 <= rs_addr(&session + 1) && a0 % 4096 == 0);
        return madvise((void *)(uintptr_t)a0, a1, (int)a2);
    case RS_NR_getpid:
        return 42;
    case RS_NR_memfd_create:
        return fails() ? -RS_EMFILE : open_fd(SERVER);
    case RS_NR_ftruncate:
        REQUIRE(owners[a0] == SERVER && a1 >= RS_SIZE_RING_HEADER + RS_SIZE_RING_MIN);
        return fails() ? -RS_ENOMEM : 0;
    case RS_NR_mmap:
        if (a1 == RS_SIZE_HELPER_MEMORY)
            return -RS_ENOMEM;
        REQUIRE(owners[a4] == SERVER);
        if (a1 > HALF || fails())
            return -RS_ENOMEM;
        REQUIRE(mapped < 2);
        return (int64_t)rs_addr(halves[mapped++]);
    case RS_NR_munmap:
        REQUIRE(mapped > 0 && a1 == HALF);
        mapped--;
        return 0;
    case RS_NR_fcntl:
        REQUIRE(owners[a0] == SERVER && a1 == RS_F_ADD_SEALS && a2 & RS_F_SEAL_SEAL);
        return fails() ? -RS_EPERM : 0;
    case RS_NR_clock_gettime:
        ((uint64_t *)(uintptr_t)a1)[0] = 0;
        ((uint64_t *)(uintptr_t)a1)[1] = now += 100000;
        return 0;
    case RS_NR_sched_getaffinity:
        *(uint64_t *)(uintptr_t)a2 = flags & IDLE ? 1 : 3;
        return 8;
    case RS_NR_shutdown:
        return 0;
    case RS_NR_rt_sigprocmask:
        REQUIRE(a0 == RS_SIG_SETMASK);
        if (a2)
            memcpy((void *)(uintptr_t)a2, &mask, sizeof mask);
        memcpy(&mask, (const void *)(uintptr_t)a1, sizeof mask);
        return 0;
    default:
        fprintf(stderr, "system call %ld is not expected\n", (long)nr);
        abort();
    }
}

int64_t rs_sys3(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2) {
    return rs_sys(nr, a0, a1, a2, 0, 0, 0);
}

int64_t rs_wait_sys(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                    uint64_t a5, const void *stop) {
    REQUIRE(*(const uint64_t *)stop == 0);
    return rs_sys(nr, a0, a1, a2, a3, a4, a5);
}

int64_t rs_wait_client_call(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3,
                            uint64_t a4, uint64_t a5, const void *stop) {
    REQUIRE(*(const uint64_t *)stop == 0);
    return rs_client_call(nr, a0, a1, a2, a3, a4, a5);
}

int64_t rs_client_call(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                       uint64_t a5) {
    (void)a3, (void)a4, (void)a5;
    if (nr == RS_NR_process_vm_readv || nr == RS_NR_process_vm_writev) {
        const struct rs_iovec *local = (struct rs_iovec *)(uintptr_t)a1;
        if (a0 != 42 || (session.first.request.type != RS_MSG_READ && session.first.request.type != RS_MSG_WRITE))
            return -RS_EFAULT; /* the client's own call of that name */
        if (nr == RS_NR_process_vm_readv)
            memset((void *)(uintptr_t)local->base, 'm', local->len);
        return (int64_t)local->len / 2;
    }
    /* These succeed only for who has memory to write the descriptors to. */
    if (nr == RS_NR_pipe || nr == RS_NR_pipe2 || nr == RS_NR_socketpair || nr == RS_NR_close)
        return -RS_EFAULT;
    if (nr % 4 == 3)
        return -RS_EINTR;
    if (nr % 4 == 2 && !(nr < RS_CALLS && call_flags[nr] & RS_CALL_RETURNS_FD))
        return (int64_t)(a2 % 5000);
    return open_fd(CLIENT); /* and where that is no descriptor, it is a number as good as any */
}

int64_t rs_clone_call(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                      uint64_t a5) {
    REQUIRE(a1 != 0 && mask == UINT64_MAX); /* its own stack, and no handlers of ours */
    return rs_client_call(nr, a0, a1, a2, a3, a4, a5);
}

void rs_child_entry(void) { abort(); }

/* There is nobody to help: no memory for it. */
void rs_interrupt(void) { abort(); }
void rs_restore(void) { abort(); }
void rs_helper_entry(void) { abort(); }

/* What was sent must be whole frames that a client could read: HELLO, then results by ascending
 * ids, then perhaps BYE or ERROR. Or, as what a client has read of a ring, the middle of that. */
static void check_output(const uint8_t *p, const uint8_t *end, int ring) {
    uint64_t last_id = 0, last_type = ring ? RS_MSG_RESULT : 0;
    while (p < end) {
        struct rs_value v;
        if ((end - p < RS_SIZE_HEADER) && (flags & BROKEN || ring))
            return;
        REQUIRE(end - p >= RS_SIZE_HEADER && *p == RS_TAG_UINT32);
        uint32_t len = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
        p += RS_SIZE_HEADER;
        if (len > (uint64_t)(end - p) && (flags & BROKEN || ring))
            return;
        REQUIRE(len <= (uint64_t)(end - p) && len <= RS_LIMIT_FRAME_MAX);
        REQUIRE(rs_validate(p, len, RS_LIMIT_DEPTH_MAX) == 0);
        struct rs_reader r = {p, p + len};
        REQUIRE(rs_next(&r, &v) == 0 && v.kind == RS_ARRAY);
        uint64_t type = rs_number(&r);
        REQUIRE(last_type != RS_MSG_ERROR && last_type != RS_MSG_BYE);
        switch (type) {
        case RS_MSG_HELLO:
            REQUIRE(last_type == 0);
            break;
        case RS_MSG_RESULT:
        case RS_MSG_BATCHED: {
            uint64_t id = rs_number(&r);
            REQUIRE(last_type == RS_MSG_HELLO || last_type == RS_MSG_RESULT);
            type = RS_MSG_RESULT;
            REQUIRE(id > last_id || session.watches[0].id);
            last_id = id > last_id ? id : last_id;
            break;
        }
        case RS_MSG_STALL:
            REQUIRE(last_type == RS_MSG_HELLO || last_type == RS_MSG_RESULT);
            type = RS_MSG_RESULT;
            break;
        case RS_MSG_BELL:
        case RS_MSG_FDS:
            REQUIRE(!ring && last_type == RS_MSG_RESULT);
            type = RS_MSG_RESULT;
            break;
        default:
            REQUIRE((type == RS_MSG_ERROR && !ring) || type == RS_MSG_BYE);
        }
        last_type = type;
        p += len;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ASAN_UNPOISON_MEMORY_REGION(session.first.rx, RS_RX_SIZE);
    REQUIRE(madvise(&session, sizeof session, MADV_DONTNEED) == 0); /* zeroes, and is quick */
    memset(owners, NOBODY, sizeof owners);
    input = data;
    input_end = data + size;
    flags = byte();
    greeting = flags & GREETED ? 0 : sizeof hello - 1;
    next_fd = FIRST;
    turn = 0;
    output_len = ring_output_len = 0;
    memset(halves, 0, sizeof halves);
    mapped = client_head = 0;
    honest = 1;
    fails_at = flags & NO_RING ? byte() : 0;
    if (!output)
        output = malloc(output_room = 65536);
    owners[SOCKET] = owners[PIDFD] = SERVER;

    rs_session_init(&session, SOCKET, rs_client_pidfd(SOCKET),
                    flags & IN_PROCESS ? RS_IN_PROCESS : 0, 4096);
    if (flags & SHARED)
        rs_session_share(&session, halves, RS_SIZE_RING_MIN);
    if (flags & REFUSED)
        rs_session_refuse(&session, RS_ERR_PEER, "not served");
    rs_session_run(&session);
    REQUIRE(mask == FIRST);
    close_fd(SOCKET);
    close_fd(PIDFD);

    check_output(output, output + output_len, 0);
    if (honest && ring_output_len)
        check_output(ring_output, ring_output + ring_output_len, 1);
    REQUIRE(mapped == 0);
    for (int32_t fd = 0; fd < next_fd; fd++)
        REQUIRE(owners[fd] != SERVER);
    return 0;
}
