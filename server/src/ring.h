/* A connection's bytes in shared memory: one half a direction, each written by one side only.
 *
 * A half holds what its owner has to say: the bytes it sends, how many it has written and how many
 * of the other half it has read (both free-running, modulo 2^32), and whether it sleeps. The other
 * side's half is hostile: nothing of it is believed before it is checked, and what it says of us is
 * never read back.
 *
 * Sleep and wake. The one who would sleep sets `parked`, fences, looks at the other half once more,
 * and only then polls the socket; whoever writes or reads publishes, fences, and then looks at
 * `parked`. Of the two fences one comes first, so at least one side sees the other's store: either
 * the sleeper sees the bytes and does not sleep, or the other sees it parked and rings the bell.
 * (tests/unit/test_ring_model.py goes through every order of these steps, with and without the
 * fences.) */
#ifndef RS_RING_H
#define RS_RING_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "rsyscall/protocol.h"

struct rs_half {
    _Alignas(64) _Atomic uint32_t tail;   /* bytes its owner has written */
    _Alignas(64) _Atomic uint32_t head;   /* bytes of the other half its owner has read */
    _Alignas(64) _Atomic uint32_t parked; /* RS_PARKED_*, and above them a count of sleeps */
};

_Static_assert(offsetof(struct rs_half, tail) == RS_SIZE_RING_TAIL, "SPEC.md says where");
_Static_assert(offsetof(struct rs_half, head) == RS_SIZE_RING_HEAD, "SPEC.md says where");
_Static_assert(offsetof(struct rs_half, parked) == RS_SIZE_RING_PARKED, "SPEC.md says where");

enum {
    RS_PARKED_DATA = 1, /* ring when there is something to read */
    RS_PARKED_ROOM = 2, /* ring when there is room to write */
    RS_PARKED_COUNT = 4
};

struct rs_ring {
    struct rs_half *mine;
    const struct rs_half *theirs;
    uint8_t *out;
    const uint8_t *in;
    uint32_t size; /* of the data of each half: a power of two */
    uint32_t tail, head;             /* what mine->tail and mine->head hold */
    uint32_t their_tail, their_head; /* as last read and checked */
    uint32_t sleeps;                 /* what mine->parked counts */
    uint32_t rung;                   /* the value of theirs->parked the bell was last rung for */
};

/* half: RS_SIZE_RING_HEADER + size bytes, zeroed, page-aligned. */
void rs_ring_init(struct rs_ring *r, void *mine, const void *theirs, uint32_t size);

/* Bytes that can be read now; UINT32_MAX if the other half holds nonsense. */
uint32_t rs_ring_available(struct rs_ring *r);

/* Bytes that can be written now; UINT32_MAX if the other half holds nonsense. */
uint32_t rs_ring_room(struct rs_ring *r);

/* Copy n bytes that are available, at an offset from the first, without taking them. */
void rs_ring_peek(const struct rs_ring *r, uint32_t offset, void *to, uint32_t n);

/* Take n bytes that are available, which were copied before. */
void rs_ring_take(struct rs_ring *r, uint32_t n);

/* Write n bytes for which there is room, and publish them. */
void rs_ring_write(struct rs_ring *r, const void *from, uint32_t n);

/* After a write (RS_PARKED_DATA) or a take (RS_PARKED_ROOM): whether the other side must be woken.
 * Once for each of its sleeps: that the bell could not be sent because one is pending is fine. */
int rs_ring_must_wake(struct rs_ring *r, uint32_t what);

/* Announce a sleep that `what` should end. Then look once more before going to sleep. */
void rs_ring_park(struct rs_ring *r, uint32_t what);
void rs_ring_unpark(struct rs_ring *r);

/* Whether the other side says that it sleeps. Only a hint. */
int rs_ring_sleeps(const struct rs_ring *r);

/* In a loop that waits for the other side. */
static inline void rs_pause(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

#endif
