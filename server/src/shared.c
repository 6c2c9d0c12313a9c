/* A session in shared memory: the ring has the frames, the socket doorbells and descriptors. */
#include "transport.h"

#include "sys.h"

/* The longest spin that a client may ask for, and how often it is tried when it seldom pays. */
enum { SPIN_MOST_US = 1000, SPIN_FRACTION = 32, TRY_EVERY = 16, HELD_MOST = 63 };
enum { CALIBRATE = 2000 };

static const uint8_t name[] = "rsyscall ring";

/* One half: size bytes behind the header. Returns its address, or -errno; *fd is to be closed. */
static int64_t make_half(uint32_t size, int ours, int32_t *fd) {
    int64_t made = rs_sys3(RS_NR_memfd_create, rs_addr(name), RS_MFD_CLOEXEC | RS_MFD_ALLOW_SEALING,
                          0);
    uint64_t length = RS_SIZE_RING_HEADER + (uint64_t)size;
    if (made < 0)
        return made;
    *fd = (int32_t)made;
    int64_t err = rs_sys3(RS_NR_ftruncate, (uint64_t)*fd, length, 0);
    if (err < 0)
        return err;
    /* Mapped before it is sealed: afterwards nobody can map ours for writing, us included. */
    int64_t at = rs_mmap(length, RS_PROT_READ | (ours ? RS_PROT_WRITE : 0),
                         RS_MAP_SHARED | RS_MAP_POPULATE, *fd);
    if (at < 0)
        return at;
    err = rs_sys3(RS_NR_fcntl, (uint64_t)*fd, RS_F_ADD_SEALS,
                 RS_F_SEAL_SEAL | RS_F_SEAL_SHRINK | RS_F_SEAL_GROW |
                     (ours ? RS_F_SEAL_FUTURE_WRITE : 0));
    if (err < 0) {
        rs_sys3(RS_NR_munmap, (uint64_t)at, length, 0);
        return err;
    }
    return at;
}

/* 0, or -errno, with both memfds in fds in any case (or -1). */
static int64_t make_ring(struct rs_session *s, uint32_t size, int32_t fds[2]) {
    int64_t theirs = make_half(size, 0, &fds[0]);
    if (theirs < 0)
        return theirs;
    int64_t ours = make_half(size, 1, &fds[1]);
    if (ours < 0) {
        rs_sys3(RS_NR_munmap, (uint64_t)theirs, RS_SIZE_RING_HEADER + size, 0);
        return ours;
    }
    rs_ring_init(&s->ring, (void *)(uintptr_t)ours, (const void *)(uintptr_t)theirs, size);
    return 0;
}

void rs_ring_end(struct rs_session *s) {
    uint64_t length = RS_SIZE_RING_HEADER + (uint64_t)s->ring.size;
    if (!s->ring.size || s->ring_shared)
        return;
    rs_sys3(RS_NR_munmap, rs_addr(s->ring.mine), length, 0);
    rs_sys3(RS_NR_munmap, rs_addr(s->ring.theirs), length, 0);
}

/* It is measured, since a pause takes 10 to 140 cycles. */
uint32_t rs_ring_turns(struct rs_ring *ring, uint32_t us) {
    uint64_t start = rs_clock();
    for (uint32_t i = 0; i < CALIBRATE; i++) {
        rs_pause();
        (void)rs_ring_available(ring);
    }
    uint64_t ns = rs_clock() - start;
    return (uint32_t)((uint64_t)us * 1000 * CALIBRATE / (ns ? ns : 1));
}

static void calibrate(struct rs_session *s, uint32_t us) {
    struct rs_spin *spin = &s->spin;
    if (us > SPIN_MOST_US)
        us = SPIN_MOST_US;
    if (us == 0 || rs_one_cpu())
        return;
    spin->most_ns = (uint64_t)us * 1000;
    spin->limit = spin->most = rs_ring_turns(&s->ring, us);
}

int rs_ring_start(struct rs_session *s) {
    const struct rs_request *req = &s->work->request;
    int32_t fds[2] = {-1, -1};
    int64_t result = 0;
    uint32_t nfds = 0;
    if (!s->ring_shared) {
        result = make_ring(s, req->size, fds);
        nfds = result == 0 ? 2 : 0;
    } else if (s->ring_shared != req->size) {
        result = -RS_EINVAL;
    }
    /* No other reply is under way, so this one is not queued. */
    uint8_t frame[RS_SIZE_REPLY_BASE], *p = frame + RS_SIZE_HEADER;
    *p++ = RS_FIXARRAY | 5;
    *p++ = RS_MSG_RESULT;
    p = rs_put_be(p, RS_TAG_UINT64, req->id, 8);
    *p++ = (uint8_t)nfds;
    p = rs_put_be(p, RS_TAG_INT64, result == 0 ? req->size : (uint64_t)result, 8);
    *p++ = RS_FIXARRAY;
    uint32_t len = (uint32_t)(p - frame);
    rs_put_be(frame, RS_TAG_UINT32, len - RS_SIZE_HEADER, 4);
    int64_t n;
    do
        n = rs_socket_send(s, frame, len, fds, nfds);
    while (n == -RS_EAGAIN && rs_socket_wait(s, 0, 1, -1) == RS_READY);
    for (uint32_t i = 0; i < 2; i++)
        if (fds[i] >= 0)
            rs_close(fds[i]);
    if (n != len)
        return -1; /* a new socket that cannot take these few bytes is none */
    if (result == 0) {
        s->ring_on = 1;
        s->tx_base = 0;
        /* The stream begins behind this frame, which is still to be stepped over. */
        s->rx_base = 0 - (uint64_t)(s->rx_pos + RS_SIZE_HEADER + s->frame_len);
        calibrate(s, req->spin);
    }
    return 0;
}

