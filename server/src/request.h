/* What a client's frame says, decoded and checked, before anything of it is acted upon. */
#ifndef RS_REQUEST_H
#define RS_REQUEST_H

#include <stdint.h>

#include "codec.h"
#include "rsyscall/protocol.h"
#include "rsyscall/syscalls.h"

/* Flags of the calls, by number: RS_CALL_*. Of what is not known the worst is thought. */
extern const uint8_t rs_call_flags[RS_CALLS];
/* The RS_CALL_* of a call whose first two arguments are these. In two calls it depends on them
 * whether one thread is concerned. */
uint32_t rs_class(uint64_t nr, uint64_t first, uint64_t second);

/* The negotiated limits, by the names of protocol.toml. */
struct rs_limits {
#define RS_LIMIT(index, name, def, min, max) uint32_t name;
    RS_LIMITS(RS_LIMIT)
#undef RS_LIMIT
};

struct rs_limit {
    char name[16];
    uint32_t def, min, max;
};
extern const struct rs_limit rs_limit_table[RS_LIMIT_COUNT]; /* in the same order */

/* One entry of a CALL's argument list. */
struct rs_entry {
    uint8_t type;       /* 0 for an integer, else RS_ARG_* */
    uint8_t depth;      /* how many levels of data hang below, this one included */
    uint32_t len;       /* bytes of data or of room; REF: of the number, 4 or 8 */
    uint32_t offset;    /* REF: in the first output of the step, or RS_REF_RESULT */
    uint64_t value;     /* the integer; the index of an FD, PARAM or step (REF); once placed, what
                         * the call gets: the number, or the address of the data */
    const uint8_t *in;  /* IN, INOUT, STRUCT: the bytes, inside the frame */
    struct rs_reader relocations; /* STRUCT: pairs of offset and index, checked */
    uint32_t relocation_count;
    struct rs_reader outs; /* STRUCT: pairs of offset and length, checked */
    uint32_t out_count;
};

#define RS_REF_RESULT UINT32_MAX

/* What is kept of the steps of a batch while it is checked, and while it is run. */
struct rs_batch {
    int64_t results[RS_LIMIT_STEPS_MAX];
    const uint8_t *steps[RS_LIMIT_STEPS_MAX];     /* where they stand */
    uint8_t *outs[RS_LIMIT_STEPS_MAX];            /* the data of the first output of each */
    uint32_t first_out[RS_LIMIT_STEPS_MAX];       /* its size, if it has one that a REF may name */
    uint8_t statuses[RS_LIMIT_STEPS_MAX];
    const struct rs_entry *parameters; /* the arguments of the RUN */
    uint32_t classes; /* the RS_CALL_* of all calls that have been checked */
};

/* Where an argument list stands, and what it adds up to. */
struct rs_scope {
    uint32_t nfds;       /* that came with the frame */
    uint32_t step;       /* in a batch: which; REFs may name those before */
    uint32_t parameters; /* in a prepared batch: how many */
    const struct rs_batch *batch; /* NULL in a CALL */
    uint32_t count;      /* entries */
    uint32_t outs;       /* entries with outputs */
    uint32_t first_out;  /* bytes of the first of them if it is an OUT or INOUT, else 0 */
    uint64_t reserve;    /* bytes of all of them in the reply */
};

struct rs_step {
    uint64_t nr;
    uint32_t count; /* entries */
    uint32_t flags; /* RS_STEPFLAG_* */
    enum { RS_OK_ANY, RS_OK_VALUE, RS_OK_ERRNOS } ok;
    int64_t ok_value;
    struct rs_reader ok_errnos;
    uint32_t ok_count;
    struct rs_reader undo; /* the undo step, or NULLs */
};

struct rs_request {
    uint32_t type; /* RS_MSG_* */
    uint64_t id;
    uint32_t nfds;
    uint32_t flags;    /* CALL: RS_CALLFLAG_* */
    uint64_t nr;       /* CALL */
    uint32_t count;    /* CALL: entries */
    uint64_t address;  /* READ, WRITE */
    uint32_t length;   /* READ, WRITE */
    const uint8_t *in; /* WRITE */
    uint64_t reserve;  /* bytes of reply it may need, frame header included */
    uint32_t classes;  /* the RS_CALL_* of all its calls */
    /* HELLO */
    uint32_t version_min, version_max;
    uint64_t features;
    struct rs_limits limits; /* the peer's, clamped to ours */
    uint64_t error_code;     /* ERROR */
    uint32_t size, spin;     /* RING */
    /* BATCH, PREPARE; flags: RS_BATCHFLAG_* */
    uint32_t steps;
    uint32_t parameters;      /* PREPARE */
    struct rs_reader program; /* the steps */
    uint64_t which;           /* RUN, UNPREPARE; of a WATCH the descriptor; RUN has its arguments in entries */
};

void rs_limits_default(struct rs_limits *limits);

/* The messages that may come now: sets of 1 << RS_MSG_*. */
enum {
    RS_CALLS_AND_COPIES = 1 << RS_MSG_CALL | 1 << RS_MSG_READ | 1 << RS_MSG_WRITE,
    RS_BATCHES =
        1 << RS_MSG_BATCH | 1 << RS_MSG_PREPARE | 1 << RS_MSG_RUN | 1 << RS_MSG_UNPREPARE,
    RS_WHEN_INIT = 1 << RS_MSG_HELLO,
    RS_WHEN_OPEN = RS_CALLS_AND_COPIES | 1 << RS_MSG_BYE | 1 << RS_MSG_ERROR,
};

/* Decode one frame's body, if it is one of the allowed messages. entries holds limits->data of them,
 * batch is scratch. Returns 0 or RS_ERR_*; *why is then a sentence for the ERROR frame. */
int rs_decode_request(const uint8_t *body, uint32_t len, uint32_t allowed,
                      const struct rs_limits *limits, struct rs_entry *entries,
                      struct rs_batch *batch, struct rs_request *out, const char **why);

/* An argument list: into entries, and what it adds up to into scope. */
int rs_decode_arguments(struct rs_reader *r, const struct rs_limits *limits,
                        struct rs_entry *entries, struct rs_scope *scope, const char **why);

/* One step. Cannot fail on one that has been checked before. */
int rs_decode_step(struct rs_reader *r, const struct rs_limits *limits, struct rs_entry *entries,
                   struct rs_scope *scope, struct rs_step *step, const char **why);

/* Check all steps; adds what their outputs need to *reserve. */
int rs_check_steps(struct rs_reader r, uint32_t steps, const struct rs_limits *limits,
                   struct rs_entry *entries, struct rs_batch *batch, uint32_t nfds,
                   uint32_t parameters, uint64_t *reserve, const char **why);

#define FAIL(code, text)                                                                           \
    do {                                                                                           \
        *why = (text);                                                                             \
        return (code);                                                                             \
    } while (0)

#endif
