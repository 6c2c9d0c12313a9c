/* Frame: a whole BATCH, encoded from the steps of rsyscall.batch, or a RUN. */
#include "batch.h"

#include <structmember.h>

/* Room that grows. */
struct buffer {
    uint8_t *start, *p, *end;
};

static int make_room(struct buffer *b, size_t n) {
    if ((size_t)(b->end - b->p) >= n)
        return 1;
    size_t used = (size_t)(b->p - b->start), size = (used + n) * 2;
    uint8_t *more = PyMem_Realloc(b->start, size);
    if (!more) {
        PyErr_NoMemory();
        return 0;
    }
    b->start = more;
    b->p = more + used;
    b->end = more + size;
    return 1;
}

/* [type, id, descriptors, ... */
static int begin(struct buffer *b, size_t n, int fields, int type, uint32_t fds) {
    if (!make_room(b, 64 + n))
        return 0;
    b->p += RS_SIZE_HEADER;
    *b->p++ = (uint8_t)(RS_FIXARRAY | fields);
    *b->p++ = (uint8_t)type;
    b->p = rs_put_be(b->p, RS_TAG_UINT64, 0, 8);
    b->p = rs_put_uint(b->p, fds);
    return 1;
}

/* What is in the buffer as a frame, which takes that over. */
static PyObject *finish(struct buffer *b, uint64_t reserved, PyObject *outs, int brief) {
    size_t len = (size_t)(b->p - b->start);
    if (len > UINT32_MAX)
        return Py_NewRef(Py_NotImplemented);
    Frame *self = PyObject_New(Frame, &frame_type);
    if (!self)
        return NULL;
    rs_put_be(b->start, RS_TAG_UINT32, len - RS_SIZE_HEADER, 4);
    self->bytes = b->start;
    self->len = (uint32_t)len;
    self->brief = (char)brief;
    self->reserved = reserved;
    self->outs = Py_NewRef(outs);
    b->start = NULL;
    return (PyObject *)self;
}

/* ---- steps ---- */

/* A descriptor that travels with the frame. */
static int put_fd(struct buffer *b, PyObject *arg, uint32_t fds) {
    PyObject *index = record_field(arg);
    if (!index || !PyLong_Check(index))
        return 0;
    long n = PyLong_AsLong(index);
    PyErr_Clear();
    if (n < 0 || n >= (long)fds || n > UINT8_MAX)
        return 0;
    *b->p++ = 0xd4; /* ext of one byte */
    *b->p++ = RS_ARG_FD;
    *b->p++ = (uint8_t)n;
    return 1;
}

/* An argument of a step: as of a call, or an earlier step of the same batch. */
static int put_step_argument(struct buffer *b, const Step *self, PyObject *arg, struct outs *outs,
                             uint32_t fds) {
    size_t need = 32;
    if (Py_TYPE(arg) == class_in || Py_TYPE(arg) == class_inout) {
        PyObject *data = record_field(arg);
        if (!data || !PyBytes_CheckExact(data))
            return 0;
        need += (size_t)PyBytes_GET_SIZE(data);
    }
    if (!make_room(b, need))
        return 0;
    if (Py_TYPE(arg) == class_fd)
        return put_fd(b, arg, fds);
    if (Py_TYPE(arg) != &step_type)
        return put_argument(&b->p, b->end, arg, outs);
    const Step *other = (Step *)arg;
    if (other->ledger != self->ledger || other->index >= self->index)
        return 0;
    *b->p++ = 0xc7; /* ext 8: length, type */
    *b->p++ = 12;
    *b->p++ = RS_ARG_REF;
    uint32_t fields[3] = {(uint32_t)other->index, UINT32_MAX, 8};
    for (int i = 0; i < 3; i++)
        for (int shift = 24; shift >= 0; shift -= 8)
            *b->p++ = (uint8_t)(fields[i] >> shift);
    return 1;
}

