#include "session.h"

#include "child.h"
#include "sys.h"
#include "transport.h"

/* After an ERROR the peer is heard out for a while, so that closing does not look like a reset. */
enum { LINGER_MS = 1000, LINGER_READS = 8, STRETCH_ENTRIES = 32 };

static void drop_fds(struct rs_session *s) {
    for (uint32_t i = 0; i < s->packet_count; i++)
        for (uint32_t k = 0; k < s->work->packets[i].count; k++)
            rs_close(s->work->packets[i].fds[k]);
    s->packet_count = s->side.ready = 0;
}

static void drop_replies(struct rs_session *s) {
    for (uint32_t i = 0; i < s->reply_count; i++)
        if (rs_reply_at(s, i)->fd >= 0)
            rs_reply_fd_sent(s, rs_reply_at(s, i));
    s->reply_count = s->reply_head = 0;
}

void rs_fail(struct rs_session *s, uint32_t code, uint64_t offset, const char *why) {
    s->state = RS_STATE_FAILED;
    s->watch_count = 0;
    drop_fds(s);
    if (s->ring_on) { /* the last word goes over the socket: the ring may be what is broken */
        s->ring_on = 0;
        drop_replies(s);
        s->tx_pos = s->tx_len = 0;
    }
    uint8_t *frame = rs_tx_room(s, RS_SIZE_ERROR_TEXT + 64);
    if (!frame)
        return;
    uint8_t *p = frame + RS_SIZE_HEADER;
    *p++ = RS_FIXARRAY | 4;
    *p++ = RS_MSG_ERROR;
    p = rs_put_uint(p, code);
    p = rs_put_uint(p, offset);
    p = rs_put_str(p, why);
    rs_put_be(frame, RS_TAG_UINT32, (uint64_t)(p - frame) - RS_SIZE_HEADER, 4);
    rs_tx_add(s, (uint32_t)(p - frame));
}

/* ---- requests ---- */

static uint8_t *put_key(uint8_t *p, const char *key, uint64_t value) {
    return rs_put_uint(rs_put_str(p, key), value);
}

static uint32_t features(const struct rs_session *s) {
    uint32_t ring = s->pipes ? 0 : RS_FEATURE_RING; /* which comes as descriptors */
    return ring | RS_FEATURE_BATCH | (s->guard.work ? RS_FEATURE_CANCEL : 0);
}

static void hello(struct rs_session *s, uint64_t offset) {
    const struct rs_request *req = &s->work->request;
    if (req->version_min > RS_VERSION_MAX || req->version_max < RS_VERSION_MIN) {
        rs_fail(s, RS_ERR_VERSION, offset, "no version in common");
        return;
    }
    uint32_t version = req->version_max < RS_VERSION_MAX ? req->version_max : RS_VERSION_MAX;
    s->limits = req->limits;
    if (s->pipes)
        s->limits.fds = 0;
    s->state = RS_STATE_OPEN;

    uint8_t *frame = rs_tx_room(s, 512), *p = frame + RS_SIZE_HEADER;
    *p++ = RS_FIXARRAY | 6;
    *p++ = RS_MSG_HELLO;
    p = rs_put_str(p, RS_MAGIC);
    p = rs_put_uint(p, version);
    p = rs_put_uint(p, version);
    s->features = (uint32_t)req->features & features(s);
    if (!(s->features & RS_FEATURE_CANCEL))
        s->guard.work = s->first.guard.work = 0;
    p = rs_put_uint(p, s->features);
    *p++ = RS_FIXMAP | 5;
    p = rs_put_str(p, "limits");
    *p++ = RS_FIXMAP | RS_LIMIT_COUNT;
    for (uint32_t i = 0; i < RS_LIMIT_COUNT; i++)
        p = put_key(p, rs_limit_table[i].name, ((uint32_t *)&s->limits)[i]);
    p = rs_put_str(p, "arch");
    p = rs_put_str(p, RS_ARCH);
    p = put_key(p, "page_size", s->page_size);
    p = put_key(p, "pid", (uint64_t)rs_getpid());
    p = put_key(p, "child", (uint64_t)(uintptr_t)rs_child_entry);
    rs_put_be(frame, RS_TAG_UINT32, (uint64_t)(p - frame) - RS_SIZE_HEADER, 4);
    rs_tx_add(s, (uint32_t)(p - frame));
}

