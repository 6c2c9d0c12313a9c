#include "session.h"

#include "sys.h"

/* After an ERROR the peer is heard out for a while, so that closing does not look like a reset.
 * A session that used much memory and then had nothing to do for a while gives it back. */
enum { LINGER_MS = 1000, LINGER_READS = 8, TRIM_MS = 100, TRIM_ABOVE = 4096, TRIM_ENTRIES = 32 };

struct control {
    _Alignas(8) uint8_t bytes[sizeof(struct rs_cmsghdr) + RS_LIMIT_FDS_MAX * 4 + 64];
};

static int32_t sock(const struct rs_session *s) { return s->guard.fds[0]; }

/* ---- replies ---- */

static struct rs_reply *reply_at(struct rs_session *s, uint32_t i) {
    return &s->replies[(s->reply_head + i) % RS_LIMIT_OUTSTANDING_MAX];
}

/* Room for n more bytes of reply, or NULL: the client has more in flight than its window. */
static uint8_t *tx_room(struct rs_session *s, uint64_t n) {
    if (n > RS_TX_SIZE - (s->tx_len - s->tx_pos))
        return NULL;
    if (n > RS_TX_SIZE - s->tx_len) {
        memmove(s->tx, s->tx + s->tx_pos, s->tx_len - s->tx_pos);
        s->tx_base += s->tx_pos;
        s->tx_len -= s->tx_pos;
        s->tx_pos = 0;
    }
    return s->tx + s->tx_len;
}

static void tx_add(struct rs_session *s, uint32_t n) {
    s->tx_len += n;
    if (s->tx_len > TRIM_ABOVE)
        s->stretched = 1;
}

static void drop_fds(struct rs_session *s) {
    for (uint32_t i = 0; i < s->packet_count; i++)
        for (uint32_t k = 0; k < s->packets[i].count; k++)
            rs_close(s->packets[i].fds[k]);
    s->packet_count = 0;
}

static void fail(struct rs_session *s, uint32_t code, uint64_t offset, const char *why) {
    uint8_t *frame = tx_room(s, RS_SIZE_ERROR_TEXT + 64);
    s->state = RS_STATE_FAILED;
    drop_fds(s);
    if (!frame)
        return;
    uint8_t *p = frame + RS_SIZE_HEADER;
    *p++ = RS_FIXARRAY | 4;
    *p++ = RS_MSG_ERROR;
    p = rs_put_uint(p, code);
    p = rs_put_uint(p, offset);
    p = rs_put_str(p, why);
    rs_put_be(frame, RS_TAG_UINT32, (uint64_t)(p - frame) - RS_SIZE_HEADER, 4);
    tx_add(s, (uint32_t)(p - frame));
}

static int64_t send_some(struct rs_session *s, uint32_t len, int32_t fd) {
    struct rs_iovec iov = {rs_addr(s->tx + s->tx_pos), len};
    struct rs_msghdr msg = {.iov = rs_addr(&iov), .iovlen = 1};
    struct {
        struct rs_cmsghdr head;
        int32_t fd, pad;
    } control = {{sizeof control.head + 4, RS_SOL_SOCKET, RS_SCM_RIGHTS}, fd, 0};
    if (fd >= 0) {
        msg.control = rs_addr(&control);
        msg.controllen = sizeof control;
    }
    return rs_sys(RS_NR_sendmsg, (uint64_t)sock(s), rs_addr(&msg),
                  RS_MSG_DONTWAIT | RS_MSG_NOSIGNAL, 0, 0, 0);
}

