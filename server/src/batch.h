/* Running the steps of a batch, and keeping those that were prepared. */
#ifndef RS_BATCH_H
#define RS_BATCH_H

#include "execute.h"

struct rs_program {
    uint32_t used;
    uint32_t at, len; /* in the store's bytes */
    uint32_t steps, parameters, flags, classes;
    uint64_t reserve;
};

/* Prepared batches: their steps as they came, one behind the other. */
struct rs_store {
    uint32_t len;
    struct rs_program programs[RS_LIMIT_PROGRAMS_MAX];
    uint8_t bytes[RS_LIMIT_PROGRAM_BYTES_MAX];
};

/* Run a BATCH, or a RUN that rs_recall has completed, and write the whole BATCHED frame at reply,
 * which has room for req->reserve bytes. Returns its length. */
uint32_t rs_run(const struct rs_request *req, const struct rs_limits *limits,
                struct rs_entry *entries, struct rs_batch *batch, const int32_t *fds,
                struct rs_guard *guard, uint8_t *reply);

/* Keep a PREPARE's steps. Returns the program's number, or -errno. */
int64_t rs_keep(struct rs_store *store, const struct rs_request *req,
                const struct rs_limits *limits);

/* Forget the program that an UNPREPARE names. 0, or -EINVAL if there is none. */
int64_t rs_unkeep(struct rs_store *store, uint64_t which);

/* Complete a RUN by its program: steps (a copy in scratch: calls may write into it), flags, reserve.
 * 0, or RS_ERR_* and why. */
int rs_recall(const struct rs_store *store, struct rs_request *req, uint8_t *scratch,
              const char **why);

#endif
