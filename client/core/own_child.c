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