/* Send what the socket takes. 0, or -1 when there is nobody to send to. Never waits. */
static int flush(struct rs_session *s) {
    while (s->tx_pos < s->tx_len) {
        uint64_t here = s->tx_base + s->tx_pos;
        uint32_t len = s->tx_len - s->tx_pos;
        struct rs_reply *with = NULL;
        /* A descriptor rides on the first byte of its frame: what is in front goes separately. */
        for (uint32_t i = 0; s->reply_fds && i < s->reply_count; i++) {
            struct rs_reply *r = reply_at(s, i);
            if (r->fd < 0)
                continue;
            if (r->start == here) {
                with = r;
                len = (uint32_t)(r->end - r->start);
            } else {
                len = (uint32_t)(r->start - here);
            }
            break;
        }
        int64_t n = send_some(s, len, with ? with->fd : -1);
        if (n == -RS_EAGAIN)
            return 0;
        if (n == -RS_EINTR)
            continue;
        if (n <= 0)
            return -1;
        if (with) {
            rs_forget(&s->guard, with->fd);
            rs_close(with->fd);
            with->fd = -1;
            s->reply_fds--;
        }
        s->tx_pos += (uint32_t)n;
        while (s->reply_count && reply_at(s, 0)->end <= s->tx_base + s->tx_pos) {
            s->reply_head = (s->reply_head + 1) % RS_LIMIT_OUTSTANDING_MAX;
            s->reply_count--;
        }
    }
    s->tx_base += s->tx_len;
    s->tx_pos = s->tx_len = 0;
    if (!s->reply_count)
        s->reply_head = 0; /* keeps an idle session to the first page of the table */
    return 0;
}

/* ---- requests ---- */

static uint8_t *put_key(uint8_t *p, const char *key, uint64_t value) {
    return rs_put_uint(rs_put_str(p, key), value);
}

static void hello(struct rs_session *s, uint64_t offset) {
    const struct rs_request *req = &s->request;
    if (req->version_min > RS_VERSION_MAX || req->version_max < RS_VERSION_MIN) {
        fail(s, RS_ERR_VERSION, offset, "no version in common");
        return;
    }
    uint32_t version = req->version_max < RS_VERSION_MAX ? req->version_max : RS_VERSION_MAX;
    s->limits = req->limits;
    s->state = RS_STATE_OPEN;

    uint8_t *frame = tx_room(s, 512), *p = frame + RS_SIZE_HEADER;
    *p++ = RS_FIXARRAY | 6;
    *p++ = RS_MSG_HELLO;
    p = rs_put_str(p, RS_MAGIC);
    p = rs_put_uint(p, version);
    p = rs_put_uint(p, version);
    p = rs_put_uint(p, 0); /* of the features offered, none is known yet */
    *p++ = RS_FIXMAP | 4;
    p = rs_put_str(p, "limits");
    *p++ = RS_FIXMAP | 6;
#define RS_LIMIT(index, name, def, min, max) p = put_key(p, #name, s->limits.name);
    RS_LIMITS(RS_LIMIT)
#undef RS_LIMIT
    p = rs_put_str(p, "arch");
    p = rs_put_str(p, RS_ARCH);
    p = put_key(p, "page_size", s->page_size);
    p = put_key(p, "pid", (uint64_t)rs_getpid());
    rs_put_be(frame, RS_TAG_UINT32, (uint64_t)(p - frame) - RS_SIZE_HEADER, 4);
    tx_add(s, (uint32_t)(p - frame));
}

/* Whether the descriptors that the frame [start, end) announced are there, and no others that no
 * frame can have announced. */
static int fds_match(struct rs_session *s, uint64_t start, uint64_t end) {
    const struct rs_packet *p = s->packets;
    uint32_t left = s->packet_count;
    if (s->request.nfds) {
        if (!left || start < p->start || start >= p->end || p->count != s->request.nfds)
            return 0;
        p++;
        left--;
    }
    return !left || p->end > end;
}

static void unclaim(struct rs_session *s) {
    for (uint32_t k = 0; k < s->packets[0].count; k++)
        rs_close(s->packets[0].fds[k]);
    if (--s->packet_count)
        memcpy(&s->packets[0], &s->packets[1], sizeof s->packets[0]);
}

