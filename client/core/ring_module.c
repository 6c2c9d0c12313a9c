/* rsyscall._ring: the client's half of a call through a ring, in one piece: encode, publish, wake,
 * spin, take the answer. CPython's own interface and not cffi, since it can keep the interpreter's
 * lock for the first microseconds: a call that gives it up beside a busy thread waits for the
 * switch interval to get it back. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <fcntl.h>
#include <linux/magic.h>
#include <structmember.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>

#include "codec.h"
#include "ring.h"

#ifndef F_SEAL_FUTURE_WRITE
#define F_SEAL_FUTURE_WRITE 0x0010
#endif

enum {
    LOCKED_NS = 10000,     /* spun with the interpreter's lock held */
    FRACTION = 32,         /* of the longest spin: the shortest, where it seldom pays */
    TRY_EVERY = 16,        /* and how often the longest is tried all the same */
    LOOKS_PER_CLOCK = 8,
    MOST_ARGS = 6,
    YIELD_NS = 1000000     /* calls in a row without letting trio's other tasks run */
};

static const uint8_t bell[] = {RS_TAG_UINT32, 0, 0, 0, 2, RS_FIXARRAY | 1, RS_MSG_BELL};

/* The classes of arguments that are more than a number, as setup() was told. */
static PyTypeObject *class_in, *class_out, *class_ret, *class_inout;
static PyTypeObject *class_step;
static PyObject *name_data, *name_size, *name_batch, *name_index, *name_number, *name_args, *name_ok,
    *name_on_error, *name_undo, *name_stop, *name_continue;

typedef struct {
    PyObject_HEAD
    struct rs_ring ring;
    void *halves[2]; /* NULL once closed */
    Py_ssize_t mapped;
    int socket;
    int busy;   /* a call spins without the interpreter's lock */
    int parked; /* somebody sleeps until the bell: what for, RS_PARKED_* */
    int broken; /* the other half holds nonsense, or what came is no frame */
    uint32_t frame_limit;
    uint64_t next_id;
    uint64_t spin_ns, limit_ns;
    uint32_t waits;
    uint64_t written;  /* bytes so far */
    uint64_t begun;    /* as many when the last call() or exchange() began */
    uint64_t skipped;  /* bytes of whole frames that recv() has not returned, since it was asked */
    uint8_t *buffer;   /* ring.size + header: a frame on its way in or out */
    uint8_t *inbox;    /* what recv() returns first */
    uint32_t inbox_len, inbox_room;
    uint8_t header[RS_SIZE_HEADER]; /* of the frame that recv() has returned the beginning of */
    uint32_t header_len;
    uint64_t left; /* bytes of it that are still to come */
} Ring;

static uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* ---- the beginning and the end ---- */

static void *map_half(int fd, uint32_t size, int writable) {
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

static void close_ring(Ring *self) {
    if (self->mapped)
        for (int i = 0; i < 2; i++)
            if (self->halves[i])
                munmap(self->halves[i], (size_t)self->mapped);
    self->halves[0] = self->halves[1] = NULL;
}

/* Ring(out, in, size, socket, next_id, frame_limit, spin_us): out and in are memfds, or, with
 * shared=True, addresses of memory that stays the caller's. */
static int ring_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"out",         "in_",     "size",   "socket", "next_id",
                            "frame_limit", "spin_us", "shared", NULL};
    Ring *self = (Ring *)object;
    unsigned long long out, in, next_id;
    unsigned int size, frame_limit, spin_us;
    int socket, shared = 0;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "KKIiKII|p", names, &out, &in, &size, &socket,
                                     &next_id, &frame_limit, &spin_us, &shared))
        return -1;
    if (self->halves[0] || self->buffer) {
        PyErr_SetString(PyExc_ValueError, "a Ring is made only once");
        return -1;
    }
    if (size < 64 || size > RS_SIZE_RING_MAX || size & (size - 1)) {
        PyErr_SetString(PyExc_ValueError, "size: no power of two, or out of range");
        return -1;
    }
    self->buffer = PyMem_Malloc((size_t)size + RS_SIZE_HEADER);
    if (!self->buffer) {
        PyErr_NoMemory();
        return -1;
    }
    if (shared) {
        self->halves[0] = (void *)(uintptr_t)out;
        self->halves[1] = (void *)(uintptr_t)in;
    } else {
        self->mapped = RS_SIZE_RING_HEADER + (Py_ssize_t)size;
        if (!(self->halves[0] = map_half((int)out, size, 1)) ||
            !(self->halves[1] = map_half((int)in, size, 0))) {
            close_ring(self);
            return -1;
        }
    }
    rs_ring_init(&self->ring, self->halves[0], self->halves[1], size);
    self->socket = socket;
    self->next_id = next_id;
    self->frame_limit = frame_limit;
    self->spin_ns = self->limit_ns = (uint64_t)spin_us * 1000;
    return 0;
}

static void ring_dealloc(PyObject *object) {
    Ring *self = (Ring *)object;
    close_ring(self);
    PyMem_Free(self->buffer);
    PyMem_Free(self->inbox);
    Py_TYPE(object)->tp_free(object);
}

static PyObject *ring_close(PyObject *object, PyObject *unused) {
    (void)unused;
    close_ring((Ring *)object);
    Py_RETURN_NONE;
}

static int usable(Ring *self) {
    if (self->halves[0] && !self->busy)
        return 1;
    PyErr_SetString(PyExc_ValueError, "the ring is closed, or used by two threads");
    return 0;
}

