/* Frames of the compiled core: calls are encoded from Python's objects, replies become such. */
#ifndef RSYSCALL_WIRE_H
#define RSYSCALL_WIRE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <time.h>

#include "codec.h"
#include "rsyscall/protocol.h"

enum {
    MOST_ARGS = 6,
    YIELD_NS = 1000000, /* calls in a row without letting trio's other tasks run */
    ID_AT = RS_SIZE_HEADER + 3 /* where the id of a request stands, in eight bytes */
};

/* The classes of arguments that are more than a number, as setup() was told, and where in each its
 * only field lies. */
extern PyTypeObject *class_in, *class_out, *class_ret, *class_inout, *class_fd;
extern Py_ssize_t field_at;
/* Names, interned. */
extern PyObject *name_ok, *name_on_error, *name_undo, *name_stop, *name_continue, *name_fd_handle,
    *name_ends_handle;

/* A borrowed reference, or NULL if it was not filled in. */
static inline PyObject *record_field(PyObject *value) {
    return *(PyObject **)((char *)value + field_at);
}

/* What the outputs of a call may be. */
struct outs {
    uint32_t count;
    uint32_t size[MOST_ARGS];
    int exact[MOST_ARGS];
};

static inline uint64_t now_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* How long it pays to look for an answer: as long as allowed while that is met, and no more than
 * a glance when it is not: after every failure for twice as many waits as before. (An answer that
 * never comes while we look may be waiting for the CPU that we look with.) */
struct patience {
    uint64_t most_ns, limit_ns; /* what is allowed, and what until it is first met */
    uint32_t held, failed; /* a glance for so many waits; and after the last failure for as many */
};

enum {
    DOZE_US = 100, /* slept at most before trio's loop is gone through, which costs as much */
    HELD_MOST = 63
};

static inline void patience_set(struct patience *p, uint32_t us) {
    if (p->most_ns != (uint64_t)us * 1000)
        *p = (struct patience){(uint64_t)us * 1000, (uint64_t)us * 1000, 0, 0};
}

static inline uint64_t patience_now(const struct patience *p) {
    return p->held ? 0 : p->limit_ns;
}

static inline void patience_learn(struct patience *p, int met) {
    if (met) {
        p->limit_ns = p->most_ns;
        p->held = p->failed = 0;
    } else if (p->held)
        p->held--;
    else
        p->held = p->failed = p->failed < HELD_MOST ? 2 * p->failed + 1 : HELD_MOST;
}

/* The setter of an attribute spin_us. */
int patience_set_us(struct patience *p, PyObject *value);

static inline uint32_t frame_length(const uint8_t *header) {
    return (uint32_t)header[1] << 24 | (uint32_t)header[2] << 16 | (uint32_t)header[3] << 8 |
           header[4];
}

/* A number, or bytes as an argument of that type. 1; 0 if it cannot be done here, with no exception. */
int put_number(uint8_t **p, const uint8_t *end, PyObject *value);
int put_bytes(uint8_t **p, const uint8_t *end, PyObject *bytes, uint8_t type, uint32_t *len);

/* One argument of a call. 1; 0 if it cannot be done here, with no exception. */
int put_argument(uint8_t **p, const uint8_t *end, PyObject *value, struct outs *outs);

/* The CALL frame into the buffer; its length, or 0 if that cannot be done here. */
uint32_t encode_call(uint8_t *buffer, uint32_t room, uint64_t id, uint32_t frame_limit,
                     PyObject *const *args, Py_ssize_t n, struct outs *outs);

/* Type and id of a reply: [type, id, ...], and how many fields. 0 if it is none. */
int reply_head(struct rs_reader *r, uint32_t *fields, uint64_t *type, uint64_t *id);

/* What a RESULT says: its value, or (value, outputs). NULL without an exception if it is not the
 * answer that is due. */
PyObject *decode_result(const uint8_t *body, uint32_t len, uint64_t id, const struct outs *outs);

/* The Outcome of a BATCHED, if it is one that the batch may be answered with: the same checks as
 * Program.mismatch. NULL otherwise. due: of each step, what its outputs may be. */
PyObject *decode_batched(const uint8_t *body, uint32_t len, uint64_t id, PyObject *due, int brief);

/* Make an object as its class does when nobody knows better: by __new__ and __init__. */
PyObject *call_type_slowly(PyObject *type, PyObject *const *args, Py_ssize_t n, PyObject *names);

/* Functions of the module: see args.c. */
PyObject *path_in(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *path_to_bytes(PyObject *module, PyObject *const *args, Py_ssize_t nargs);
PyObject *setup(PyObject *module, PyObject *args);

extern PyTypeObject ring_type, socket_type;

#endif
