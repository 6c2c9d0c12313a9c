/* Socket: the client's end of a connection over a socket. A call that is alone on its way is encoded
 * and sent in one piece, and its answer, if it comes alone too, is taken in one. What is not answered
 * at once trio waits for. */
#include "batch.h"

#include <errno.h>
#include <poll.h>
#include <structmember.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    ROOM = 65536,
    LOCKED_NS = 10000 /* looked for an answer with the interpreter's lock held */
};

typedef struct {
    PyObject_HEAD
    int fd; /* -1 once closed */
    uint32_t frame_limit;
    uint64_t next_id;
    uint64_t skipped;  /* bytes of whole frames that take() has not returned, since it was asked */
    int due;           /* the answer to the last request is all that may come */
    struct outs outs;  /* of that request, if it was a call */
    PyObject *steps;   /* the same of a batch; NULL for a call */
    int brief;
    struct patience patience, doze; /* to look again and again, and then to sleep here */
    PyObject *kept;    /* what take() returns first, if there is anything */
} Socket;

/* Used only with the interpreter's lock held, and by nothing that gives it up. */
static uint8_t out_bytes[ROOM], in_bytes[ROOM];

static int socket_init(PyObject *object, PyObject *args, PyObject *kwargs) {
    static char *names[] = {"fd", "frame_limit", "spin_us", NULL};
    Socket *self = (Socket *)object;
    unsigned int limit, spin_us;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "iII", names, &self->fd, &limit, &spin_us))
        return -1;
    self->frame_limit = limit;
    self->next_id = 1;
    patience_set(&self->patience, spin_us);
    patience_set(&self->doze, DOZE_US);
    return 0;
}

/* Forget what was kept: its descriptors are nobody's. */
static void drop_kept(Socket *self) {
    if (!self->kept)
        return;
    PyObject *fds = PyList_GET_ITEM(self->kept, 1);
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(fds); i++)
        close((int)PyLong_AsLong(PyList_GET_ITEM(fds, i)));
    Py_CLEAR(self->kept);
}

static void socket_dealloc(PyObject *object) {
    Py_CLEAR(((Socket *)object)->steps);
    drop_kept((Socket *)object);
    Py_TYPE(object)->tp_free(object);
}

/* The socket itself belongs to others. */
static PyObject *socket_close(PyObject *object, PyObject *unused) {
    Socket *self = (Socket *)object;
    (void)unused;
    self->fd = -1;
    self->due = 0;
    drop_kept(self);
    Py_CLEAR(self->steps);
    Py_RETURN_NONE;
}

/* The answer that is due, if these bytes are nothing but that. NULL otherwise, perhaps with an
 * exception. */
static PyObject *answer(Socket *self, const uint8_t *bytes, size_t n) {
    uint64_t id = self->next_id - 1;
    if (!self->due || n <= RS_SIZE_HEADER || bytes[0] != RS_TAG_UINT32)
        return NULL;
    uint32_t len = frame_length(bytes);
    if (len != n - RS_SIZE_HEADER || len > self->frame_limit)
        return NULL;
    const uint8_t *body = bytes + RS_SIZE_HEADER;
    return self->steps ? decode_batched(body, len, id, self->steps, self->brief)
                       : decode_result(body, len, id, &self->outs);
}

static PyObject *take_fds(struct msghdr *msg) {
    PyObject *list = PyList_New(0);
    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof fd, sizeof fd);
            PyObject *number = list ? PyLong_FromLong(fd) : NULL;
            if (!number || PyList_Append(list, number) < 0)
                close(fd); /* no memory: the exception is set, nobody else will close it */
            Py_XDECREF(number);
        }
    }
    return list;
}

static PyObject *take(Socket *self) {
    union {
        struct cmsghdr align;
        uint8_t bytes[CMSG_SPACE(RS_LIMIT_FDS_MAX * sizeof(int))];
    } control;
    struct iovec iov = {in_bytes, ROOM};
    struct msghdr msg = {.msg_iov = &iov,
                         .msg_iovlen = 1,
                         .msg_control = control.bytes,
                         .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(self->fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR)
            Py_RETURN_NONE;
        return Py_BuildValue("[y[]O]", "", Py_False); /* ECONNRESET: closed with bytes unread */
    }
    int truncated = msg.msg_flags & MSG_CTRUNC;
    if (!msg.msg_controllen && !truncated) {
        PyObject *result = answer(self, in_bytes, (size_t)n);
        if (result) {
            self->skipped += (uint64_t)n;
            self->due = 0;
            return result;
        }
        if (PyErr_Occurred())
            return NULL;
    }
    self->due = 0; /* from here on others look after it */
    PyObject *fds = take_fds(&msg);
    return fds ? Py_BuildValue("[y#NO]", (const char *)in_bytes, (Py_ssize_t)n, fds,
                               truncated ? Py_True : Py_False)
               : NULL;
}

/* take() -> the answer that is due, as decode_result() or decode_batched() say | None: nothing yet |
 * [data, fds, truncated]: what one read has brought otherwise, no data at the end. */
static PyObject *socket_take(PyObject *object, PyObject *unused) {
    Socket *self = (Socket *)object;
    PyObject *kept = self->kept;
    (void)unused;
    self->kept = NULL;
    return kept ? kept : take(self);
}

