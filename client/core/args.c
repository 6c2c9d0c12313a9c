/* Arguments of calls that are more than a number, made quickly. */
#include "wire.h"

#include <structmember.h>

static PyObject *new_record(PyTypeObject *type, PyObject *field) {
    PyObject *self = type->tp_alloc(type, 0);
    if (self)
        *(PyObject **)((char *)self + field_at) = Py_NewRef(field);
    return self;
}

PyObject *call_type_slowly(PyObject *type, PyObject *const *args, Py_ssize_t n, PyObject *names) {
    PyObject *tuple = PyTuple_New(n), *kwargs = PyDict_New(), *self = NULL;
    int failed = !tuple || !kwargs;
    for (Py_ssize_t i = 0; !failed && i < n; i++)
        PyTuple_SET_ITEM(tuple, i, Py_NewRef(args[i]));
    for (Py_ssize_t i = 0; !failed && names && i < PyTuple_GET_SIZE(names); i++)
        failed = PyDict_SetItem(kwargs, PyTuple_GET_ITEM(names, i), args[n + i]) < 0;
    if (!failed)
        self = PyType_Type.tp_call(type, tuple, kwargs);
    Py_XDECREF(tuple);
    Py_XDECREF(kwargs);
    return self;
}

/* The constructor of In, Out, Ret and InOut: what record() has made for them, at a third of the
 * time. */
static PyObject *construct(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *names) {
    Py_ssize_t n = PyVectorcall_NARGS(nargsf);
    if (n == 1 && !names)
        return new_record((PyTypeObject *)type, args[0]);
    return call_type_slowly(type, args, n, names);
}

/* Where the only slot of a class lies, or -1. */
static Py_ssize_t slot_of(PyTypeObject *type, const char *name) {
    PyObject *slot = PyObject_GetAttrString((PyObject *)type, name);
    Py_ssize_t at = -1;
    if (slot && Py_TYPE(slot) == &PyMemberDescr_Type) {
        PyMemberDef *member = ((PyMemberDescrObject *)slot)->d_member;
        if (member->type == T_OBJECT_EX && type->tp_basicsize ==
                                               member->offset + (Py_ssize_t)sizeof(PyObject *))
            at = member->offset;
    }
    Py_XDECREF(slot);
    return at;
}

PyObject *setup(PyObject *module, PyObject *args) {
    PyTypeObject *classes[5];
    static const char *const names[] = {"data", "size", "size", "data", "index"};
    (void)module;
    if (!PyArg_ParseTuple(args, "O!O!O!O!O!", &PyType_Type, &classes[0], &PyType_Type, &classes[1],
                          &PyType_Type, &classes[2], &PyType_Type, &classes[3], &PyType_Type,
                          &classes[4]))
        return NULL;
    for (int i = 0; i < 5; i++) {
        Py_ssize_t at = slot_of(classes[i], names[i]);
        if (at < 0 || (i && at != field_at)) {
            if (!PyErr_Occurred())
                PyErr_Format(PyExc_TypeError, "%R: not a class with one slot", classes[i]);
            return NULL;
        }
        field_at = at;
        classes[i]->tp_vectorcall = construct;
        Py_INCREF(classes[i]);
    }
    class_in = classes[0];
    class_out = classes[1];
    class_ret = classes[2];
    class_inout = classes[3];
    class_fd = classes[4];
    Py_RETURN_NONE;
}

/* ---- paths ---- */

/* A path, or another string for the kernel, with its final NUL. */
static PyObject *terminated(PyObject *path, PyObject *name) {
    PyObject *inner = PyOS_FSPath(path), *bytes = NULL, *with_nul = NULL;
    if (!inner)
        return NULL;
    bytes = PyBytes_Check(inner) ? Py_NewRef(inner) : PyUnicode_EncodeFSDefault(inner);
    Py_DECREF(inner);
    if (!bytes)
        return NULL;
    Py_ssize_t n = PyBytes_GET_SIZE(bytes);
    if (memchr(PyBytes_AS_STRING(bytes), 0, (size_t)n))
        PyErr_Format(PyExc_ValueError, "%U: embedded null byte in %R", name, path);
    else if ((with_nul = PyBytes_FromStringAndSize(NULL, n + 1)))
        memcpy(PyBytes_AS_STRING(with_nul), PyBytes_AS_STRING(bytes), (size_t)n + 1);
    Py_DECREF(bytes);
    return with_nul;
}

static int two(Py_ssize_t nargs, PyObject *const *args) {
    if (nargs == 2 && PyUnicode_Check(args[1]))
        return 1;
    PyErr_SetString(PyExc_TypeError, "a path and the name of the argument");
    return 0;
}

PyObject *path_to_bytes(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    return two(nargs, args) ? terminated(args[0], args[1]) : NULL;
}

/* A path as an argument; what is none is returned as it is. */
PyObject *path_in(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    if (!two(nargs, args))
        return NULL;
    PyObject *path = args[0];
    if (!PyUnicode_Check(path) && !PyBytes_Check(path)) {
        PyObject *method = PyObject_GetAttrString((PyObject *)Py_TYPE(path), "__fspath__");
        if (!method) {
            PyErr_Clear();
            return Py_NewRef(path);
        }
        Py_DECREF(method);
    }
    PyObject *bytes = terminated(path, args[1]);
    PyObject *in = bytes ? new_record(class_in, bytes) : NULL;
    Py_XDECREF(bytes);
    return in;
}