/* Whether the descriptors that the frame [start, end) announced are there, and no others that no
 * frame can have announced. */
static int fds_match(struct rs_session *s, uint64_t start, uint64_t end) {
    const struct rs_packet *p = s->work->packets;
    uint32_t left = s->packet_count, announced = s->work->request.nfds;
    if (s->ring_on) /* a later frame may have claimed those that are there beyond */
        return !announced || (rs_ring_packet(s) == 0 && p->count == announced);
    if (announced) {
        if (!left || start < p->start || start >= p->end || p->count != announced)
            return 0;
        p++;
        left--;
    }
    return !left || p->end > end;
}

static void unclaim(struct rs_session *s) {
    for (uint32_t k = 0; k < s->work->packets[0].count; k++)
        rs_close(s->work->packets[0].fds[k]);
    if (--s->packet_count)
        memcpy(&s->work->packets[0], &s->work->packets[1], sizeof s->work->packets[0]);
    if (s->ring_on)
        s->side.ready--;
}

/* Whether the limits admit one more request. */
static int admits(const struct rs_session *s) {
    return s->reply_count + s->blocked + s->watch_count < s->limits.outstanding &&
           (s->tx_len - s->tx_pos) + s->held + s->work->request.reserve <= s->limits.window;
}

static uint32_t answer(struct rs_session *s, struct rs_work *w, uint8_t *reply, int32_t *fd) {
    struct rs_request *req = &w->request;
    *fd = -1;
    switch (req->type) {
    case RS_MSG_BATCH:
    case RS_MSG_RUN:
        return rs_run(req, &s->limits, w->entries, &w->batch, w->packets[0].fds, &w->guard, reply);
    case RS_MSG_PREPARE:
        return rs_result(req->id, rs_keep(&s->store, req, &s->limits), reply);
    case RS_MSG_WATCH:
        return rs_result(req->id, -RS_EBUSY, reply);
    case RS_MSG_UNPREPARE:
        return rs_result(req->id, rs_unkeep(&s->store, req->which), reply);
    default:
        return rs_execute(req, w->entries, w->packets[0].fds, &w->guard, reply, fd);
    }
}

/* Nothing may be on its way when the bytes change their road. 0, or -1 with nobody to answer. */
static int ring(struct rs_session *s, uint64_t start) {
    uint32_t end = s->rx_pos + RS_SIZE_HEADER + s->frame_len;
    if (end != s->rx_len || s->packet_count) {
        rs_fail(s, RS_ERR_STATE, start, "RING: something follows before its answer");
        return 0;
    }
    while (s->tx_pos < s->tx_len)
        if (rs_socket_flush(s) ||
            (s->tx_pos < s->tx_len && rs_socket_wait(s, 0, 1, -1) == RS_GONE))
            return -1;
    return rs_ring_start(s);
}

