/* What a batch has come to. */
#include "batch.h"

#include <structmember.h>
#include <sys/syscall.h>

PyTypeObject *class_result;

/* ---- the reply ---- */

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

PyObject *decode_batched(const uint8_t *body, uint32_t len, uint64_t id, PyObject *due, int brief) {
    struct rs_reader r = {body, body + len}, tail;
    struct rs_value v, values, statuses;
    uint64_t type, its_id;
    uint32_t fields;
    uint64_t steps = (uint64_t)PyList_GET_SIZE(due);
    if (!reply_head(&r, &fields, &type, &its_id) || type != RS_MSG_BATCHED ||
        its_id != id || fields != 6 ||
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
    Outcome *self = PyObject_New(Outcome, &outcome_type);
    if (!self) {
        Py_DECREF(outs);
        return NULL;
    }
    self->id = id;
    self->stopped = stopped;
    self->outs = outs;
    self->values = PyBytes_FromStringAndSize((const char *)values.data, values.len);
    self->statuses = PyBytes_FromStringAndSize((const char *)statuses.data, statuses.len);
    if (!self->values || !self->statuses)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static void outcome_dealloc(PyObject *object) {
    Outcome *self = (Outcome *)object;
    Py_XDECREF(self->outs);
    Py_XDECREF(self->values);
    Py_XDECREF(self->statuses);
    PyObject_Free(object);
}

static PyMemberDef outcome_members[] = {
    {"id", T_ULONGLONG, offsetof(Outcome, id), READONLY, NULL},
    {"outs", T_OBJECT, offsetof(Outcome, outs), READONLY, NULL},
    {"values", T_OBJECT, offsetof(Outcome, values), READONLY, NULL},
    {"statuses", T_OBJECT, offsetof(Outcome, statuses), READONLY, NULL},
    {"stopped", T_ULONGLONG, offsetof(Outcome, stopped), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject outcome_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Outcome",
    .tp_doc = "What a BATCHED says, once it was checked.",
    .tp_basicsize = sizeof(Outcome),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = outcome_dealloc,
    .tp_members = outcome_members,
};

/* ---- and what it means for the steps ---- */

/* Base of BatchResult. */
typedef struct {
    PyObject_HEAD
    uint64_t key; /* of the batch's ledger */
    Py_ssize_t steps, started, stopped;
    PyObject *task, *outs, *values, *statuses; /* of the reply */
    PyObject *due;       /* of each step, what its outputs may be */
    PyObject *gone;      /* indexes of the steps that made what the batch has closed; or NULL */
    PyObject *converted; /* values by index, or NULL */
    PyObject *array, *gone_ends, *unwanted; /* BatchResult's own, or NULL */
} Results;

/* The status of the index-th step. */
static int status_of(const Results *self, Py_ssize_t index) {
    if (index >= self->steps)
        return RS_STATUS_NOT_STARTED; /* added since */
    if (!PyBytes_GET_SIZE(self->statuses))
        return RS_STATUS_DONE;
    return (uint8_t)PyBytes_AS_STRING(self->statuses)[index];
}

/* What the index-th step returned. 0 if nobody knows. */
static int value_of(const Results *self, Py_ssize_t index, int64_t *value) {
    Py_ssize_t known = PyBytes_GET_SIZE(self->values) / 8, at = index - (self->started - known);
    if (index >= self->started || at < 0)
        return 0;
    memcpy(value, PyBytes_AS_STRING(self->values) + 8 * at, 8);
    return 1;
}

/* Whether a step that closes or unmaps has done so, whatever is a success for it. */
static int has_ended(const Results *self, const Step *step) {
    int64_t value;
    int status = status_of(self, step->index);
    if (status == RS_STATUS_NOT_STARTED || status == RS_STATUS_BLOCKED)
        return 0;
    long number = PyLong_Check(step->number) ? PyLong_AsLong(step->number) : -1;
    PyErr_Clear();
    if (number == SYS_close)
        return 1; /* a close that failed has closed */
    if (!value_of(self, step->index, &value))
        return status != RS_STATUS_FAILED;
    return value == 0 || (value > 0 && number == SYS_mremap); /* that returns an address */
}

/* Whether it is a step of the batch as it ran. */
static int is_mine(const Results *self, PyObject *step) {
    return Py_TYPE(step) == &step_type && ((Step *)step)->ledger->key == self->key &&
           ((Step *)step)->index < self->steps;
}

static int take_reply(Results *self, PyObject *reply) {
    if (Py_TYPE(reply) == &outcome_type) {
        Outcome *outcome = (Outcome *)reply;
        self->outs = Py_NewRef(outcome->outs);
        self->values = Py_NewRef(outcome->values);
        self->statuses = Py_NewRef(outcome->statuses);
        self->stopped = (Py_ssize_t)outcome->stopped;
        return 1;
    }
    PyObject *stopped = PyObject_GetAttrString(reply, "stopped");
    self->stopped = stopped ? PyLong_AsSsize_t(stopped) : -1;
    Py_XDECREF(stopped);
    self->outs = PyObject_GetAttrString(reply, "outs");
    self->values = PyObject_GetAttrString(reply, "values");
    self->statuses = PyObject_GetAttrString(reply, "statuses");
    if (PyErr_Occurred())
        return 0;
    if (PyTuple_CheckExact(self->outs) && PyBytes_CheckExact(self->values) &&
        PyBytes_CheckExact(self->statuses) && self->stopped >= 0 && self->stopped <= self->steps &&
        (!PyBytes_GET_SIZE(self->statuses) || PyBytes_GET_SIZE(self->statuses) == self->steps))
        return 1;
    PyErr_SetString(PyExc_TypeError, "reply: not a BATCHED");
    return 0;
}

/* Which of the handles that the batch makes it has closed or unmapped itself. */
static int find_gone(Results *self, StepList *batch) {
    PyObject *makers = batch->lazy[MAKERS], *ends = batch->lazy[END_CLOSERS];
    if (ends && PyDict_GET_SIZE(ends)) {
        PyObject *none = PyObject_CallMethod((PyObject *)self, "_note_ends", "O", ends);
        if (!none)
            return 0;
        Py_DECREF(none);
    }
    for (Py_ssize_t i = 0; makers && i < PyList_GET_SIZE(makers); i++) {
        Step *step = (Step *)PyList_GET_ITEM(makers, i);
        if (Py_TYPE(step) != &step_type || step->closed_by < 0 ||
            step->closed_by >= PyList_GET_SIZE(batch->steps))
            continue;
        PyObject *closer = PyList_GET_ITEM(batch->steps, step->closed_by);
        if (Py_TYPE(closer) != &step_type || !has_ended(self, (Step *)closer))
            continue;
        PyObject *index = PyLong_FromSsize_t(step->index);
        if (index && !self->gone)
            self->gone = PySet_New(NULL);
        int failed = !index || !self->gone || PySet_Add(self->gone, index) < 0;
        Py_XDECREF(index);
        if (failed)
            return 0;
    }
    return 1;
}

/* Have the handles made of all that these steps have made and that is still there. */
/* Make the handles that are to be made at once: all of them, whatever becomes of one, since nobody
 * else knows of what is open. The error is the first one's. */
static int settle(Results *self, PyObject *makers) {
    PyObject *type = NULL, *value = NULL, *trace = NULL;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(makers); i++) {
        PyObject *step = PyList_GET_ITEM(makers, i);
        if (Py_TYPE(step) != &step_type)
            continue;
        PyObject *index = PyLong_FromSsize_t(((Step *)step)->index);
        int gone = index && self->gone ? PySet_Contains(self->gone, index) : 0;
        Py_XDECREF(index);
        PyObject *none = NULL;
        if (index && gone == 0)
            none = PyObject_CallMethod((PyObject *)self, "_settle", "O", step);
        else if (index && gone > 0)
            continue;
        if (!none && !type)
            PyErr_Fetch(&type, &value, &trace);
        else if (!none)
            PyErr_Clear();
        Py_XDECREF(none);
    }
    if (type)
        PyErr_Restore(type, value, trace);
    return !type;
}

/* finish(task, reply, outs) of a StepList: the BatchResult, which its steps then have. outs: of each
 * step, what its outputs may be; as many come of those that were started. */
PyObject *finish_batch(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    StepList *batch = (StepList *)object;
    if (nargs != 3 || !PyList_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "task, reply and outs: missing");
        return NULL;
    }
    Results *self = (Results *)class_result->tp_alloc(class_result, 0);
    if (!self)
        return NULL;
    self->key = batch->ledger->key;
    self->due = Py_NewRef(args[2]);
    self->task = Py_NewRef(args[0]);
    self->steps = PyList_GET_SIZE(self->due);
    int done = take_reply(self, args[1]);
    if (done) {
        self->started = self->stopped < self->steps ? self->stopped + 1 : self->steps;
        done = find_gone(self, batch);
    }
    if (done) {
        Py_XSETREF(batch->ledger->result, Py_NewRef((PyObject *)self));
        done = !batch->lazy[MAKERS] || settle(self, batch->lazy[MAKERS]);
    }
    if (batch->ledger->result == (PyObject *)self && batch->lazy[ENDED] &&
        PyList_GET_SIZE(batch->lazy[ENDED])) {
        PyObject *type, *value, *trace;
        PyErr_Fetch(&type, &value, &trace);
        PyObject *none = PyObject_CallMethod(object, "revive_handles", "O", self);
        done = done && none;
        Py_XDECREF(none);
        if (type)
            PyErr_Restore(type, value, trace);
    }
    if (!done)
        Py_CLEAR(self);
    return (PyObject *)self;
}

static int results_traverse(PyObject *object, visitproc visit, void *arg) {
    Results *self = (Results *)object;
    Py_VISIT(self->task);
    Py_VISIT(self->converted);
    Py_VISIT(self->array);
    Py_VISIT(self->gone_ends);
    Py_VISIT(self->unwanted);
    return 0;
}

static int results_clear(PyObject *object) {
    Results *self = (Results *)object;
    Py_CLEAR(self->task);
    Py_CLEAR(self->converted);
    Py_CLEAR(self->array);
    Py_CLEAR(self->gone_ends);
    Py_CLEAR(self->unwanted);
    return 0;
}

static void results_dealloc(PyObject *object) {
    Results *self = (Results *)object;
    PyObject_GC_UnTrack(object);
    results_clear(object);
    Py_XDECREF(self->outs);
    Py_XDECREF(self->values);
    Py_XDECREF(self->statuses);
    Py_XDECREF(self->due);
    Py_XDECREF(self->gone);
    Py_TYPE(object)->tp_free(object);
}

/* The outputs of a step that was started. */
static PyObject *outs_of(Results *self, Py_ssize_t index) {
    Py_ssize_t from = 0, n = 0;
    for (Py_ssize_t i = 0; i <= index && i < PyList_GET_SIZE(self->due); i++) {
        PyObject *due = PyList_GET_ITEM(self->due, i);
        from += n;
        n = PyList_CheckExact(due) ? PyList_GET_SIZE(due) : 0;
    }
    return PyTuple_GetSlice(self->outs, from, from + n);
}

/* result[step] -> its value, as its method would return it. What is not simply that is for convert()
 * of BatchResult. */
static PyObject *results_getitem(PyObject *object, PyObject *key) {
    Results *self = (Results *)object;
    Step *step = (Step *)key;
    int64_t value;
    if (!is_mine(self, key) || !self->task)
        return PyObject_CallMethod(object, "_no_value", "O", key);
    if (self->converted) {
        PyObject *index = PyLong_FromSsize_t(step->index);
        PyObject *known = index ? PyDict_GetItemWithError(self->converted, index) : NULL;
        Py_XDECREF(index);
        if (known || PyErr_Occurred())
            return Py_XNewRef(known);
    }
    int status = status_of(self, step->index);
    if ((status != RS_STATUS_DONE && status != RS_STATUS_UNDO_FAILED) ||
        !value_of(self, step->index, &value))
        return PyObject_CallMethod(object, "_no_value", "O", key);
    if (-4095 <= value && value < 0)
        Py_RETURN_NONE; /* an error that counts as a success */
    TypedCall *call = (TypedCall *)step->call;
    if (Py_TYPE(call) != &call_type)
        return PyLong_FromLongLong(value);
    PyObject *made = NULL;
    if (call->handle) {
        made = PyObject_CallMethod(object, "_convert", "O", key);
    } else {
        PyObject *number = PyLong_FromLongLong(value);
        PyObject *outs = call->outs ? outs_of(self, step->index) : PyTuple_New(0);
        if (number && outs)
            made = PyObject_CallFunctionObjArgs(call->convert, self->task, number, outs, NULL);
        Py_XDECREF(number);
        Py_XDECREF(outs);
    }
    PyObject *index = made ? PyLong_FromSsize_t(step->index) : NULL;
    if (index && !self->converted)
        self->converted = PyDict_New();
    if (!index || !self->converted || PyDict_SetItem(self->converted, index, made) < 0)
        Py_CLEAR(made);
    Py_XDECREF(index);
    return made;
}

static PyObject *results_code(PyObject *object, PyObject *arg) {
    Py_ssize_t index = PyLong_AsSsize_t(arg);
    if (index < 0) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "index: negative");
        return NULL;
    }
    return PyLong_FromLong(status_of((Results *)object, index));
}

