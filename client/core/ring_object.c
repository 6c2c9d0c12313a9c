/* Ring: the client's half of a call through a ring, in one piece: encode, publish, wake, spin, take
 * the answer. CPython's own interface and not cffi, since it can keep the interpreter's lock for the
 * first microseconds: a call that gives it up beside a busy thread waits for the switch interval to
 * get it back. */
#include "ring_object.h"

#include "batch.h"

#include <structmember.h>

enum { MOST_BATCH_US = 1000 };

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
    if (shared) {
        self->halves[0] = (void *)(uintptr_t)out;
        self->halves[1] = (void *)(uintptr_t)in;
    } else if (size >= 64 && size <= RS_SIZE_RING_MAX) {
        self->mapped = RS_SIZE_RING_HEADER + (Py_ssize_t)size;
        if (!(self->halves[0] = map_half((int)out, size, 1)) ||
            !(self->halves[1] = map_half((int)in, size, 0))) {
            close_ring(self);
            return -1;
        }
    }
    if (begin_ring(self, size, socket, next_id, frame_limit, spin_us) == 0)
        return 0;
    close_ring(self);
    return -1;
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

/* ---- one call ---- */

/* call(number, *args) -> result | (result, outputs) | None: sent, not answered yet, its id is
 * last_id | NotImplemented: not sent, for a reason that others will find. */
static PyObject *ring_call(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    Ring *self = (Ring *)object;
    struct outs outs = {0, {0}, {0}};
    struct wait w;
    PyObject *answer = NULL;
    if (!self->halves[0] || self->busy || !between_frames(self))
        Py_RETURN_NOTIMPLEMENTED;
    uint32_t len = encode_call(self->buffer, self->ring.size, self->next_id, self->frame_limit,
                               args, nargs, &outs);
    uint32_t room = len ? rs_ring_room(&self->ring) : 0;
    if (!len || room < len || room == UINT32_MAX)
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t id = self->next_id++;
    begin(self);
    publish(self, self->buffer, len);
    start_wait(self, &w, patience_now(&self->patience));
    uint32_t got = take_frame(self, &w);
    end_wait(self, &w);
    if (!got || w.looked)
        patience_learn(&self->patience, got != 0);
    if (!got && !self->broken && doze(self)) {
        start_wait(self, &w, 0);
        got = take_frame(self, &w);
        end_wait(self, &w);
    }
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

/* post(number, *args) -> whether it is sent, its id is last_id; nobody waits for the answer here. */
static PyObject *ring_post(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    Ring *self = (Ring *)object;
    struct outs outs = {0, {0}, {0}};
    if (!self->halves[0] || self->busy || !between_frames(self))
        Py_RETURN_FALSE;
    uint32_t len = encode_call(self->buffer, self->ring.size, self->next_id, self->frame_limit,
                               args, nargs, &outs);
    uint32_t room = len ? rs_ring_room(&self->ring) : 0;
    if (!len || room < len || room == UINT32_MAX)
        Py_RETURN_FALSE;
    self->next_id++;
    publish(self, self->buffer, len);
    Py_RETURN_TRUE;
}

static PyObject *ring_can_send(PyObject *object, PyObject *arg) {
    int can = can_send((Ring *)object, arg);
    return can < 0 ? NULL : PyBool_FromLong(can);
}

/* post_batch(frame) -> as post. */
PyObject *ring_post_batch(PyObject *object, PyObject *arg) {
    Ring *self = (Ring *)object;
    Frame *frame = (Frame *)arg;
    int can = can_send(self, arg);
    if (can <= 0)
        return can < 0 ? NULL : Py_NewRef(Py_False);
    frame_set_id(frame, self->next_id++);
    publish(self, frame->bytes, frame->len);
    Py_RETURN_TRUE;
}

/* Send a frame and wait for the one that answers it: that frame, or NULL, with an exception or
 * without; *sent is how much of it was written. What came is kept for recv(). */
static PyObject *exchange(Ring *self, const uint8_t *frame, uint32_t total, uint64_t id,
                          uint32_t spin_us, uint32_t *sent) {
    PyObject *answer = NULL;
    struct wait w;
    uint32_t got = 0, len = 0;
    uint64_t ns = patience_now(&self->patience), asked = (uint64_t)spin_us * 1000;
    int in_order = between_frames(self);
    *sent = 0;
    self->begun = self->written;
    begin(self);
    start_wait(self, &w, self->patience.most_ns && asked > ns ? asked : ns);
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
    int whole = *sent == total && in_order, dozed = 0;
    int there = whole && wait_for(self, &w, RS_SIZE_HEADER, 0) >= RS_SIZE_HEADER;
    if (whole && !there && !self->broken) {
        if (w.unlocked)
            PyEval_RestoreThread(w.unlocked);
        w.unlocked = NULL;
        dozed = doze(self);
        self->busy = 1;
        there = dozed && wait_for(self, &w, RS_SIZE_HEADER, 0) >= RS_SIZE_HEADER;
    }
    if (there) {
        uint8_t head[RS_SIZE_HEADER];
        rs_ring_peek(&self->ring, 0, head, RS_SIZE_HEADER);
        len = frame_length(head);
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
    if ((asked <= ns || answer) && w.looked)
        patience_learn(&self->patience, answer && got == len && !dozed);
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

/* For how long to wait for the reply of so many steps: twice as long as usual, but not so long that
 * trio's other tasks starve. */
static uint32_t batch_spin(const Ring *self, uint64_t steps) {
    uint64_t us = 2 * steps * self->step_ns / 1000;
    return us < MOST_BATCH_US ? (uint32_t)us : MOST_BATCH_US;
}

static PyObject *ring_spin_for(PyObject *object, PyObject *steps) {
    unsigned long n = PyLong_AsUnsignedLong(steps);
    if (n == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    return PyLong_FromUnsignedLong(batch_spin((Ring *)object, n));
}

/* batch(frame) -> Outcome | int: bytes sent, not answered yet, its id is last_id | NotImplemented:
 * not sent, for a reason that others will find. */
static PyObject *ring_batch(PyObject *object, PyObject *arg) {
    Ring *self = (Ring *)object;
    Frame *frame = (Frame *)arg;
    uint32_t sent;
    if (Py_TYPE(arg) != &frame_type) {
        PyErr_SetString(PyExc_TypeError, "frame: not a Frame");
        return NULL;
    }
    if (!self->halves[0] || self->busy || !between_frames(self) ||
        frame->len - RS_SIZE_HEADER > self->frame_limit || frame->reserved > self->frame_limit)
        Py_RETURN_NOTIMPLEMENTED;
    uint64_t id = self->next_id++, steps = (uint64_t)PyList_GET_SIZE(frame->outs);
    frame_set_id(frame, id);
    uint64_t start = now_ns();
    PyObject *answer = exchange(self, frame->bytes, frame->len, id, batch_spin(self, steps), &sent);
    if (steps)
        self->step_ns += ((int64_t)((now_ns() - start) / steps) - self->step_ns) / 8;
    if (!answer)
        return PyErr_Occurred() ? NULL : PyLong_FromUnsignedLong(sent);
    const uint8_t *reply = (const uint8_t *)PyBytes_AS_STRING(answer);
    uint32_t size = (uint32_t)PyBytes_GET_SIZE(answer);
    PyObject *result = decode_batched(reply + RS_SIZE_HEADER, size - RS_SIZE_HEADER, id, frame->outs,
                                      frame->brief);
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
        self->left = frame_length(h);
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
    if (self->inbox_len)
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
    /* Nonsense is something to look at, too. */
    return PyBool_FromLong(self->halves[0] &&
                           (self->inbox_len || rs_ring_available(&self->ring) ||
                            rs_ring_room(&self->ring) == UINT32_MAX));
}

static PyObject *get_last_id(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Ring *)object)->next_id - 1);
}

static PyObject *get_spin_us(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Ring *)object)->patience.most_ns / 1000);
}

