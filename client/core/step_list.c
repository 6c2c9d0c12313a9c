/* Collecting the steps of a batch. */
#include "batch.h"

#include <structmember.h>
#include <sys/syscall.h>

static uint64_t last_key;

static PyObject *list_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args;
    (void)kwargs; /* for the constructors of the classes made from this */
    StepList *self = (StepList *)type->tp_alloc(type, 0);
    if (!self)
        return NULL;
    self->steps = PyList_New(0);
    self->ledger = PyObject_GC_New(Ledger, &ledger_type);
    if (self->ledger) {
        self->ledger->key = ++last_key;
        self->ledger->result = NULL;
        PyObject_GC_Track(self->ledger);
    }
    if (!self->steps || !self->ledger)
        Py_CLEAR(self);
    return (PyObject *)self;
}

/* BoundBatch(task, *, brief=False), at a third of the time that its __init__ takes. */
PyObject *new_bound(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *names) {
    Py_ssize_t n = PyVectorcall_NARGS(nargsf), named = names ? PyTuple_GET_SIZE(names) : 0;
    int brief = 0;
    if (n != 1 || named > 1 ||
        (named && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, 0), "brief") != 0))
        return call_type_slowly(type, args, n, names);
    if (named && (brief = PyObject_IsTrue(args[1])) < 0)
        return NULL;
    StepList *self = (StepList *)list_new((PyTypeObject *)type, NULL, NULL);
    if (self) {
        self->task = Py_NewRef(args[0]);
        self->brief = (char)brief;
    }
    return (PyObject *)self;
}

static int list_traverse(PyObject *object, visitproc visit, void *arg) {
    StepList *self = (StepList *)object;
    Py_VISIT(self->ledger);
    Py_VISIT(self->steps);
    Py_VISIT(self->task);
    for (int i = 0; i < LAZY; i++)
        Py_VISIT(self->lazy[i]);
    return 0;
}

static int list_clear(PyObject *object) {
    StepList *self = (StepList *)object;
    for (int i = 0; i < LAZY; i++)
        Py_CLEAR(self->lazy[i]);
    Py_CLEAR(self->task);
    return 0;
}

static void list_dealloc(PyObject *object) {
    StepList *self = (StepList *)object;
    PyObject_GC_UnTrack(object);
    list_clear(object);
    Py_XDECREF(self->steps);
    Py_XDECREF(self->ledger);
    Py_TYPE(object)->tp_free(object);
}

/* What is made only when it is needed. */
static PyObject *lazy(StepList *self, enum lazy which) {
    if (self->lazy[which])
        return self->lazy[which];
    switch (which) {
    case END_CLOSERS:
    case LENGTHS:
        self->lazy[which] = PyDict_New();
        break;
    case GONE:
        self->lazy[which] = PySet_New(NULL);
        break;
    default:
        self->lazy[which] = PyList_New(0);
    }
    return self->lazy[which];
}

static PyObject *get_lazy(PyObject *object, void *which) {
    return Py_XNewRef(lazy((StepList *)object, (enum lazy)(intptr_t)which));
}

/* ---- adding ---- */

struct options {
    PyObject *ok, *on_error, *undo;
};

static int take_options(struct options *o, PyObject *const *values, PyObject *names) {
    o->ok = o->undo = Py_None;
    o->on_error = name_stop;
    for (Py_ssize_t i = 0; names && i < PyTuple_GET_SIZE(names); i++) {
        PyObject *name = PyTuple_GET_ITEM(names, i);
        PyObject **to = PyUnicode_Compare(name, name_ok) == 0         ? &o->ok
                        : PyUnicode_Compare(name, name_on_error) == 0 ? &o->on_error
                        : PyUnicode_Compare(name, name_undo) == 0     ? &o->undo
                                                                      : NULL;
        if (!to) {
            PyErr_Format(PyExc_TypeError, "a step has no option %R", name);
            return -1;
        }
        *to = values[i];
    }
    return 0;
}