static void bell(struct rs_session *s) {
    static const uint8_t frame[] = {RS_TAG_UINT32, 0, 0, 0, 2, RS_FIXARRAY | 1, RS_MSG_BELL};
    /* EAGAIN: there are bells that nobody has heard yet. Anything else is seen when we sleep. */
    rs_socket_send(s, frame, sizeof frame, 0, 0);
}

/* ---- what comes over the socket ---- */

/* 0, or -1 if the frame does not belong there. */
static int side_frame(struct rs_session *s, const uint8_t *body, uint32_t len) {
    struct rs_side *side = &s->side;
    struct rs_reader r = {body, body + len};
    struct rs_value v;
    if (rs_validate(body, len, 2) || rs_next(&r, &v) || v.kind != RS_ARRAY || v.len == 0)
        return -1;
    uint32_t fields = v.len;
    uint64_t type = rs_number(&r);
    if (type == RS_MSG_BELL)
        return fields == 1 ? 0 : -1;
    if (type == RS_MSG_ERROR) {
        s->state = RS_STATE_FAILED;
        return 0;
    }
    if (type != RS_MSG_FDS || fields != 3)
        return -1;
    if (rs_next(&r, &v) || v.kind != RS_UINT || v.number != side->packets_in)
        return -1;
    /* They came with the first byte of the frame, and nothing that follows was read with it. */
    if (rs_next(&r, &v) || v.kind != RS_UINT || s->packet_count != side->ready + 1 ||
        s->work->packets[side->ready].count != v.number)
        return -1;
    side->packets_in++;
    side->ready++;
    return 0;
}

/* Take what has come. 1: something; 0: nothing, or the end (side.eof). */
static int side_receive(struct rs_session *s) {
    struct rs_side *side = &s->side;
    const char *bad;
    int64_t n = rs_socket_recv(s, side->bytes + side->len, sizeof side->bytes - side->len, 0, &bad);
    if (n == -RS_EAGAIN || n == -RS_EINTR)
        return 0;
    if (n <= 0) {
        side->eof = 1;
        return 0;
    }
    side->len += (uint32_t)n;
    uint32_t at = 0;
    while (!bad && side->len - at >= RS_SIZE_HEADER) {
        const uint8_t *p = side->bytes + at;
        uint32_t len = (uint32_t)p[1] << 24 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 8 | p[4];
        if (p[0] != RS_TAG_UINT32 || len > RS_SIZE_SIDE_MAX) {
            bad = "beside the ring: neither a BELL nor an FDS";
            break;
        }
        if (side->len - at - RS_SIZE_HEADER < len)
            break;
        if (side_frame(s, p + RS_SIZE_HEADER, len))
            bad = "beside the ring: not the FDS that is due";
        at += RS_SIZE_HEADER + len;
    }
    side->len -= at;
    memmove(side->bytes, side->bytes + at, side->len);
    if (!bad && !side->len && s->packet_count != side->ready)
        bad = "beside the ring: file descriptors without an FDS";
    if (bad)
        rs_fail(s, RS_ERR_FDS, 0, bad);
    return 1;
}

static int open_state(const struct rs_session *s) {
    return s->state == RS_STATE_OPEN || s->state == RS_STATE_CLOSING;
}

int rs_ring_packet(struct rs_session *s) {
    /* It was sent before the frame that needs it was published: it is there, or it is missing. */
    while (!s->side.ready)
        if (!side_receive(s) || !open_state(s))
            return -1;
    return 0;
}

/* ---- frames ---- */

