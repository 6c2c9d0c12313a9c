/* The bytes of a session that have come and are not looked at yet, and those that have not left. */
#include "sys.h"
#include "transport.h"


void rs_reply_add(struct rs_session *s, uint32_t len, int32_t fd) {
    uint64_t start = s->tx_base + s->tx_len;
    *rs_reply_at(s, s->reply_count++) = (struct rs_reply){start, start + len, fd};
    s->reply_fds += fd >= 0;
    rs_tx_add(s, len);
}

struct rs_reply *rs_reply_at(struct rs_session *s, uint32_t i) {
    return &s->replies[(s->reply_head + i) % RS_LIMIT_OUTSTANDING_MAX];
}

uint8_t *rs_tx_room(struct rs_session *s, uint64_t n) {
    if (n > RS_TX_SIZE - (s->tx_len - s->tx_pos))
        return 0;
    if (n > RS_TX_SIZE - s->tx_len) {
        memmove(s->work->tx, s->work->tx + s->tx_pos, s->tx_len - s->tx_pos);
        s->tx_base += s->tx_pos;
        s->tx_len -= s->tx_pos;
        s->tx_pos = 0;
    }
    return s->work->tx + s->tx_len;
}

void rs_tx_add(struct rs_session *s, uint32_t n) {
    s->tx_len += n;
    if (s->tx_len > RS_STRETCH_BYTES)
        s->stretched = 1;
}

void rs_tx_sent(struct rs_session *s, uint32_t n) {
    s->tx_pos += n;
    while (s->reply_count && rs_reply_at(s, 0)->end <= s->tx_base + s->tx_pos) {
        s->reply_head = (s->reply_head + 1) % RS_LIMIT_OUTSTANDING_MAX;
        s->reply_count--;
    }
    if (!s->reply_count)
        s->reply_head = 0; /* keeps an idle session to the first page of the table */
    if (s->tx_pos == s->tx_len) {
        s->tx_base += s->tx_len;
        s->tx_pos = s->tx_len = 0;
    }
}

/* A descriptor rides on the first byte of its frame: what is in front of it goes separately. */
uint32_t rs_tx_until_fd(struct rs_session *s, struct rs_reply **with) {
    uint64_t here = s->tx_base + s->tx_pos;
    for (uint32_t i = 0; s->reply_fds && i < s->reply_count; i++) {
        struct rs_reply *r = rs_reply_at(s, i);
        if (r->fd < 0)
            continue;
        if (r->start != here)
            return (uint32_t)(r->start - here);
        *with = r;
        return (uint32_t)(r->end - r->start);
    }
    return s->tx_len - s->tx_pos;
}

void rs_reply_fd_sent(struct rs_session *s, struct rs_reply *reply) {
    rs_forget(&s->guard, reply->fd);
    rs_close(reply->fd);
    reply->fd = -1;
    s->reply_fds--;
}

uint32_t rs_rx_room(struct rs_session *s) {
    if (s->rx_pos == s->rx_len) {
        s->rx_base += s->rx_pos;
        s->rx_pos = s->rx_len = 0;
    } else if (RS_RX_SIZE - s->rx_pos < RS_FRAME_ROOM) {
        memmove(s->work->rx, s->work->rx + s->rx_pos, s->rx_len - s->rx_pos);
        s->rx_base += s->rx_pos;
        s->rx_len -= s->rx_pos;
        s->rx_pos = 0;
    }
    return RS_RX_SIZE - s->rx_len;
}
