#include "transport.h"

#include "sys.h"

struct control {
    _Alignas(8) uint8_t bytes[sizeof(struct rs_cmsghdr) + RS_LIMIT_FDS_MAX * 4 + 64];
};

int64_t rs_socket_send(struct rs_session *s, const void *bytes, uint32_t len, const int32_t *fds,
                       uint32_t nfds) {
    struct rs_iovec iov = {rs_addr(bytes), len};
    struct rs_msghdr msg = {.iov = rs_addr(&iov), .iovlen = 1};
    struct {
        struct rs_cmsghdr head;
        int32_t fds[2];
    } control = {{sizeof control.head + 4 * nfds, RS_SOL_SOCKET, RS_SCM_RIGHTS}, {0, 0}};
    if (nfds) {
        memcpy(control.fds, fds, 4 * nfds);
        msg.control = rs_addr(&control);
        msg.controllen = sizeof control;
    }
    int64_t n;
    do
        n = rs_sys3(s->pipes ? RS_NR_writev : RS_NR_sendmsg, (uint64_t)s->guard.fds[s->pipes],
                    s->pipes ? msg.iov : rs_addr(&msg),
                    s->pipes ? 1 : RS_MSG_DONTWAIT | RS_MSG_NOSIGNAL);
    while (n == -RS_EINTR);
    return n;
}

int rs_socket_flush(struct rs_session *s) {
    while (s->tx_pos < s->tx_len) {
        struct rs_reply *with = 0;
        uint32_t len = rs_tx_until_fd(s, &with);
        int64_t n = rs_socket_send(s, s->work->tx + s->tx_pos, len, with ? &with->fd : 0, with ? 1 : 0);
        if (n == -RS_EAGAIN)
            return 0;
        if (n <= 0)
            return -1;
        if (with)
            rs_reply_fd_sent(s, with);
        rs_tx_sent(s, (uint32_t)n);
    }
    return 0;
}

