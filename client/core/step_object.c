/* Calls as they are declared, and steps of batches: what stands for results before there are any. */
#include "batch.h"

#include <structmember.h>

PyObject *batch_error, *step_output;

static PyObject *generic(PyObject *type, PyObject *item) {
    return Py_GenericAlias(type, item);
}

PyTypeObject placeholder_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall.near.sysif.Placeholder",
    .tp_doc = "An argument that is known only when a batch runs: what a step returns, or a parameter.",
    .tp_basicsize = sizeof(PyObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
};

/* ---- the ledger ---- */

static int ledger_traverse(PyObject *object, visitproc visit, void *arg) {
    Py_VISIT(((Ledger *)object)->result);
    return 0;
}

static int ledger_clear(PyObject *object) {
    Py_CLEAR(((Ledger *)object)->result);
    return 0;
}

static void ledger_dealloc(PyObject *object) {
    PyObject_GC_UnTrack(object);
    ledger_clear(object);
    Py_TYPE(object)->tp_free(object);
}

PyTypeObject ledger_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Ledger",
    .tp_basicsize = sizeof(Ledger),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = ledger_traverse,
    .tp_clear = ledger_clear,
    .tp_dealloc = ledger_dealloc,
};

/* ---- typed calls ---- */

static int truth(PyObject *value, char *to) {
    int true = PyObject_IsTrue(value);
    *to = true > 0;
    return true < 0 ? -1 : 0;
}

/* TypedCall(number, args, convert, *, outs=False, handle=False) */
static PyObject *call_new(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *names) {
    char outs = 0, handle = 0;
    (void)type;
    if (PyVectorcall_NARGS(nargsf) != 3 || !PyTuple_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "a TypedCall is of a number, a tuple and a conversion");
        return NULL;
    }
    for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        int is_outs = PyUnicode_CompareWithASCIIString(name, "outs") == 0;
        if (!is_outs && PyUnicode_CompareWithASCIIString(name, "handle") != 0) {
            PyErr_Format(PyExc_TypeError, "a TypedCall has no %R", name);
            return NULL;
        }
        if (truth(args[3 + i], is_outs ? &outs : &handle) < 0)
            return NULL;
    }
    TypedCall *self = PyObject_GC_New(TypedCall, &call_type);
    if (!self)
        return NULL;
    self->number = Py_NewRef(args[0]);
    self->args = Py_NewRef(args[1]);
    self->convert = Py_NewRef(args[2]);
    self->outs = outs;
    self->handle = handle;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

static int call_traverse(PyObject *object, visitproc visit, void *arg) {
    TypedCall *self = (TypedCall *)object;
    Py_VISIT(self->number);
    Py_VISIT(self->args);
    Py_VISIT(self->convert);
    return 0;
}

static int call_clear(PyObject *object) {
    TypedCall *self = (TypedCall *)object;
    Py_CLEAR(self->number);
    Py_CLEAR(self->args);
    Py_CLEAR(self->convert);
    return 0;
}

static void call_dealloc(PyObject *object) {
    PyObject_GC_UnTrack(object);
    call_clear(object);
    PyObject_GC_Del(object);
}

static PyObject *call_get_args(PyObject *object, void *unused) {
    (void)unused;
    PyObject *args = ((TypedCall *)object)->args;
    return Py_NewRef(args ? args : Py_None);
}

static int call_set_args(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    if (!value || !PyTuple_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "args: not a tuple");
        return -1;
    }
    Py_XSETREF(((TypedCall *)object)->args, Py_NewRef(value));
    return 0;
}

