#ifndef RSYSCALL_FAR_MEMORY_H
#define RSYSCALL_FAR_MEMORY_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* vm_read(pid, pidfd, address, length): the bytes, or -errno; -EFAULT if not all can be read. */
PyObject *vm_read(PyObject *module, PyObject *args);
/* vm_read_into(pid, pidfd, address, buffer) and vm_write(pid, pidfd, address, buffer): how many, or
 * -errno, likewise. */
PyObject *vm_read_into(PyObject *module, PyObject *args);
PyObject *vm_write(PyObject *module, PyObject *args);

#endif