/* Sort what came beside the bytes. NULL, or what is wrong with it. */
static const char *take_control(struct rs_session *s, struct control *control, uint64_t len,
                                uint64_t start, uint64_t end, uint32_t flags) {
    const char *bad = flags & RS_MSG_CTRUNC ? "file descriptors were truncated" : 0;
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
            struct rs_packet *p = s->packet_count < 2 ? &s->work->packets[s->packet_count] : 0;
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

int64_t rs_socket_recv(struct rs_session *s, uint8_t *to, uint32_t room, uint64_t start,
                       const char **bad) {
    struct control control;
    int open = s->state != RS_STATE_INIT; /* before, the kernel drops descriptors */
    struct rs_iovec iov = {rs_addr(to), room};
    struct rs_msghdr msg = {.iov = rs_addr(&iov),
                            .iovlen = 1,
                            .control = open ? rs_addr(&control) : 0,
                            .controllen = open ? sizeof control : 0};
    int64_t n = s->pipes ? rs_sys3(RS_NR_read, (uint64_t)rs_socket(s), rs_addr(to), room)
                         : rs_sys3(RS_NR_recvmsg, (uint64_t)rs_socket(s), rs_addr(&msg),
                                   RS_MSG_DONTWAIT | RS_MSG_CMSG_CLOEXEC);
    *bad = 0;
    if (n < 0 || s->pipes)
        return n;
    *bad = open ? take_control(s, &control, msg.controllen, start, start + (uint64_t)n, msg.flags)
                : msg.flags & RS_MSG_CTRUNC ? "file descriptors before HELLO"
                                            : 0;
    return n;
}

#ifdef RS_INSIDE
enum { O_CLOEXEC_ = 0x80000 };

/* Our client is our parent. 0 if it is not any more, and so is dead. What has the number is replaced
 * in one go: others may have our table, and be about to open something. */
static int see_client(struct rs_session *s) {
    int32_t client = s->client, number = s->guard.fds[1];
    s->client = 0;
    int64_t pidfd = rs_sys3(RS_NR_pidfd_open, (uint64_t)client, 0, 0), there = -1;
    int64_t parent = rs_sys3(RS_NR_getppid, 0, 0, 0);
    if (parent > 0 && parent != client)
        return 0;
    if (pidfd >= 0 && parent == client)
        there = rs_sys3(RS_NR_dup3, (uint64_t)pidfd, (uint64_t)number, O_CLOEXEC_);
    if (pidfd >= 0)
        rs_close((int32_t)pidfd);
    if (there < 0) {
        /* It cannot be seen from our pid namespace. The end of the socket tells most of it; and the
         * number is to be nobody else's. */
        if (rs_sys3(RS_NR_dup3, (uint64_t)s->guard.fds[0], (uint64_t)number, O_CLOEXEC_) < 0)
            rs_close(number);
        s->guard.fds[1] = -1;
    }
    return 1;
}
#endif

enum rs_wait rs_socket_wait(struct rs_session *s, int reading, int writing, int64_t timeout) {
    struct rs_pollfd fds[2 + RS_SIZE_WATCHES];
    uint32_t watches = reading ? s->watch_count : 0;
#ifdef RS_INSIDE
    if (s->client && !see_client(s))
        return RS_GONE;
#endif
    fds[0] = (struct rs_pollfd){rs_socket(s), reading ? RS_POLLIN : 0, 0};
    fds[1] = (struct rs_pollfd){s->guard.fds[1], RS_POLLIN, 0}; /* if there is none, nothing */
    if (writing)
        fds[s->pipes].events |= RS_POLLOUT;
    for (uint32_t i = 0; i < watches; i++)
        fds[2 + i] = (struct rs_pollfd){s->watches[i].fd, RS_POLLIN, 0};
    uint32_t turn = rs_team_sleep(s);
    int64_t n = rs_poll_until(fds, 2 + watches, timeout, &s->done);
    rs_team_wake(s, turn);
    if (n > 0 && watches)
        rs_watch_told(s, fds + 2);
    if (n == -RS_EINTR)
        return RS_READY;
    if (n == 0)
        return RS_TIMEOUT;
    /* Dead, even if a copy of its end of the socket lives elsewhere. */
    if (n < 0 || fds[1].revents & ~RS_POLLOUT)
        return RS_GONE;
    return reading || (fds[0].revents | fds[1].revents) & RS_POLLOUT ? RS_READY : RS_GONE;
}

/* The kernel merges an earlier send without descriptors into the read that brings some, but never
 * reads past the send that carried them. So they belong to a frame that starts within that read,
 * and at most two lots are undecided at a time: that of the frame still incomplete, and this. */
int rs_socket_receive(struct rs_session *s) {
    for (;;) {
        int64_t timeout = s->stretched && rs_idle(s) ? RS_TRIM_MS : -1;
        switch (rs_socket_wait(s, 1, s->tx_pos < s->tx_len, timeout)) {
        case RS_GONE:
            return -1;
        case RS_TIMEOUT:
            rs_trim(s);
            continue;
        default:
            break;
        }
        uint32_t room = rs_rx_room(s);
        /* Before HELLO nothing larger than one. */
        if (s->state == RS_STATE_INIT)
            room = RS_SIZE_HELLO_MAX + RS_SIZE_HEADER - s->rx_len;
        const char *bad;
        int64_t n = rs_socket_recv(s, s->work->rx + s->rx_len, room, s->rx_base + s->rx_len, &bad);
        if (n == -RS_EAGAIN || n == -RS_EINTR) {
            if (rs_socket_flush(s))
                return -1;
            continue;
        }
        if (n < 0)
            return 0; /* ECONNRESET: the client closed without reading everything */
        s->rx_len += (uint32_t)n;
        if (s->rx_len > RS_STRETCH_BYTES)
            s->stretched = 1;
        if (bad) {
            rs_fail(s, RS_ERR_FDS, s->rx_base + s->rx_pos, bad);
            return 1;
        }
        return n > 0;
    }
}
