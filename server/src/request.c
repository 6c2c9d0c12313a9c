#include "request.h"

#include "plain.h"
#include "sys.h"

const uint8_t rs_call_flags[RS_CALLS] = {
#define RS_FLAGS(nr, flags) [nr] = (flags),
    RS_CALL_FLAGS(RS_FLAGS)
#undef RS_FLAGS
};

const struct rs_limit rs_limit_table[RS_LIMIT_COUNT] = {
#define RS_LIMIT(index, name, def, min, max) {#name, def, min, max},
    RS_LIMITS(RS_LIMIT)
#undef RS_LIMIT
};
_Static_assert(sizeof(struct rs_limits) == RS_LIMIT_COUNT * sizeof(uint32_t), "one behind the other");

void rs_limits_default(struct rs_limits *limits) {
    for (uint32_t i = 0; i < RS_LIMIT_COUNT; i++)
        ((uint32_t *)limits)[i] = rs_limit_table[i].def;
}

static int is_uint(struct rs_reader *r, uint64_t max, uint64_t *out) {
    struct rs_value v;
    if (rs_next(r, &v) || v.kind != RS_UINT || v.number > max)
        return 0;
    *out = v.number;
    return 1;
}

static int str_is(const struct rs_value *v, const char *text) {
    uint32_t n = 0;
    while (text[n])
        n++;
    return v->kind == RS_STR && v->len == n && memcmp(v->data, text, n) == 0;
}

static int decode_limits(struct rs_reader *r, struct rs_request *out, const char **why) {
    struct rs_value key, value;
    if (rs_next(r, &value) || value.kind != RS_MAP)
        FAIL(RS_ERR_FIELD, "HELLO: limits is not a map");
    rs_limits_default(&out->limits);
    for (uint32_t n = value.len; n > 0; n--) {
        if (rs_next(r, &key) || key.kind != RS_STR)
            FAIL(RS_ERR_FIELD, "HELLO: a key is not a string");
        struct rs_reader at = *r;
        rs_skip(r);
        for (uint32_t i = 0; i < RS_LIMIT_COUNT; i++) {
            const struct rs_limit *limit = &rs_limit_table[i];
            if (!str_is(&key, limit->name))
                continue;
            if (rs_next(&at, &value) || value.kind != RS_UINT || value.number < limit->min)
                FAIL(RS_ERR_FIELD, "HELLO: a limit is too small or no integer");
            ((uint32_t *)&out->limits)[i] =
                value.number > limit->max ? limit->max : (uint32_t)value.number;
        }
    }
    return 0;
}

static int decode_hello(struct rs_reader *r, uint32_t fields, struct rs_request *out,
                        const char **why) {
    struct rs_value v;
    uint64_t lo, hi;
    /* The magic before anything else: whoever speaks another protocol should read just that. */
    if (fields < 2 || rs_next(r, &v) || !str_is(&v, RS_MAGIC))
        FAIL(RS_ERR_MAGIC, "HELLO: not the rsyscall protocol");
    if (fields != 6)
        FAIL(RS_ERR_ARITY, "HELLO: not six fields");
    if (!is_uint(r, UINT32_MAX, &lo) || !is_uint(r, UINT32_MAX, &hi) || lo > hi)
        FAIL(RS_ERR_FIELD, "HELLO: no range of versions");
    out->version_min = (uint32_t)lo;
    out->version_max = (uint32_t)hi;
    if (!is_uint(r, UINT64_MAX, &out->features))
        FAIL(RS_ERR_FIELD, "HELLO: features is no number");
    if (rs_next(r, &v) || v.kind != RS_MAP)
        FAIL(RS_ERR_FIELD, "HELLO: options is not a map");
    rs_limits_default(&out->limits);
    for (uint32_t n = v.len; n > 0; n--) {
        struct rs_value key;
        if (rs_next(r, &key) || key.kind != RS_STR)
            FAIL(RS_ERR_FIELD, "HELLO: a key is not a string");
        if (str_is(&key, "limits")) {
            int err = decode_limits(r, out, why);
            if (err)
                return err;
        } else {
            rs_skip(r);
        }
    }
    return 0;
}

