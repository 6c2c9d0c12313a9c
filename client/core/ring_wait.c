/* How the client's end of a ring begins, wakes the other end, and waits for it. */
#include "ring_object.h"

#include "batch.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
    STEP_NS = 500, /* a step of a batch takes about as long, before any has been seen */
    FIRST = 8,     /* of the longest spin: the one before any has been met */
    LOCKED_NS = 10000, /* spun with the interpreter's lock held */
    LOOKS_PER_CLOCK = 8
};

static const uint8_t bell[] = {RS_TAG_UINT32, 0, 0, 0, 2, RS_FIXARRAY | 1, RS_MSG_BELL};

/* ---- the beginning and the end ---- */

void *map_half(int fd, uint32_t size, int writable) {
    struct stat st;
    struct statfs fs;
    Py_ssize_t length = RS_SIZE_RING_HEADER + (Py_ssize_t)size;
    int wanted = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || fstat(fd, &st) < 0 || fstatfs(fd, &fs) < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    /* A hugetlb file has such seals too, and gives SIGBUS where there are no pages. */
    if ((seals & wanted) != wanted || st.st_size != length || fs.f_type != TMPFS_MAGIC) {
        PyErr_SetString(PyExc_ValueError, "the memory of a ring is not sealed as it must be");
        return NULL;
    }
    void *at = mmap(NULL, (size_t)length, writable ? PROT_READ | PROT_WRITE : PROT_READ,
                    MAP_SHARED | MAP_POPULATE, fd, 0);
    if (at == MAP_FAILED) {
        PyErr_SetFromErrno(PyExc_OSError);
        return NULL;
    }
    return at;
}

int begin_ring(Ring *self, uint32_t size, int socket, uint64_t next_id, uint32_t frame_limit,
               uint32_t spin_us) {
    if (size < 64 || size > RS_SIZE_RING_MAX || size & (size - 1)) {
        PyErr_SetString(PyExc_ValueError, "size: no power of two, or out of range");
        return -1;
    }
    self->buffer = PyMem_Malloc((size_t)size + RS_SIZE_HEADER);
    if (!self->buffer) {
        PyErr_NoMemory();
        return -1;
    }
    rs_ring_init(&self->ring, self->halves[0], self->halves[1], size);
    self->socket = socket;
    self->next_id = next_id;
    self->frame_limit = frame_limit;
    patience_set(&self->patience, spin_us);
    self->patience.limit_ns /= FIRST; /* who has just begun may be waiting for this very CPU */
    patience_set(&self->doze, DOZE_US);
    self->step_ns = STEP_NS;
    return 0;
}

void close_ring(Ring *self) {
    if (self->owned)
        close(self->socket);
    self->owned = 0;
    if (self->mapped)
        for (int i = 0; i < 2; i++)
            if (self->halves[i])
                munmap(self->halves[i], (size_t)self->mapped);
    self->halves[0] = self->halves[1] = NULL;
}

int usable(Ring *self) {
    if (self->halves[0] && !self->busy)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the ring is closed, or used by two threads");
    return 0;
}

/* ---- waking and waiting ---- */

void wake(Ring *self, uint32_t what) {
    if (rs_ring_must_wake(&self->ring, what)) {
        /* EAGAIN: there are bells that nobody has heard yet. Anything else the socket will say to
         * whoever sleeps on it. */
        ssize_t ignored = send(self->socket, bell, sizeof bell, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)ignored;
    }
}

void publish(Ring *self, const void *frame, uint32_t len) {
    self->begun = self->written;
    rs_ring_write(&self->ring, frame, len);
    self->written += len;
    wake(self, RS_PARKED_DATA);
}

int can_send(const Ring *self, PyObject *arg) {
    const Frame *frame = (const Frame *)arg;
    if (Py_TYPE(arg) != &frame_type) {
        PyErr_SetString(PyExc_TypeError, "frame: not a Frame");
        return -1;
    }
    if (!self->halves[0] || self->busy || !between_frames(self) ||
        frame->len - RS_SIZE_HEADER > self->frame_limit || frame->reserved > self->frame_limit)
        return 0;
    struct rs_ring ring = self->ring;
    uint32_t room = rs_ring_room(&ring);
    return room >= frame->len && room != UINT32_MAX;
}

uint32_t wait_for(Ring *self, struct wait *w, uint32_t bytes, uint32_t room) {
    for (uint32_t i = 1;; i++) {
        uint32_t n = bytes ? rs_ring_available(&self->ring) : rs_ring_room(&self->ring);
        if (n == UINT32_MAX) {
            self->broken = 1;
            return 0;
        }
        if (n >= (bytes ? bytes : room))
            return n;
        if (i % LOOKS_PER_CLOCK == 0) {
            uint64_t spent = now_ns() - w->start;
            if (spent >= w->ns)
                return n;
            if (spent >= LOCKED_NS && !w->unlocked)
                w->unlocked = PyEval_SaveThread();
        }
        rs_pause();
        w->looked = 1;
    }
}

