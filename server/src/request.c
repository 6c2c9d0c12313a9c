#include "request.h"

#include "sys.h"

#define FAIL(code, text)                                                                           \
    do {                                                                                           \
        *why = (text);                                                                             \
        return (code);                                                                             \
    } while (0)

void rs_limits_default(struct rs_limits *limits) {
#define RS_LIMIT(index, name, def, min, max) limits->name = def;
    RS_LIMITS(RS_LIMIT)
#undef RS_LIMIT
}

static int is_uint(struct rs_reader *r, uint64_t max, uint64_t *out) {
    struct rs_value v;
    if (rs_next(r, &v) || v.kind != RS_UINT || v.number > max)
        return 0;
    *out = v.number;
    return 1;
}

static int below(uint64_t value, uint64_t min) { return value < min; }

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
            FAIL(RS_ERR_FIELD, "HELLO: a key of limits is not a string");
#define RS_LIMIT(index, name, def, min, max)                                                       \
    if (str_is(&key, #name)) {                                                                     \
        if (rs_next(r, &value) || value.kind != RS_UINT || below(value.number, min))            \
            FAIL(RS_ERR_FIELD, "HELLO: limit " #name " is too small or no integer");               \
        out->limits.name = value.number > (max) ? (max) : (uint32_t)value.number;                  \
        continue;                                                                                  \
    }
        RS_LIMITS(RS_LIMIT)
#undef RS_LIMIT
        rs_skip(r);
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
        FAIL(RS_ERR_FIELD, "HELLO: features is no unsigned integer");
    if (rs_next(r, &v) || v.kind != RS_MAP)
        FAIL(RS_ERR_FIELD, "HELLO: options is not a map");
    rs_limits_default(&out->limits);
    for (uint32_t n = v.len; n > 0; n--) {
        struct rs_value key;
        if (rs_next(r, &key) || key.kind != RS_STR)
            FAIL(RS_ERR_FIELD, "HELLO: a key of options is not a string");
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

/* Check a flat array of pairs of unsigned integers; leaves *r behind it. */
static int take_pairs(struct rs_reader *r, struct rs_reader *pairs, uint32_t *count) {
    struct rs_value v;
    if (rs_next(r, &v) || v.kind != RS_ARRAY || v.len % 2)
        return 0;
    *count = v.len / 2;
    *pairs = *r;
    for (uint32_t n = v.len; n > 0; n--)
        if (rs_next(r, &v) || v.kind != RS_UINT)
            return 0;
    return 1;
}

/* STRUCT: an ext whose payload is itself msgpack: [bytes, [offset, index, ...], [offset, n, ...]] */
static int decode_struct(const struct rs_value *ext, uint32_t self, uint32_t count,
                         struct rs_entry *e, uint64_t *out_bytes, const char **why) {
    struct rs_reader r = {ext->data, ext->data + ext->len}, pairs;
    struct rs_value v;
    int err = rs_validate(ext->data, ext->len, 2);
    if (err)
        FAIL(err, "CALL: a STRUCT is not well-formed");
    if (rs_next(&r, &v) || v.kind != RS_ARRAY || v.len != 3)
        FAIL(RS_ERR_ARITY, "CALL: a STRUCT has not three parts");
    if (rs_next(&r, &v) || v.kind != RS_BIN)
        FAIL(RS_ERR_FIELD, "CALL: a STRUCT without bytes");
    e->in = v.data;
    e->len = v.len;
    if (!take_pairs(&r, &e->relocations, &e->relocation_count))
        FAIL(RS_ERR_FIELD, "CALL: the relocations of a STRUCT are not pairs of integers");
    if (!take_pairs(&r, &e->outs, &e->out_count))
        FAIL(RS_ERR_FIELD, "CALL: the outputs of a STRUCT are not pairs of integers");

    uint64_t offset, n;
    pairs = e->relocations;
    for (uint32_t i = 0; i < e->relocation_count; i++) {
        offset = rs_number(&pairs);
        n = rs_number(&pairs);
        if (e->len < 8 || offset > e->len - 8)
            FAIL(RS_ERR_FIELD, "CALL: a relocation lies outside of its STRUCT");
        /* Forward only, so that no chain of them can be a circle. */
        if (n <= self || n >= count)
            FAIL(RS_ERR_FIELD, "CALL: a relocation names no later argument");
    }
    pairs = e->outs;
    *out_bytes = 0;
    for (uint32_t i = 0; i < e->out_count; i++) {
        offset = rs_number(&pairs);
        n = rs_number(&pairs);
        if (offset > e->len || n > e->len - offset)
            FAIL(RS_ERR_FIELD, "CALL: an output lies outside of its STRUCT");
        *out_bytes += n;
    }
    return 0;
}

static int decode_argument(struct rs_reader *r, uint32_t self, struct rs_entry *e,
                           struct rs_request *out, const char **why) {
    struct rs_value v;
    uint64_t outs = 0;
    int has_out = 0;

    memset(e, 0, sizeof *e);
    if (rs_next(r, &v))
        FAIL(RS_ERR_MALFORMED, "CALL: not well-formed");
    if (v.kind == RS_UINT || v.kind == RS_NINT) {
        e->value = v.number;
        return 0;
    }
    if (v.kind != RS_EXT)
        FAIL(RS_ERR_FIELD, "CALL: an argument is neither an integer nor an ext");
    e->type = (uint8_t)v.ext;
    e->depth = 1;
    switch (v.ext) {
    case RS_ARG_IN:
        e->in = v.data;
        e->len = v.len;
        break;
    case RS_ARG_INOUT:
        e->in = v.data;
        e->len = v.len;
        outs = v.len;
        has_out = 1;
        break;
    case RS_ARG_OUT:
    case RS_ARG_RET:
        if (v.len != 4)
            FAIL(RS_ERR_FIELD, "CALL: the size of an OUT is not four bytes");
        e->len = (uint32_t)v.data[0] << 24 | (uint32_t)v.data[1] << 16 | (uint32_t)v.data[2] << 8 |
                 v.data[3];
        outs = e->len;
        has_out = 1;
        break;
    case RS_ARG_FD:
        if (v.len != 1 || v.data[0] >= out->nfds)
            FAIL(RS_ERR_FIELD, "CALL: an FD names none of the frame's file descriptors");
        e->value = v.data[0];
        e->depth = 0;
        break;
    case RS_ARG_STRUCT: {
        int err = decode_struct(&v, self, out->count, e, &outs, why);
        if (err)
            return err;
        has_out = e->out_count > 0;
        break;
    }
    default:
        FAIL(RS_ERR_FIELD, "CALL: an argument of unknown type");
    }
    if (has_out)
        out->reserve += RS_SIZE_REPLY_OUT + outs;
    return 0;
}

/* From the last entry back, every one a STRUCT points at has its depth already. */
static int check_depth(struct rs_entry *entries, uint32_t count, const char **why) {
    for (uint32_t i = count; i-- > 0;) {
        struct rs_reader pairs = entries[i].relocations;
        for (uint32_t n = 0; n < entries[i].relocation_count; n++) {
            rs_number(&pairs); /* the offset */
            uint64_t target = rs_number(&pairs);
            if (entries[target].depth == 0)
                FAIL(RS_ERR_FIELD, "CALL: a relocation names an argument that is not data");
            if (entries[i].depth <= entries[target].depth)
                entries[i].depth = (uint8_t)(entries[target].depth + 1);
        }
        if (entries[i].depth > RS_SIZE_STRUCT_DEPTH)
            FAIL(RS_ERR_DEPTH, "CALL: relocations lead too deep");
    }
    return 0;
}

static int decode_call(struct rs_reader *r, const struct rs_limits *limits, struct rs_entry *entries,
                       struct rs_request *out, const char **why) {
    struct rs_value v;
    uint64_t n;
    if (!is_uint(r, UINT32_MAX, &n))
        FAIL(RS_ERR_FIELD, "CALL: the number of file descriptors is no unsigned integer");
    if (n > limits->fds)
        FAIL(RS_ERR_TOO_MANY_FDS, "CALL: more file descriptors than the limit");
    out->nfds = (uint32_t)n;
    if (!is_uint(r, RS_CALLFLAG_RETURN_FD, &n))
        FAIL(RS_ERR_FIELD, "CALL: unknown flags");
    if (n & RS_CALLFLAG_RETURN_FD && limits->fds == 0)
        FAIL(RS_ERR_TOO_MANY_FDS, "CALL: asks for a file descriptor, and the limit is none");
    out->flags = (uint32_t)n;
    if (!is_uint(r, INT32_MAX, &out->nr))
        FAIL(RS_ERR_FIELD, "CALL: the number of the system call is out of range");
    if (rs_next(r, &v) || v.kind != RS_ARRAY)
        FAIL(RS_ERR_FIELD, "CALL: the arguments are not an array");
    if (v.len > limits->data)
        FAIL(RS_ERR_FIELD, "CALL: more arguments than the limit");
    out->count = v.len;
    for (uint32_t i = 0; i < out->count; i++) {
        int err = decode_argument(r, i, &entries[i], out, why);
        if (err)
            return err;
    }
    return check_depth(entries, out->count, why);
}

static const uint8_t field_count[] = {
    [RS_MSG_CALL] = 6,  [RS_MSG_READ] = 4, [RS_MSG_WRITE] = 4,
    [RS_MSG_ERROR] = 4, [RS_MSG_BYE] = 1,
};

/* [code, offset, text], of which only the code is of use here. */
static int decode_error(struct rs_reader *r, struct rs_request *out, const char **why) {
    struct rs_value v;
    uint64_t offset;
    if (!is_uint(r, UINT32_MAX, &out->error_code))
        FAIL(RS_ERR_FIELD, "ERROR: the code is no unsigned integer");
    if (!is_uint(r, UINT64_MAX, &offset))
        FAIL(RS_ERR_FIELD, "ERROR: the offset is no unsigned integer");
    if (rs_next(r, &v) || v.kind != RS_STR)
        FAIL(RS_ERR_FIELD, "ERROR: the text is not a string");
    return 0;
}

int rs_decode_request(const uint8_t *body, uint32_t len, uint32_t allowed,
                      const struct rs_limits *limits, struct rs_entry *entries,
                      struct rs_request *out, const char **why) {
    struct rs_reader r = {body, body + len};
    struct rs_value v;
    uint64_t n;
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
        FAIL(RS_ERR_FIELD, "a message's type is no unsigned integer");
    if (v.number < RS_MSG_HELLO || v.number > RS_MSG_BYE)
        FAIL(RS_ERR_UNKNOWN_TYPE, "a message of unknown type");
    out->type = (uint32_t)v.number;
    if (!(allowed >> out->type & 1))
        FAIL(RS_ERR_STATE, "the message may not be sent now, or not by this side");
    if (out->type == RS_MSG_HELLO)
        return decode_hello(&r, fields, out, why);
    if (fields != field_count[out->type])
        FAIL(RS_ERR_ARITY, "a message with the wrong number of fields");

    switch (out->type) {
    case RS_MSG_CALL:
    case RS_MSG_READ:
    case RS_MSG_WRITE:
        if (!is_uint(&r, UINT64_MAX, &out->id))
            FAIL(RS_ERR_FIELD, "the id of a request is no unsigned integer");
        out->reserve = RS_SIZE_REPLY_BASE;
        break;
    case RS_MSG_ERROR:
        return decode_error(&r, out, why);
    default: /* BYE */
        return 0;
    }
    if (out->type == RS_MSG_CALL) {
        err = decode_call(&r, limits, entries, out, why);
        if (err)
            return err;
    } else {
        if (!is_uint(&r, UINT64_MAX, &out->address))
            FAIL(RS_ERR_FIELD, "READ or WRITE: the address is no unsigned integer");
        if (out->type == RS_MSG_READ) {
            if (!is_uint(&r, UINT32_MAX, &n))
                FAIL(RS_ERR_FIELD, "READ: the length is no unsigned integer");
            out->length = (uint32_t)n;
            out->reserve += RS_SIZE_REPLY_OUT + n;
        } else {
            if (rs_next(&r, &v) || v.kind != RS_BIN)
                FAIL(RS_ERR_FIELD, "WRITE: no bytes");
            out->in = v.data;
            out->length = v.len;
        }
    }
    /* Larger than the window it could never be admitted, however long the client waits. */
    if (out->reserve > limits->frame || out->reserve > limits->window)
        FAIL(RS_ERR_OVERSIZE, "the reply may be larger than the limits");
    return 0;
}