/* ---- waking and waiting ---- */

static void wake(Ring *self, uint32_t what) {
    if (rs_ring_must_wake(&self->ring, what)) {
        /* EAGAIN: there are bells that nobody has heard yet. Anything else the socket will say to
         * whoever sleeps on it. */
        ssize_t ignored = send(self->socket, bell, sizeof bell, MSG_DONTWAIT | MSG_NOSIGNAL);
        (void)ignored;
    }
}

/* How long to spin now. */
static uint64_t budget(Ring *self) {
    return ++self->waits % TRY_EVERY ? self->limit_ns : self->spin_ns;
}

static void spun(Ring *self, int hit) {
    if (hit)
        self->limit_ns = self->spin_ns;
    else if (self->limit_ns > self->spin_ns / FRACTION)
        self->limit_ns /= 2;
}

struct wait {
    uint64_t start, ns;
    PyThreadState *unlocked;
};

/* Wait until so many bytes are there, or room: what there is, which is less if the time is over. */
static uint32_t wait_for(Ring *self, struct wait *w, uint32_t bytes, uint32_t room) {
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
    }
}

static void start_wait(Ring *self, struct wait *w, uint64_t ns) {
    self->busy = 1;
    w->start = ns ? now_ns() : 0;
    w->ns = ns;
    w->unlocked = NULL;
}

/* Bytes may come one by one, each before the time is over: others are not to wait for that. */
static int too_long(const struct wait *w) {
    return w->ns && now_ns() - w->start >= w->ns + YIELD_NS;
}

static void end_wait(Ring *self, struct wait *w) {
    if (w->unlocked)
        PyEval_RestoreThread(w->unlocked);
    self->busy = 0;
}

/* While we look ourselves nobody needs to wake us. */
static void begin(Ring *self) {
    if (self->parked)
        rs_ring_unpark(&self->ring);
}

static void end(Ring *self) {
    if (self->parked)
        rs_ring_park(&self->ring, (uint32_t)self->parked);
}