/* A step at the end of the list; takes over args. A borrowed reference. */
static Step *append(StepList *self, PyObject *number, PyObject *args, const struct options *o,
                    PyObject *call) {
    Step *step = args ? PyObject_GC_New(Step, &step_type) : NULL;
    if (!step) {
        Py_XDECREF(args);
        return NULL;
    }
    step->ledger = (Ledger *)Py_NewRef(self->ledger);
    step->index = PyList_GET_SIZE(self->steps);
    step->number = Py_NewRef(number);
    step->args = args;
    step->ok = Py_NewRef(o->ok);
    step->on_error = Py_NewRef(o->on_error);
    step->undo = Py_NewRef(o->undo);
    step->call = Py_NewRef(call);
    step->closed_by = -1;
    PyObject_GC_Track(step);
    int failed = PyList_Append(self->steps, (PyObject *)step);
    Py_DECREF(step);
    return failed ? NULL : step;
}

static PyObject *list_add(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                          PyObject *names) {
    StepList *self = (StepList *)object;
    struct options o;
    if (nargs != 1 || Py_TYPE(args[0]) != &call_type) {
        PyErr_SetString(PyExc_TypeError, "call: not a TypedCall");
        return NULL;
    }
    if (take_options(&o, args + 1, names) < 0)
        return NULL;
    TypedCall *call = (TypedCall *)args[0];
    Step *step = append(self, call->number, Py_NewRef(call->args), &o, args[0]);
    if (!step)
        return NULL;
    if (call->handle) {
        PyObject *makers = lazy(self, MAKERS);
        if (!makers || PyList_Append(makers, (PyObject *)step) < 0)
            return NULL;
    }
    return Py_NewRef(step);
}

static PyObject *list_syscall(PyObject *object, PyObject *const *args, Py_ssize_t nargs,
                              PyObject *names) {
    struct options o;
    if (nargs < 1) {
        PyErr_SetString(PyExc_TypeError, "number: missing");
        return NULL;
    }
    if (take_options(&o, args + nargs, names) < 0)
        return NULL;
    PyObject *rest = PyTuple_New(nargs - 1);
    for (Py_ssize_t i = 1; rest && i < nargs; i++)
        PyTuple_SET_ITEM(rest, i - 1, Py_NewRef(args[i]));
    Step *step = append((StepList *)object, args[0], rest, &o, Py_None);
    if (step && nargs == 2 && Py_TYPE(args[1]) == &step_type &&
        ((Step *)args[1])->ledger == step->ledger && PyLong_Check(args[0]) &&
        PyLong_AsLong(args[0]) == SYS_close)
        ((Step *)args[1])->closed_by = step->index; /* its handle is not to be used any more */
    if (step)
        PyErr_Clear(); /* a number that is too large is refused when this is encoded */
    return Py_XNewRef(step);
}

/* ---- keeping account of handles ---- */

/* Whether nothing has been closed so far that this is. -1 with an exception. */
static int is_there(StepList *self, PyObject *what) {
    PyObject *gone = self->lazy[GONE];
    if (!gone || !PySet_GET_SIZE(gone))
        return 1;
    int found = PySet_Contains(gone, what);
    return found < 0 ? -1 : !found;
}

/* A descriptor as an argument of a step. */
static PyObject *list_fd(PyObject *object, PyObject *fd) {
    if (Py_TYPE(fd) == &step_type) {
        if (((Step *)fd)->closed_by < 0)
            return Py_NewRef(fd);
    } else if (PyObject_TypeCheck(fd, &placeholder_type)) {
        int there = is_there((StepList *)object, fd);
        if (there)
            return there < 0 ? NULL : Py_NewRef(fd);
    }
    return PyObject_CallMethodOneArg(object, name_fd_handle, fd);
}

