/* Children of this very process: waiting for one without sleeping, and what they inherit. */
#define _GNU_SOURCE
#include "own_child.h"

#include "child.h"
#include "core.h"
#include "ring_object.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
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

/* What is the same for all children. */
static struct {
    int64_t (*start)(struct rs_start *);
    int64_t (*clone)(uint64_t flags, uint64_t stack, int32_t *pidfd, int32_t cgroup);
    void (*clear)(uint64_t session, uint64_t halves, uint32_t size);
    uint64_t session, halves, variables; /* where they are in the memory of one */
    uint32_t size, room, page_size, child_flags, frame_limit;
} children;

PyObject *setup_children(PyObject *module, PyObject *args) {
    unsigned long long start, clone, clear, session, halves, variables;
    unsigned int size, room, page_size, child_flags, frame_limit;
    (void)module;
    if (!PyArg_ParseTuple(args, "KKKKKKIIIII", &start, &clone, &clear, &session, &halves, &variables,
                          &size, &room, &page_size, &child_flags, &frame_limit))
        return NULL;
    children.start = (int64_t(*)(struct rs_start *))(uintptr_t)start;
    children.clone = (int64_t(*)(uint64_t, uint64_t, int32_t *, int32_t))(uintptr_t)clone;
    children.clear = (void (*)(uint64_t, uint64_t, uint32_t))(uintptr_t)clear;
    children.session = session;
    children.halves = halves;
    children.variables = variables;
    children.size = size;
    children.room = room;
    children.page_size = page_size;
    children.child_flags = child_flags;
    children.frame_limit = frame_limit;
    Py_RETURN_NONE;
}

static int by_number(const void *a, const void *b) {
    int32_t one = *(const int32_t *)a, other = *(const int32_t *)b;
    return (one > other) - (one < other);
}

/* The keys of a dict in their order; few if there is room, or else to be freed. NULL: an error. */
static int32_t *sorted_keys(PyObject *dict, int32_t *few) {
    Py_ssize_t n = PyDict_GET_SIZE(dict), at = 0;
    int32_t *numbers = n > FEW ? PyMem_New(int32_t, n) : few;
    int sorted = 1;
    PyObject *key, *value;
    if (!numbers)
        PyErr_NoMemory();
    for (Py_ssize_t i = 0; numbers && PyDict_Next(dict, &at, &key, &value); i++) {
        numbers[i] = (int32_t)PyLong_AsLong(key);
        sorted = sorted && (!i || numbers[i - 1] < numbers[i]);
    }
    if (!sorted)
        qsort(numbers, (size_t)n, sizeof *numbers, by_number);
    if (PyErr_Occurred() && numbers) {
        if (numbers != few)
            PyMem_Free(numbers);
        numbers = NULL;
    }
    return numbers;
}

