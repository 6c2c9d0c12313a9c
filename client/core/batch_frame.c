/* Whole batches, encoded from the steps of rsyscall.batch. */
#include "wire.h"

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
    PyObject *owner = PyObject_GetAttr(arg, name_ledger);
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
PyObject *encode_batch(PyObject *module, PyObject *args) {
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
