/* One client's connection: frames in, calls made, frames out. */
#ifndef RS_SESSION_H
#define RS_SESSION_H

#include <stdint.h>

#include "batch.h"
#include "execute.h"
#include "request.h"
#include "ring.h"

/* The largest frame, and room to read past it so that small frames arrive many at a time. */
#define RS_RX_SIZE (RS_FRAME_ROOM + 65536)
#define RS_FRAME_ROOM (RS_LIMIT_FRAME_MAX + RS_SIZE_HEADER)
/* All replies that the window admits, and one ERROR behind them. */
#define RS_TX_SIZE (RS_LIMIT_WINDOW_MAX + 4096)
#define RS_MADE_BITS 65536

enum rs_state { RS_STATE_INIT, RS_STATE_OPEN, RS_STATE_CLOSING, RS_STATE_FAILED };

enum rs_session_flags {
    RS_IN_PROCESS = 1, /* a thread in somebody's interpreter */
    RS_SINGLE = 2,     /* no helpers: there is nothing but a batch */
    RS_STAYS = 4,      /* the process goes on when the session is over */
};

/* Descriptors that came with one read, and the bytes [start, end) of the stream it brought. */
struct rs_packet {
    uint64_t start, end;
    uint32_t count;
    int32_t fds[RS_LIMIT_FDS_MAX];
};

/* A reply that has not left completely: its bytes [start, end) of the stream, and its fd or -1. */
struct rs_reply {
    uint64_t start, end;
    int32_t fd;
};

/* How long to look for bytes in a ring before sleeping, in turns of the loop. It pays when the next
 * frame comes sooner than a sleep and a wake would take, so: a wait that was shorter than the
 * longest spin sets the limit to that, a longer one halves it, and every sixteenth wait tries.
 * Unless it is sleeping that lets the client go on, for want of a CPU (learn, in shared.c). */
struct rs_spin {
    uint32_t limit, most, waits;
    uint32_t tried;        /* the longest */
    uint32_t fooled, held; /* in vain all the same; and for so many waits it is not tried again */
    uint64_t most_ns;
};

/* What comes over the socket beside a ring. */
struct rs_side {
    uint32_t len, eof;
    uint32_t packets_in, packets_out; /* FDS frames so far */
    uint32_t ready; /* packets whose FDS has come, and that no frame has claimed */
    uint8_t bytes[RS_SIZE_HEADER + RS_SIZE_SIDE_MAX];
};

/* A WATCH that has not been answered. */
struct rs_watch {
    uint64_t id;
    int32_t fd;
};

/* A thread, and what it works on. */
struct rs_work {
    struct rs_session *session; /* first: it tells whoever clears away that this is one */
    struct rs_guard guard; /* for its calls */
    struct rs_request request;
    uint32_t index;          /* in the session's slots */
    _Atomic uint32_t role;   /* team.c */
    _Atomic uint32_t phase;  /* of a request whose call blocks */
    _Atomic uint32_t heard;  /* the signal that cancels it has been sent */
    uint32_t alone;          /* it must not be relieved */
    uint32_t parent;         /* it has made a child */
    uint32_t deposed;        /* it has been */
    uint32_t blocked;        /* the same, as the leader sees it: until the reply is taken */
    uint8_t *reply;
    uint32_t reply_len;
    int32_t reply_fd;
    struct rs_work *next;    /* in done */

    _Alignas(4096) struct rs_packet packets[2]; /* from here on: empty between requests */
    struct rs_entry entries[RS_LIMIT_DATA_MAX];
    struct rs_entry parameters[256]; /* the arguments of a RUN */
    struct rs_batch batch;
    uint8_t scratch[RS_LIMIT_PROGRAM_BYTES_MAX]; /* the program that runs */
    _Alignas(4096) uint8_t rx[RS_RX_SIZE];
    _Alignas(4096) uint8_t tx[RS_TX_SIZE];
};