PyObject *start_child(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    int32_t few[FEW];
    (void)module;
    if (nargs != 6 || !PyDict_Check(args[4]) || !PyTuple_Check(args[5]) ||
        PyTuple_GET_SIZE(args[5]) != 2) {
        PyErr_SetString(PyExc_TypeError, "start_child(address, used, flags, sees_us, keep, spin)");
        return NULL;
    }
    uint64_t address = PyLong_AsUnsignedLongLong(args[0]);
    struct rs_start start = {
        .session = address + children.session,
        .halves = address + children.halves,
        .used = (uint32_t)(args[1] == Py_True),
        .flags = PyLong_AsUnsignedLongLong(args[2]),
        .size = children.size,
        .page_size = children.page_size,
        .child_flags = children.child_flags,
        .sees_us = (uint32_t)(args[3] == Py_True),
        .spin_us = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(args[5], 0)),
        .spin_turns = (uint32_t)PyLong_AsUnsignedLong(PyTuple_GET_ITEM(args[5], 1)),
        .kept = (uint32_t)PyDict_GET_SIZE(args[4]),
    };
    if (PyErr_Occurred())
        return NULL;
    int32_t *keep = sorted_keys(args[4], few);
    if (!keep)
        return NULL;
    start.keep = keep;
    /* What can fail here comes before there is a child. */
    Ring *ring = (Ring *)ring_type.tp_alloc(&ring_type, 0);
    int64_t pid = -1;
    if (ring) {
        ring->halves[0] = (void *)(uintptr_t)start.halves;
        ring->halves[1] = (void *)(uintptr_t)(start.halves + RS_SIZE_RING_HEADER + start.size);
        if (begin_ring(ring, start.size, -1, 1, children.frame_limit, start.spin_us) == 0)
            /* It takes less than giving up the lock and getting it back. */
            pid = children.start(&start);
        ring->socket = start.socket;
        ring->owned = pid >= 0;
    }
    if (keep != few)
        PyMem_Free(keep);
    if (!PyErr_Occurred() && pid >= 0)
        return Py_BuildValue("NLi(ii)N", ring, (long long)pid, start.pidfd, start.its_socket,
                             start.its_pidfd, PyBool_FromLong(start.dumpable == 1));
    Py_XDECREF(ring);
    if (PyErr_Occurred())
        return NULL;
    return Py_BuildValue("LL", (long long)pid, (long long)start.failed);
}

/* Where our variables are, for a program: the array is not where it was once another thread has added
 * one, who may do so while the child runs. The strings stay. Whether there was room. */
static int copy_environ(uint64_t to) {
    char **array = (char **)(uintptr_t)to;
    size_t n = 0, most = children.room / sizeof *array - 1;
    for (char **p = environ; p && *p; p++) {
        if (n == most)
            return 0;
        array[n++] = *p;
    }
    array[n] = NULL;
    return 1;
}

PyObject *start_program(PyObject *module, PyObject *const *args, Py_ssize_t nargs) {
    (void)module;
    if (nargs != 6 || !PyBytes_Check(args[3]) || !PyBytes_Check(args[5])) {
        PyErr_SetString(PyExc_TypeError,
                        "start_program(address, used, stack, block, where, data)");
        return NULL;
    }
    uint64_t address = PyLong_AsUnsignedLongLong(args[0]);
    uint64_t stack = PyLong_AsUnsignedLongLong(args[2]);
    uint64_t where = PyLong_AsUnsignedLongLong(args[4]);
    if (PyErr_Occurred())
        return NULL;
    if (args[1] == Py_True)
        children.clear(address + children.session, address + children.halves, children.size);
    memcpy((void *)(uintptr_t)stack, PyBytes_AS_STRING(args[3]), (size_t)PyBytes_GET_SIZE(args[3]));
    memcpy((void *)(uintptr_t)where, PyBytes_AS_STRING(args[5]), (size_t)PyBytes_GET_SIZE(args[5]));
    if (!copy_environ(address + children.variables))
        Py_RETURN_NONE;
    const struct rs_child *child = (struct rs_child *)(uintptr_t)(stack + sizeof(uint64_t));
    int32_t pidfd = -1;
    int64_t pid;
    int over = 1;
    Py_BEGIN_ALLOW_THREADS
    pid = children.clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD, stack, &pidfd, -1);
    if (pid >= 0) {
        struct pollfd fd = {pidfd, POLLIN, 0};
        over = child->reply_len != 0 || poll(&fd, 1, 0) != 0;
    }
    Py_END_ALLOW_THREADS
    return Py_BuildValue("LiN", (long long)pid, pidfd, PyBool_FromLong(!over));
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
    if (exec)
        close_ring((Ring *)object);
    return Py_BuildValue("(OO)", sent ? Py_True : Py_False, exec ? Py_True : Py_False);
}

PyObject *ring_take_socket(PyObject *object, PyObject *unused) {
    Ring *self = (Ring *)object;
    (void)unused;
    if (!self->owned) {
        PyErr_SetString(PyExc_ValueError, "the ring is closed, or its socket is somebody else's");
        return NULL;
    }
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
