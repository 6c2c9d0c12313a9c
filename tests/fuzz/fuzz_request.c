/* libFuzzer: one request's body, decoded under several limits. */
#include <stdio.h>
#include <stdlib.h>

#include "request.h"

#define REQUIRE(condition)                                                                         \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const struct rs_limits limits[] = {
#define MIN(index, name, def, min, max) .name = (min),
#define MAX(index, name, def, min, max) .name = (max),
    {RS_LIMITS(MIN)},
    {RS_LIMITS(MAX)},
    {.frame = 4096, .depth = 5, .data = 8, .fds = 2, .outstanding = 1, .window = 8192},
};

static int inside(const uint8_t *p, uint64_t n, const uint8_t *data, size_t size) {
    return p >= data && p <= data + size && n <= (uint64_t)(data + size - p);
}

/* What the one who executes the request relies on. */
static void check_entry(const struct rs_entry *e, uint32_t self, const struct rs_request *req,
                        const uint8_t *data, size_t size) {
    struct rs_reader pairs = e->relocations;
    if (e->in)
        REQUIRE(inside(e->in, e->len, data, size));
    if (e->type == RS_ARG_FD)
        REQUIRE(e->value < req->nfds);
    REQUIRE(e->depth <= RS_SIZE_STRUCT_DEPTH);
    for (uint32_t i = 0; i < e->relocation_count; i++) {
        uint64_t offset = rs_number(&pairs), target = rs_number(&pairs);
        REQUIRE(e->len >= 8 && offset <= e->len - 8);
        REQUIRE(target > self && target < req->count);
    }
    pairs = e->outs;
    for (uint32_t i = 0; i < e->out_count; i++) {
        uint64_t offset = rs_number(&pairs), n = rs_number(&pairs);
        REQUIRE(offset <= e->len && n <= e->len - offset);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const struct rs_limits *limit = &limits[i];
        /* Of the exact size, so that the sanitizer sees an entry too many. */
        struct rs_entry *entries = malloc(limit->data * sizeof *entries);
        struct rs_request req;
        const char *why = NULL;
        int err = rs_decode_request(data, (uint32_t)size, RS_WHEN_INIT | RS_WHEN_OPEN, limit,
                                    entries, &req, &why);
        if (err) {
            REQUIRE(err > 0 && err <= RS_ERR_INTERNAL && why && *why);
        } else {
            REQUIRE(req.type != RS_MSG_RESULT);
            REQUIRE(req.reserve <= limit->frame);
            REQUIRE(req.count <= limit->data && req.nfds <= limit->fds);
            if (req.type == RS_MSG_WRITE)
                REQUIRE(inside(req.in, req.length, data, size));
            for (uint32_t n = 0; n < req.count; n++)
                check_entry(&entries[n], n, &req, data, size);
        }
        free(entries);
    }
    return 0;
}
