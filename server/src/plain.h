/* Steps of a batch that are nothing but numbers, as most are. In a header, to be inlined: after a
 * system call the CPU has forgotten where functions return to, and every return costs as much as
 * the rest of this. */
#ifndef RS_PLAIN_H
#define RS_PLAIN_H

#include "execute.h"
#include "sys.h"

/* An integer that is known to be one by its first byte. */
static inline int take_integer(const uint8_t **p, const uint8_t *end, uint64_t *out) {
    static const uint8_t sizes[8] = {1, 2, 4, 8, 1, 2, 4, 8}; /* of 0xcc to 0xd3 */
    uint8_t tag = **p;
    if (tag < 0x80 || tag >= 0xe0) {
        *out = (uint64_t)(int64_t)(int8_t)tag;
        ++*p;
        return 1;
    }
    if (tag < 0xcc || tag > 0xd3)
        return 0;
    uint32_t n = sizes[tag - 0xcc];
    if (end - *p <= (int64_t)n)
        return 0;
    uint64_t v = 0;
    for (uint32_t i = 1; i <= n; i++)
        v = v << 8 | (*p)[i];
    if (tag >= 0xd0)
        v = (uint64_t)((int64_t)(v << (64 - 8 * n)) >> (64 - 8 * n));
    *p += 1 + n;
    *out = v;
    return 1;
}

/* Number and arguments of such a step, 1, and *r behind it. Or 0, and *r as it was: rs_decode_step
 * can do all. */
static inline int rs_plain_step(struct rs_reader *r, uint64_t *nr, uint64_t a[6]) {
    const uint8_t *p = r->p, *end = r->end;
    if (end - p < 3 || *p++ != (RS_FIXARRAY | 2) || !take_integer(&p, end, nr) ||
        *nr > INT32_MAX || p == end || *p < RS_FIXARRAY || *p > (RS_FIXARRAY | 6))
        return 0;
    uint32_t n = *p++ & 15, i = 0;
    for (; i < n; i++)
        if (p == end || !take_integer(&p, end, &a[i]))
            return 0;
    for (; i < 6; i++)
        a[i] = 0;
    r->p = p;
    return 1;
}

/* Make the call, if there is nothing to be said against it or noted about it: 1, and the result;
 * else 0. */
static inline int rs_plain_call(uint64_t nr, const uint64_t a[6], const struct rs_guard *guard,
                  int64_t *result) {
    if (nr >= RS_CALLS ||
        rs_call_flags[nr] & (RS_CALL_REFUSED | RS_CALL_JUDGED | RS_CALL_BLOCKS) ||
        atomic_load_explicit(&guard->stop, memory_order_relaxed))
        return 0;
    if (guard->made_bits && (rs_call_flags[nr] & (RS_CALL_REFUSED_IN_PROCESS | RS_CALL_RETURNS_FD) ||
                             nr == RS_NR_fcntl))
        return 0;
#ifdef RS_INSIDE
    if (guard->made_bits && nr == RS_NR_recvmsg)
        return 0;
#endif
    *result = rs_client_call((int64_t)nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    return 1;
}

#endif