/* 0, or RS_DEPOSED, or -1 when there is nobody to answer. */
static int request(struct rs_session *s, uint64_t start, uint64_t end) {
    struct rs_work *w = s->work;
    struct rs_request *req = &w->request;
    const char *why;
    int err = 0;
    if (req->id <= s->last_id) {
        rs_fail(s, RS_ERR_ID, start, "the id of a request is not larger than the one before");
        return 0;
    }
    if (req->type == RS_MSG_RUN) {
        err = rs_recall(&s->store, req, s->work->scratch, &why);
        if (err) {
            rs_fail(s, (uint32_t)err, start, why);
            return 0;
        }
        memcpy(s->work->parameters, s->work->entries, req->count * sizeof *s->work->entries);
        s->work->batch.parameters = s->work->parameters;
        if (req->program.end - req->program.p > RS_STRETCH_BYTES)
            s->stretched = 1;
    }
    if (!admits(s)) { /* perhaps the replies have only not been sent yet */
        if (rs_flush(s))
            return -1;
        if (s->state == RS_STATE_FAILED) /* the ring has turned out to be broken */
            return 0;
        if (!admits(s)) {
            rs_fail(s, RS_ERR_WINDOW, start, "more unanswered requests than the limits allow");
            return 0;
        }
    }
    if (!fds_match(s, start, end)) {
        if (s->state != RS_STATE_FAILED)
            rs_fail(s, RS_ERR_FDS, start,
                    "the file descriptors are not those that the frame announced");
        return 0;
    }
    w->alone = req->classes & RS_CALL_THREAD;
    if (w->alone && s->helpers) {
        err = rs_team_alone(s);
        if (err == RS_DEPOSED)
            return err;
        if (err)
            w->guard.stop = -RS_SIZE_REFUSAL;
    }
    if (rs_may_block(req)) {
        if (rs_flush(s))
            return -1;
        if (s->state == RS_STATE_FAILED)
            return 0;
    }
    s->last_id = req->id;
    if (req->type == RS_MSG_RING)
        return ring(s, start);
    if (req->type == RS_MSG_WATCH && rs_watch(s))
        return 0;
    if (req->count > STRETCH_ENTRIES || req->steps > STRETCH_ENTRIES)
        s->stretched = 1;

    uint8_t *reply = rs_tx_room(s, req->reserve);
    if (!reply) { /* cannot be: the window is smaller than the room */
        rs_fail(s, RS_ERR_INTERNAL, start, "no room for a reply");
        return 0;
    }
    int32_t fd;
    uint32_t n = answer(s, w, reply, &fd);
    if (w->deposed)
        return rs_team_finish(s, w, reply, n, fd);
    w->guard.stop = 0;
    w->phase = 0;
    rs_reply_add(s, n, fd);
    if (req->nfds)
        unclaim(s);
    return s->ring_on ? rs_ring_flush(s) : 0;
}

static uint32_t allowed(const struct rs_session *s) {
    if (s->state == RS_STATE_INIT)
        return RS_WHEN_INIT;
    uint32_t messages = RS_WHEN_OPEN;
    if (s->features & RS_FEATURE_BATCH)
        messages |= RS_BATCHES;
    if (s->features & RS_FEATURE_RING && !s->ring_on)
        messages |= 1 << RS_MSG_RING;
    if (s->features & RS_FEATURE_CANCEL)
        messages |= 1 << RS_MSG_CANCEL | 1 << RS_MSG_WATCH;
    return messages;
}

/* One complete frame. 0, or RS_DEPOSED, or -1 when there is nobody to answer. */
static int frame(struct rs_session *s, uint64_t start, uint32_t len) {
    const char *why = "";
    uint64_t end = start + RS_SIZE_HEADER + len;
    int err = rs_decode_request(s->work->rx + s->rx_pos + RS_SIZE_HEADER, len, allowed(s), &s->limits,
                                s->work->entries, &s->work->batch, &s->work->request, &why);
    s->frame_len = len;
    if (err) {
        rs_fail(s, (uint32_t)err, start, why);
        return 0;
    }
    switch (s->work->request.type) {
    case RS_MSG_HELLO:
        hello(s, start);
        break;
    case RS_MSG_ERROR:
        s->state = RS_STATE_FAILED;
        break;
    case RS_MSG_CANCEL:
        rs_team_cancel(s, s->work->request.id);
        if (s->work->request.id)
            rs_watch_end(s, s->work->request.id);
        break;
    case RS_MSG_BYE:
        s->state = RS_STATE_CLOSING;
        rs_watch_end(s, 0);
        if (!fds_match(s, start, end))
            rs_fail(s, RS_ERR_FDS, start, "file descriptors that no frame announced");
        break;
    default:
        return request(s, start, end);
    }
    return 0;
}