/* 0, or -1 when there is nobody to answer. */
static int request(struct rs_session *s, uint64_t start, uint64_t end) {
    struct rs_request *req = &s->request;
    if (req->id <= s->last_id) {
        fail(s, RS_ERR_ID, start, "the id of a request is not larger than the one before");
        return 0;
    }
    if (s->reply_count >= s->limits.outstanding ||
        (s->tx_len - s->tx_pos) + req->reserve > s->limits.window) {
        /* Perhaps they have only not been sent yet. */
        if (flush(s))
            return -1;
        if (s->reply_count >= s->limits.outstanding ||
            (s->tx_len - s->tx_pos) + req->reserve > s->limits.window) {
            fail(s, RS_ERR_WINDOW, start, "more unanswered requests than the limits allow");
            return 0;
        }
    }
    if (!fds_match(s, start, end)) {
        fail(s, RS_ERR_FDS, start, "the file descriptors are not those that the frame announced");
        return 0;
    }
    if (rs_may_block(req) && flush(s))
        return -1;
    s->last_id = req->id;
    if (req->count > TRIM_ENTRIES)
        s->stretched = 1;

    uint8_t *reply = tx_room(s, req->reserve);
    if (!reply) { /* cannot be: the window is smaller than the room */
        fail(s, RS_ERR_INTERNAL, start, "no room for a reply");
        return 0;
    }
    struct rs_reply *r = reply_at(s, s->reply_count);
    uint32_t n = rs_execute(req, s->entries, s->packets[0].fds, &s->guard, reply, &r->fd);
    r->start = s->tx_base + s->tx_len;
    r->end = r->start + n;
    s->reply_fds += r->fd >= 0;
    s->reply_count++;
    tx_add(s, n);
    if (req->nfds)
        unclaim(s);
    return 0;
}

/* One complete frame. 0, or -1 when there is nobody to answer. */
static int frame(struct rs_session *s, uint64_t start, uint32_t len) {
    const char *why = "";
    uint64_t end = start + RS_SIZE_HEADER + len;
    int result = 0;
    int err = rs_decode_request(s->rx + s->rx_pos + RS_SIZE_HEADER, len,
                                s->state == RS_STATE_INIT ? RS_WHEN_INIT : RS_WHEN_OPEN, &s->limits,
                                s->entries, &s->request, &why);
    if (err) {
        fail(s, (uint32_t)err, start, why);
        return 0;
    }
    switch (s->request.type) {
    case RS_MSG_HELLO:
        hello(s, start);
        break;
    case RS_MSG_ERROR:
        s->state = RS_STATE_FAILED;
        break;
    case RS_MSG_BYE:
        s->state = RS_STATE_CLOSING;
        if (!fds_match(s, start, end))
            fail(s, RS_ERR_FDS, start, "file descriptors that no frame announced");
        break;
    default:
        result = request(s, start, end);
    }
    return result;
}

/* Every complete frame there is. 0, or -1 when there is nobody to answer. */
static int frames(struct rs_session *s) {
    while (s->rx_pos < s->rx_len && (s->state == RS_STATE_INIT || s->state == RS_STATE_OPEN)) {
        const uint8_t *p = s->rx + s->rx_pos;
        uint32_t have = s->rx_len - s->rx_pos;
        uint64_t start = s->rx_base + s->rx_pos;
        if (p[0] != RS_TAG_UINT32) {
            if (s->state == RS_STATE_INIT)
                fail(s, RS_ERR_MAGIC, start, "not the rsyscall protocol");
            else
                fail(s, RS_ERR_MALFORMED, start, "a frame does not begin with its length");
            return 0;
        }
        if (have < RS_SIZE_HEADER)
            return 0;
        uint32_t len = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
        uint32_t max = s->state == RS_STATE_INIT ? RS_SIZE_HELLO_MAX : s->limits.frame;
        if (len > max) {
            fail(s, RS_ERR_OVERSIZE, start, "a frame is larger than the limit");
            return 0;
        }
        if (have < RS_SIZE_HEADER + len)
            return 0;
        if (frame(s, start, len))
            return -1;
        s->rx_pos += RS_SIZE_HEADER + len;
    }
    return 0;
}

/* ---- the socket ---- */