static PyObject *results_ended(PyObject *object, PyObject *step) {
    if (Py_TYPE(step) != &step_type) {
        PyErr_SetString(PyExc_TypeError, "step: not a Step");
        return NULL;
    }
    return PyBool_FromLong(has_ended((Results *)object, (Step *)step));
}

static PyObject *results_number(PyObject *object, PyObject *step) {
    int64_t value;
    if (is_mine((Results *)object, step) &&
        value_of((Results *)object, ((Step *)step)->index, &value))
        return PyLong_FromLongLong(value);
    return PyObject_CallMethod(object, "_no_number", "O", step);
}

static PyObject *results_outs(PyObject *object, PyObject *step) {
    Results *self = (Results *)object;
    if (is_mine(self, step) && ((Step *)step)->index < self->started)
        return outs_of(self, ((Step *)step)->index);
    return PyObject_CallMethod(object, "_no_number", "O", step);
}

static PyObject *results_from(PyObject *object, PyObject *step) {
    return PyBool_FromLong(Py_TYPE(step) == &step_type &&
                           ((Step *)step)->ledger->key == ((Results *)object)->key);
}

static PyObject *results_mine(PyObject *object, PyObject *step) {
    return PyBool_FromLong(is_mine((Results *)object, step));
}

static PyMappingMethods results_mapping = {.mp_subscript = results_getitem};

