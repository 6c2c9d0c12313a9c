/* What a batch is collected in and turned into: rsyscall.batch, as far as it is compiled. */
#ifndef RSYSCALL_BATCH_H
#define RSYSCALL_BATCH_H

#include "wire.h"

/* Which batch a step belongs to, and the results of its last run. Steps have this and not their
 * batch, which has them: without a circle a batch that is no longer needed is gone at once. */
typedef struct {
    PyObject_HEAD
    uint64_t key;     /* of this batch alone, and of its results */
    PyObject *result; /* or NULL */
} Ledger;

/* A call that a function has declared: number, arguments, how the result becomes a value. */
typedef struct {
    PyObject_HEAD
    PyObject *number, *args, *convert;
    char outs, handle;
} TypedCall;

typedef struct {
    PyObject_HEAD
    Ledger *ledger;
    Py_ssize_t index;
    PyObject *number, *args, *ok, *on_error, *undo;
    PyObject *call;       /* a TypedCall or None */
    Py_ssize_t closed_by; /* the index of the step that closes or unmaps what this makes, or -1 */
} Step;

/* What of a batch is there only once it is needed. */
enum lazy { MAKERS, END_CLOSERS, USED, ENDED, ENDED_PARAMETERS, GONE, PARAMETERS, LENGTHS, LAZY };

/* Base of Batch. */
typedef struct {
    PyObject_HEAD
    Ledger *ledger;
    PyObject *steps; /* a list of Steps */
    PyObject *task;  /* or NULL */
    PyObject *lazy[LAZY];
    char brief;
} StepList;

/* A BATCH or RUN ready to be sent, but for its id. */
typedef struct {
    PyObject_HEAD
    uint8_t *bytes;
    uint32_t len;
    char brief;
    uint64_t reserved; /* what its reply may have at most */
    PyObject *outs;    /* of each step, what its outputs may be: [(size, exact), ...] */
} Frame;

/* What a BATCHED says, once it was checked. */
typedef struct {
    PyObject_HEAD
    uint64_t id, stopped;
    PyObject *outs, *values, *statuses;
} Outcome;

extern PyTypeObject placeholder_type, ledger_type, call_type, step_type, step_list_type, frame_type,
    outcome_type, results_type;

/* From rsyscall.batch, as setup_batch() was told. */
extern PyObject *batch_error, *step_output;
extern PyTypeObject *class_result;

/* The Frame of these steps; NotImplemented if others must encode it. */
PyObject *encode_batch(StepList *steps, uint32_t fds);

/* finish() of a StepList. */
PyObject *finish_batch(PyObject *batch, PyObject *const *args, Py_ssize_t nargs);

/* encode_run() of the module. */
PyObject *encode_run(PyObject *module, PyObject *args);

/* The constructor of BoundBatch. */
PyObject *new_bound(PyObject *type, PyObject *const *args, size_t nargsf, PyObject *names);

/* Write the id into a frame. */
void frame_set_id(Frame *frame, uint64_t id);

#endif
