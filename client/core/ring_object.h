/* The client's end of a ring. */
#ifndef RSYSCALL_RING_OBJECT_H
#define RSYSCALL_RING_OBJECT_H

#include "wire.h"

#include "ring.h"

typedef struct {
    PyObject_HEAD
    struct rs_ring ring;
    void *halves[2]; /* NULL once closed */
    Py_ssize_t mapped;
    int socket;
    int owned;  /* the socket, until somebody takes it */
    int busy;   /* a call spins without the interpreter's lock */
    int parked; /* somebody sleeps until the bell: what for, RS_PARKED_* */
    int rung;   /* something came over the socket while we slept here, and is still there */
    int broken; /* the other half holds nonsense, or what came is no frame */
    uint32_t frame_limit;
    uint64_t next_id;
    struct patience patience, doze; /* to spin, and then to sleep here */
    int64_t step_ns;   /* how long a step of a batch has taken of late */
    uint64_t written;  /* bytes so far */
    uint64_t begun;    /* as many when the last call() or exchange() began */
    uint64_t skipped;  /* bytes of whole frames that recv() has not returned, since it was asked */
    uint8_t *buffer;   /* ring.size + header: a frame on its way in or out */
    uint8_t *inbox;    /* what recv() returns first */
    uint32_t inbox_len, inbox_room;
    uint8_t header[RS_SIZE_HEADER]; /* of the frame that recv() has returned the beginning of */
    uint32_t header_len;
    uint64_t left; /* bytes of it that are still to come */
} Ring;

/* Map a half that came as a memfd; NULL with an exception if it is not sealed as it must be. */
void *map_half(int fd, uint32_t size, int writable);
void close_ring(Ring *self);

/* Begin, with both halves there. -1 with an exception. */
int begin_ring(Ring *self, uint32_t size, int socket, uint64_t next_id, uint32_t frame_limit,
               uint32_t spin_us);

/* Whether the ring can be used now; otherwise with an exception. */
int usable(Ring *self);

/* ---- waking and waiting ---- */

void wake(Ring *self, uint32_t what);

/* Write a whole frame, for which there is room. */
void publish(Ring *self, const void *frame, uint32_t len);

/* Whether a Frame can be written now, as a whole. -1 with an exception. */
int can_send(const Ring *self, PyObject *frame);

struct wait {
    uint64_t start, ns;
    int looked; /* again: what was there at once says nothing about looking */
    PyThreadState *unlocked;
};

void start_wait(Ring *self, struct wait *w, uint64_t ns);
void end_wait(Ring *self, struct wait *w);

/* Wait until so many bytes are there, or room: what there is, which is less if the time is over. */
uint32_t wait_for(Ring *self, struct wait *w, uint32_t bytes, uint32_t room);

/* Bytes may come one by one, each before the time is over: others are not to wait for that. */
int too_long(const struct wait *w);

/* Around looking ourselves: nobody needs to wake us meanwhile. */
void begin(Ring *self);
void end(Ring *self);

/* Have recv() return these first. -1 with an exception. */
int keep(Ring *self, const void *bytes, uint32_t n);

/* Sleep a little, until something comes. Whether something has. */
int doze(Ring *self);

/* Sleep until the socket has ended, or something has come, at most so long. Whether it has ended, and
 * the ring holds nothing. */
int sleep_until_end(Ring *self, uint32_t us);

/* ---- of a child of ours: own_child.c ---- */

/* post_batch(frame): see there. */
PyObject *ring_post_batch(PyObject *object, PyObject *frame);

/* sleep_until_end(us) -> whether the other end of the socket is closed, and the ring empty. */
PyObject *ring_sleep_until_end(PyObject *object, PyObject *us);

/* post_exec(frame, pidfd, us) -> whether the frame is sent, and whether the child of ours that reads
 * it has certainly exec'd by now, after at most so long; then the ring is closed. */
PyObject *ring_post_exec(PyObject *object, PyObject *const *args, Py_ssize_t nargs);

/* take_socket() -> the number of the socket, which is from now on the caller's to close. ValueError
 * if the ring is closed. */
PyObject *ring_take_socket(PyObject *object, PyObject *unused);

/* Whether the next byte in the ring is the first of a frame. */
int between_frames(const Ring *self);

/* Take the next frame's body into the buffer if it comes in time and fits. Its length, or 0. */
uint32_t take_frame(Ring *self, struct wait *w);

#endif
