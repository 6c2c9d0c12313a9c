#ifndef RSYSCALL_OWN_CHILD_H
#define RSYSCALL_OWN_CHILD_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* wait_child(pidfd, options): waitid(2) of a child of ours, with WNOHANG: the bytes of a siginfo_t
 * and of a struct rusage, or -errno. */
PyObject *wait_child(PyObject *module, PyObject *args);

/* Whether a child of ours, dead or alive, can be waited for without __WALL: then it has exec'd, since
 * from then on a signal tells of its end. */
int can_be_waited_for(int pidfd);

/* setup_children(start, clone, clear, session, halves, variables, size, room, page_size,
 * child_flags, frame_limit): the first are the addresses of rs_start_child, rs_clone and
 * rs_child_clear, session and halves are where those are in the memory of a child, variables where
 * a copy of environ is for a program, with so much room, and frame_limit is for its Ring. */
PyObject *setup_children(PyObject *module, PyObject *args);

/* start_child(address, used, flags, sees_us, keep, spin): address is where its memory is, sees_us
 * whether our pid means us to it, and keep a dict of the numbers that stay open. The Ring, which has
 * our end of the socket, the child's pid, the number of its pidfd, a pair of those of its own two in
 * its table, and whether our memory is dumpable; or -errno and the number of the call that has
 * failed. */
PyObject *start_child(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

/* start_program(address, used, stack, block, where, data): address is where the memory is of a child
 * that becomes a program; the block is to be where its stack leads, and the data where it says. The
 * pid and the number of a pidfd, when we run again, and whether it has certainly exec'd; or -errno.
 * None, and nothing has happened, if there is no room for the variables. */
PyObject *start_program(PyObject *module, PyObject *const *args, Py_ssize_t nargs);

/* end_of_child(pidfd, spin_us, us): look until a child of ours is dead, at most so long, and then
 * sleep, at most so long; and wait for it: the code, pid, uid and status of its siginfo_t and the
 * bytes of a struct rusage. None if that is not to be had. */
PyObject *end_of_child(PyObject *module, PyObject *args);

/* environment(): our own, as it is: each variable with its NUL. */
PyObject *environment(PyObject *module, PyObject *unused);

/* environment_block(): the same in one string. */
PyObject *environment_block(PyObject *module, PyObject *unused);

/* lay_strings(strings, first, address): an array of pointers to the first strings and one to the
 * others, each with a NULL at its end, and the strings: as they are to be at that address. */
PyObject *lay_strings(PyObject *module, PyObject *args);

#endif