static int decode_nfds(struct rs_reader *r, const struct rs_limits *limits, uint32_t *nfds,
                       const char **why) {
    uint64_t n;
    if (!is_uint(r, UINT32_MAX, &n))
        FAIL(RS_ERR_FIELD, "the number of file descriptors is no number");
    if (n > limits->fds)
        FAIL(RS_ERR_TOO_MANY_FDS, "more file descriptors than the limit");
    *nfds = (uint32_t)n;
    return 0;
}

static int decode_nr(struct rs_reader *r, uint64_t *nr, const char **why) {
    if (!is_uint(r, INT32_MAX, nr))
        FAIL(RS_ERR_FIELD, "the number of the system call is out of range");
    return 0;
}

/* PR_GET_DUMPABLE and SET, PR_SET_CHILD_SUBREAPER and GET: of the memory, and of the process. */
enum { LOW_OPS = 1 << 3 | 1 << 4, HIGH_OPS = 1 << (36 - 32) | 1 << (37 - 32) };

uint32_t rs_class(uint64_t nr, uint64_t first, uint64_t second) {
    if (nr >= RS_CALLS)
        return RS_CALL_BLOCKS;
    uint32_t class = rs_call_flags[nr];
    if ((nr == RS_NR_prctl && first < 64 && (LOW_OPS | (uint64_t)HIGH_OPS << 32) >> first & 1) ||
        (nr == RS_NR_rt_sigprocmask && !second))
        class &= ~(uint32_t)RS_CALL_THREAD;
    return class;
}

static uint32_t class_of(uint64_t nr, const struct rs_entry *e, uint32_t count) {
    uint64_t a[2] = {0, 0};
    for (uint32_t i = 0; i < 2 && i < count; i++)
        a[i] = e[i].type ? UINT64_MAX : e[i].value;
    return rs_class(nr, a[0], a[1]);
}

static int decode_call(struct rs_reader *r, const struct rs_limits *limits, struct rs_entry *entries,
                       struct rs_request *out, const char **why) {
    struct rs_scope scope = {0, 0, 0, 0, 0, 0, 0, 0};
    uint64_t n;
    int err = decode_nfds(r, limits, &out->nfds, why);
    if (err)
        return err;
    scope.nfds = out->nfds;
    if (!is_uint(r, RS_CALLFLAG_RETURN_FD, &n))
        FAIL(RS_ERR_FIELD, "CALL: unknown flags");
    if (n & RS_CALLFLAG_RETURN_FD && limits->fds == 0)
        FAIL(RS_ERR_TOO_MANY_FDS, "more file descriptors than the limit");
    out->flags = (uint32_t)n;
    if ((err = decode_nr(r, &out->nr, why)) ||
        (err = rs_decode_arguments(r, limits, entries, &scope, why)))
        return err;
    out->count = scope.count;
    out->reserve += scope.reserve;
    out->classes = class_of(out->nr, entries, out->count);
    return 0;
}

/* ok: nil, or a number, or an array of numbers of errors. */
static int decode_ok(struct rs_reader *r, struct rs_step *step, const char **why) {
    struct rs_value v;
    uint64_t n;
    if (rs_next(r, &v))
        FAIL(RS_ERR_MALFORMED, "a step is not well-formed");
    switch (v.kind) {
    case RS_NIL:
        return 0;
    case RS_UINT:
    case RS_NINT:
        if (v.kind == RS_UINT && v.number > INT64_MAX)
            FAIL(RS_ERR_FIELD, "a step's ok is out of range");
        step->ok = RS_OK_VALUE;
        step->ok_value = (int64_t)v.number;
        return 0;
    case RS_ARRAY:
        step->ok = RS_OK_ERRNOS;
        step->ok_count = v.len;
        step->ok_errnos = *r;
        for (uint32_t i = 0; i < step->ok_count; i++)
            if (!is_uint(r, 4095, &n))
                FAIL(RS_ERR_FIELD, "a step's ok holds something that is no error");
        return 0;
    default:
        FAIL(RS_ERR_FIELD, "a step's ok is neither nil, a number nor an array");
    }
}