/* Wait a little for something to come: it is cheaper than trio's loop, if it does. */
static int await_answer(Socket *self) {
    /* Twice the spin of a ring: the other end is not looking, and has to be woken first. */
    uint64_t ns = 2 * patience_now(&self->patience), start = now_ns();
    struct pollfd fd = {self->fd, POLLIN, 0};
    int come = poll(&fd, 1, 0), looked = 0;
    PyThreadState *unlocked = NULL;
    while (!come) {
        uint64_t spent = now_ns() - start;
        if (spent >= ns)
            break;
        if (spent >= LOCKED_NS && !unlocked)
            unlocked = PyEval_SaveThread();
        come = poll(&fd, 1, 0);
        looked = 1;
    }
    if (unlocked)
        PyEval_RestoreThread(unlocked);
    if (!come || looked) /* what was there at once says nothing about looking */
        patience_learn(&self->patience, come > 0);
    ns = patience_now(&self->doze);
    if (!come && ns) {
        struct timespec time = {0, (long)ns};
        Py_BEGIN_ALLOW_THREADS
        come = ppoll(&fd, 1, &time, NULL);
        Py_END_ALLOW_THREADS
    }
    if (!come || ns)
        patience_learn(&self->doze, come > 0);
    return come > 0;
}

/* Send a frame and look a little for its answer. That; or None if it has not come yet; or what could
 * not be sent: whoever sends the rest will find out why. */
static PyObject *exchange_frame(Socket *self, const uint8_t *frame, size_t len) {
    ssize_t sent = send(self->fd, frame, len, MSG_DONTWAIT | MSG_NOSIGNAL);
    size_t n = sent < 0 ? 0 : (size_t)sent;
    if (n < len)
        return PyBytes_FromStringAndSize((const char *)frame + n, (Py_ssize_t)(len - n));
    self->due = 1;
    if (!await_answer(self) || self->fd < 0)
        Py_RETURN_NONE;
    PyObject *got = take(self);
    if (!got || !PyList_CheckExact(got))
        return got;
    self->kept = got;
    Py_RETURN_NONE;
}

/* call(number, *args) -> the answer, as decode_result() says | None: sent, not answered yet, its id is
 * last_id | the bytes that are still to be sent | NotImplemented: not sent, for a reason that others
 * will find. */
static PyObject *socket_call(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    Socket *self = (Socket *)object;
    struct outs outs = {0, {0}, {0}};
    if (self->fd < 0 || self->due || self->kept)
        Py_RETURN_NOTIMPLEMENTED;
    uint32_t len =
        encode_call(out_bytes, ROOM, self->next_id, self->frame_limit, args, nargs, &outs);
    if (!len)
        Py_RETURN_NOTIMPLEMENTED;
    self->next_id++;
    self->outs = outs;
    Py_CLEAR(self->steps);
    return exchange_frame(self, out_bytes, len);
}

/* batch(frame): the same for a Frame. */
static PyObject *socket_batch(PyObject *object, PyObject *arg) {
    Socket *self = (Socket *)object;
    Frame *frame = (Frame *)arg;
    if (Py_TYPE(arg) != &frame_type) {
        PyErr_SetString(PyExc_TypeError, "frame: not a Frame");
        return NULL;
    }
    if (self->fd < 0 || self->due || self->kept ||
        frame->len - RS_SIZE_HEADER > self->frame_limit || frame->reserved > self->frame_limit)
        Py_RETURN_NOTIMPLEMENTED;
    frame_set_id(frame, self->next_id++);
    Py_XSETREF(self->steps, Py_NewRef(frame->outs));
    self->brief = frame->brief;
    return exchange_frame(self, frame->bytes, frame->len);
}

/* Others look after the answer that is due, if one is. */
static PyObject *socket_disown(PyObject *object, PyObject *unused) {
    (void)unused;
    ((Socket *)object)->due = 0;
    Py_RETURN_NONE;
}

static PyObject *socket_take_id(PyObject *object, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Socket *)object)->next_id++);
}

static PyObject *socket_take_skipped(PyObject *object, PyObject *unused) {
    Socket *self = (Socket *)object;
    (void)unused;
    uint64_t n = self->skipped;
    self->skipped = 0;
    return PyLong_FromUnsignedLongLong(n);
}

static PyObject *get_last_id(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Socket *)object)->next_id - 1);
}

static PyObject *get_ready(PyObject *object, void *unused) {
    (void)unused;
    return PyBool_FromLong(((Socket *)object)->kept != NULL);
}

static PyObject *get_spin_us(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(((Socket *)object)->patience.most_ns / 1000);
}

static int set_spin_us(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    return patience_set_us(&((Socket *)object)->patience, value);
}

static PyMethodDef socket_methods[] = {
    {"call", (PyCFunction)(void (*)(void))socket_call, METH_FASTCALL, NULL},
    {"batch", socket_batch, METH_O, NULL},
    {"take", socket_take, METH_NOARGS, NULL},
    {"disown", socket_disown, METH_NOARGS, NULL},
    {"take_id", socket_take_id, METH_NOARGS, NULL},
    {"take_skipped", socket_take_skipped, METH_NOARGS, NULL},
    {"close", socket_close, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef socket_getset[] = {
    {"last_id", get_last_id, NULL, NULL, NULL},
    {"ready", get_ready, NULL, NULL, NULL},
    {"spin_us", get_spin_us, set_spin_us, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef socket_members[] = {
    {"frame_limit", T_UINT, offsetof(Socket, frame_limit), 0, NULL},
    {"due", T_INT, offsetof(Socket, due), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject socket_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Socket",
    .tp_basicsize = sizeof(Socket),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = PyType_GenericNew,
    .tp_init = socket_init,
    .tp_dealloc = socket_dealloc,
    .tp_methods = socket_methods,
    .tp_getset = socket_getset,
    .tp_members = socket_members,
};