/* Every complete frame there is. 0, or RS_DEPOSED, or -1 when there is nobody to answer. */
static int frames(struct rs_session *s) {
    while (s->rx_pos < s->rx_len && (s->state == RS_STATE_INIT || s->state == RS_STATE_OPEN)) {
        const uint8_t *p = s->work->rx + s->rx_pos;
        uint32_t have = s->rx_len - s->rx_pos;
        uint64_t start = s->rx_base + s->rx_pos;
        if (p[0] != RS_TAG_UINT32) {
            if (s->state == RS_STATE_INIT)
                rs_fail(s, RS_ERR_MAGIC, start, "not the rsyscall protocol");
            else
                rs_fail(s, RS_ERR_MALFORMED, start, "a frame does not begin with its length");
            return 0;
        }
        if (have < RS_SIZE_HEADER)
            return 0;
        uint32_t len = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
        uint32_t max = s->state == RS_STATE_INIT ? RS_SIZE_HELLO_MAX : s->limits.frame;
        if (len > max) {
            rs_fail(s, RS_ERR_OVERSIZE, start, "a frame is larger than the limit");
            return 0;
        }
        if (have < RS_SIZE_HEADER + len)
            return 0;
        int err = frame(s, start, len);
        if (err)
            return err;
        s->rx_pos += RS_SIZE_HEADER + len;
    }
    return 0;
}

/* ---- the whole ---- */

int rs_idle(const struct rs_session *s) {
    return s->rx_pos == s->rx_len && s->tx_pos == s->tx_len && !s->packet_count;
}

void rs_trim(struct rs_session *s) {
    rs_sys3(RS_NR_madvise, rs_addr(s->replies), sizeof s->replies, RS_MADV_DONTNEED);
    rs_sys3(RS_NR_madvise, rs_addr(s->work->packets), rs_addr(s->work + 1) - rs_addr(s->work->packets),
           RS_MADV_DONTNEED);
    s->stretched = 0;
}

int32_t rs_client_pidfd(int32_t fd) {
    struct rs_ucred cred = {0, 0, 0};
    int32_t pidfd = -1;
    uint32_t len = sizeof cred;
    if (rs_sockopt(fd, RS_SO_PEERCRED, &cred, &len) < 0)
        return -1; /* not a UNIX socket: EOF is all there is */
    /* 0: it lives in a pid namespace that we cannot see. Ourselves: a pair in one process. */
    if (cred.pid <= 0 || cred.pid == rs_getpid())
        return -1;
    len = sizeof pidfd;
    if (rs_sockopt(fd, RS_SO_PEERPIDFD, &pidfd, &len) == 0)
        return pidfd;
    /* Before 6.5. Should the pid have been reused, we watch a stranger as well as the EOF. */
    return (int32_t)rs_sys3(RS_NR_pidfd_open, (uint64_t)cred.pid, 0, 0);
}

void rs_work_init(struct rs_session *s, struct rs_work *w) {
    w->session = s;
    w->guard = s->guard;
    if (w->guard.work)
        w->guard.work = w;
}

void rs_session_init(struct rs_session *s, int32_t fd, int32_t pidfd, uint32_t flags,
                     uint32_t page_size) {
    s->flags = flags;
    s->guard.fds[0] = fd;
    s->guard.fds[1] = pidfd;
    s->guard.made = s->made;
    s->guard.made_bits = flags & RS_IN_PROCESS ? RS_MADE_BITS : 0;
    if (!(flags & (RS_IN_PROCESS | RS_SINGLE)))
        s->guard.work = &s->first;
    s->work = s->slots[0] = &s->first;
    rs_work_init(s, &s->first);
    s->page_size = page_size;
    rs_limits_default(&s->limits);
}

void rs_session_share(struct rs_session *s, void *halves, uint32_t size) {
    uint8_t *theirs = halves, *ours = theirs + RS_SIZE_RING_HEADER + size;
    rs_ring_init(&s->ring, ours, theirs, size);
    s->ring_shared = size;
}

void rs_session_begin(struct rs_session *s, void *halves, uint32_t size, uint32_t spin_us,
                      uint32_t spin_turns) {
    rs_session_share(s, halves, size);
    s->state = RS_STATE_OPEN;
    s->features = features(s);
    s->ring_on = 1;
    /* Not the longest spin at first: it may be the client's very CPU on which we have begun. */
    s->spin = (struct rs_spin){
        .limit = spin_turns / 2, .most = spin_turns, .most_ns = (uint64_t)spin_us * 1000};
}