/* Sort what came beside the bytes. NULL, or what is wrong with it. */
static const char *take_control(struct rs_session *s, struct control *control, uint64_t len,
                                uint64_t start, uint64_t end, uint32_t flags) {
    const char *bad = flags & RS_MSG_CTRUNC ? "file descriptors were truncated" : NULL;
    uint64_t at = 0;
    while (at + sizeof(struct rs_cmsghdr) <= len) {
        struct rs_cmsghdr head;
        memcpy(&head, control->bytes + at, sizeof head);
        if (head.len < sizeof head || head.len > len - at)
            break;
        if (head.level != RS_SOL_SOCKET || head.type != RS_SCM_RIGHTS) {
            bad = "control messages that are not file descriptors";
        } else {
            uint32_t n = (uint32_t)((head.len - sizeof head) / 4);
            struct rs_packet *p = s->packet_count < 2 ? &s->packets[s->packet_count] : NULL;
            if (!p || n > RS_LIMIT_FDS_MAX)
                bad = "file descriptors that no frame announced";
            for (uint32_t i = 0; i < n; i++) {
                int32_t fd;
                memcpy(&fd, control->bytes + at + sizeof head + 4 * i, 4);
                if (p && i < RS_LIMIT_FDS_MAX)
                    p->fds[i] = fd;
                else
                    rs_close(fd);
            }
            if (p) {
                p->start = start;
                p->end = end;
                p->count = n < RS_LIMIT_FDS_MAX ? n : RS_LIMIT_FDS_MAX;
                s->packet_count++;
            }
        }
        at += (head.len + 7) & ~(uint64_t)7;
    }
    return bad;
}

/* Read what there is. 1: something came; 0: the client has ended; -1: try again.
 *
 * The kernel merges an earlier send without descriptors into the read that brings some, but never
 * reads past the send that carried them. So they belong to a frame that starts within that read,
 * and at most two lots are undecided at a time: that of the frame still incomplete, and this. */
static int receive(struct rs_session *s) {
    struct control control;
    int open = s->state != RS_STATE_INIT;
    if (s->rx_pos == s->rx_len) {
        s->rx_base += s->rx_pos;
        s->rx_pos = s->rx_len = 0;
    } else if (RS_RX_SIZE - s->rx_pos < RS_FRAME_ROOM) {
        memmove(s->rx, s->rx + s->rx_pos, s->rx_len - s->rx_pos);
        s->rx_base += s->rx_pos;
        s->rx_len -= s->rx_pos;
        s->rx_pos = 0;
    }
    /* Before HELLO nothing larger than one, and no descriptor: the kernel drops them. */
    uint32_t room = (open ? RS_RX_SIZE : RS_SIZE_HELLO_MAX + RS_SIZE_HEADER) - s->rx_len;
    struct rs_iovec iov = {rs_addr(s->rx + s->rx_len), room};
    struct rs_msghdr msg = {.iov = rs_addr(&iov),
                            .iovlen = 1,
                            .control = open ? rs_addr(&control) : 0,
                            .controllen = open ? sizeof control : 0};
    int64_t n = rs_sys(RS_NR_recvmsg, (uint64_t)sock(s), rs_addr(&msg),
                       RS_MSG_DONTWAIT | RS_MSG_CMSG_CLOEXEC, 0, 0, 0);
    if (n == -RS_EAGAIN || n == -RS_EINTR)
        return -1;
    if (n < 0)
        return 0; /* ECONNRESET: the client closed without reading everything */
    uint64_t start = s->rx_base + s->rx_len;
    s->rx_len += (uint32_t)n;
    if (s->rx_len > TRIM_ABOVE)
        s->stretched = 1;
    const char *bad =
        open ? take_control(s, &control, msg.controllen, start, start + (uint64_t)n, msg.flags)
        : msg.flags & RS_MSG_CTRUNC ? "file descriptors before HELLO"
                                    : NULL;
    if (bad) {
        fail(s, RS_ERR_FDS, s->rx_base + s->rx_pos, bad);
        return 1;
    }
    return n > 0;
}

