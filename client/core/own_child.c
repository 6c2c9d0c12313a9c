/* Children of this very process: waiting for one without sleeping, and what they inherit. */
#define _GNU_SOURCE
#include "own_child.h"

#include <errno.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

PyObject *wait_child(PyObject *module, PyObject *args) {
    siginfo_t info = {0};
    struct rusage usage = {0};
    int pidfd, options;
    (void)module;
    if (!PyArg_ParseTuple(args, "ii", &pidfd, &options))
        return NULL;
    /* Not waitid(3), which has no rusage. With WNOHANG it is not worth giving up the lock. */
    if (syscall(SYS_waitid, P_PIDFD, pidfd, &info, options | WNOHANG, &usage) < 0)
        return PyLong_FromLong(-errno);
    return Py_BuildValue("y#y#", (const char *)&info, (Py_ssize_t)sizeof info,
                         (const char *)&usage, (Py_ssize_t)sizeof usage);
}

PyObject *environment(PyObject *module, PyObject *unused) {
    PyObject *list = PyList_New(0);
    (void)module;
    (void)unused;
    for (char **p = environ; list && p && *p; p++) {
        PyObject *bytes = PyBytes_FromStringAndSize(*p, (Py_ssize_t)strlen(*p) + 1);
        if (!bytes || PyList_Append(list, bytes) < 0)
            Py_CLEAR(list);
        Py_XDECREF(bytes);
    }
    return list;
}

PyObject *lay_strings(PyObject *module, PyObject *args) {
    PyObject *list;
    Py_ssize_t first;
    unsigned long long address;
    (void)module;
    if (!PyArg_ParseTuple(args, "O!nK", &PyList_Type, &list, &first, &address))
        return NULL;
    Py_ssize_t n = PyList_GET_SIZE(list), at = (Py_ssize_t)sizeof address * (n + 2), size = at;
    for (Py_ssize_t i = 0; i < n; i++) {
        if (!PyBytes_Check(PyList_GET_ITEM(list, i))) {
            PyErr_SetString(PyExc_TypeError, "strings: not all are bytes");
            return NULL;
        }
        size += PyBytes_GET_SIZE(PyList_GET_ITEM(list, i));
    }
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    if (!bytes)
        return NULL;
    char *to = PyBytes_AS_STRING(bytes), *pointer = to;
    for (Py_ssize_t i = 0; i <= n; i++) {
        uint64_t value = 0;
        if (i == first || i == n) {
            memcpy(pointer, &value, sizeof value);
            pointer += sizeof value;
        }
        if (i == n)
            break;
        PyObject *string = PyList_GET_ITEM(list, i);
        value = address + (uint64_t)at;
        memcpy(pointer, &value, sizeof value);
        pointer += sizeof value;
        memcpy(to + at, PyBytes_AS_STRING(string), (size_t)PyBytes_GET_SIZE(string));
        at += PyBytes_GET_SIZE(string);
    }
    if (first == n)
        memset(pointer, 0, sizeof(uint64_t)); /* no second list: it ends at once */
    return bytes;
}
