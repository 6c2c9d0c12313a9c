#ifndef RSYSCALL_OWN_CHILD_H
#define RSYSCALL_OWN_CHILD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* wait_child(pidfd, options): waitid(2) of a child of ours, with WNOHANG: the bytes of a siginfo_t
 * and of a struct rusage, or -errno. */
PyObject *wait_child(PyObject *module, PyObject *args);

/* environment(): our own, as it is: each variable with its NUL. */
PyObject *environment(PyObject *module, PyObject *unused);

/* lay_strings(strings, first, address): an array of pointers to the first strings and one to the
 * others, each with a NULL at its end, and the strings: as they are to be at that address. */
PyObject *lay_strings(PyObject *module, PyObject *args);

#endif