static int keep(Ring *self, const void *bytes, uint32_t n) {
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

/* Whether the next byte in the ring is the first of a frame. */
static int between_frames(const Ring *self) {
    return !self->inbox_len && !self->left && !self->header_len && !self->broken;
}

/* Take the next frame's body into the buffer if it comes in time and fits. Its length, or 0. */
static uint32_t take_frame(Ring *self, struct wait *w) {
    uint8_t header[RS_SIZE_HEADER];
    if (wait_for(self, w, RS_SIZE_HEADER, 0) < RS_SIZE_HEADER)
        return 0;
    rs_ring_peek(&self->ring, 0, header, RS_SIZE_HEADER);
    uint32_t len = (uint32_t)header[1] << 24 | (uint32_t)header[2] << 16 |
                   (uint32_t)header[3] << 8 | header[4];
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

/* Type and id of a reply: [type, id, ...], and how many fields. 0 if it is none. */
static int reply_head(struct rs_reader *r, uint32_t *fields, uint64_t *type, uint64_t *id) {
    struct rs_value v;
    if (rs_next(r, &v) || v.kind != RS_ARRAY || v.len < 2)
        return 0;
    *fields = v.len;
    if (rs_next(r, &v) || v.kind != RS_UINT)
        return 0;
    *type = v.number;
    if (rs_next(r, &v) || v.kind != RS_UINT)
        return 0;
    *id = v.number;
    return 1;
}

/* ---- one call ---- */

struct outs {
    uint32_t count;
    uint32_t size[MOST_ARGS];
    int exact[MOST_ARGS];
};

static int add_out(struct outs *outs, uint64_t size, int exact) {
    outs->size[outs->count] = (uint32_t)size;
    outs->exact[outs->count++] = exact;
    return 1;
}

/* 1; 0 if it cannot be done here, with no exception. */
static int put_number(uint8_t **p, const uint8_t *end, PyObject *value) {
    int overflow;
    if (end - *p < 9)
        return 0;
    long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
    if (overflow > 0) {
        unsigned long long u = PyLong_AsUnsignedLongLong(value);
        if (u == (unsigned long long)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            return 0;
        }
        *p = rs_put_be(*p, RS_TAG_UINT64, u, 8);
        return 1;
    }
    if (overflow || (n == -1 && PyErr_Occurred())) {
        PyErr_Clear();
        return 0;
    }
    *p = n >= 0 ? rs_put_uint(*p, (uint64_t)n) : rs_put_be(*p, RS_TAG_INT64, (uint64_t)n, 8);
    return 1;
}

static int put_data(uint8_t **p, const uint8_t *end, PyObject *value, uint8_t type, uint32_t *len) {
    PyObject *data = PyObject_GetAttr(value, name_data);
    int done = 0;
    if (data && PyBytes_CheckExact(data) && PyBytes_GET_SIZE(data) + 6 <= end - *p) {
        *len = (uint32_t)PyBytes_GET_SIZE(data);
        *p = rs_put_be(*p, 0xc9, *len, 4);
        *(*p)++ = type;
        memcpy(*p, PyBytes_AS_STRING(data), *len);
        *p += *len;
        done = 1;
    }
    PyErr_Clear();
    Py_XDECREF(data);
    return done;
}

static int put_size(uint8_t **p, const uint8_t *end, PyObject *value, uint8_t type, uint32_t *len) {
    PyObject *size = PyObject_GetAttr(value, name_size);
    int done = 0;
    if (size && PyLong_Check(size) && end - *p >= 6) {
        long long n = PyLong_AsLongLong(size);
        if (n >= 0 && n <= UINT32_MAX) {
            *p = rs_put_be(*p, 0xd6, (uint64_t)type << 32 | (uint64_t)n, 5);
            *len = (uint32_t)n;
            done = 1;
        }
    }
    PyErr_Clear();
    Py_XDECREF(size);
    return done;
}

static int put_argument(uint8_t **p, const uint8_t *end, PyObject *value, struct outs *outs) {
    PyTypeObject *type = Py_TYPE(value);
    uint32_t len;
    if (PyLong_Check(value))
        return put_number(p, end, value);
    if (type == class_in)
        return put_data(p, end, value, RS_ARG_IN, &len);
    if (type == class_inout)
        return put_data(p, end, value, RS_ARG_INOUT, &len) && add_out(outs, len, 1);
    if (type == class_out)
        return put_size(p, end, value, RS_ARG_OUT, &len) && add_out(outs, len, 1);
    if (type == class_ret)
        return put_size(p, end, value, RS_ARG_RET, &len) && add_out(outs, len, 0);
    if (!type->tp_as_number || !type->tp_as_number->nb_int || PyFloat_Check(value))
        return 0;
    PyObject *number = PyNumber_Long(value);
    if (!number) {
        PyErr_Clear();
        return 0;
    }
    int done = put_number(p, end, number);
    Py_DECREF(number);
    return done;
}

/* The CALL frame into the buffer; its length, or 0 if that cannot be done here. */
static uint32_t encode_call(Ring *self, PyObject *const *args, Py_ssize_t n, struct outs *outs) {
    uint8_t *p = self->buffer + RS_SIZE_HEADER, *end = self->buffer + self->ring.size;
    while (n > 1 && PyLong_CheckExact(args[n - 1]) && PyLong_AsLong(args[n - 1]) == 0)
        n--; /* what is not there is zero */
    PyErr_Clear();
    if (n < 1 || n > 1 + MOST_ARGS || !PyLong_Check(args[0]))
        return 0;
    long long nr = PyLong_AsLongLong(args[0]);
    if (nr < 0 || nr > INT32_MAX) {
        PyErr_Clear();
        return 0;
    }
    *p++ = RS_FIXARRAY | 6;
    *p++ = RS_MSG_CALL;
    p = rs_put_be(p, RS_TAG_UINT64, self->next_id, 8);
    *p++ = 0; /* descriptors */
    *p++ = 0; /* flags */
    p = rs_put_uint(p, (uint64_t)nr);
    *p++ = (uint8_t)(RS_FIXARRAY | (n - 1));
    for (Py_ssize_t i = 1; i < n; i++)
        if (!put_argument(&p, end, args[i], outs))
            return 0;
    uint64_t reserve = RS_SIZE_REPLY_BASE;
    for (uint32_t i = 0; i < outs->count; i++)
        reserve += RS_SIZE_REPLY_OUT + outs->size[i];
    uint32_t len = (uint32_t)(p - self->buffer) - RS_SIZE_HEADER;
    /* What the limits do not admit is for others to refuse. */
    if (reserve > self->frame_limit || len > self->frame_limit)
        return 0;
    rs_put_be(self->buffer, RS_TAG_UINT32, len, 4);
    return RS_SIZE_HEADER + len;
}

/* What a RESULT says: its value, or (value, outputs). NULL without an exception if it is not the
 * answer that is due. */
static PyObject *decode_result(const uint8_t *body, uint32_t len, uint64_t id,
                               const struct outs *outs) {
    struct rs_reader r = {body, body + len};
    struct rs_value v;
    uint64_t type, its_id;
    uint32_t fields;
    if (!reply_head(&r, &fields, &type, &its_id) || fields != 5 || type != RS_MSG_RESULT ||
        its_id != id)
        return NULL;
    if (rs_next(&r, &v) || v.kind != RS_UINT || v.number != 0) /* descriptors */
        return NULL;
    if (rs_next(&r, &v) || (v.kind != RS_UINT && v.kind != RS_NINT))
        return NULL;
    if (v.kind == RS_UINT && v.number > INT64_MAX)
        return NULL;
    int64_t result = (int64_t)v.number;
    if (rs_next(&r, &v) || v.kind != RS_ARRAY || v.len != outs->count)
        return NULL;
    PyObject *tuple = outs->count ? PyTuple_New(outs->count) : NULL;
    for (uint32_t i = 0; tuple && i < outs->count; i++) {
        uint64_t most = outs->size[i];
        uint64_t due = outs->exact[i] ? most : result < 0 ? 0 : (uint64_t)result < most ? (uint64_t)result : most;
        PyObject *out = NULL;
        if (!rs_next(&r, &v) && v.kind == RS_BIN && v.len == due)
            out = PyBytes_FromStringAndSize((const char *)v.data, v.len);
        if (!out) {
            Py_DECREF(tuple);
            return NULL;
        }
        PyTuple_SET_ITEM(tuple, i, out);
    }
    if (r.p != r.end || (outs->count && !tuple)) {
        Py_XDECREF(tuple);
        return NULL;
    }
    if (!outs->count)
        return PyLong_FromLongLong(result);
    PyObject *value = PyLong_FromLongLong(result);
    PyObject *both = value ? PyTuple_Pack(2, value, tuple) : NULL;
    Py_XDECREF(value);
    Py_DECREF(tuple);
    return both;
}

/* call(number, *args) -> result | (result, outputs) | None: sent, not answered yet, its id is
 * last_id | NotImplemented: not sent, for a reason that others will find. */
static PyObject *ring_call(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    Ring *self = (Ring *)object;
    struct outs outs = {0, {0}, {0}};
    struct wait w;
    PyObject *answer = NULL;
    if (!self->halves[0] || self->busy || !between_frames(self))
        Py_RETURN_NOTIMPLEMENTED;
    uint32_t len = encode_call(self, args, nargs, &outs);
    uint32_t room = len ? rs_ring_room(&self->ring) : 0;
    if (!len || room < len || room == UINT32_MAX)
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t id = self->next_id++;
    self->begun = self->written;
    begin(self);
    rs_ring_write(&self->ring, self->buffer, len);
    self->written += len;
    wake(self, RS_PARKED_DATA);
    start_wait(self, &w, budget(self));
    uint32_t got = take_frame(self, &w);
    end_wait(self, &w);
    spun(self, got != 0);
    end(self);
    if (!got)
        Py_RETURN_NONE;
    answer = decode_result(self->buffer + RS_SIZE_HEADER, got, id, &outs);
    if (answer) {
        self->skipped += RS_SIZE_HEADER + got;
        return answer;
    }
    if (PyErr_Occurred() || keep(self, self->buffer, RS_SIZE_HEADER + got) < 0)
        return NULL;
    Py_RETURN_NONE;
}

/* Send a frame and wait for the one that answers it: that frame, or NULL, with an exception or
 * without; *sent is how much of it was written. What came is kept for recv(). */
static PyObject *exchange(Ring *self, const uint8_t *frame, uint32_t total, uint64_t id,
                          uint32_t spin_us, uint32_t *sent) {
    PyObject *answer = NULL;
    struct wait w;
    uint32_t got = 0, len = 0;
    uint64_t ns = budget(self), asked = (uint64_t)spin_us * 1000;
    int in_order = between_frames(self);
    *sent = 0;
    self->begun = self->written;
    begin(self);
    start_wait(self, &w, self->spin_ns && asked > ns ? asked : ns);
    while (*sent < total && !self->broken && !too_long(&w)) {
        uint32_t n = wait_for(self, &w, 0, 1);
        if (!n)
            break;
        if (n > total - *sent)
            n = total - *sent;
        rs_ring_write(&self->ring, frame + *sent, n);
        *sent += n;
        self->written += n;
        wake(self, RS_PARKED_DATA);
    }
    if (*sent == total && in_order && wait_for(self, &w, RS_SIZE_HEADER, 0) >= RS_SIZE_HEADER) {
        uint8_t head[RS_SIZE_HEADER];
        rs_ring_peek(&self->ring, 0, head, RS_SIZE_HEADER);
        len = (uint32_t)head[1] << 24 | (uint32_t)head[2] << 16 | (uint32_t)head[3] << 8 | head[4];
        if (head[0] == RS_TAG_UINT32 && len <= self->frame_limit) {
            if (w.unlocked) {
                PyEval_RestoreThread(w.unlocked);
                w.unlocked = NULL;
            }
            answer = PyBytes_FromStringAndSize(NULL, RS_SIZE_HEADER + (Py_ssize_t)len);
        }
        if (answer) {
            uint8_t *to = (uint8_t *)PyBytes_AS_STRING(answer) + RS_SIZE_HEADER;
            memcpy(to - RS_SIZE_HEADER, head, RS_SIZE_HEADER);
            rs_ring_take(&self->ring, RS_SIZE_HEADER);
            while (got < len && !too_long(&w)) {
                uint32_t n = wait_for(self, &w, 1, 0);
                if (!n)
                    break;
                if (n > len - got)
                    n = len - got;
                rs_ring_peek(&self->ring, 0, to + got, n);
                rs_ring_take(&self->ring, n);
                got += n;
                wake(self, RS_PARKED_ROOM);
            }
        }
    }
    end_wait(self, &w);
    if (asked <= ns || answer)
        spun(self, answer && got == len);
    end(self);
    if (!answer)
        return NULL;
    uint8_t *body = (uint8_t *)PyBytes_AS_STRING(answer) + RS_SIZE_HEADER;
    struct rs_reader r = {body, body + got};
    uint32_t fields;
    uint64_t type, its_id;
    if (got == len && reply_head(&r, &fields, &type, &its_id) && its_id == id)
        return answer;
    keep(self, body - RS_SIZE_HEADER, RS_SIZE_HEADER + got);
    Py_DECREF(answer);
    return NULL;
}

/* exchange(frame, id, spin_us) -> the reply's frame, or how many bytes of the frame were written:
 * the rest is for send(), and the reply for recv(). spin_us: how long to wait, at least. */
static PyObject *ring_exchange(PyObject *object, PyObject *args) {
    Ring *self = (Ring *)object;
    Py_buffer frame;
    unsigned long long id;
    unsigned int spin_us;
    uint32_t sent;
    if (!PyArg_ParseTuple(args, "y*KI", &frame, &id, &spin_us))
        return NULL;
    PyObject *answer = NULL;
    if (usable(self))
        answer = exchange(self, frame.buf, (uint32_t)frame.len, id, spin_us, &sent);
    PyBuffer_Release(&frame);
    if (answer || PyErr_Occurred())
        return answer;
    return PyLong_FromUnsignedLong(sent);
}

/* Take the outputs of one step. Returns how many, or -1 if they are not those that are due. */
static Py_ssize_t take_outs(struct rs_reader *r, PyObject *due, PyObject *outs, Py_ssize_t at) {
    Py_ssize_t n = PyList_GET_SIZE(due);
    for (Py_ssize_t i = 0; i < n; i++) {
        struct rs_value v;
        PyObject *pair = PyList_GET_ITEM(due, i);
        unsigned long most = PyLong_AsUnsignedLong(PyTuple_GET_ITEM(pair, 0));
        int exact = PyTuple_GET_ITEM(pair, 1) == Py_True;
        if (at + i >= PyTuple_GET_SIZE(outs) || rs_next(r, &v) || v.kind != RS_BIN ||
            v.len > most || (exact && v.len != most))
            return -1;
        PyObject *out = PyBytes_FromStringAndSize((const char *)v.data, v.len);
        if (!out)
            return -1;
        PyTuple_SET_ITEM(outs, at + i, out);
    }
    return n;
}

/* (outs, values, statuses, stopped) of a BATCHED, if it is one that the batch may be answered with:
 * the same checks as Program.mismatch. NULL otherwise. */
static PyObject *decode_batched(const uint8_t *body, uint32_t len, PyObject *due, int brief) {
    struct rs_reader r = {body, body + len}, tail;
    struct rs_value v, values, statuses;
    uint64_t type, id;
    uint32_t fields;
    uint64_t steps = (uint64_t)PyList_GET_SIZE(due);
    if (!reply_head(&r, &fields, &type, &id) || type != RS_MSG_BATCHED || fields != 6 ||
        rs_next(&r, &v) || v.kind != RS_ARRAY || v.len > len)
        return NULL;
    uint32_t count = v.len;
    tail = r;
    for (uint32_t i = 0; i < count; i++)
        if (rs_next(&tail, &v))
            return NULL;
    if (rs_next(&tail, &values) || values.kind != RS_BIN || rs_next(&tail, &statuses) ||
        statuses.kind != RS_BIN || rs_next(&tail, &v) || v.kind != RS_UINT || v.number > steps ||
        tail.p != tail.end)
        return NULL;
    uint64_t stopped = v.number, started = stopped < steps ? stopped + 1 : steps;
    uint64_t results = brief && started ? 1 : started;
    if (values.len != 8 * results)
        return NULL;
    if (!statuses.len && steps && brief) {
        if (stopped != steps)
            return NULL;
    } else if (statuses.len != steps) {
        return NULL;
    }
    for (uint32_t i = 0; i < statuses.len; i++)
        if (statuses.data[i] > (i < started ? RS_STATUS_UNDO_FAILED : RS_STATUS_NOT_STARTED))
            return NULL;
    PyObject *outs = PyTuple_New(count);
    Py_ssize_t at = 0;
    for (uint64_t i = 0; outs && i < started; i++) {
        PyObject *step = PyList_GET_ITEM(due, (Py_ssize_t)i);
        Py_ssize_t n = PyList_GET_SIZE(step) ? take_outs(&r, step, outs, at) : 0;
        if (n < 0)
            Py_CLEAR(outs);
        else
            at += n;
    }
    if (outs && at != (Py_ssize_t)count)
        Py_CLEAR(outs);
    if (!outs)
        return NULL;
    return Py_BuildValue("(Ny#y#K)", outs, (const char *)values.data, (Py_ssize_t)values.len,
                         (const char *)statuses.data, (Py_ssize_t)statuses.len,
                         (unsigned long long)stopped);
}

enum { ID_AT = RS_SIZE_HEADER + 3 };

/* batch(frame, outs, brief, spin_us) -> (outs, values, statuses, stopped) | int: bytes sent, not
 * answered yet, its id is last_id | NotImplemented: not sent. frame: a BATCH or RUN with eight bytes
 * of room for its id; outs: of each step, what its outputs may be. */
static PyObject *ring_batch(PyObject *object, PyObject *args) {
    Ring *self = (Ring *)object;
    PyObject *frame, *outs;
    int brief;
    unsigned int spin_us;
    uint32_t sent;
    if (!PyArg_ParseTuple(args, "YO!pI", &frame, &PyList_Type, &outs, &brief, &spin_us))
        return NULL;
    Py_ssize_t len = PyByteArray_GET_SIZE(frame);
    if (!self->halves[0] || self->busy || !between_frames(self) || len < ID_AT + 8 ||
        len - RS_SIZE_HEADER > (Py_ssize_t)self->frame_limit)
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t id = self->next_id++;
    uint8_t *bytes = (uint8_t *)PyByteArray_AS_STRING(frame);
    rs_put_be(bytes + ID_AT - 1, RS_TAG_UINT64, id, 8);
    PyObject *answer = exchange(self, bytes, (uint32_t)len, id, spin_us, &sent);
    if (!answer)
        return PyErr_Occurred() ? NULL : PyLong_FromUnsignedLong(sent);
    const uint8_t *reply = (const uint8_t *)PyBytes_AS_STRING(answer);
    uint32_t size = (uint32_t)PyBytes_GET_SIZE(answer);
    PyObject *result =
        decode_batched(reply + RS_SIZE_HEADER, size - RS_SIZE_HEADER, outs, brief);
    if (result)
        self->skipped += size;
    else if (!PyErr_Occurred() && keep(self, reply, size) == 0)
        result = PyLong_FromUnsignedLong(sent); /* recv() has it, for others to say what is wrong */
    Py_DECREF(answer);
    return result;
}

/* ---- the stream, for what is not that simple ---- */

static PyObject *ring_send(PyObject *object, PyObject *arg) {
    Ring *self = (Ring *)object;
    Py_buffer bytes;
    if (!usable(self) || PyObject_GetBuffer(arg, &bytes, PyBUF_SIMPLE) < 0)
        return NULL;
    uint32_t n = rs_ring_room(&self->ring);
    if (n == UINT32_MAX) {
        self->broken = 1;
        n = 0;
    }
    if (n > bytes.len)
        n = (uint32_t)bytes.len;
    if (n) {
        rs_ring_write(&self->ring, bytes.buf, n);
        self->written += n;
        wake(self, RS_PARKED_DATA);
    }
    PyBuffer_Release(&bytes);
    return PyLong_FromUnsignedLong(n);
}

/* Follow the frames in what recv() returns, to know where the next begins. */
static void follow(Ring *self, const uint8_t *p, uint64_t n) {
    while (n && !self->broken) {
        if (self->left) {
            uint64_t part = n < self->left ? n : self->left;
            self->left -= part;
            p += part;
            n -= part;
            continue;
        }
        self->header[self->header_len++] = *p++;
        n--;
        if (self->header_len < RS_SIZE_HEADER)
            continue;
        const uint8_t *h = self->header;
        self->left = (uint32_t)h[1] << 24 | (uint32_t)h[2] << 16 | (uint32_t)h[3] << 8 | h[4];
        self->header_len = 0;
        self->broken = h[0] != RS_TAG_UINT32;
    }
}

static PyObject *ring_recv(PyObject *object, PyObject *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    if (!usable(self))
        return NULL;
    uint32_t n = rs_ring_available(&self->ring);
    if (n == UINT32_MAX || rs_ring_room(&self->ring) == UINT32_MAX) {
        self->broken = 1;
        PyErr_SetString(PyExc_ValueError, "the other half of the ring holds nonsense");
        return NULL;
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)self->inbox_len + n);
    if (!bytes)
        return NULL;
    uint8_t *to = (uint8_t *)PyBytes_AS_STRING(bytes);
    memcpy(to, self->inbox, self->inbox_len);
    if (n) {
        rs_ring_peek(&self->ring, 0, to + self->inbox_len, n);
        rs_ring_take(&self->ring, n);
        wake(self, RS_PARKED_ROOM);
    }
    follow(self, to, (uint64_t)self->inbox_len + n);
    PyMem_Free(self->inbox);
    self->inbox = NULL;
    self->inbox_len = self->inbox_room = 0;
    return bytes;
}

/* park(room) -> whether to sleep until the socket is readable. */
static PyObject *ring_park(PyObject *object, PyObject *arg) {
    Ring *self = (Ring *)object;
    int room = PyObject_IsTrue(arg);
    if (room < 0 || !usable(self))
        return NULL;
    self->parked = RS_PARKED_DATA | (room ? RS_PARKED_ROOM : 0);
    rs_ring_park(&self->ring, (uint32_t)self->parked);
    if (self->inbox_len || rs_ring_available(&self->ring) || (room && rs_ring_room(&self->ring))) {
        self->parked = 0;
        rs_ring_unpark(&self->ring);
        Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

static PyObject *ring_unpark(PyObject *object, PyObject *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    if (self->halves[0] && self->parked) {
        self->parked = 0;
        rs_ring_unpark(&self->ring);
    }
    Py_RETURN_NONE;
}

static PyObject *ring_take_id(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Ring *)object)->next_id++);
}