static PyGetSetDef call_getset[] = {
    {"args", call_get_args, call_set_args, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef call_members[] = {
    {"number", T_OBJECT, offsetof(TypedCall, number), READONLY, NULL},
    {"convert", T_OBJECT, offsetof(TypedCall, convert), READONLY, NULL},
    {"outs", T_BOOL, offsetof(TypedCall, outs), READONLY, NULL},
    {"handle", T_BOOL, offsetof(TypedCall, handle), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef call_methods[] = {
    {"__class_getitem__", generic, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject call_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall.near.typed.TypedCall",
    .tp_doc = "One call: number, arguments, and how the result becomes a value.\n\n"
              "outs: whether it has outputs. handle: whether the value is a handle, which must exist\n"
              "even if nobody asks for the value, so that what it stands for is not forgotten.",
    .tp_basicsize = sizeof(TypedCall),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .tp_vectorcall = call_new,
    .tp_traverse = call_traverse,
    .tp_clear = call_clear,
    .tp_dealloc = call_dealloc,
    .tp_methods = call_methods,
    .tp_getset = call_getset,
    .tp_members = call_members,
};

/* ---- steps ---- */

static int step_traverse(PyObject *object, visitproc visit, void *arg) {
    Step *self = (Step *)object;
    Py_VISIT(self->ledger);
    Py_VISIT(self->number);
    Py_VISIT(self->args);
    Py_VISIT(self->ok);
    Py_VISIT(self->on_error);
    Py_VISIT(self->undo);
    Py_VISIT(self->call);
    return 0;
}

/* Only what may be part of a circle: the rest is never missing. */
static int step_clear(PyObject *object) {
    Step *self = (Step *)object;
    Py_XSETREF(self->args, PyTuple_New(0));
    Py_XSETREF(self->ok, Py_NewRef(Py_None));
    Py_XSETREF(self->undo, Py_NewRef(Py_None));
    Py_XSETREF(self->call, Py_NewRef(Py_None));
    return 0;
}

static void step_dealloc(PyObject *object) {
    Step *self = (Step *)object;
    PyObject_GC_UnTrack(object);
    Py_XDECREF(self->ledger);
    Py_XDECREF(self->number);
    Py_XDECREF(self->args);
    Py_XDECREF(self->ok);
    Py_XDECREF(self->on_error);
    Py_XDECREF(self->undo);
    Py_XDECREF(self->call);
    PyObject_GC_Del(object);
}

static PyObject *step_repr(PyObject *object) {
    return PyUnicode_FromFormat("<result of step %zd>", ((Step *)object)->index);
}

static PyObject *result_of(Step *self) {
    PyObject *result = self->ledger->result;
    if (!result)
        PyErr_SetString(batch_error, "the batch has not run");
    return result;
}

static PyObject *step_value(PyObject *object, void *unused) {
    (void)unused;
    PyObject *result = Py_XNewRef(result_of((Step *)object));
    PyObject *value = result ? PyObject_GetItem(result, object) : NULL;
    Py_XDECREF(result);
    return value;
}

/* Of the results what the method of that name says. */
static PyObject *step_ask(PyObject *object, void *name) {
    PyObject *result = Py_XNewRef(result_of((Step *)object));
    PyObject *value = result ? PyObject_CallMethod(result, name, "O", object) : NULL;
    Py_XDECREF(result);
    return value;
}

static PyObject *step_int_at(PyObject *object, PyObject *offset) {
    return PyObject_CallFunctionObjArgs(step_output, object, offset, NULL);
}

static PyObject *step_get_args(PyObject *object, void *unused) {
    (void)unused;
    return Py_NewRef(((Step *)object)->args);
}

static int step_set_args(PyObject *object, PyObject *value, void *unused) {
    (void)unused;
    if (!value || !PyTuple_CheckExact(value)) {
        PyErr_SetString(PyExc_TypeError, "args: not a tuple");
        return -1;
    }
    Py_SETREF(((Step *)object)->args, Py_NewRef(value));
    return 0;
}

static PyGetSetDef step_getset[] = {
    {"args", step_get_args, step_set_args, NULL, NULL},
    {"value", step_value, NULL,
     "What the call returned, as its method would have; the OSError it failed with, raised.\n\n"
     "BatchError if it was not done, or was undone, or the batch has not run.", NULL},
    {"result", step_ask, NULL,
     "The number that the call returned, -errno if it failed; BatchError as for value.", "number"},
    {"outs", step_ask, NULL,
     "The outputs of the call, in the order of its arguments; BatchError as for value.", "outs"},
    {"status", step_ask, NULL, "What became of it; BatchError if the batch has not run.", "status"},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef step_members[] = {
    {"ledger", T_OBJECT, offsetof(Step, ledger), READONLY, NULL},
    {"index", T_PYSSIZET, offsetof(Step, index), READONLY, NULL},
    {"closed_by", T_PYSSIZET, offsetof(Step, closed_by), READONLY, NULL},
    {"number", T_OBJECT, offsetof(Step, number), READONLY, NULL},
    {"ok", T_OBJECT, offsetof(Step, ok), READONLY, NULL},
    {"on_error", T_OBJECT, offsetof(Step, on_error), READONLY, NULL},
    {"undo", T_OBJECT, offsetof(Step, undo), READONLY, NULL},
    {"call", T_OBJECT, offsetof(Step, call), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

static PyMethodDef step_methods[] = {
    {"int_at", step_int_at, METH_O,
     "int_at($self, offset, /)\n--\n\n"
     "The int of four bytes at an offset in bytes of the step's first output, for later steps.\n\n"
     "The output must be an Out or InOut."},
    {"__class_getitem__", generic, METH_O | METH_CLASS, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject step_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall.batch.step.Step",
    .tp_doc = "One call of a batch: its result, for later steps and once the batch has run.\n\n"
              "index: its place, from 0. number, args: the call. ledger: which batch that is.",
    .tp_base = &placeholder_type,
    .tp_basicsize = sizeof(Step),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = step_traverse,
    .tp_clear = step_clear,
    .tp_dealloc = step_dealloc,
    .tp_repr = step_repr,
    .tp_methods = step_methods,
    .tp_getset = step_getset,
    .tp_members = step_members,
};
