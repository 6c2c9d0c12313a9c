/* The arguments of a call, as they stand in a CALL or in a step of a batch. */
#include "request.h"

#include "sys.h"

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
__attribute__((cold)) static int decode_struct(const struct rs_value *ext, uint32_t self, uint32_t count,
                         struct rs_entry *e, uint64_t *out_bytes, const char **why) {
    struct rs_reader r = {ext->data, ext->data + ext->len}, pairs;
    struct rs_value v;
    int err = rs_validate(ext->data, ext->len, 2);
    if (err)
        FAIL(err, "a STRUCT is not well-formed");
    if (rs_next(&r, &v) || v.kind != RS_ARRAY || v.len != 3)
        FAIL(RS_ERR_ARITY, "a STRUCT has not three parts");
    if (rs_next(&r, &v) || v.kind != RS_BIN)
        FAIL(RS_ERR_FIELD, "a STRUCT without bytes");
    e->in = v.data;
    e->len = v.len;
    if (!take_pairs(&r, &e->relocations, &e->relocation_count))
        FAIL(RS_ERR_FIELD, "a list of a STRUCT is not one of pairs of integers");
    if (!take_pairs(&r, &e->outs, &e->out_count))
        FAIL(RS_ERR_FIELD, "a list of a STRUCT is not one of pairs of integers");

    uint64_t offset, n;
    pairs = e->relocations;
    for (uint32_t i = 0; i < e->relocation_count; i++) {
        offset = rs_number(&pairs);
        n = rs_number(&pairs);
        if (e->len < 8 || offset > e->len - 8)
            FAIL(RS_ERR_FIELD, "a relocation lies outside of its STRUCT");
        /* Forward only, so that no chain of them can be a circle. */
        if (n <= self || n >= count)
            FAIL(RS_ERR_FIELD, "a relocation names no later argument");
    }
    pairs = e->outs;
    *out_bytes = 0;
    for (uint32_t i = 0; i < e->out_count; i++) {
        offset = rs_number(&pairs);
        n = rs_number(&pairs);
        if (offset > e->len || n > e->len - offset)
            FAIL(RS_ERR_FIELD, "an output lies outside of its STRUCT");
        *out_bytes += n;
    }
    return 0;
}

/* REF: step, offset and width, each in four bytes. */
__attribute__((cold)) static int decode_ref(const struct rs_value *ext, const struct rs_scope *scope, struct rs_entry *e,
                      const char **why) {
    struct rs_reader r = {ext->data, ext->data + ext->len};
    uint64_t step, offset, width;
    if (ext->len != 12)
        FAIL(RS_ERR_FIELD, "a REF is not three times four bytes");
    rs_take_be(&r, 4, &step);
    rs_take_be(&r, 4, &offset);
    rs_take_be(&r, 4, &width);
    if (step >= scope->step)
        FAIL(RS_ERR_FIELD, "a REF names no earlier step");
    if (width != 4 && width != 8)
        FAIL(RS_ERR_FIELD, "a REF is neither four nor eight bytes wide");
    if (offset != RS_REF_RESULT && offset + 4 > scope->batch->first_out[step])
        FAIL(RS_ERR_FIELD, "a REF lies outside of the step's first output");
    e->value = step;
    e->offset = (uint32_t)offset;
    e->len = (uint32_t)width;
    return 0;
}

static int decode_argument(struct rs_reader *r, uint32_t self, struct rs_entry *e,
                           struct rs_scope *scope, const char **why) {
    struct rs_value v;
    uint64_t outs = 0;
    int has_out = 0;

    memset(e, 0, sizeof *e);
    if (rs_next(r, &v))
        FAIL(RS_ERR_MALFORMED, "an argument is not well-formed");
    if (v.kind == RS_UINT || v.kind == RS_NINT) {
        e->value = v.number;
        return 0;
    }
    if (v.kind != RS_EXT)
        FAIL(RS_ERR_FIELD, "an argument is neither an integer nor an ext");
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
            FAIL(RS_ERR_FIELD, "the size of an OUT is not four bytes");
        e->len = (uint32_t)v.data[0] << 24 | (uint32_t)v.data[1] << 16 | (uint32_t)v.data[2] << 8 |
                 v.data[3];
        outs = e->len;
        has_out = 1;
        break;
    case RS_ARG_FD:
        if (v.len != 1 || v.data[0] >= scope->nfds)
            FAIL(RS_ERR_FIELD, "an FD names none of the frame's file descriptors");
        e->value = v.data[0];
        e->depth = 0;
        break;
    case RS_ARG_STRUCT: {
        int err = decode_struct(&v, self, scope->count, e, &outs, why);
        if (err)
            return err;
        has_out = e->out_count > 0;
        break;
    }
    case RS_ARG_REF:
        if (!scope->batch)
            FAIL(RS_ERR_FIELD, "a REF outside of a batch");
        return decode_ref(&v, scope, e, why);
    case RS_ARG_PARAM:
        if (v.len != 1 || v.data[0] >= scope->parameters)
            FAIL(RS_ERR_FIELD, "a PARAM names no parameter");
        e->value = v.data[0];
        break;
    default:
        FAIL(RS_ERR_FIELD, "an argument of unknown type");
    }
    if (has_out) {
        if (scope->outs++ == 0 && (v.ext == RS_ARG_OUT || v.ext == RS_ARG_INOUT))
            scope->first_out = e->len;
        scope->reserve += RS_SIZE_REPLY_OUT + outs;
    }
    return 0;
}

/* From the last entry back, every one a STRUCT points at has its depth already. */
__attribute__((cold)) static int check_depth(struct rs_entry *entries, uint32_t count, const char **why) {
    for (uint32_t i = count; i-- > 0;) {
        struct rs_reader pairs = entries[i].relocations;
        for (uint32_t n = 0; n < entries[i].relocation_count; n++) {
            rs_number(&pairs); /* the offset */
            uint64_t target = rs_number(&pairs);
            if (entries[target].depth == 0)
                FAIL(RS_ERR_FIELD, "a relocation names an argument that is not data");
            if (entries[i].depth <= entries[target].depth)
                entries[i].depth = (uint8_t)(entries[target].depth + 1);
        }
        if (entries[i].depth > RS_SIZE_STRUCT_DEPTH)
            FAIL(RS_ERR_DEPTH, "relocations lead too deep");
    }
    return 0;
}

int rs_decode_arguments(struct rs_reader *r, const struct rs_limits *limits,
                        struct rs_entry *entries, struct rs_scope *scope, const char **why) {
    struct rs_value v;
    int pointers = 0;
    if (rs_next(r, &v) || v.kind != RS_ARRAY)
        FAIL(RS_ERR_FIELD, "the arguments are not an array");
    if (v.len > limits->data)
        FAIL(RS_ERR_FIELD, "more arguments than the limit");
    scope->count = v.len;
    scope->outs = scope->first_out = 0;
    for (uint32_t i = 0; i < scope->count; i++) {
        int err = decode_argument(r, i, &entries[i], scope, why);
        if (err)
            return err;
        pointers |= entries[i].relocation_count > 0;
    }
    return pointers ? check_depth(entries, scope->count, why) : 0;
}
