#include "batch.h"

#include "plain.h"
#include "sys.h"

static int succeeded(const struct rs_step *step, int64_t result) {
    if (step->ok == RS_OK_VALUE)
        return result == step->ok_value;
    /* Not "result >= 0": mmap may return any address, and errors end at -4095. */
    if ((uint64_t)result < (uint64_t)-4095)
        return 1;
    struct rs_reader errnos = step->ok_errnos;
    for (uint32_t i = 0; i < step->ok_count; i++)
        if (rs_number(&errnos) == (uint64_t)-result)
            return 1;
    return 0;
}

__attribute__((cold)) static void undo(const struct rs_limits *limits, struct rs_entry *entries, struct rs_batch *batch,
                 struct rs_scope *scope, const int32_t *fds, const struct rs_guard *guard) {
    struct rs_step step;
    const char *why;
    uint64_t a[6];
    while (scope->step-- > 0) {
        uint32_t i = scope->step, outs = 0;
        uint8_t *nowhere = 0; /* an undo has no outputs */
        if (batch->statuses[i] != RS_STATUS_DONE)
            continue;
        struct rs_reader r = {batch->steps[i], batch->steps[i] + RS_LIMIT_FRAME_MAX};
        rs_decode_step(&r, limits, entries, scope, &step, &why);
        if (!step.undo.p)
            continue;
        r = step.undo; /* not in place: the step is written anew */
        scope->step++;
        rs_decode_step(&r, limits, entries, scope, &step, &why);
        scope->step--;
        int64_t result =
            rs_call(step.nr, entries, step.count, batch, fds, guard, a, &nowhere, &outs);
        batch->statuses[i] = succeeded(&step, result) ? RS_STATUS_UNDONE : RS_STATUS_UNDO_FAILED;
    }
}

uint32_t rs_run(const struct rs_request *req, const struct rs_limits *limits,
                struct rs_entry *entries, struct rs_batch *batch, const int32_t *fds,
                struct rs_guard *guard, uint8_t *reply) {
    struct rs_scope scope = {req->nfds, 0, req->parameters, batch, 0, 0, 0, 0};
    struct rs_reader r = req->program;
    struct rs_step step;
    const char *why;
    uint64_t a[6];
    uint32_t outs = 0, failed = 0;
    /* In front of the outputs: frame header, array, type, id, array of outputs. */
    uint8_t *start = reply + RS_SIZE_HEADER + 1 + 1 + 9, *p = start + 5;

    memset(batch->statuses, RS_STATUS_NOT_STARTED, req->steps);
    for (; scope.step < req->steps; scope.step++) {
        uint32_t i = scope.step;
        batch->steps[i] = r.p;
        batch->outs[i] = 0;
        uint64_t nr;
        struct rs_reader plain = r;
        if (rs_plain_step(&plain, &nr, a) &&
            rs_plain_call(nr, a, guard, &batch->results[i])) {
            r = plain;
            if ((uint64_t)batch->results[i] < (uint64_t)-4095) {
                batch->statuses[i] = RS_STATUS_DONE;
                continue;
            }
            batch->statuses[i] = RS_STATUS_FAILED;
            failed++;
            break;
        }
        rs_decode_step(&r, limits, entries, &scope, &step, &why);
        batch->first_out[i] = scope.first_out; /* of a prepared batch it is not known any more */
        batch->outs[i] = p + RS_SIZE_REPLY_OUT;
        int64_t result = rs_call(step.nr, entries, step.count, batch, fds, guard, a, &p, &outs);
        batch->results[i] = result;
        int64_t stop = guard->stop; /* cancelled, or refused as a whole */
        if (stop && result == stop) {
            batch->statuses[i] = RS_STATUS_BLOCKED;
            failed++;
            break;
        }
        if (succeeded(&step, result)) {
            batch->statuses[i] = RS_STATUS_DONE;
            continue;
        }
        batch->statuses[i] = RS_STATUS_FAILED;
        failed++;
        if (!(step.flags & RS_STEPFLAG_CONTINUE))
            break;
    }
    uint32_t stopped = scope.step;
    if (stopped < req->steps) {
        if (guard->work)
            rs_team_over(guard->work);
#ifdef RS_INSIDE
        else if (guard->over)
            guard->over(guard);
#endif
        guard->stop = 0; /* what is to be undone is undone */
        undo(limits, entries, batch, &scope, fds, guard);
    }

    uint32_t started = stopped < req->steps ? stopped + 1 : stopped;
    uint32_t values = started, from = 0, statuses = req->steps;
    if (req->flags & RS_BATCHFLAG_BRIEF) {
        values = started ? 1 : 0;
        from = started - values;
        if (!failed)
            statuses = 0;
    }
    p = rs_put_bytes(p, RS_TAG_BIN32, &batch->results[from], values * 8);
    p = rs_put_bytes(p, RS_TAG_BIN32, batch->statuses, statuses);
    p = rs_put_uint(p, stopped);

    uint32_t len = (uint32_t)(p - reply);
    p = rs_put_be(reply, RS_TAG_UINT32, len - RS_SIZE_HEADER, 4);
    *p++ = RS_FIXARRAY | 6;
    *p++ = RS_MSG_BATCHED;
    p = rs_put_be(p, RS_TAG_UINT64, req->id, 8);
    rs_put_be(p, RS_TAG_ARRAY32, outs, 4);
    return len;
}

