#include "ring.h"

#include "sys.h"

void rs_ring_init(struct rs_ring *r, void *mine, const void *theirs, uint32_t size) {
    memset(r, 0, sizeof *r);
    r->mine = mine;
    r->theirs = theirs;
    r->out = (uint8_t *)mine + RS_SIZE_RING_HEADER;
    r->in = (const uint8_t *)theirs + RS_SIZE_RING_HEADER;
    r->size = size;
}

uint32_t rs_ring_available(struct rs_ring *r) {
    /* Acquire: the bytes are read after the count that covers them. */
    r->their_tail = atomic_load_explicit(&r->theirs->tail, memory_order_acquire);
    uint32_t n = r->their_tail - r->head;
    return n <= r->size ? n : UINT32_MAX;
}

uint32_t rs_ring_room(struct rs_ring *r) {
    /* Acquire: we overwrite bytes only after the other side has read them. */
    r->their_head = atomic_load_explicit(&r->theirs->head, memory_order_acquire);
    uint32_t used = r->tail - r->their_head;
    return used <= r->size ? r->size - used : UINT32_MAX;
}

void rs_ring_peek(const struct rs_ring *r, uint32_t offset, void *to, uint32_t n) {
    uint32_t at = (r->head + offset) & (r->size - 1), first = r->size - at;
    if (first > n)
        first = n;
    memcpy(to, r->in + at, first);
    if (n > first)
        memcpy((uint8_t *)to + first, r->in, n - first);
}

void rs_ring_take(struct rs_ring *r, uint32_t n) {
    r->head += n;
    /* Release: the bytes have been read before the other side may overwrite them. */
    atomic_store_explicit(&r->mine->head, r->head, memory_order_release);
}

void rs_ring_write(struct rs_ring *r, const void *from, uint32_t n) {
    uint32_t at = r->tail & (r->size - 1), first = r->size - at;
    if (first > n)
        first = n;
    memcpy(r->out + at, from, first);
    if (n > first)
        memcpy(r->out, (const uint8_t *)from + first, n - first);
    r->tail += n;
    /* Release: whoever sees the count sees the bytes. */
    atomic_store_explicit(&r->mine->tail, r->tail, memory_order_release);
}

int rs_ring_must_wake(struct rs_ring *r, uint32_t what) {
    /* Sequentially consistent, against the one in rs_ring_park: a release store and a later load
     * may be swapped by any CPU, this one's included. */
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t parked = atomic_load_explicit(&r->theirs->parked, memory_order_relaxed);
    if (!(parked & what) || parked == r->rung)
        return 0;
    r->rung = parked;
    return 1;
}

void rs_ring_park(struct rs_ring *r, uint32_t what) {
    /* The count makes every sleep another value, so that one bell for each is enough. */
    r->sleeps += RS_PARKED_COUNT;
    atomic_store_explicit(&r->mine->parked, r->sleeps | what, memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);
}

void rs_ring_unpark(struct rs_ring *r) {
    atomic_store_explicit(&r->mine->parked, r->sleeps, memory_order_relaxed);
}

int rs_ring_sleeps(const struct rs_ring *r) {
    return (atomic_load_explicit(&r->theirs->parked, memory_order_relaxed) & RS_PARKED_DATA) != 0;
}