static PyObject *ring_take_skipped(PyObject *object, PyObject *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    uint64_t n = self->skipped;
    self->skipped = 0;
    return PyLong_FromUnsignedLongLong(n);
}

static PyObject *get_consumed(PyObject *object, void *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    uint32_t unread = 0;
    if (self->halves[0]) {
        uint32_t room = rs_ring_room(&self->ring);
        unread = room == UINT32_MAX ? 0 : self->ring.size - room;
    }
    return PyLong_FromUnsignedLongLong(self->written - unread);
}

static PyObject *get_ready(PyObject *object, void *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    return PyBool_FromLong(self->halves[0] &&
                           (self->inbox_len || rs_ring_available(&self->ring)));
}

static PyObject *get_last_id(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Ring *)object)->next_id - 1);
}

static PyObject *get_spin_us(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Ring *)object)->spin_ns / 1000);
}

static int set_spin_us(PyObject *object, PyObject *value, void *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    unsigned long us = value ? PyLong_AsUnsignedLong(value) : 0;
    if (us == (unsigned long)-1 && PyErr_Occurred())
        return -1;
    if (self->spin_ns != (uint64_t)us * 1000)
        self->spin_ns = self->limit_ns = (uint64_t)us * 1000;
    return 0;
}

static PyMethodDef ring_methods[] = {
    {"call", (PyCFunction)(void (*)(void))ring_call, METH_FASTCALL, NULL},
    {"exchange", ring_exchange, METH_VARARGS, NULL},
    {"batch", ring_batch, METH_VARARGS, NULL},
    {"send", ring_send, METH_O, NULL},
    {"recv", ring_recv, METH_NOARGS, NULL},
    {"park", ring_park, METH_O, NULL},
    {"unpark", ring_unpark, METH_NOARGS, NULL},
    {"take_id", ring_take_id, METH_NOARGS, NULL},
    {"take_skipped", ring_take_skipped, METH_NOARGS, NULL},
    {"close", ring_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef ring_getset[] = {
    {"consumed", get_consumed, NULL, NULL, NULL},
    {"ready", get_ready, NULL, NULL, NULL},
    {"last_id", get_last_id, NULL, NULL, NULL},
    {"spin_us", get_spin_us, set_spin_us, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef ring_members[] = {
    {"begun", T_ULONGLONG, offsetof(Ring, begun), READONLY, NULL},
    {"written", T_ULONGLONG, offsetof(Ring, written), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject ring_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._ring.Ring",
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = ring_init,
    .tp_dealloc = ring_dealloc,
    .tp_methods = ring_methods,
    .tp_getset = ring_getset,
    .tp_members = ring_members,
};

/* ---- batches ---- */

/* Room that grows. */
struct buffer {
    uint8_t *start, *p, *end;
};

static int make_room(struct buffer *b, size_t n) {
    if ((size_t)(b->end - b->p) >= n)
        return 1;
    size_t used = (size_t)(b->p - b->start), size = (used + n) * 2;
    uint8_t *more = PyMem_Realloc(b->start, size);
    if (!more)
        return 0;
    b->start = more;
    b->p = more + used;
    b->end = more + size;
    return 1;
}

/* An argument of a step: as of a call, or an earlier step of the same batch. */
static int put_step_argument(struct buffer *b, PyObject *batch, long self, PyObject *arg,
                             struct outs *outs) {
    size_t need = 32;
    if (Py_TYPE(arg) == class_in || Py_TYPE(arg) == class_inout) {
        PyObject *data = PyObject_GetAttr(arg, name_data);
        if (!data || !PyBytes_CheckExact(data)) {
            Py_XDECREF(data);
            PyErr_Clear();
            return 0;
        }
        need += (size_t)PyBytes_GET_SIZE(data);
        Py_DECREF(data);
    }
    if (!make_room(b, need))
        return 0;
    if (Py_TYPE(arg) != class_step)
        return put_argument(&b->p, b->end, arg, outs);
    PyObject *owner = PyObject_GetAttr(arg, name_batch);
    PyObject *index = PyObject_GetAttr(arg, name_index);
    long step = index ? PyLong_AsLong(index) : -1;
    int same = owner == batch && step >= 0 && step < self;
    Py_XDECREF(owner);
    Py_XDECREF(index);
    PyErr_Clear();
    if (!same)
        return 0;
    *b->p++ = 0xc7; /* ext 8: length, type */
    *b->p++ = 12;
    *b->p++ = RS_ARG_REF;
    uint32_t fields[3] = {(uint32_t)step, UINT32_MAX, 8};
    for (int i = 0; i < 3; i++)
        for (int shift = 24; shift >= 0; shift -= 8)
            *b->p++ = (uint8_t)(fields[i] >> shift);
    return 1;
}

/* The attributes of a step that must be plain: 1, or 0 if one is not, or an error. */
static int step_is_plain(PyObject *step, int *flags) {
    PyObject *ok = PyObject_GetAttr(step, name_ok), *undo = PyObject_GetAttr(step, name_undo);
    PyObject *on_error = PyObject_GetAttr(step, name_on_error);
    int plain = ok == Py_None && undo == Py_None && on_error;
    *flags = 0;
    if (plain && on_error != name_stop) {
        if (PyUnicode_Check(on_error) && PyUnicode_Compare(on_error, name_continue) == 0)
            *flags = RS_STEPFLAG_CONTINUE;
        else
            plain = PyUnicode_Check(on_error) && PyUnicode_Compare(on_error, name_stop) == 0;
    }
    Py_XDECREF(ok);
    Py_XDECREF(undo);
    Py_XDECREF(on_error);
    PyErr_Clear();
    return plain;
}

/* One step. 1, or 0 if others must encode it. */
static int put_step(struct buffer *b, PyObject *batch, long self, PyObject *step,
                    struct outs *outs) {
    int flags, done = 0;
    if (Py_TYPE(step) != class_step || !step_is_plain(step, &flags) || !make_room(b, 16))
        return 0;
    PyObject *number = PyObject_GetAttr(step, name_number), *args = PyObject_GetAttr(step, name_args);
    long long nr = number && PyLong_Check(number) ? PyLong_AsLongLong(number) : -1;
    if (nr >= 0 && nr <= INT32_MAX && args && PyTuple_CheckExact(args) &&
        PyTuple_GET_SIZE(args) <= MOST_ARGS) {
        Py_ssize_t n = PyTuple_GET_SIZE(args);
        *b->p++ = flags ? RS_FIXARRAY | 4 : RS_FIXARRAY | 2;
        b->p = rs_put_uint(b->p, (uint64_t)nr);
        *b->p++ = (uint8_t)(RS_FIXARRAY | n);
        done = 1;
        for (Py_ssize_t i = 0; done && i < n; i++)
            done = put_step_argument(b, batch, self, PyTuple_GET_ITEM(args, i), outs);
        if (done && flags && (done = make_room(b, 2))) {
            *b->p++ = 0xc0; /* ok: nil */
            *b->p++ = (uint8_t)flags;
        }
    }
    Py_XDECREF(number);
    Py_XDECREF(args);
    PyErr_Clear();
    return done;
}

/* What the outputs of a step may be: [(size, exact), ...]. */
static PyObject *describe_outs(const struct outs *outs) {
    PyObject *list = PyList_New(outs->count);
    for (uint32_t i = 0; list && i < outs->count; i++) {
        PyObject *pair = Py_BuildValue("(IO)", outs->size[i], outs->exact[i] ? Py_True : Py_False);
        if (!pair)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, pair);
    }
    return list;
}

/* encode_batch(batch, steps, flags) -> (frame, reserved, outs) | NotImplemented: the whole BATCH,
 * with id 0; what its reply may have at most; of each step what describe_outs says. */
static PyObject *encode_batch(PyObject *module, PyObject *args) {
    PyObject *batch, *steps, *none = NULL, *all = NULL, *result = NULL;
    unsigned int flags;
    struct buffer b = {NULL, NULL, NULL};
    (void)module;
    if (!PyArg_ParseTuple(args, "OO!I", &batch, &PyList_Type, &steps, &flags))
        return NULL;
    Py_ssize_t n = PyList_GET_SIZE(steps);
    uint64_t reserved = RS_SIZE_BATCH_BASE + RS_SIZE_BATCH_STEP * (uint64_t)n;
    none = PyList_New(0);
    all = PyList_New(n);
    int done = none && all && make_room(&b, 64 + 8 * (size_t)n);
    if (done) {
        b.p += RS_SIZE_HEADER;
        *b.p++ = RS_FIXARRAY | 5;
        *b.p++ = RS_MSG_BATCH;
        b.p = rs_put_be(b.p, RS_TAG_UINT64, 0, 8);
        *b.p++ = 0; /* descriptors */
        *b.p++ = (uint8_t)flags;
        b.p = rs_put_be(b.p, RS_TAG_ARRAY32, (uint64_t)n, 4);
    }
    for (Py_ssize_t i = 0; done && i < n; i++) {
        struct outs outs = {0, {0}, {0}};
        done = put_step(&b, batch, (long)i, PyList_GET_ITEM(steps, i), &outs);
        for (uint32_t k = 0; k < outs.count; k++)
            reserved += RS_SIZE_REPLY_OUT + outs.size[k];
        PyObject *described = outs.count ? describe_outs(&outs) : Py_NewRef(none);
        if (!described)
            done = 0;
        else
            PyList_SET_ITEM(all, i, described);
    }
    if (done) {
        rs_put_be(b.start, RS_TAG_UINT32, (uint64_t)(b.p - b.start) - RS_SIZE_HEADER, 4);
        PyObject *frame = PyByteArray_FromStringAndSize((char *)b.start, b.p - b.start);
        if (frame)
            result = Py_BuildValue("(NKO)", frame, (unsigned long long)reserved, all);
    } else if (!PyErr_Occurred()) {
        result = Py_NewRef(Py_NotImplemented);
    }
    PyMem_Free(b.start);
    Py_XDECREF(none);
    Py_XDECREF(all);
    return result;
}

/* ---- when to let others run: of all connections that a thread uses together ---- */

static _Thread_local uint64_t last_yield;

static PyObject *due(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyBool_FromLong(now_ns() - last_yield >= YIELD_NS);
}

static PyObject *yielded(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    last_yield = now_ns();
    Py_RETURN_NONE;
}

static PyObject *setup(PyObject *module, PyObject *args) {
    PyObject *in, *out, *ret, *inout;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!O!O!", &PyType_Type, &in, &PyType_Type, &out, &PyType_Type,
                          &ret, &PyType_Type, &inout))
        return NULL;
    class_in = (PyTypeObject *)Py_NewRef(in);
    class_out = (PyTypeObject *)Py_NewRef(out);
    class_ret = (PyTypeObject *)Py_NewRef(ret);
    class_inout = (PyTypeObject *)Py_NewRef(inout);
    Py_RETURN_NONE;
}

static PyObject *setup_batch(PyObject *module, PyObject *step) {
    (void)module;
    if (!PyType_Check(step)) {
        PyErr_SetString(PyExc_TypeError, "step: not a class");
        return NULL;
    }
    class_step = (PyTypeObject *)Py_NewRef(step);
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"encode_batch", encode_batch, METH_VARARGS, NULL},
    {"setup_batch", setup_batch, METH_O, NULL},
    {"due", due, METH_NOARGS, NULL},
    {"yielded", yielded, METH_NOARGS, NULL},
    {"setup", setup, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "rsyscall._ring", NULL, -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__ring(void);

PyMODINIT_FUNC PyInit__ring(void) {
    static const struct {
        PyObject **to;
        const char *name;
    } names[] = {
        {&name_data, "data"},         {&name_size, "size"},   {&name_batch, "batch"},
        {&name_index, "index"},       {&name_number, "number"}, {&name_args, "args"},
        {&name_ok, "ok"},             {&name_on_error, "on_error"}, {&name_undo, "undo"},
        {&name_stop, "stop"},         {&name_continue, "continue"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].to = PyUnicode_InternFromString(names[i].name)))
            return NULL;
    if (PyType_Ready(&ring_type) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&module_def);
    if (module && PyModule_AddObjectRef(module, "Ring", (PyObject *)&ring_type) < 0)
        Py_CLEAR(module);
    return module;
}
