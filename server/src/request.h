/* What a client's frame says, decoded and checked, before anything of it is acted upon. */
#ifndef RS_REQUEST_H
#define RS_REQUEST_H

#include <stdint.h>

#include "codec.h"
#include "rsyscall/protocol.h"

/* The negotiated limits, by the names of protocol.toml. */
struct rs_limits {
#define RS_LIMIT(index, name, def, min, max) uint32_t name;
    RS_LIMITS(RS_LIMIT)
#undef RS_LIMIT
};

/* One entry of a CALL's argument list. */
struct rs_entry {
    uint8_t type;       /* 0 for an integer, else RS_ARG_* */
    uint8_t depth;      /* how many levels of data hang below, this one included */
    uint32_t len;       /* bytes of data or of room */
    uint64_t value;     /* the integer; the index of an FD; once placed, the address of the data */
    const uint8_t *in;  /* IN, INOUT, STRUCT: the bytes, inside the frame */
    struct rs_reader relocations; /* STRUCT: pairs of offset and index, checked */
    uint32_t relocation_count;
    struct rs_reader outs; /* STRUCT: pairs of offset and length, checked */
    uint32_t out_count;
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
    /* HELLO */
    uint32_t version_min, version_max;
    uint64_t features;
    struct rs_limits limits; /* the peer's, clamped to ours */
    uint64_t error_code;     /* ERROR */
};

void rs_limits_default(struct rs_limits *limits);

/* The messages that may come now: sets of 1 << RS_MSG_*. */
enum {
    RS_REQUESTS = 1 << RS_MSG_CALL | 1 << RS_MSG_READ | 1 << RS_MSG_WRITE,
    RS_WHEN_INIT = 1 << RS_MSG_HELLO,
    RS_WHEN_OPEN = RS_REQUESTS | 1 << RS_MSG_BYE | 1 << RS_MSG_ERROR,
};

/* Decode one frame's body, if it is one of the allowed messages. entries holds limits->data of them.
 * Returns 0 or RS_ERR_*; *why is then a sentence for the ERROR frame. */
int rs_decode_request(const uint8_t *body, uint32_t len, uint32_t allowed,
                      const struct rs_limits *limits, struct rs_entry *entries,
                      struct rs_request *out, const char **why);

#endif