void start_wait(Ring *self, struct wait *w, uint64_t ns) {
    self->busy = 1;
    w->start = ns ? now_ns() : 0;
    w->ns = ns;
    w->looked = 0;
    w->unlocked = NULL;
}

int too_long(const struct wait *w) {
    return w->ns && now_ns() - w->start >= w->ns + YIELD_NS;
}

void end_wait(Ring *self, struct wait *w) {
    if (w->unlocked)
        PyEval_RestoreThread(w->unlocked);
    self->busy = 0;
}

void begin(Ring *self) {
    if (self->parked)
        rs_ring_unpark(&self->ring);
}

void end(Ring *self) {
    if (self->parked)
        rs_ring_park(&self->ring, (uint32_t)self->parked);
}

int keep(Ring *self, const void *bytes, uint32_t n) {
    uint32_t room = self->inbox_len + n;
    if (room > self->inbox_room) {
        uint8_t *more = PyMem_Realloc(self->inbox, room);
        if (!more) {
            PyErr_NoMemory();
            return -1;
        }
        self->inbox = more;
        self->inbox_room = room;
    }
    memcpy(self->inbox + self->inbox_len, bytes, n);
    self->inbox_len += n;
    return 0;
}

/* Whether what has come over the socket is a bell, for us, which is then taken. Anything else is for
 * recv() and may bring descriptors: these a look leaves where they are. */
static int only_a_bell(const Ring *self) {
    uint8_t bytes[sizeof bell + 1];
    struct iovec iov = {bytes, sizeof bytes};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    if (recvmsg(self->socket, &msg, MSG_PEEK | MSG_DONTWAIT) != sizeof bell ||
        msg.msg_flags & MSG_CTRUNC || memcmp(bytes, bell, sizeof bell))
        return 0;
    return recv(self->socket, bytes, sizeof bell, MSG_DONTWAIT) == sizeof bell;
}

int doze(Ring *self) {
    uint64_t ns = patience_now(&self->doze);
    struct timespec time = {0, (long)ns};
    struct pollfd fd = {self->socket, POLLIN, 0};
    if (ns) {
        self->busy = 1;
        rs_ring_park(&self->ring, RS_PARKED_DATA);
        if (!rs_ring_available(&self->ring)) {
            Py_BEGIN_ALLOW_THREADS
            ppoll(&fd, 1, &time, NULL);
            Py_END_ALLOW_THREADS
        }
        rs_ring_unpark(&self->ring);
        self->busy = 0;
        if (fd.revents && !only_a_bell(self))
            self->rung = 1;
    }
    int come = rs_ring_available(&self->ring) != 0;
    patience_learn(&self->doze, come);
    return come;
}

int sleep_until_end(Ring *self, uint32_t us) {
    struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000};
    struct pollfd fd = {self->socket, POLLIN, 0};
    int ended = 0;
    if (self->parked)
        return 0;
    self->busy = 1;
    rs_ring_park(&self->ring, RS_PARKED_DATA);
    if (!self->inbox_len && !rs_ring_available(&self->ring)) {
        Py_BEGIN_ALLOW_THREADS
        ended = ppoll(&fd, 1, &time, NULL) > 0 && fd.revents & POLLHUP;
        Py_END_ALLOW_THREADS
    }
    rs_ring_unpark(&self->ring);
    self->busy = 0;
    return ended && !rs_ring_available(&self->ring);
}

int between_frames(const Ring *self) {
    return !self->inbox_len && !self->left && !self->header_len && !self->broken;
}

uint32_t take_frame(Ring *self, struct wait *w) {
    uint8_t header[RS_SIZE_HEADER];
    if (wait_for(self, w, RS_SIZE_HEADER, 0) < RS_SIZE_HEADER)
        return 0;
    rs_ring_peek(&self->ring, 0, header, RS_SIZE_HEADER);
    uint32_t len = frame_length(header);
    if (header[0] != RS_TAG_UINT32 || !len || len > self->ring.size - RS_SIZE_HEADER)
        return 0; /* recv() has all the time it takes, and the checks */
    if (wait_for(self, w, RS_SIZE_HEADER + len, 0) < RS_SIZE_HEADER + len)
        return 0;
    memcpy(self->buffer, header, RS_SIZE_HEADER);
    rs_ring_peek(&self->ring, RS_SIZE_HEADER, self->buffer + RS_SIZE_HEADER, len);
    rs_ring_take(&self->ring, RS_SIZE_HEADER + len);
    wake(self, RS_PARKED_ROOM);
    return len;
}