/* A helper has its stack below its struct rs_work; the handler of a signal needs most of it. */
_Static_assert(RS_SIZE_HELPER_STACK + sizeof(struct rs_work) == RS_SIZE_HELPER_MEMORY,
               "SPEC.md promises that");

/* 4 MiB of address space; a page that was never needed costs nothing. */
struct rs_session {
    int pipes; /* no socket, but a pipe to read; guard.fds[1] is the one to write, and no pidfd */
    struct rs_guard guard; /* fds[0]: the socket, fds[1]: a pidfd of the client or -1 */
    uint32_t flags;     /* enum rs_session_flags */
    uint32_t status;    /* that a helper exits with when it is over */
    uint32_t over;
    uint32_t page_size;
    uint32_t features;  /* granted */
    uint32_t frame_len; /* of the frame being looked at */
    enum rs_state state;
    struct rs_limits limits;
    uint64_t last_id;

    uint64_t rx_base; /* position in the stream of rx[0] */
    uint32_t rx_pos, rx_len;
    uint64_t tx_base;
    uint32_t tx_pos, tx_len;
    uint32_t packet_count; /* 0..2, see rs_socket_receive() */
    uint32_t reply_head, reply_count, reply_fds;
    uint32_t stretched; /* more than a few pages of what is empty between requests are in use */

    struct rs_work *work; /* the leader's; see team.c for what follows */
    uint32_t helpers;     /* the highest index that is or was in use */
    uint32_t blocked;     /* calls whose threads have been relieved */
    uint64_t held;        /* bytes reserved by their replies */
    uint32_t stall, stall_told; /* why no helper can be made: an errno */
    _Atomic uint32_t turn, watching, kicked;
    struct rs_work *_Atomic done; /* replies to be taken */

    uint32_t watch_count, rounds;
    struct rs_watch watches[RS_SIZE_WATCHES];

    struct rs_ring ring; /* used once ring_on */
    uint32_t ring_on;
    uint32_t ring_shared; /* its memory belongs to whoever started us: its size, or 0 */
    struct rs_spin spin;
    struct rs_side side;
    int32_t client; /* its pid, while guard.fds[1] is open and still to become a pidfd of it; or 0 */
    /* The first is the main thread's. What another one stands for is mapped, should we end now. */
    struct rs_work *slots[1 + RS_SIZE_HELPERS];
    int32_t tids[1 + RS_SIZE_HELPERS];
    uint8_t made[RS_MADE_BITS / 8];
    struct rs_store store;

    _Alignas(4096) struct rs_reply replies[RS_LIMIT_OUTSTANDING_MAX];
    struct rs_work first;
};

/* s must be zeroed. fd: the socket; pidfd: of the client, or -1. */
void rs_session_init(struct rs_session *s, int32_t fd, int32_t pidfd, uint32_t flags,
                     uint32_t page_size);

/* A pidfd of whoever made the other end of the socket, if it can be seen, or -1. */
int32_t rs_client_pidfd(int32_t fd);

/* Have memory ready for a ring with a client in the same address space: two halves of
 * RS_SIZE_RING_HEADER + size bytes, zeroed, the client's first. It stays the caller's. */
void rs_session_share(struct rs_session *s, void *halves, uint32_t size);

/* Tell the client why it is not served; then rs_session_run says so and ends. */
void rs_session_refuse(struct rs_session *s, uint32_t code, const char *why);

/* Begin where both sides know what HELLO and RING would have said: the memory as above, spinning
 * for so long, which is so many turns of the loop. */
void rs_session_begin(struct rs_session *s, void *halves, uint32_t size, uint32_t spin_us,
                      uint32_t spin_turns);

/* Serve until the client says BYE, ends, or breaks the protocol; closes every descriptor but those
 * that it was begun with. */
void rs_session_run(struct rs_session *s);

/* Run one BATCH, whose body this is, instead of serving. The length of the BATCHED in tx; 0 if it
 * is none. It does not return from a successful exec. */
uint32_t rs_session_batch(struct rs_session *s, uint8_t *body, uint32_t len);

#endif
