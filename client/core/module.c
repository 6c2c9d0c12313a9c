/* rsyscall._ring: what of the client runs compiled. */
#include "far_memory.h"
#include "wire.h"

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
    {"vm_read", vm_read, METH_VARARGS, NULL},
    {"vm_read_into", vm_read_into, METH_VARARGS, NULL},
    {"vm_write", vm_write, METH_VARARGS, NULL},
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
        {&name_data, "data"},         {&name_size, "size"},   {&name_ledger, "ledger"},
        {&name_index, "index"},       {&name_number, "number"}, {&name_args, "args"},
        {&name_ok, "ok"},             {&name_on_error, "on_error"}, {&name_undo, "undo"},
        {&name_stop, "stop"},         {&name_continue, "continue"},
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!(*names[i].to = PyUnicode_InternFromString(names[i].name)))
            return NULL;
    if (PyType_Ready(&ring_type) < 0 || PyType_Ready(&socket_type) < 0)
        return NULL;
    PyObject *module = PyModule_Create(&module_def);
    if (module && (PyModule_AddObjectRef(module, "Ring", (PyObject *)&ring_type) < 0 ||
                   PyModule_AddObjectRef(module, "Socket", (PyObject *)&socket_type) < 0))
        Py_CLEAR(module);
    return module;
}