int rs_decode_step(struct rs_reader *r, const struct rs_limits *limits, struct rs_entry *entries,
                   struct rs_scope *scope, struct rs_step *step, const char **why) {
    struct rs_value v;
    uint64_t n;
    int err;
    memset(step, 0, sizeof *step);
    if (rs_next(r, &v) || v.kind != RS_ARRAY)
        FAIL(RS_ERR_FIELD, "a step is not an array");
    uint32_t fields = v.len;
    if (fields < 2 || fields > 5)
        FAIL(RS_ERR_ARITY, "a step has not two to five fields");
    if ((err = decode_nr(r, &step->nr, why)) ||
        (err = rs_decode_arguments(r, limits, entries, scope, why)))
        return err;
    step->count = scope->count;
    if (fields > 2 && (err = decode_ok(r, step, why)))
        return err;
    if (fields > 3) {
        if (!is_uint(r, RS_STEPFLAG_CONTINUE, &n))
            FAIL(RS_ERR_FIELD, "unknown flags of a step");
        step->flags = (uint32_t)n;
    }
    if (fields > 4) {
        step->undo = *r;
        rs_skip(r);
        step->undo.end = r->p;
    }
    return 0;
}

/* An undo: number and arguments, without outputs. It may name the step that it undoes. */
static int check_undo(struct rs_reader r, const struct rs_limits *limits, struct rs_entry *entries,
                      struct rs_scope scope, struct rs_batch *batch, const char **why) {
    struct rs_step undo;
    struct rs_value v;
    struct rs_reader peek = r;
    if (rs_next(&peek, &v) || v.kind != RS_ARRAY || v.len != 2)
        FAIL(RS_ERR_ARITY, "an undo has not two fields");
    scope.step++;
    int err = rs_decode_step(&r, limits, entries, &scope, &undo, why);
    if (err)
        return err;
    if (scope.outs)
        FAIL(RS_ERR_FIELD, "an undo has outputs");
    batch->classes |= class_of(undo.nr, entries, undo.count);
    return 0;
}

int rs_check_steps(struct rs_reader r, uint32_t steps, const struct rs_limits *limits,
                   struct rs_entry *entries, struct rs_batch *batch, uint32_t nfds,
                   uint32_t parameters, uint64_t *reserve, const char **why) {
    struct rs_scope scope = {nfds, 0, parameters, batch, 0, 0, 0, 0};
    struct rs_step step;
    batch->classes = 0;
    for (; scope.step < steps; scope.step++) {
        uint64_t nr, a[6];
        if (rs_plain_step(&r, &nr, a)) {
            batch->first_out[scope.step] = 0;
            batch->classes |= rs_class(nr, a[0], a[1]);
            continue;
        }
        int err = rs_decode_step(&r, limits, entries, &scope, &step, why);
        if (err)
            return err;
        batch->first_out[scope.step] = scope.first_out;
        batch->classes |= class_of(step.nr, entries, step.count);
        if (step.undo.p && (err = check_undo(step.undo, limits, entries, scope, batch, why)))
            return err;
    }
    *reserve += scope.reserve;
    return 0;
}

/* The steps of a BATCH or PREPARE; leaves *r where it was. */
static int decode_steps(struct rs_reader *r, const struct rs_limits *limits,
                        struct rs_entry *entries, struct rs_batch *batch, struct rs_request *out,
                        const char **why) {
    struct rs_value v;
    if (rs_next(r, &v) || v.kind != RS_ARRAY)
        FAIL(RS_ERR_FIELD, "the steps are not an array");
    if (v.len > limits->steps)
        FAIL(RS_ERR_FIELD, "more steps than the limit");
    out->steps = v.len;
    out->program = *r;
    return rs_check_steps(*r, out->steps, limits, entries, batch, out->nfds, out->parameters,
                          &out->reserve, why);
}

