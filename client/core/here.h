#ifndef RSYSCALL_HERE_H
#define RSYSCALL_HERE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* The most bytes that are copied in one go, for others to have their turns. */
enum { HERE_CHUNK = 1024 * 1024 };

/* Here: which ranges of an address space are mapped in this process as well, and where. */
extern PyTypeObject here_type;

#endif