/* Whether a step needs no more than its call, and the flags it has. */
static int step_is_plain(const Step *step, int *flags) {
    *flags = 0;
    if (step->ok != Py_None || step->undo != Py_None)
        return 0;
    if (step->on_error == name_stop)
        return 1;
    if (!PyUnicode_Check(step->on_error))
        return 0;
    if (PyUnicode_Compare(step->on_error, name_continue) == 0)
        *flags = RS_STEPFLAG_CONTINUE;
    else if (PyUnicode_Compare(step->on_error, name_stop) != 0)
        return 0;
    return 1;
}

/* One step. 1, or 0 if others must encode it. */
static int put_step(struct buffer *b, const Step *step, struct outs *outs, uint32_t fds) {
    int flags;
    if (!step_is_plain(step, &flags) || !PyLong_Check(step->number) || !make_room(b, 16))
        return 0;
    int overflow;
    long long nr = PyLong_AsLongLongAndOverflow(step->number, &overflow);
    Py_ssize_t n = PyTuple_GET_SIZE(step->args);
    if (nr < 0 || nr > INT32_MAX || n > MOST_ARGS)
        return 0;
    *b->p++ = flags ? RS_FIXARRAY | 4 : RS_FIXARRAY | 2;
    b->p = rs_put_uint(b->p, (uint64_t)nr);
    *b->p++ = (uint8_t)(RS_FIXARRAY | n);
    for (Py_ssize_t i = 0; i < n; i++)
        if (!put_step_argument(b, step, PyTuple_GET_ITEM(step->args, i), outs, fds))
            return 0;
    if (flags) {
        if (!make_room(b, 2))
            return 0;
        *b->p++ = 0xc0; /* ok: nil */
        *b->p++ = (uint8_t)flags;
    }
    return 1;
}

/* What the outputs of a step may be: [(size, exact), ...]. */
static PyObject *describe_outs(const struct outs *outs) {
    PyObject *list = PyList_New(outs->count);
    for (uint32_t i = 0; list && i < outs->count; i++) {
        PyObject *size = PyLong_FromUnsignedLong(outs->size[i]);
        PyObject *pair = size ? PyTuple_Pack(2, size, outs->exact[i] ? Py_True : Py_False) : NULL;
        Py_XDECREF(size);
        if (!pair)
            Py_CLEAR(list);
        else
            PyList_SET_ITEM(list, i, pair);
    }
    return list;
}

PyObject *encode_batch(StepList *self, uint32_t fds) {
    struct buffer b = {NULL, NULL, NULL};
    PyObject *result = NULL, *none = NULL;
    Py_ssize_t n = PyList_GET_SIZE(self->steps);
    uint64_t reserved = RS_SIZE_BATCH_BASE + RS_SIZE_BATCH_STEP * (uint64_t)n;
    PyObject *all = PyList_New(n);
    int done = all && begin(&b, 8 * (size_t)n, 5, RS_MSG_BATCH, fds);
    if (done) {
        *b.p++ = self->brief ? RS_BATCHFLAG_BRIEF : 0;
        b.p = rs_put_be(b.p, RS_TAG_ARRAY32, (uint64_t)n, 4);
    }
    for (Py_ssize_t i = 0; done && i < n && i < PyList_GET_SIZE(self->steps); i++) {
        struct outs outs = {0, {0}, {0}};
        PyObject *step = Py_NewRef(PyList_GET_ITEM(self->steps, i)), *described = NULL;
        done = Py_TYPE(step) == &step_type && put_step(&b, (Step *)step, &outs, fds);
        Py_DECREF(step);
        for (uint32_t k = 0; k < outs.count; k++)
            reserved += RS_SIZE_REPLY_OUT + outs.size[k];
        if (outs.count)
            described = describe_outs(&outs);
        else if (none || (none = PyList_New(0)))
            described = Py_NewRef(none);
        if (described)
            PyList_SET_ITEM(all, i, described);
        else
            done = 0;
    }
    if (done && n == PyList_GET_SIZE(self->steps))
        result = finish(&b, reserved, all, self->brief);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_NotImplemented);
    PyMem_Free(b.start);
    Py_XDECREF(none);
    Py_XDECREF(all);
    return result;
}

