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
    {.frame = 4096, .depth = 6, .data = 8, .fds = 2, .outstanding = 1, .window = 8192, .steps = 4},
};

static int inside(const uint8_t *p, uint64_t n, const uint8_t *data, size_t size) {
    return p >= data && p <= data + size && n <= (uint64_t)(data + size - p);
}

/* What the one who executes the request relies on. */
static void check_entry(const struct rs_entry *e, uint32_t self, const struct rs_scope *scope,
                        const uint8_t *data, size_t size) {
    struct rs_reader pairs = e->relocations;
    if (e->in)
        REQUIRE(inside(e->in, e->len, data, size));
    if (e->type == RS_ARG_FD)
        REQUIRE(e->value < scope->nfds);
    if (e->type == RS_ARG_PARAM)
        REQUIRE(e->value < scope->parameters);
    if (e->type == RS_ARG_REF) {
        REQUIRE(e->value < scope->step && (e->len == 4 || e->len == 8));
        if (e->offset != RS_REF_RESULT)
            REQUIRE((uint64_t)e->offset + 4 <= scope->batch->first_out[e->value]);
    }
    REQUIRE(e->depth <= RS_SIZE_STRUCT_DEPTH);
    for (uint32_t i = 0; i < e->relocation_count; i++) {
        uint64_t offset = rs_number(&pairs), target = rs_number(&pairs);
        REQUIRE(e->len >= 8 && offset <= e->len - 8);
        REQUIRE(target > self && target < scope->count);
    }
    pairs = e->outs;
    for (uint32_t i = 0; i < e->out_count; i++) {
        uint64_t offset = rs_number(&pairs), n = rs_number(&pairs);
        REQUIRE(offset <= e->len && n <= e->len - offset);
    }
}

static void check_list(struct rs_scope *scope, const struct rs_entry *entries, const uint8_t *data,
                       size_t size) {
    for (uint32_t i = 0; i < scope->count; i++)
        check_entry(&entries[i], i, scope, data, size);
}

/* Decoded once more, as it is when they are run. */
static void check_steps(const struct rs_request *req, const struct rs_limits *limit,
                        struct rs_entry *entries, struct rs_batch *batch, const uint8_t *data,
                        size_t size) {
    struct rs_scope scope = {.nfds = req->nfds, .parameters = req->parameters, .batch = batch};
    struct rs_reader r = req->program;
    struct rs_step step;
    const char *why;
    REQUIRE(req->steps <= limit->steps);
    for (; scope.step < req->steps; scope.step++) {
        REQUIRE(rs_decode_step(&r, limit, entries, &scope, &step, &why) == 0);
        REQUIRE(step.count == scope.count && step.count <= limit->data);
        check_list(&scope, entries, data, size);
        batch->first_out[scope.step] = scope.first_out;
        if (!step.undo.p)
            continue;
        struct rs_scope inside = scope;
        struct rs_reader undo = step.undo;
        inside.step++;
        REQUIRE(rs_decode_step(&undo, limit, entries, &inside, &step, &why) == 0);
        REQUIRE(inside.outs == 0 && !step.undo.p);
        check_list(&inside, entries, data, size);
    }
    REQUIRE(scope.reserve + req->steps * RS_SIZE_BATCH_STEP + RS_SIZE_BATCH_BASE == req->reserve);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static struct rs_batch batch;
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        const struct rs_limits *limit = &limits[i];
        /* Of the exact size, so that the sanitizer sees an entry too many. */
        struct rs_entry *entries = malloc(limit->data * sizeof *entries);
        struct rs_request req;
        const char *why = NULL;
        int err = rs_decode_request(data, (uint32_t)size, RS_WHEN_INIT | RS_WHEN_OPEN | RS_BATCHES | 1 << RS_MSG_RING,
                                    limit, entries, &batch, &req, &why);
        if (err) {
            REQUIRE(err > 0 && err <= RS_ERR_LAST && why && *why);
        } else {
            REQUIRE(req.type != RS_MSG_RESULT);
            REQUIRE(req.reserve <= limit->frame);
            REQUIRE(req.count <= limit->data && req.nfds <= limit->fds);
            if (req.type == RS_MSG_WRITE)
                REQUIRE(inside(req.in, req.length, data, size));
            if (req.type == RS_MSG_RING)
                REQUIRE(req.size >= RS_SIZE_RING_MIN && req.size <= RS_SIZE_RING_MAX);
            if (req.type == RS_MSG_BATCH || req.type == RS_MSG_PREPARE)
                check_steps(&req, limit, entries, &batch, data, size);
            struct rs_scope scope = {.nfds = req.nfds, .count = req.count};
            check_list(&scope, entries, data, size);
        }
        free(entries);
    }
    return 0;
}