static int decode_batch(struct rs_reader *r, const struct rs_limits *limits,
                        struct rs_entry *entries, struct rs_batch *batch, struct rs_request *out,
                        const char **why) {
    uint64_t n;
    int err;
    out->reserve = RS_SIZE_BATCH_BASE;
    if (out->type == RS_MSG_PREPARE) {
        if (!is_uint(r, limits->data < 255 ? limits->data : 255, &n))
            FAIL(RS_ERR_FIELD, "PREPARE: the number of parameters is out of range");
        out->parameters = (uint32_t)n;
    } else if ((err = decode_nfds(r, limits, &out->nfds, why))) {
        return err;
    }
    if (!is_uint(r, RS_BATCHFLAG_BRIEF, &n))
        FAIL(RS_ERR_FIELD, "unknown flags of a batch");
    out->flags = (uint32_t)n;
    if ((err = decode_steps(r, limits, entries, batch, out, why)))
        return err;
    out->reserve += (uint64_t)out->steps * RS_SIZE_BATCH_STEP;
    out->classes = batch->classes;
    return 0;
}

/* What it reserves depends on the program, and is not known here. */
static int decode_run(struct rs_reader *r, const struct rs_limits *limits, struct rs_entry *entries,
                      struct rs_request *out, const char **why) {
    struct rs_scope scope = {0, 0, 0, 0, 0, 0, 0, 0};
    int err = decode_nfds(r, limits, &out->nfds, why);
    if (err)
        return err;
    scope.nfds = out->nfds;
    if (!is_uint(r, UINT32_MAX, &out->which))
        FAIL(RS_ERR_FIELD, "RUN: the program is no number");
    if ((err = rs_decode_arguments(r, limits, entries, &scope, why)))
        return err;
    out->count = scope.count;
    for (uint32_t i = 0; i < out->count; i++)
        if (entries[i].type != 0 && entries[i].type != RS_ARG_IN && entries[i].type != RS_ARG_FD)
            FAIL(RS_ERR_FIELD, "RUN: an argument is no integer, IN or FD");
    return 0;
}

static const uint8_t field_count[] = {
    [RS_MSG_CALL] = 6,    [RS_MSG_READ] = 4, [RS_MSG_WRITE] = 4,     [RS_MSG_ERROR] = 4,
    [RS_MSG_BYE] = 1,     [RS_MSG_RING] = 4, [RS_MSG_BATCH] = 5,     [RS_MSG_PREPARE] = 5,
    [RS_MSG_RUN] = 5,     [RS_MSG_UNPREPARE] = 3, [RS_MSG_CANCEL] = 2,
    [RS_MSG_WATCH] = 3,
};

/* [code, offset, text], of which only the code is of use here. */
static int decode_error(struct rs_reader *r, struct rs_request *out, const char **why) {
    struct rs_value v;
    uint64_t offset;
    if (!is_uint(r, UINT32_MAX, &out->error_code))
        FAIL(RS_ERR_FIELD, "ERROR: the code is no number");
    if (!is_uint(r, UINT64_MAX, &offset))
        FAIL(RS_ERR_FIELD, "ERROR: the offset is no number");
    if (rs_next(r, &v) || v.kind != RS_STR)
        FAIL(RS_ERR_FIELD, "ERROR: the text is not a string");
    return 0;
}

static int decode_access(struct rs_reader *r, struct rs_request *out, const char **why) {
    struct rs_value v;
    uint64_t n;
    if (!is_uint(r, UINT64_MAX, &out->address))
        FAIL(RS_ERR_FIELD, "READ or WRITE: the address is no number");
    if (out->type == RS_MSG_READ) {
        if (!is_uint(r, UINT32_MAX, &n))
            FAIL(RS_ERR_FIELD, "READ: the length is no number");
        out->length = (uint32_t)n;
        out->reserve += RS_SIZE_REPLY_OUT + n;
    } else {
        if (rs_next(r, &v) || v.kind != RS_BIN)
            FAIL(RS_ERR_FIELD, "WRITE: no bytes");
        out->in = v.data;
        out->length = v.len;
    }
    return 0;
}