/* ---- runs ---- */

/* encode_run(number, args, outs, reserved, brief) -> Frame | NotImplemented: args are numbers or
 * bytes, the rest is as it was prepared. */
PyObject *encode_run(PyObject *module, PyObject *args) {
    struct buffer b = {NULL, NULL, NULL};
    PyObject *values, *outs, *result = NULL;
    unsigned int number;
    unsigned long long reserved;
    int brief;
    (void)module;
    if (!PyArg_ParseTuple(args, "IO!O!Kp", &number, &PyList_Type, &values, &PyList_Type, &outs,
                          &reserved, &brief))
        return NULL;
    Py_ssize_t n = PyList_GET_SIZE(values);
    int done = begin(&b, 0, 5, RS_MSG_RUN, 0);
    if (done) {
        b.p = rs_put_uint(b.p, number);
        b.p = rs_put_be(b.p, RS_TAG_ARRAY32, (uint64_t)n, 4);
    }
    for (Py_ssize_t i = 0; done && i < n; i++) {
        PyObject *value = PyList_GET_ITEM(values, i);
        uint32_t len;
        if (PyBytes_CheckExact(value))
            done = make_room(&b, 16 + (size_t)PyBytes_GET_SIZE(value)) &&
                   put_bytes(&b.p, b.end, value, RS_ARG_IN, &len);
        else
            done = PyLong_Check(value) && make_room(&b, 16) && put_number(&b.p, b.end, value);
    }
    if (done)
        result = finish(&b, reserved, outs, brief);
    else if (!PyErr_Occurred())
        result = Py_NewRef(Py_NotImplemented);
    PyMem_Free(b.start);
    return result;
}

/* ---- the object ---- */

void frame_set_id(Frame *frame, uint64_t id) {
    rs_put_be(frame->bytes + ID_AT - 1, RS_TAG_UINT64, id, 8);
}

static void frame_dealloc(PyObject *object) {
    PyMem_Free(((Frame *)object)->bytes);
    Py_DECREF(((Frame *)object)->outs);
    PyObject_Free(object);
}

static PyObject *frame_data(PyObject *object, PyObject *id) {
    Frame *self = (Frame *)object;
    unsigned long long number = PyLong_AsUnsignedLongLong(id);
    if (number == (unsigned long long)-1 && PyErr_Occurred())
        return NULL;
    frame_set_id(self, number);
    return PyByteArray_FromStringAndSize((const char *)self->bytes, self->len);
}

static Py_ssize_t frame_len(PyObject *object) {
    return ((Frame *)object)->len;
}

static PyObject *frame_steps(PyObject *object, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(PyList_GET_SIZE(((Frame *)object)->outs));
}

static PySequenceMethods frame_sequence = {.sq_length = frame_len};

static PyMethodDef frame_methods[] = {
    {"data", frame_data, METH_O, "All of it, with this id."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef frame_getset[] = {
    {"steps", frame_steps, NULL, "How many steps it has, or the batch that it runs.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef frame_members[] = {
    {"outs", T_OBJECT, offsetof(Frame, outs), READONLY, NULL},
    {"reserved", T_ULONGLONG, offsetof(Frame, reserved), READONLY, NULL},
    {"brief", T_BOOL, offsetof(Frame, brief), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject frame_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Frame",
    .tp_doc = "A BATCH or RUN ready to be sent, but for its id.",
    .tp_basicsize = sizeof(Frame),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = frame_dealloc,
    .tp_as_sequence = &frame_sequence,
    .tp_methods = frame_methods,
    .tp_getset = frame_getset,
    .tp_members = frame_members,
};