__attribute__((cold)) int64_t rs_keep(struct rs_store *store, const struct rs_request *req,
                const struct rs_limits *limits) {
    uint64_t len = (uint64_t)(req->program.end - req->program.p);
    if (len > limits->program_bytes - store->len)
        return -RS_ENOMEM;
    for (uint32_t i = 0; i < limits->programs; i++) {
        struct rs_program *program = &store->programs[i];
        if (program->used)
            continue;
        *program = (struct rs_program){.used = 1,
                                       .at = store->len,
                                       .len = (uint32_t)len,
                                       .steps = req->steps,
                                       .parameters = req->parameters,
                                       .flags = req->flags,
                                       .classes = req->classes,
                                       .reserve = req->reserve};
        memcpy(store->bytes + store->len, req->program.p, len);
        store->len += (uint32_t)len;
        return i;
    }
    return -RS_ENOMEM;
}

__attribute__((cold)) int64_t rs_unkeep(struct rs_store *store, uint64_t which) {
    if (which >= RS_LIMIT_PROGRAMS_MAX || !store->programs[which].used)
        return -RS_EINVAL;
    struct rs_program gone = store->programs[which];
    store->programs[which].used = 0;
    store->len -= gone.len;
    memmove(store->bytes + gone.at, store->bytes + gone.at + gone.len, store->len - gone.at);
    for (uint32_t i = 0; i < RS_LIMIT_PROGRAMS_MAX; i++)
        if (store->programs[i].used && store->programs[i].at > gone.at)
            store->programs[i].at -= gone.len;
    return 0;
}

int rs_recall(const struct rs_store *store, struct rs_request *req, uint8_t *scratch,
              const char **why) {
    if (req->which >= RS_LIMIT_PROGRAMS_MAX || !store->programs[req->which].used)
        FAIL(RS_ERR_FIELD, "RUN: no such program");
    const struct rs_program *program = &store->programs[req->which];
    if (req->count != program->parameters)
        FAIL(RS_ERR_FIELD, "RUN: not one argument for each parameter");
    /* A copy: relocations, and outputs in a STRUCT, are written into it. */
    memcpy(scratch, store->bytes + program->at, program->len);
    req->program = (struct rs_reader){scratch, scratch + program->len};
    req->steps = program->steps;
    req->flags = program->flags;
    req->parameters = program->parameters;
    req->reserve = program->reserve;
    req->classes = program->classes;
    return 0;
}
