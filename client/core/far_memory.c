/* Memory of other processes: process_vm_readv(2) and process_vm_writev(2). */
#define _GNU_SOURCE
#include "wire.h"

#include <errno.h>
#include <poll.h>
#include <sys/uio.h>

#include "far_memory.h"

enum { WORTH_UNLOCKING = 65536 };

/* Whether the process has ended. Its number may then be another's. A pidfd below 0: it cannot end
 * before us. */
static int has_ended(int pidfd) {
    struct pollfd fd = {.fd = pidfd, .events = POLLIN};
    return pidfd >= 0 && poll(&fd, 1, 0) != 0;
}

/* How many bytes were copied, or -errno. */
static long long transfer(int pid, int pidfd, unsigned long long address, void *buf, size_t len,
                          int out) {
    struct iovec here = {buf, len}, there = {(void *)(uintptr_t)address, len};
    PyThreadState *unlocked = len >= WORTH_UNLOCKING ? PyEval_SaveThread() : NULL;
    long long n = -ESRCH;
    if (!has_ended(pidfd)) {
        n = out ? process_vm_writev(pid, &here, 1, &there, 1, 0)
                : process_vm_readv(pid, &here, 1, &there, 1, 0);
        if (n < 0)
            n = -errno;
        else if (!out && has_ended(pidfd))
            n = -ESRCH;
    }
    if (unlocked)
        PyEval_RestoreThread(unlocked);
    return n;
}

PyObject *vm_read(PyObject *module, PyObject *args) {
    int pid, pidfd;
    unsigned long long address;
    Py_ssize_t len;
    (void)module;
    if (!PyArg_ParseTuple(args, "iiKn", &pid, &pidfd, &address, &len))
        return NULL;
    PyObject *bytes = PyBytes_FromStringAndSize(NULL, len);
    if (!bytes)
        return NULL;
    long long n = transfer(pid, pidfd, address, PyBytes_AS_STRING(bytes), (size_t)len, 0);
    if (n == len)
        return bytes;
    Py_DECREF(bytes);
    return PyLong_FromLongLong(n < 0 ? n : -EFAULT);
}

static PyObject *with_buffer(PyObject *args, const char *format, int out) {
    int pid, pidfd;
    unsigned long long address;
    Py_buffer buffer;
    if (!PyArg_ParseTuple(args, format, &pid, &pidfd, &address, &buffer))
        return NULL;
    long long n = transfer(pid, pidfd, address, buffer.buf, (size_t)buffer.len, out);
    if (n >= 0 && n < buffer.len)
        n = -EFAULT;
    PyBuffer_Release(&buffer);
    return PyLong_FromLongLong(n);
}

PyObject *vm_read_into(PyObject *module, PyObject *args) {
    (void)module;
    return with_buffer(args, "iiKw*", 0);
}

PyObject *vm_write(PyObject *module, PyObject *args) {
    (void)module;
    return with_buffer(args, "iiKy*", 1);
}
