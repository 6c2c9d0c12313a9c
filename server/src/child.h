/* A child that clone(2) has made in our memory, or in a copy of it; SPEC.md, section 16. */
#ifndef RS_CHILD_H
#define RS_CHILD_H

#include "session.h"

enum rs_child_flags {
    RS_CHILD_SHARED = 1, /* the memory is that of whoever made it, too */
    RS_CHILD_RUN = 2,    /* run one batch, and serve nobody */
    RS_CHILD_CLEARED = 4, /* no signal has a handler (CLONE_CLEAR_SIGHAND) */
};

/* What it finds on its stack, right behind the address at which it begins. Whoever makes it writes
 * this; what lies behind the addresses is the child's. */
struct rs_child {
    uint64_t session;  /* RS_SIZE_CHILD_MEMORY bytes, zeroed */
    uint64_t mask;     /* the signals that are blocked while it serves */
    uint64_t ranges;   /* file descriptors to close first: pairs of uint32, from and to */
    uint64_t data;     /* both halves of a ring, the client's first; with RUN a BATCH's body */
    uint32_t range_count;
    uint32_t flags;
    int32_t socket;    /* to serve */
    int32_t pidfd;     /* of the client, or -1 */
    uint32_t page_size;
    uint32_t size;     /* of a half of the ring, 0 if there is none; with RUN of the body */
    uint32_t spin_us, spin_turns;
    uint64_t reply;    /* with RUN, once it has failed: the address of a BATCHED; else of slots */
    uint32_t reply_len; /* its bytes; else how many slots there are */
    int32_t client;    /* its pid, if what has the number pidfd is still to become one; or 0 */
};

/* arch/<arch>/syscall.S: where the stack pointer must lead to. */
void rs_child_entry(void);

#endif