static int decode_ring(struct rs_reader *r, struct rs_request *out, const char **why) {
    uint64_t size, spin;
    if (!is_uint(r, RS_SIZE_RING_MAX, &size) || size < RS_SIZE_RING_MIN || size & (size - 1))
        FAIL(RS_ERR_FIELD, "RING: the size is no power of two, or out of range");
    if (!is_uint(r, UINT32_MAX, &spin))
        FAIL(RS_ERR_FIELD, "RING: the time to spin is no number");
    out->size = (uint32_t)size;
    out->spin = (uint32_t)spin;
    return 0;
}

int rs_decode_request(const uint8_t *body, uint32_t len, uint32_t allowed,
                      const struct rs_limits *limits, struct rs_entry *entries,
                      struct rs_batch *batch, struct rs_request *out, const char **why) {
    struct rs_reader r = {body, body + len};
    struct rs_value v;
    int err = rs_validate(body, len, limits->depth);

    memset(out, 0, sizeof *out);
    if (err == RS_ERR_DEPTH)
        FAIL(err, "arrays and maps are nested too deeply");
    if (err == RS_ERR_TRAILING)
        FAIL(err, "bytes follow the message inside its frame");
    if (err)
        FAIL(err, "not well-formed msgpack");
    if (rs_next(&r, &v) || v.kind != RS_ARRAY)
        FAIL(RS_ERR_FIELD, "a message is not an array");
    uint32_t fields = v.len;
    if (fields == 0)
        FAIL(RS_ERR_ARITY, "a message without a type");
    if (rs_next(&r, &v) || v.kind != RS_UINT)
        FAIL(RS_ERR_FIELD, "a message's type is no number");
    if (v.number < RS_MSG_HELLO || v.number > RS_MSG_WATCH)
        FAIL(RS_ERR_UNKNOWN_TYPE, "a message of unknown type");
    out->type = (uint32_t)v.number;
    if (!(allowed >> out->type & 1))
        FAIL(RS_ERR_STATE, "the message may not be sent now, or not by this side");
    if (out->type == RS_MSG_HELLO)
        return decode_hello(&r, fields, out, why);
    if (fields != field_count[out->type])
        FAIL(RS_ERR_ARITY, "a message with the wrong number of fields");

    switch (out->type) {
    case RS_MSG_ERROR:
        return decode_error(&r, out, why);
    case RS_MSG_BYE:
        return 0;
    default:
        if (!is_uint(&r, UINT64_MAX, &out->id))
            FAIL(RS_ERR_FIELD, "the id of a request is no number");
        out->reserve = RS_SIZE_REPLY_BASE;
    }
    switch (out->type) {
    case RS_MSG_CALL:
        err = decode_call(&r, limits, entries, out, why);
        break;
    case RS_MSG_BATCH:
    case RS_MSG_PREPARE:
        err = decode_batch(&r, limits, entries, batch, out, why);
        break;
    case RS_MSG_RUN:
        err = decode_run(&r, limits, entries, out, why);
        break;
    case RS_MSG_UNPREPARE:
        if (!is_uint(&r, UINT32_MAX, &out->which))
            FAIL(RS_ERR_FIELD, "UNPREPARE: the program is no number");
        break;
    case RS_MSG_WATCH:
        if (!is_uint(&r, INT32_MAX, &out->which))
            FAIL(RS_ERR_FIELD, "WATCH: no file descriptor");
        break;
    case RS_MSG_RING:
        err = decode_ring(&r, out, why);
        break;
    case RS_MSG_CANCEL:
        return 0;
    default:
        err = decode_access(&r, out, why);
    }
    if (err)
        return err;
    /* Larger than the window it could never be admitted, however long the client waits. */
    if (out->reserve > limits->frame || out->reserve > limits->window)
        FAIL(RS_ERR_OVERSIZE, "the reply may be larger than the limits");
    return 0;
}
