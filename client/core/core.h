/* What the client's extension offers Python besides constants. */
#ifndef RS_CORE_H
#define RS_CORE_H

#include <stdint.h>

#include "execute.h"

/* One call in this very process; errors as -errno. */
int64_t rs_direct(int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2, uint64_t a3, uint64_t a4,
                  uint64_t a5);

/* clone(2) in this very process, for a child that begins at rs_child_entry: stack leads to that
 * address, and what follows is its struct rs_child, whose mask is set to ours. Every signal is
 * blocked meanwhile, so that the child runs none of our handlers. flags: CLONE_*; *pidfd is filled
 * in if CLONE_PIDFD is among them. The child's pid, or -errno. */
int64_t rs_clone(uint64_t flags, uint64_t stack, int32_t *pidfd, int32_t cgroup);

/* The same of a child whose stack holds something else behind the address where it begins. */
int64_t rs_clone_bare(uint64_t flags, uint64_t stack, int32_t *pidfd);

/* A child for which all is made here, in one go. session: where its memory begins that is no stack;
 * the stack is in front of it, and what the child is to find goes there. halves: of its ring, of
 * size bytes each. used: whether another child has had that memory. keep: the file descriptors that
 * its table keeps, in their order. */
struct rs_start {
    uint64_t session, halves;
    uint64_t flags; /* CLONE_* */
    const int32_t *keep;
    uint32_t kept, used, size, page_size, child_flags, spin_us, spin_turns;
    uint32_t sees_us; /* whether it can make its pidfd of us itself: most need none */
    /* What comes back: what PR_GET_DUMPABLE says of our memory; our end of its socket, the number of
     * its own end and of a pidfd of ours in its table (-1: none), and a pidfd of the child. */
    int32_t dumpable, socket, its_socket, its_pidfd, pidfd;
    int64_t failed; /* the number of the call that has failed */
};

/* The pid, or -errno, and then nothing is left over. */
int64_t rs_start_child(struct rs_start *start);

/* Whether fd is readable, or becomes so while we look for spin_us microseconds and then sleep for
 * sleep_us. */
int32_t rs_wait_readable(int32_t fd, uint32_t spin_us, uint32_t sleep_us);

/* The address of rs_child_entry. */
uint64_t rs_child_address(void);

/* Unmap the stacks that the threads of a child that is over have left in our memory. */
void rs_child_sweep(uint64_t session);

/* Make a child's session and the memory of its ring, which another child has used, as good as new. */
void rs_child_clear(uint64_t session, uint64_t halves, uint32_t size);

/* Map the memory of a child: so many bytes, of which the first page stays a guard. An address, or
 * -errno. */
int64_t rs_child_map(uint64_t length);

/* How many turns the server's loop makes while it spins for so many microseconds. */
uint32_t rs_spin_turns(uint32_t us);

/* A request's body, executed in this very process as a server would: the RESULT frame is written
 * to reply, which has room for `room` bytes. Returns its length; -RS_ERR_* if the body is no valid
 * CALL, READ, WRITE or BATCH, or if the room is too small. The body is overwritten. */
int32_t rs_direct_request(uint8_t *body, uint32_t len, uint8_t *reply, uint32_t room);

/* The same two for a thread that makes them for another one. That can interrupt them as long as they
 * have not returned: what blocks then returns -EINTR, or what it has done so far, and what has not
 * begun yet is not done. All zero at first, and used once. */
struct rs_job {
    struct rs_guard guard; /* the first member */
    _Atomic uint32_t phase, heard;
    _Atomic int32_t tid;
};

int64_t rs_job_call(struct rs_job *job, int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2,
                    uint64_t a3, uint64_t a4, uint64_t a5);
int32_t rs_job_request(struct rs_job *job, uint8_t *body, uint32_t len, uint8_t *reply,
                       uint32_t room);
void rs_job_interrupt(struct rs_job *job);

/* rs_direct_request with a guard; core.c. */
int32_t rs_guarded_request(struct rs_guard *guard, uint8_t *body, uint32_t len, uint8_t *reply,
                           uint32_t room);

/* Serve the connected socket fd from the calling thread until its client ends; the fd is closed.
 * 0, or -errno if there was no memory, and then the fd is closed as well. halves: memory for a ring
 * of that size, see rs_session_share. */
int32_t rs_serve(int32_t fd);
int32_t rs_serve_shared(int32_t fd, void *halves, uint32_t size);

/* For the tests of the codec: one msgpack value written anew in its shortest form (floats, nil and
 * bool as they are). Returns the length, or -RS_ERR_*. */
int32_t rs_recode(const uint8_t *in, uint32_t len, uint8_t *out, uint32_t room);

/* Whether a body is a message of a client's, in whatever state, under the default limits: 0 or
 * RS_ERR_*. */
int32_t rs_check_request(const uint8_t *body, uint32_t len);

#endif