void rs_session_refuse(struct rs_session *s, uint32_t code, const char *why) {
    rs_fail(s, code, 0, why);
}

/* Send what there is, wait for calls that are blocked, and send that. 0, or -1 with nobody there. */
static int finish(struct rs_session *s) {
    for (;;) {
        if (rs_flush(s))
            return -1;
        int unsent = s->tx_pos < s->tx_len;
        if (!unsent && (!s->blocked || s->state == RS_STATE_FAILED))
            return 0;
        if (s->ring_on ? rs_ring_wait(s) : rs_socket_wait(s, 0, unsent, -1) == RS_GONE)
            return -1;
    }
}

static int lead(struct rs_session *s) {
    for (;;) {
        int err = frames(s); /* there may be some that another has left to us */
        if (err > 0)
            return err;
        if ((s->helpers || s->stall) && rs_team_tidy(s))
            return RS_DEPOSED;
        /* Who is never idle is asked all the same. */
        if (s->watch_count && !(++s->rounds % 64) && rs_socket_wait(s, 1, 0, 0) == RS_GONE)
            return 0;
        if (err || rs_flush(s))
            return 0;
        if (s->state != RS_STATE_INIT && s->state != RS_STATE_OPEN)
            break;
        err = rs_receive(s);
        if (err < 0)
            return 0;
        if (s->state == RS_STATE_FAILED)
            break;
        if (err == 0) {
            if (s->rx_pos < s->rx_len)
                rs_fail(s, RS_ERR_TRUNCATED, s->rx_base + s->rx_pos,
                        "the stream ended inside a frame");
            break;
        }
    }
    if (finish(s))
        return 0;
    if (s->state == RS_STATE_CLOSING) {
        static const uint8_t bye[] = {RS_TAG_UINT32, 0, 0, 0, 2, RS_FIXARRAY | 1, RS_MSG_BYE};
        uint8_t *p = rs_tx_room(s, sizeof bye);
        if (p) {
            memcpy(p, bye, sizeof bye);
            rs_tx_add(s, sizeof bye);
        }
        if (finish(s))
            return 0;
    }
    rs_sys3(RS_NR_shutdown, (uint64_t)rs_socket(s), RS_SHUT_WR, 0);
    if (s->state == RS_STATE_FAILED) {
        /* Closing with unread bytes would be a reset to the peer; it should read our ERROR. */
        for (int i = 0; i < LINGER_READS; i++) {
            const char *bad;
            if (rs_socket_wait(s, 1, 0, LINGER_MS) != RS_READY)
                break;
            if (rs_socket_recv(s, s->work->rx, RS_RX_SIZE, 0, &bad) == 0)
                break;
            drop_fds(s);
        }
    }
    return 0;
}

int rs_lead(struct rs_session *s) {
    int err = s->over ? 0 : lead(s);
    if (err || !(s->flags & RS_STAYS))
        return err;
    s->over = 1;
    return rs_team_end(s);
}

void rs_session_run(struct rs_session *s) {
    while (rs_lead(s))
        rs_team_follow(s, &s->first);
    drop_fds(s);
    drop_replies(s);
    rs_ring_end(s);
}

/* Called by rs_helper_entry, and does not return. */
__attribute__((used)) _Noreturn void rs_helper_main(struct rs_work *w);

_Noreturn void rs_helper_main(struct rs_work *w) {
    do
        rs_team_follow(w->session, w);
    while (rs_lead(w->session));
    for (;;) /* it is over for all */
        rs_sys3(RS_NR_exit_group, w->session->status, 0, 0);
}

uint32_t rs_session_batch(struct rs_session *s, uint8_t *body, uint32_t len) {
    const char *why;
    s->limits.fds = 0; /* there is no frame that could bring any */
    if (rs_decode_request(body, len, 1 << RS_MSG_BATCH, &s->limits, s->work->entries, &s->work->batch,
                          &s->work->request, &why))
        return 0;
    struct rs_work *w = s->work;
    return rs_run(&w->request, &s->limits, w->entries, &w->batch, 0, &w->guard, w->tx);
}
