#include "codec.h"

#include "rsyscall/protocol.h"
#include "sys.h"

int rs_take_be(struct rs_reader *r, uint32_t bytes, uint64_t *out) {
    if ((uint64_t)(r->end - r->p) < bytes)
        return RS_ERR_MALFORMED;
    uint64_t v = 0;
    for (uint32_t i = 0; i < bytes; i++)
        v = v << 8 | r->p[i];
    r->p += bytes;
    *out = v;
    return 0;
}

static int take_data(struct rs_reader *r, struct rs_value *v, uint64_t len) {
    if ((uint64_t)(r->end - r->p) < len)
        return RS_ERR_MALFORMED;
    v->data = r->p;
    v->len = (uint32_t)len;
    r->p += len;
    return 0;
}

static int take_ext(struct rs_reader *r, struct rs_value *v, uint64_t len) {
    if (r->p == r->end)
        return RS_ERR_MALFORMED;
    v->kind = RS_EXT;
    v->ext = (int8_t)*r->p++;
    if (v->ext < 0) /* reserved by msgpack itself; we use none of them */
        return RS_ERR_MALFORMED;
    return take_data(r, v, len);
}

int rs_next(struct rs_reader *r, struct rs_value *v) {
    uint64_t n = 0;
    if (r->p == r->end)
        return RS_ERR_MALFORMED;
    uint8_t tag = *r->p++;

    v->len = 0;
    v->number = 0;
    v->data = r->p;
    v->ext = 0;
    if (tag < 0x80) {
        v->kind = RS_UINT;
        v->number = tag;
        return 0;
    }
    if (tag >= 0xe0) {
        v->kind = RS_NINT;
        v->number = (uint64_t)(int64_t)(int8_t)tag;
        return 0;
    }
    if (tag < 0x90) {
        v->kind = RS_MAP;
        v->len = tag & 0x0f;
        return 0;
    }
    if (tag < 0xa0) {
        v->kind = RS_ARRAY;
        v->len = tag & 0x0f;
        return 0;
    }
    if (tag < 0xc0) {
        v->kind = RS_STR;
        return take_data(r, v, tag & 0x1f);
    }
    switch (tag) {
    case 0xc0:
        v->kind = RS_NIL;
        return 0;
    case 0xc2:
    case 0xc3:
        v->kind = RS_BOOL;
        v->number = tag & 1;
        return 0;
    case 0xc4:
    case 0xc5:
    case 0xc6:
        v->kind = RS_BIN;
        return rs_take_be(r, 1u << (tag - 0xc4), &n) ? RS_ERR_MALFORMED : take_data(r, v, n);
    case 0xc7:
    case 0xc8:
    case 0xc9:
        return rs_take_be(r, 1u << (tag - 0xc7), &n) ? RS_ERR_MALFORMED : take_ext(r, v, n);
    case 0xca:
    case 0xcb:
        v->kind = RS_FLOAT;
        return rs_take_be(r, tag == 0xca ? 4 : 8, &v->number);
    case 0xcc:
    case 0xcd:
    case 0xce:
    case 0xcf:
        v->kind = RS_UINT;
        return rs_take_be(r, 1u << (tag - 0xcc), &v->number);
    case 0xd0:
    case 0xd1:
    case 0xd2:
    case 0xd3: {
        uint32_t bytes = 1u << (tag - 0xd0);
        if (rs_take_be(r, bytes, &n))
            return RS_ERR_MALFORMED;
        uint32_t shift = 64 - 8 * bytes;
        int64_t s = (int64_t)(n << shift) >> shift;
        v->kind = s < 0 ? RS_NINT : RS_UINT;
        v->number = (uint64_t)s;
        return 0;
    }
    case 0xd4:
    case 0xd5:
    case 0xd6:
    case 0xd7:
    case 0xd8:
        return take_ext(r, v, 1u << (tag - 0xd4));
    case 0xd9:
    case 0xda:
    case 0xdb:
        v->kind = RS_STR;
        return rs_take_be(r, 1u << (tag - 0xd9), &n) ? RS_ERR_MALFORMED : take_data(r, v, n);
    case 0xdc:
    case 0xdd:
        v->kind = RS_ARRAY;
        if (rs_take_be(r, tag == 0xdc ? 2 : 4, &n))
            return RS_ERR_MALFORMED;
        v->len = (uint32_t)n;
        return 0;
    case 0xde:
    case 0xdf:
        v->kind = RS_MAP;
        if (rs_take_be(r, tag == 0xde ? 2 : 4, &n))
            return RS_ERR_MALFORMED;
        v->len = (uint32_t)n;
        return 0;
    default: /* 0xc1, which msgpack never uses */
        return RS_ERR_MALFORMED;
    }
}

int rs_validate(const uint8_t *p, uint32_t len, uint32_t depth) {
    /* left[i]: values still to come in the i-th open container. A map of 2^32-1 pairs needs 33
     * bits. Each value costs at least one byte, so no count can keep us longer than the bytes. */
    uint64_t left[RS_LIMIT_DEPTH_MAX];
    uint32_t open = 0;
    struct rs_reader r = {p, p + len};
    struct rs_value v;

    do {
        if (rs_next(&r, &v))
            return RS_ERR_MALFORMED;
        if (open)
            left[open - 1]--;
        if (v.kind == RS_ARRAY || v.kind == RS_MAP) {
            if (open == depth || open == RS_LIMIT_DEPTH_MAX)
                return RS_ERR_DEPTH;
            left[open++] = v.kind == RS_MAP ? 2 * (uint64_t)v.len : v.len;
        }
        while (open && left[open - 1] == 0)
            open--;
    } while (open);
    return r.p == r.end ? 0 : RS_ERR_TRAILING;
}

void rs_skip(struct rs_reader *r) {
    uint64_t left = 1;
    struct rs_value v;
    while (left) {
        if (rs_next(r, &v))
            return;
        left--;
        if (v.kind == RS_ARRAY)
            left += v.len;
        if (v.kind == RS_MAP)
            left += 2 * (uint64_t)v.len;
    }
}

uint64_t rs_number(struct rs_reader *r) {
    struct rs_value v;
    return rs_next(r, &v) ? 0 : v.number;
}

uint8_t *rs_put_be(uint8_t *p, uint8_t tag, uint64_t value, uint32_t bytes) {
    *p++ = tag;
    for (uint32_t i = bytes; i > 0; i--)
        *p++ = (uint8_t)(value >> (8 * (i - 1)));
    return p;
}

uint8_t *rs_put_uint(uint8_t *p, uint64_t value) {
    if (value < 0x80) {
        *p = (uint8_t)value;
        return p + 1;
    }
    if (value <= 0xff)
        return rs_put_be(p, 0xcc, value, 1);
    if (value <= 0xffff)
        return rs_put_be(p, 0xcd, value, 2);
    if (value <= 0xffffffff)
        return rs_put_be(p, RS_TAG_UINT32, value, 4);
    return rs_put_be(p, RS_TAG_UINT64, value, 8);
}

uint8_t *rs_put_bytes(uint8_t *p, uint8_t tag32, const void *data, uint32_t len) {
    p = rs_put_be(p, tag32, len, 4);
    memcpy(p, data, len);
    return p + len;
}

uint8_t *rs_put_str(uint8_t *p, const char *text) {
    uint32_t len = 0;
    while (text[len] && len < RS_SIZE_ERROR_TEXT)
        len++;
    if (len < 32)
        *p++ = (uint8_t)(0xa0 | len);
    else
        p = rs_put_be(p, 0xd9, len, 1);
    memcpy(p, text, len);
    return p + len;
}
