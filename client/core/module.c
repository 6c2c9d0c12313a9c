/* rsyscall._core: what of the client runs compiled. */
#include "batch.h"
#include "far_memory.h"
#include "here.h"
#include "own_child.h"

/* ---- when to let others run: of all connections that a thread uses together ---- */

static _Thread_local uint64_t last_yield;

static PyObject *due(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyBool_FromLong(now_ns() - last_yield >= YIELD_NS);
}

/* The same, but for half as long again: where something cheaper is likely to come first. */
static PyObject *overdue(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    return PyBool_FromLong(now_ns() - last_yield >= YIELD_NS + YIELD_NS / 2);
}

static PyObject *yielded(PyObject *module, PyObject *unused) {
    (void)module;
    (void)unused;
    last_yield = now_ns();
    Py_RETURN_NONE;
}

static PyObject *setup_batch(PyObject *module, PyObject *args) {
    PyObject *error, *output;
    (void)module;
    if (!PyArg_ParseTuple(args, "OO!", &error, &PyType_Type, &output))
        return NULL;
    Py_XSETREF(batch_error, Py_NewRef(error));
    Py_XSETREF(step_output, Py_NewRef(output));
    Py_RETURN_NONE;
}

static PyObject *setup_result(PyObject *module, PyObject *result) {
    (void)module;
    if (!PyType_Check(result) || !PyType_IsSubtype((PyTypeObject *)result, &results_type)) {
        PyErr_SetString(PyExc_TypeError, "result: not made from Results");
        return NULL;
    }
    Py_XSETREF(class_result, (PyTypeObject *)Py_NewRef(result));
    Py_RETURN_NONE;
}

static PyObject *setup_bound(PyObject *module, PyObject *bound) {
    (void)module;
    if (!PyType_Check(bound) || !PyType_IsSubtype((PyTypeObject *)bound, &step_list_type)) {
        PyErr_SetString(PyExc_TypeError, "bound: not made from StepList");
        return NULL;
    }
    ((PyTypeObject *)bound)->tp_vectorcall = new_bound;
    Py_RETURN_NONE;
}

static PyMethodDef functions[] = {
    {"due", due, METH_NOARGS, NULL},
    {"overdue", overdue, METH_NOARGS, NULL},
    {"yielded", yielded, METH_NOARGS, NULL},
    {"setup", setup, METH_VARARGS, NULL},
    {"setup_batch", setup_batch, METH_VARARGS, NULL},
    {"setup_result", setup_result, METH_O, NULL},
    {"setup_bound", setup_bound, METH_O, NULL},
    {"encode_run", encode_run, METH_VARARGS, NULL},
    {"path_in", (PyCFunction)(void (*)(void))path_in, METH_FASTCALL,
     "path_in(path, name, /)\n--\n\n"
     "A path, or another string for the kernel, to be sent with the call; an address as it is.\n\n"
     "ValueError, naming the argument, if it contains a NUL."},
    {"path_to_bytes", (PyCFunction)(void (*)(void))path_to_bytes, METH_FASTCALL,
     "path_to_bytes(path, name, /)\n--\n\n"
     "A path, or another string for the kernel, with its final NUL.\n\n"
     "ValueError, naming the argument, if it contains a NUL of its own."},
    {"vm_read", vm_read, METH_VARARGS, NULL},
    {"vm_read_into", vm_read_into, METH_VARARGS, NULL},
    {"vm_write", vm_write, METH_VARARGS, NULL},
    {"wait_child", wait_child, METH_VARARGS, NULL},
    {"setup_children", setup_children, METH_VARARGS, NULL},
    {"start_program", (PyCFunction)(void (*)(void))start_program, METH_FASTCALL, NULL},
    {"start_child", (PyCFunction)(void (*)(void))start_child, METH_FASTCALL, NULL},
    {"end_of_child", end_of_child, METH_VARARGS, NULL},
    {"environment_block", environment_block, METH_NOARGS, NULL},
    {"environment", environment, METH_NOARGS, NULL},
    {"lay_strings", lay_strings, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT, "rsyscall._core", NULL, -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void);

PyMODINIT_FUNC PyInit__core(void) {
    static const struct {
        PyObject **to;
        const char *name;
    } names[] = {
        {&name_ok, "ok"},
        {&name_on_error, "on_error"},
        {&name_undo, "undo"},
        {&name_stop, "stop"},
        {&name_continue, "continue"},
        {&name_fd_handle, "_fd_handle"},
        {&name_ends_handle, "_ends_handle"},
    };
    static const struct {
        const char *name;
        PyTypeObject *type;
    } types[] = {
        {"Placeholder", &placeholder_type}, {"TypedCall", &call_type}, {"Ledger", &ledger_type},
        {"Step", &step_type},               {"StepList", &step_list_type},
        {"Frame", &frame_type},             {"Outcome", &outcome_type},
        {"Results", &results_type},         {"Ring", &ring_type}, {"Socket", &socket_type},
        {"Here", &here_type},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].to = PyUnicode_InternFromString(names[i].name)))
            return NULL;
    PyObject *module = PyModule_Create(&module_def);
    for (size_t i = 0; module && i < sizeof types / sizeof *types; i++)
        if (PyType_Ready(types[i].type) < 0 ||
            PyModule_AddObjectRef(module, types[i].name, (PyObject *)types[i].type) < 0)
            Py_CLEAR(module);
    if (module && PyModule_AddIntConstant(module, "CHUNK", HERE_CHUNK) < 0)
        Py_CLEAR(module);
    return module;
}