/* Between two requests nothing in there is needed. */
static void trim(struct rs_session *s) {
    uint64_t start = rs_addr(s->packets), end = rs_addr(s + 1);
    rs_sys(RS_NR_madvise, start, end - start, RS_MADV_DONTNEED, 0, 0, 0);
    s->stretched = 0;
}

static int32_t client_pidfd(int32_t fd) {
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
    return (int32_t)rs_sys(RS_NR_pidfd_open, (uint64_t)cred.pid, 0, 0, 0, 0, 0);
}

void rs_session_init(struct rs_session *s, int32_t fd, uint32_t flags, uint32_t page_size) {
    s->guard.fds[0] = fd;
    s->guard.fds[1] = client_pidfd(fd);
    s->guard.made = s->made;
    s->guard.made_bits = flags & RS_IN_PROCESS ? RS_MADE_BITS : 0;
    s->flags = flags;
    s->page_size = page_size;
    rs_limits_default(&s->limits);
}

void rs_session_refuse(struct rs_session *s, uint32_t code, const char *why) {
    fail(s, code, 0, why);
}

enum { READY, TIMEOUT, GONE };

/* Wait for the client: until it is READY, or until nothing has happened for so long, or it died. */
static int await(struct rs_session *s, int reading, int64_t timeout) {
    struct rs_pollfd fds[2] = {
        {sock(s), (int16_t)((reading ? RS_POLLIN : 0) | (s->tx_pos < s->tx_len ? RS_POLLOUT : 0)),
         0},
        {s->guard.fds[1], RS_POLLIN, 0},
    };
    int64_t n = rs_poll(fds, s->guard.fds[1] >= 0 ? 2 : 1, timeout);
    if (n == -RS_EINTR)
        return READY;
    if (n == 0)
        return TIMEOUT;
    if (n < 0 || fds[1].revents) /* dead, even if a copy of its end of the socket lives elsewhere */
        return GONE;
    return reading || fds[0].revents & RS_POLLOUT ? READY : GONE;
}

static void serve(struct rs_session *s) {
    while (s->state == RS_STATE_INIT || s->state == RS_STATE_OPEN) {
        int idle = s->rx_pos == s->rx_len && s->tx_pos == s->tx_len && !s->packet_count;
        int event = await(s, 1, idle && s->stretched ? TRIM_MS : -1);
        if (event == GONE)
            return;
        if (event == TIMEOUT) {
            trim(s);
            continue;
        }
        int got = receive(s);
        if (got == 0) {
            if (s->rx_pos < s->rx_len)
                fail(s, RS_ERR_TRUNCATED, s->rx_base + s->rx_pos, "the stream ended inside a frame");
            break;
        }
        if (frames(s) || flush(s))
            return;
    }
    if (s->state == RS_STATE_CLOSING) {
        static const uint8_t bye[] = {RS_TAG_UINT32, 0, 0, 0, 2, RS_FIXARRAY | 1, RS_MSG_BYE};
        uint8_t *p = tx_room(s, sizeof bye);
        if (p) {
            memcpy(p, bye, sizeof bye);
            tx_add(s, sizeof bye);
        }
    }
    while (!flush(s) && s->tx_pos < s->tx_len)
        if (await(s, 0, -1) == GONE)
            return;
    rs_sys(RS_NR_shutdown, (uint64_t)sock(s), RS_SHUT_WR, 0, 0, 0, 0);
    if (s->state == RS_STATE_FAILED) {
        /* Closing with unread bytes would be a reset to the peer; it should read our ERROR. */
        for (int i = 0, got = 1; got && i < LINGER_READS; i++) {
            s->rx_pos = s->rx_len;
            if (await(s, 1, LINGER_MS) != READY)
                return;
            got = receive(s);
            drop_fds(s);
        }
    }
}

void rs_session_run(struct rs_session *s) {
    serve(s);
    drop_fds(s);
    for (uint32_t i = 0; i < s->reply_count; i++)
        if (reply_at(s, i)->fd >= 0)
            rs_close(reply_at(s, i)->fd);
    rs_close(s->guard.fds[0]);
    if (s->guard.fds[1] >= 0)
        rs_close(s->guard.fds[1]);
}