/* A step closes or unmaps something, and later ones must not use that. */
static PyObject *list_ends(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    StepList *self = (StepList *)object;
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "step and what: missing");
        return NULL;
    }
    if (Py_TYPE(args[1]) != &step_type)
        return PyObject_CallMethodObjArgs(object, name_ends_handle, args[0], args[1], NULL);
    /* One of another batch is refused when this is encoded. */
    if (((Step *)args[1])->ledger == self->ledger && Py_TYPE(args[0]) == &step_type)
        ((Step *)args[1])->closed_by = ((Step *)args[0])->index;
    Py_RETURN_NONE;
}

/* ---- results ---- */

static PyObject *list_encode(PyObject *object, PyObject *args) {
    unsigned int fds = 0;
    if (!PyArg_ParseTuple(args, "|I", &fds))
        return NULL;
    return encode_batch((StepList *)object, fds);
}

/* Whether there is nothing to be checked or done before it is sent. */
static PyObject *get_plain(PyObject *object, void *unused) {
    static const enum lazy lists[] = {USED, ENDED, PARAMETERS};
    (void)unused;
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) {
        PyObject *list = ((StepList *)object)->lazy[lists[i]];
        if (list && PyList_GET_SIZE(list))
            Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

static PyObject *get_last(PyObject *object, void *unused) {
    (void)unused;
    PyObject *result = ((StepList *)object)->ledger->result;
    return Py_NewRef(result ? result : Py_None);
}

static PyMethodDef list_methods[] = {
    {"add", (PyCFunction)(void (*)(void))list_add, METH_FASTCALL | METH_KEYWORDS,
     "A typed call as a step."},
    {"syscall", (PyCFunction)(void (*)(void))list_syscall, METH_FASTCALL | METH_KEYWORDS,
     "Any system call: its number and up to six arguments, see SyscallInterface.call.\n\n"
     "ok, on_error, undo: see StepOptions. Nothing is checked before the batch is sent."},
    {"_fd", list_fd, METH_O, NULL},
    {"_ends", (PyCFunction)(void (*)(void))list_ends, METH_FASTCALL, NULL},
    {"finish", (PyCFunction)(void (*)(void))finish_batch, METH_FASTCALL,
     "Take the reply: the results, which the steps then have."},
    {"encode", list_encode, METH_VARARGS,
     "The BATCH, ready to be sent with so many descriptors; NotImplemented if others must encode it."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef list_getset[] = {
    {"plain", get_plain, NULL, "Whether it has no parameters, and is given no handles.", NULL},
    {"last", get_last, NULL, "The results of the last run, or None.", NULL},
    {"makers", get_lazy, NULL, NULL, (void *)MAKERS},
    {"end_closers", get_lazy, NULL, NULL, (void *)END_CLOSERS},
    {"used", get_lazy, NULL, NULL, (void *)USED},
    {"ended", get_lazy, NULL, NULL, (void *)ENDED},
    {"ended_parameters", get_lazy, NULL, NULL, (void *)ENDED_PARAMETERS},
    {"gone", get_lazy, NULL, NULL, (void *)GONE},
    {"parameters", get_lazy, NULL, NULL, (void *)PARAMETERS},
    {"lengths", get_lazy, NULL, NULL, (void *)LENGTHS},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMemberDef list_members[] = {
    {"ledger", T_OBJECT, offsetof(StepList, ledger), READONLY, NULL},
    {"steps", T_OBJECT, offsetof(StepList, steps), READONLY, NULL},
    {"task", T_OBJECT_EX, offsetof(StepList, task), 0, NULL},
    {"brief", T_BOOL, offsetof(StepList, brief), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject step_list_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.StepList",
    .tp_basicsize = sizeof(StepList),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = list_new,
    .tp_traverse = list_traverse,
    .tp_clear = list_clear,
    .tp_dealloc = list_dealloc,
    .tp_methods = list_methods,
    .tp_getset = list_getset,
    .tp_members = list_members,
};
