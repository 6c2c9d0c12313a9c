/* Children of this very process: waiting for one without sleeping, and what they inherit. */
#define _GNU_SOURCE
#include "own_child.h"

#include "core.h"
#include "ring_object.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

enum { FEW = 64 };

/* Not waitid(3), which has no rusage. With WNOHANG it is not worth giving up the lock. */
static long take_status(int pidfd, int options, siginfo_t *info, struct rusage *usage) {
    memset(info, 0, sizeof *info);
    memset(usage, 0, sizeof *usage);
    return syscall(SYS_waitid, P_PIDFD, pidfd, info, options | WNOHANG, usage);
}

PyObject *wait_child(PyObject *module, PyObject *args) {
    int pidfd, options;
    (void)module;
    if (!PyArg_ParseTuple(args, "ii", &pidfd, &options))
        return NULL;
    siginfo_t info;
    struct rusage usage;
    if (take_status(pidfd, options, &info, &usage) < 0)
        return PyLong_FromLong(-errno);
    return Py_BuildValue("y#y#", (const char *)&info, (Py_ssize_t)sizeof info,
                         (const char *)&usage, (Py_ssize_t)sizeof usage);
}

int can_be_waited_for(int pidfd) {
    siginfo_t info;
    struct rusage usage;
    return take_status(pidfd, WEXITED | WNOWAIT, &info, &usage) == 0;
}

PyObject *start_child(PyObject *module, PyObject *args) {
    struct rs_start start = {0};
    unsigned long long function, session, halves, flags;
    unsigned int frame_limit;
    int32_t few[FEW], *keep = few;
    PyObject *list;
    int used;
    (void)module;
    if (!PyArg_ParseTuple(args, "KKKpKO!IIIIII", &function, &session, &halves, &used, &flags,
                          &PyList_Type, &list, &start.size, &start.page_size, &start.child_flags,
                          &start.spin_us, &start.spin_turns, &frame_limit))
        return NULL;
    Py_ssize_t n = PyList_GET_SIZE(list);
    if (n > FEW && !(keep = PyMem_New(int32_t, n)))
        return PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < n; i++)
        keep[i] = (int32_t)PyLong_AsLong(PyList_GET_ITEM(list, i));
    start.session = session;
    start.halves = halves;
    start.used = (uint32_t)used;
    start.flags = flags;
    start.keep = keep;
    start.kept = (uint32_t)n;
    /* What can fail here comes before there is a child. */
    Ring *ring = PyErr_Occurred() ? NULL : (Ring *)ring_type.tp_alloc(&ring_type, 0);
    int64_t pid = -1;
    if (ring) {
        ring->halves[0] = (void *)(uintptr_t)halves;
        ring->halves[1] = (void *)(uintptr_t)(halves + RS_SIZE_RING_HEADER + start.size);
        if (begin_ring(ring, start.size, -1, 1, frame_limit, start.spin_us) == 0)
            /* It takes less than giving up the lock and getting it back. */
            pid = ((int64_t(*)(struct rs_start *))(uintptr_t)function)(&start);
        ring->socket = start.socket;
        ring->owned = pid >= 0;
    }
    if (keep != few)
        PyMem_Free(keep);
    if (!PyErr_Occurred() && pid >= 0)
        return Py_BuildValue("NLiiii", ring, (long long)pid, start.pidfd, start.its_socket, start.its_pidfd, start.dumpable);
    Py_XDECREF(ring);
    if (PyErr_Occurred())
        return NULL;
    return Py_BuildValue("LL", (long long)pid, (long long)start.failed);
}

PyObject *ring_sleep_until_end(PyObject *object, PyObject *arg) {
    Ring *self = (Ring *)object;
    unsigned long us = PyLong_AsUnsignedLong(arg);
    if ((us == (unsigned long)-1 && PyErr_Occurred()) || !usable(self))
        return NULL;
    return PyBool_FromLong(sleep_until_end(self, (uint32_t)us));
}

PyObject *ring_post_exec(PyObject *object, PyObject *const *args, Py_ssize_t nargs) {
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "post_exec(frame, pidfd, us)");
        return NULL;
    }
    int pidfd = (int)PyLong_AsLong(args[1]);
    unsigned long us = PyLong_AsUnsignedLong(args[2]);
    PyObject *posted = PyErr_Occurred() ? NULL : ring_post_batch(object, args[0]);
    if (!posted)
        return NULL;
    Py_DECREF(posted);
    int sent = posted == Py_True;
    int exec = sent && sleep_until_end((Ring *)object, (uint32_t)us) && can_be_waited_for(pidfd);
    return Py_BuildValue("(OO)", sent ? Py_True : Py_False, exec ? Py_True : Py_False);
}

PyObject *ring_take_socket(PyObject *object, PyObject *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    self->owned = 0;
    return PyLong_FromLong(self->socket);
}

PyObject *end_of_child(PyObject *module, PyObject *args) {
    int pidfd, n;
    unsigned int spin_us, us;
    (void)module;
    if (!PyArg_ParseTuple(args, "iII", &pidfd, &spin_us, &us))
        return NULL;
    struct pollfd fd = {pidfd, POLLIN, 0};
    struct timespec time = {us / 1000000, (long)(us % 1000000) * 1000}, none = {0, 0};
    Py_BEGIN_ALLOW_THREADS
    uint64_t until = spin_us ? now_ns() + spin_us * 1000ull : 0;
    while ((n = ppoll(&fd, 1, until ? &none : &time, NULL)) == 0 && until)
        if (now_ns() >= until)
            until = 0;
    Py_END_ALLOW_THREADS
    if (n <= 0)
        Py_RETURN_NONE;
    siginfo_t info;
    struct rusage usage;
    if (take_status(pidfd, WEXITED | __WALL, &info, &usage) < 0 || info.si_signo != SIGCHLD)
        Py_RETURN_NONE;
    return Py_BuildValue("iiIiy#", info.si_code, info.si_pid, info.si_uid, info.si_status,
                         (const char *)&usage, (Py_ssize_t)sizeof usage);
}

PyObject *environment_block(PyObject *module, PyObject *unused) {
    Py_ssize_t size = 0;
    (void)module;
    (void)unused;
    for (char **p = environ; p && *p; p++)
        size += (Py_ssize_t)strlen(*p) + 1;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, size);
    char *to = bytes ? PyBytes_AS_STRING(bytes) : NULL, *end = to + size;
    for (char **p = environ; to && p && *p; p++) {
        size_t length = strlen(*p) + 1;
        if (length > (size_t)(end - to))
            break;
        memcpy(to, *p, length);
        to += length;
    }
    if (to)
        memset(to, 0, (size_t)(end - to)); /* somebody has changed it meanwhile */
    return bytes;
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
