/* Memory of an address space that is mapped here as well: found and copied in one go.
 *
 * What was copied has pushed most else out of the caches that are near, Python's own code and data
 * among it; so it is worth much to do little besides. The interpreter's lock is held meanwhile:
 * nobody takes a range away while it is read. */
#include "here.h"

#include <stdint.h>
#include <string.h>

typedef struct {
    uint64_t start, length;
    char *here;
} Range;

typedef struct {
    PyObject_HEAD
    Range *ranges; /* by their starts */
    Py_ssize_t count, room;
} Here;

/* How many ranges begin at or before an address. */
static Py_ssize_t before(const Here *self, uint64_t address) {
    Py_ssize_t low = 0, high = self->count;
    while (low < high) {
        Py_ssize_t middle = low + (high - low) / 2;
        if (self->ranges[middle].start <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where these bytes are here, if all of them are; NULL if not, with an exception if that is what an
 * argument raised. What is no address at all is none of ours: the caller says what is wrong. */
static char *find(const Here *self, PyObject *address, Py_ssize_t length) {
    PyObject *number = PyNumber_Long(address);
    if (!number)
        return NULL;
    uint64_t at = PyLong_AsUnsignedLongLong(number);
    Py_DECREF(number);
    if (at == UINT64_MAX && PyErr_Occurred()) {
        if (PyErr_ExceptionMatches(PyExc_OverflowError))
            PyErr_Clear();
        return NULL;
    }
    Py_ssize_t i = before(self, at);
    if (!i || length <= 0)
        return NULL;
    const Range *range = &self->ranges[i - 1];
    uint64_t offset = at - range->start;
    if (offset > range->length || (uint64_t)length > range->length - offset)
        return NULL;
    return range->here + offset;
}

static int two(Py_ssize_t n) {
    if (n == 2)
        return 1;
    PyErr_SetString(PyExc_TypeError, "two arguments are wanted");
    return 0;
}

static PyObject *here_find(Here *self, PyObject *const *args, Py_ssize_t n) {
    if (!two(n))
        return NULL;
    Py_ssize_t length = PyLong_AsSsize_t(args[1]);
    if (length == -1 && PyErr_Occurred())
        return NULL;
    char *at = find(self, args[0], length);
    if (!at)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return PyLong_FromVoidPtr(at);
}

static PyObject *here_read(Here *self, PyObject *const *args, Py_ssize_t n) {
    if (!two(n))
        return NULL;
    Py_ssize_t length = PyLong_AsSsize_t(args[1]);
    if (length == -1 && PyErr_Occurred())
        return NULL;
    const char *from = length <= HERE_CHUNK ? find(self, args[0], length) : NULL;
    if (!from)
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    return PyBytes_FromStringAndSize(from, length);
}

/* 1 if it was copied, 0 if it is not here, -1 with an exception. */
static int copy(Here *self, PyObject *const *args, Py_ssize_t n, int out) {
    Py_buffer buffer;
    if (!two(n))
        return -1;
    if (PyObject_GetBuffer(args[1], &buffer, out ? PyBUF_SIMPLE : PyBUF_WRITABLE) < 0) {
        PyErr_Clear(); /* not writable, or not in one piece: the caller says so */
        return 0;
    }
    char *at = buffer.len <= HERE_CHUNK ? find(self, args[0], buffer.len) : NULL;
    if (at)
        memmove(out ? at : buffer.buf, out ? buffer.buf : at, (size_t)buffer.len);
    PyBuffer_Release(&buffer);
    return at ? 1 : PyErr_Occurred() ? -1 : 0;
}

static PyObject *here_fill(Here *self, PyObject *const *args, Py_ssize_t n) {
    int done = copy(self, args, n, 0);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *here_write(Here *self, PyObject *const *args, Py_ssize_t n) {
    int done = copy(self, args, n, 1);
    return done < 0 ? NULL : PyBool_FromLong(done);
}

static PyObject *here_add(Here *self, PyObject *args) {
    unsigned long long start, length, here;
    if (!PyArg_ParseTuple(args, "KKK", &start, &length, &here))
        return NULL;
    if (self->count == self->room) {
        Py_ssize_t room = 2 * self->room + 4;
        Range *ranges = PyMem_Realloc(self->ranges, (size_t)room * sizeof *ranges);
        if (!ranges)
            return PyErr_NoMemory();
        self->ranges = ranges;
        self->room = room;
    }
    Py_ssize_t i = before(self, start);
    memmove(self->ranges + i + 1, self->ranges + i, (size_t)(self->count - i) * sizeof(Range));
    self->ranges[i] = (Range){start, length, (char *)(uintptr_t)here};
    self->count++;
    Py_RETURN_NONE;
}

static PyObject *here_remove(Here *self, PyObject *start) {
    uint64_t at = PyLong_AsUnsignedLongLong(start);
    if (at == UINT64_MAX && PyErr_Occurred())
        return NULL;
    Py_ssize_t i = before(self, at);
    if (i && self->ranges[i - 1].start == at) {
        memmove(self->ranges + i - 1, self->ranges + i, (size_t)(self->count - i) * sizeof(Range));
        self->count--;
    }
    Py_RETURN_NONE;
}

static PyObject *here_clear(Here *self, PyObject *unused) {
    (void)unused;
    self->count = 0;
    Py_RETURN_NONE;
}

static void here_dealloc(Here *self) {
    PyMem_Free(self->ranges);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

#define METHOD(function) (PyCFunction)(void (*)(void))function

static PyMethodDef methods[] = {
    {"add", (PyCFunction)here_add, METH_VARARGS, NULL},
    {"remove", (PyCFunction)here_remove, METH_O, NULL},
    {"clear", (PyCFunction)here_clear, METH_NOARGS, NULL},
    {"find", METHOD(here_find), METH_FASTCALL, NULL},
    {"read", METHOD(here_read), METH_FASTCALL, NULL},
    {"fill", METHOD(here_fill), METH_FASTCALL, NULL},
    {"write", METHOD(here_write), METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject here_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Here",
    .tp_basicsize = sizeof(Here),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)here_dealloc,
    .tp_methods = methods,
};
