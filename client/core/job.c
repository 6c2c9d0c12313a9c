/* Calls of the interpreter's own that may block: a thread makes them, and another interrupts them. */
#include "core.h"

#include "sys.h"
#include "transport.h"

enum { RUNNING, CANCELLED, OVER };
enum { FIRST_REALTIME = 35, OLD_ACTION_WORDS = 4 }; /* 32 and 33 are libc's, 34 Go's and others' */

/* The signal that interrupts: one that nobody has a use for. 0: not chosen yet; -1: there is none. */
static _Atomic int32_t interrupting;

static int32_t choose(void) {
    int32_t chosen = interrupting;
    for (uint32_t sig = RS_SIGNALS; chosen == 0 && sig >= FIRST_REALTIME; sig--) {
        const uint64_t act[4] = {rs_addr(rs_interrupt), RS_SA_RESTORER, rs_addr(rs_restore), 0};
        uint64_t old[OLD_ACTION_WORDS] = {0};
        if (rs_sys(RS_NR_rt_sigaction, sig, 0, rs_addr(old), 8, 0, 0) == 0 && old[0] == 0 &&
            rs_sys(RS_NR_rt_sigaction, sig, rs_addr(act), 0, 8, 0, 0) == 0)
            chosen = (int32_t)sig;
    }
    chosen = chosen ? chosen : -1;
    interrupting = chosen;
    return chosen;
}

/* Nothing interrupts what follows. */
static void over(struct rs_guard *guard) {
    struct rs_job *job = (struct rs_job *)guard;
    if (atomic_exchange(&job->phase, OVER) != CANCELLED)
        return;
    while (!job->heard)
        rs_pause();
    rs_getpid(); /* the signal has been sent: with a call it has arrived */
}

static void begin(struct rs_job *job, uint64_t *blocked) {
    int32_t signal = choose();
    const uint64_t ours = signal > 0 ? 1ull << (signal - 1) : 0;
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_UNBLOCK, rs_addr(&ours), rs_addr(blocked), 8, 0, 0);
    job->guard.fds[0] = job->guard.fds[1] = -1;
    job->guard.over = over;
    job->tid = (int32_t)rs_sys3(RS_NR_gettid, 0, 0, 0);
}

static void end(struct rs_job *job, const uint64_t *blocked) {
    over(&job->guard);
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(blocked), 0, 8, 0, 0);
}

int64_t rs_job_call(struct rs_job *job, int64_t nr, uint64_t a0, uint64_t a1, uint64_t a2,
                    uint64_t a3, uint64_t a4, uint64_t a5) {
    uint64_t blocked = 0;
    begin(job, &blocked);
    int64_t result = rs_wait_client_call(nr, a0, a1, a2, a3, a4, a5, &job->guard.stop);
    end(job, &blocked);
    return result;
}

int32_t rs_job_request(struct rs_job *job, uint8_t *body, uint32_t len, uint8_t *reply,
                       uint32_t room) {
    uint64_t blocked = 0;
    begin(job, &blocked);
    int32_t n = rs_guarded_request(&job->guard, body, len, reply, room);
    end(job, &blocked);
    return n;
}

void rs_job_interrupt(struct rs_job *job) {
    uint32_t running = RUNNING;
    if (!atomic_compare_exchange_strong(&job->phase, &running, CANCELLED))
        return;
    job->guard.stop = -RS_EINTR; /* whoever has not begun yet finds this */
    int32_t tid = job->tid, signal = interrupting;
    if (tid && signal > 0)
        rs_sys3(RS_NR_tgkill, (uint64_t)rs_getpid(), (uint64_t)tid, (uint64_t)signal);
    job->heard = 1;
}