static int set_spin_us(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    return patience_set_us(&((Ring *)object)->patience, value);
}

static PyMethodDef ring_methods[] = {
    {"call", (PyCFunction)(void (*)(void))ring_call, METH_FASTCALL, NULL},
    {"post", (PyCFunction)(void (*)(void))ring_post, METH_FASTCALL, NULL},
    {"can_send", ring_can_send, METH_O, NULL},
    {"post_batch", ring_post_batch, METH_O, NULL},
    {"exchange", ring_exchange, METH_VARARGS, NULL},
    {"batch", ring_batch, METH_O, NULL},
    {"spin_for", ring_spin_for, METH_O, NULL},
    {"send", ring_send, METH_O, NULL},
    {"recv", ring_recv, METH_NOARGS, NULL},
    {"park", ring_park, METH_O, NULL},
    {"unpark", ring_unpark, METH_NOARGS, NULL},
    {"take_socket", ring_take_socket, METH_NOARGS, NULL},
    {"post_exec", (PyCFunction)(void (*)(void))ring_post_exec, METH_FASTCALL, NULL},
    {"sleep_until_end", ring_sleep_until_end, METH_O, NULL},
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
    {"rung", T_INT, offsetof(Ring, rung), 0, NULL},
    {"begun", T_ULONGLONG, offsetof(Ring, begun), READONLY, NULL},
    {"written", T_ULONGLONG, offsetof(Ring, written), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject ring_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Ring",
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = ring_init,
    .tp_dealloc = ring_dealloc,
    .tp_methods = ring_methods,
    .tp_getset = ring_getset,
    .tp_members = ring_members,
};
