/* Acting on a decoded request. */
#ifndef RS_EXECUTE_H
#define RS_EXECUTE_H

#include <stdatomic.h>
#include <stdint.h>

#include "request.h"

struct rs_work;

/* What the one who serves does not want to lose to its client. */
struct rs_guard {
    int32_t fds[2];       /* own descriptors, or -1: may be neither closed nor replaced */
    uint8_t *made;        /* in somebody's interpreter: a bit per descriptor that calls have made */
    uint32_t made_bits;   /* how many; 0 when the whole process is ours */
    struct rs_work *work; /* whose calls they are; NULL if a call that blocks blocks all */
    _Atomic int64_t stop; /* not zero: what calls are to return instead of being made */
#ifdef RS_INSIDE
    void (*over)(struct rs_guard *); /* without work: as rs_team_over, or NULL */
#endif
};

/* team.c: make a call that may block. */
int64_t rs_team_call(struct rs_work *w, uint64_t nr, const uint64_t a[6]);

/* team.c: make a child. */
int64_t rs_team_clone(struct rs_work *w, uint64_t nr, const uint64_t a[6]);

/* team.c: nothing interrupts what follows. */
void rs_team_over(struct rs_work *w);

/* A RESULT without outputs; returns the frame's length. */
uint32_t rs_result(uint64_t id, int64_t result, uint8_t *reply);

/* Whether the call may sleep for ever, so that finished replies should leave before it. */
int rs_may_block(const struct rs_request *req);

/* The descriptor is closed, or about to be: it is no longer one that a call has made. */
void rs_forget(const struct rs_guard *guard, int32_t fd);

/* Make one call: a has its arguments afterwards, *reply is advanced by its outputs and *outs by
 * their number. fds and guard as below; batch is what it is a step of, or NULL. */
int64_t rs_call(uint64_t nr, struct rs_entry *e, uint32_t count, const struct rs_batch *batch,
                const int32_t *fds, const struct rs_guard *guard, uint64_t a[6], uint8_t **reply,
                uint32_t *outs);

/* Make the request's call (CALL) or copy (READ, WRITE) and write the whole RESULT frame at reply,
 * which has room for req->reserve bytes. fds are those that came with the frame; they stay open.
 * Returns the frame's length; *out_fd is the descriptor to send with it, or -1. */
uint32_t rs_execute(struct rs_request *req, struct rs_entry *entries, const int32_t *fds,
                    const struct rs_guard *guard, uint8_t *reply, int32_t *out_fd);

#endif