static PyMethodDef results_methods[] = {
    {"code", results_code, METH_O,
     "What became of the index-th step, as the number that Status has for it."},
    {"ended", results_ended, METH_O,
     "Whether a step that closes or unmaps has done so, whatever is a success for it."},
    {"number", results_number, METH_O,
     "The number that a step returned; BatchError if it was not started or not asked for."},
    {"outs", results_outs, METH_O, "The outputs of a step; BatchError if it was not started."},
    {"_is_from", results_from, METH_O, "Whether it is a step of that batch."},
    {"_is_mine", results_mine, METH_O, "Whether it was one already when the batch ran."},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef results_members[] = {
    {"stopped", T_PYSSIZET, offsetof(Results, stopped), READONLY, NULL},
    {"started", T_PYSSIZET, offsetof(Results, started), READONLY, NULL},
    {"_steps", T_PYSSIZET, offsetof(Results, steps), READONLY, NULL},
    {"_task", T_OBJECT, offsetof(Results, task), READONLY, NULL},
    {"_values", T_OBJECT, offsetof(Results, values), READONLY, NULL},
    {"_gone", T_OBJECT, offsetof(Results, gone), READONLY, NULL},
    {"_array", T_OBJECT, offsetof(Results, array), 0, NULL},
    {"_gone_ends", T_OBJECT, offsetof(Results, gone_ends), 0, NULL},
    {"_unwanted", T_OBJECT, offsetof(Results, unwanted), 0, NULL},
    {NULL, 0, 0, 0, NULL},
};

PyTypeObject results_type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "rsyscall._core.Results",
    .tp_basicsize = sizeof(Results),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC |
                Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_traverse = results_traverse,
    .tp_clear = results_clear,
    .tp_dealloc = results_dealloc,
    .tp_as_mapping = &results_mapping,
    .tp_methods = results_methods,
    .tp_members = results_members,
};