int rs_ring_flush(struct rs_session *s) {
    int wrote = 0;
    while (s->tx_pos < s->tx_len) {
        struct rs_reply *with = 0;
        uint32_t len = rs_tx_until_fd(s, &with);
        if (with) {
            uint8_t frame[RS_SIZE_HEADER + 16], *p = frame + RS_SIZE_HEADER;
            *p++ = RS_FIXARRAY | 3;
            *p++ = RS_MSG_FDS;
            p = rs_put_uint(p, s->side.packets_out);
            *p++ = 1;
            uint32_t size = (uint32_t)(p - frame);
            rs_put_be(frame, RS_TAG_UINT32, size - RS_SIZE_HEADER, 4);
            int64_t n = rs_socket_send(s, frame, size, &with->fd, 1);
            if (n == -RS_EAGAIN)
                break;
            if (n != size)
                return -1;
            s->side.packets_out++;
            rs_reply_fd_sent(s, with);
        }
        uint32_t room = rs_ring_room(&s->ring);
        if (room == UINT32_MAX) {
            rs_fail(s, RS_ERR_RING, 0, "the count of bytes read is not possible");
            return 0;
        }
        if (len > room)
            len = room;
        if (!len)
            break;
        rs_ring_write(&s->ring, s->work->tx + s->tx_pos, len);
        rs_tx_sent(s, len);
        wrote = 1;
    }
    if (wrote && rs_ring_must_wake(&s->ring, RS_PARKED_DATA))
        bell(s);
    return 0;
}

/* Bytes there are, having spun for them as long as it pays; 0 if none came, or if there is room for
 * what is to be written first. */
static uint32_t spin(struct rs_session *s) {
    struct rs_spin *spin = &s->spin;
    uint32_t n = rs_ring_available(&s->ring);
    if (n)
        return n;
    uint32_t limit = spin->limit;
    if (spin->held)
        limit = 0;
    else if (++spin->waits % TRY_EVERY == 0)
        limit = spin->most;
    spin->tried = limit == spin->most;
    for (uint32_t i = 0; i < limit && !n; i++) {
        if (s->tx_pos < s->tx_len && rs_ring_room(&s->ring))
            return 0;
        rs_pause();
        n = rs_ring_available(&s->ring);
    }
    if (n) {
        spin->limit = spin->most;
        spin->fooled = spin->held = 0;
    }
    return n;
}

/* From a sleep after a spin that was in vain. A short one says that a longer spin would have paid;
 * but if it comes right after the longest, the client could only go on once we slept, for want of
 * another CPU. Then it is tried again ever less often. */
static void learn(struct rs_spin *spin, int soon) {
    if (!soon)
        spin->limit -= spin->limit > spin->most / SPIN_FRACTION ? spin->limit / 2 : 0;
    else if (!spin->tried)
        spin->limit = spin->most;
    else if (spin->fooled < HELD_MOST)
        spin->held = spin->fooled += spin->fooled + 1;
    else
        spin->held = spin->fooled;
}

/* Sleep until the client has something for us, or room. 0, or -1 when it has died. */
static int sleep(struct rs_session *s) {
    struct rs_spin *spin = &s->spin;
    struct rs_reply *with = 0;
    int writing = s->tx_pos < s->tx_len, result = 0;
    if (writing)
        rs_tx_until_fd(s, &with); /* if so the socket was full, and not the ring */
    int room = writing && !with;
    uint64_t start = spin->most && !spin->held ? rs_clock() : 0; /* without a vDSO it is a call */
    rs_ring_park(&s->ring, RS_PARKED_DATA | (room ? RS_PARKED_ROOM : 0));
    if (!rs_ring_available(&s->ring) && !(room && rs_ring_room(&s->ring))) {
        int64_t timeout = s->stretched && rs_idle(s) ? RS_TRIM_MS : -1;
        enum rs_wait wait;
        while ((wait = rs_socket_wait(s, 1, with != 0, timeout)) == RS_TIMEOUT) {
            rs_trim(s);
            timeout = -1;
        }
        result = wait == RS_GONE ? -1 : 0;
    }
    rs_ring_unpark(&s->ring);
    if (spin->held)
        spin->held--;
    else if (spin->most)
        learn(spin, rs_clock() - start < spin->most_ns);
    if (result == 0)
        side_receive(s);
    return result;
}

int rs_ring_receive(struct rs_session *s) {
    for (;;) {
        uint32_t n = spin(s);
        if (n == UINT32_MAX) {
            rs_fail(s, RS_ERR_RING, 0, "the count of bytes written is not possible");
            return 1;
        }
        if (n) {
            uint32_t room = rs_rx_room(s);
            if (n > room)
                n = room;
            rs_ring_peek(&s->ring, 0, s->work->rx + s->rx_len, n);
            rs_ring_take(&s->ring, n);
            s->rx_len += n;
            if (s->rx_len > RS_STRETCH_BYTES)
                s->stretched = 1;
            if (rs_ring_must_wake(&s->ring, RS_PARKED_ROOM))
                bell(s);
            return 1;
        }
        if (s->side.eof)
            return 0;
        if (sleep(s))
            return -1;
        if (!open_state(s))
            return 1;
        if (rs_ring_flush(s))
            return -1;
        if (!open_state(s))
            return 1;
    }
}

int rs_ring_wait(struct rs_session *s) {
    if (s->side.eof || sleep(s))
        return -1;
    return open_state(s) ? 0 : -1;
}
