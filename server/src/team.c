/* Leader and followers. The one who leads reads frames and makes their calls itself, in the memory of
 * its own struct rs_work. Only while it is in a call that may block can it be relieved: `turn` says
 * so, with another number for each of them. A follower that watches, and finds the same number twice,
 * takes the session over with all that has come and all that has not left; what the call itself uses
 * stays where it is. Who comes back to find itself relieved leaves its reply in the list `done`, for
 * whoever leads then, and follows.
 *
 * Everything in the session but turn, watching, kicked and done is the leader's alone. One follower
 * watches, and only as long as calls that may block are made; all others sleep. */
#include "sys.h"
#include "transport.h"

enum {
    BUSY,
    CALL,   /* in a call that may block: may be relieved */
    SLEEP,  /* waits for the client */
    KICKED, /* and is being woken; `kicked` says when that is done */
    KINDS = 3,
    ROUND = 4,
};
enum role { NONE, RESTING, WATCHING, WORKING, LEADING, LEAVING };
enum phase { RUNNING, CANCELLED, OVER };
enum { NOBODY = 2 }; /* of watching: all are blocked; the first that is not any more will */

/* How long a call may keep the others waiting; less if others are blocked already. */
enum { TICK_NS = 1000000, SHORT_TICK_NS = 100000, REST_NS = 900000000 };
/* VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, PARENT_SETTID */
enum { CLONE_HELPER = 0x150f00 };
static int64_t futex(_Atomic uint32_t *word, uint32_t op, uint32_t value, uint64_t ns) {
    uint64_t ts[2] = {0, ns};
    return rs_sys(RS_NR_futex, rs_addr(word), op, value, ns ? rs_addr(ts) : 0, 0, 0);
}

static int change(_Atomic uint32_t *word, uint32_t from, uint32_t to) {
    return atomic_compare_exchange_strong(word, &from, to);
}

static void wake(struct rs_work *w, uint32_t role) {
    w->role = role;
    futex(&w->role, RS_FUTEX_WAKE, 1, 0);
}

static int64_t poke(struct rs_session *s, uint32_t index, int signal) {
    return rs_sys3(RS_NR_tgkill, (uint64_t)rs_getpid(), (uint64_t)s->tids[index], (uint64_t)signal);
}

/* Whoever has set a word to this has sent a signal before; with a call it has arrived. */
static void hear(_Atomic uint32_t *word) {
    while (!*word)
        rs_pause();
    *word = 0;
    rs_getpid();
}

/* w leads from now on; so many bytes and packets stay with who led before. */
static void take_over(struct rs_session *s, struct rs_work *w, uint32_t bytes, uint32_t packets) {
    const struct rs_work *old = s->work;
    bytes += s->rx_pos;
    s->rx_base += bytes;
    s->rx_len -= bytes;
    s->rx_pos = 0;
    memcpy(w->rx, old->rx + bytes, s->rx_len);
    s->tx_base += s->tx_pos;
    s->tx_len -= s->tx_pos;
    memcpy(w->tx, old->tx + s->tx_pos, s->tx_len);
    s->tx_pos = 0;
    s->packet_count -= packets;
    if (s->ring_on)
        s->side.ready -= packets;
    memcpy(w->packets, old->packets + packets, s->packet_count * sizeof *w->packets);
    s->work = w;
}

/* ---- who watches ---- */

/* Nobody runs there any more. Not the other way round: should we be killed in between, whoever has
 * the memory with us unmaps what the slots stand for. */
static void drop(struct rs_session *s, uint32_t index) {
    uint64_t at = rs_addr(s->slots[index]) - RS_SIZE_HELPER_STACK;
    s->slots[index] = 0;
    rs_sys3(RS_NR_munmap, at, RS_SIZE_HELPER_MEMORY, 0);
}

/* A helper that watches; 0, or -1 and s->stall says why. */
static int start(struct rs_session *s, uint32_t index) {
    int64_t at = rs_mmap(RS_SIZE_HELPER_MEMORY, RS_PROT_READ | RS_PROT_WRITE,
                         RS_MAP_PRIVATE | RS_MAP_ANONYMOUS | RS_MAP_NORESERVE, -1);
    if (at < 0) {
        s->stall = (uint32_t)-at;
        return -1;
    }
    /* Should we be killed right here, nobody learns of the mapping; but not a page of it is used. */
    struct rs_work *w = s->slots[index] = (struct rs_work *)(uintptr_t)(at + RS_SIZE_HELPER_STACK);
    /* One page of it is used in many places. Refused where there are no huge pages anyway. */
    rs_sys3(RS_NR_madvise, (uint64_t)at, RS_SIZE_HELPER_MEMORY, RS_MADV_NOHUGEPAGE);
    rs_work_init(s, w);
    w->index = index;
    w->role = WATCHING;
    uint32_t is_first = !s->helpers;
    s->helpers = index > s->helpers ? index : s->helpers;
    if (is_first) {
        s->first.role = WORKING; /* as it has been, but nobody was there to care */
        const uint64_t act[4] = {rs_addr(rs_interrupt), RS_SA_RESTORER, rs_addr(rs_restore), 0};
        const uint64_t ours = 1ull << (RS_SIGNAL - 1);
        rs_sys(RS_NR_rt_sigaction, RS_SIGNAL, rs_addr(act), 0, 8, 0, 0);
        /* Whatever the client has blocked: it can have done so only while there were no helpers. */
        rs_sys(RS_NR_rt_sigprocmask, RS_SIG_UNBLOCK, rs_addr(&ours), 0, 8, 0, 0);
        s->tids[0] = (int32_t)rs_sys3(RS_NR_gettid, 0, 0, 0);
    }
    uint64_t *stack = (uint64_t *)w - 4;
    stack[0] = rs_addr(rs_helper_entry);
    stack[1] = rs_addr(w);
    int64_t tid = rs_clone_call(RS_NR_clone, CLONE_HELPER, rs_addr(stack),
                                rs_addr(&s->tids[index]), 0, 0, 0);
    if (tid < 0) {
        drop(s, index);
        s->stall = (uint32_t)-tid;
        return -1;
    }
    return 0;
}

/* Have somebody watch. Afterwards watching is set, even if there is nobody who could. */
static void call_watcher(struct rs_session *s) {
    uint32_t free = s->helpers + 1;
    s->watching = 1;
    for (uint32_t i = 0; i <= s->helpers; i++) {
        struct rs_work *w = s->slots[i];
        if (!w) {
            free = i;
        } else if (!w->blocked && w != s->work && change(&w->role, RESTING, WATCHING)) {
            wake(w, WATCHING);
            return;
        }
    }
    if (free <= RS_SIZE_HELPERS && !s->stall && !start(s, free))
        return;
    s->watching = NOBODY;
    for (struct rs_work *w = s->done; w; w = w->next) /* has come back, and did not see that yet */
        if (w->role != LEAVING && change(&s->watching, NOBODY, 1))
            wake(w, WATCHING);
}

int64_t rs_team_call(struct rs_work *w, uint64_t nr, const uint64_t a[6]) {
    struct rs_session *s = w->session;
    uint32_t turn = 0, lead = !w->deposed && !w->alone;
    while (lead) {
        if (!s->watching)
            call_watcher(s);
        turn = (s->turn & ~(uint32_t)KINDS) + ROUND;
        s->turn = turn | CALL;
        if (s->watching) /* still: who stops watching looks at turn once more */
            break;
        if (!change(&s->turn, turn | CALL, turn))
            break;
    }
    int64_t result =
        rs_wait_client_call((int64_t)nr, a[0], a[1], a[2], a[3], a[4], a[5], &w->guard.stop);
    if (lead && !change(&s->turn, turn | CALL, turn))
        w->deposed = 1;
    return result;
}

int64_t rs_team_clone(struct rs_work *w, uint64_t nr, const uint64_t a[6]) {
    /* In the child none of our handlers may run, and it has them until it has changed them. */
    const uint64_t all = UINT64_MAX;
    uint64_t mask;
    if (w)
        w->parent = 1;
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&all), rs_addr(&mask), 8, 0, 0);
    int64_t pid = rs_clone_call((int64_t)nr, a[0], a[1], a[2], a[3], a[4], a[5]);
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&mask), 0, 8, 0, 0);
    return pid;
}

/* ---- what followers do ---- */

/* Have the leader take what w has to give, its reply or its memory. */
static void put(struct rs_session *s, struct rs_work *w) {
    w->next = atomic_load(&s->done);
    while (!atomic_compare_exchange_weak(&s->done, &w->next, w))
        ;
    uint32_t turn = s->turn;
    if ((turn & KINDS) == SLEEP && change(&s->turn, turn, turn | KICKED)) {
        poke(s, s->work->index, RS_SIGNAL); /* it waits for this, and so still leads */
        s->kicked = 1;
    }
}

static _Noreturn void leave(struct rs_session *s, struct rs_work *w) {
    put(s, w);
    for (;;) /* nothing of our stack is needed for this: it may be gone */
        rs_sys3(RS_NR_exit, 0, 0, 0);
}

static void deliver(struct rs_session *s) {
    struct rs_work *next;
    for (struct rs_work *w = atomic_exchange(&s->done, 0); w; w = next) {
        next = w->next;
        if (w->role == LEAVING) {
            uint32_t index = w->index;
            while (poke(s, index, 0) != -RS_ESRCH) /* before, it still counts as a thread */
                futex(&w->role, RS_FUTEX_WAIT, LEAVING, SHORT_TICK_NS / 4);
            drop(s, index);
            continue;
        }
        uint8_t *room = rs_tx_room(s, w->reply_len);
        if (room) { /* always, as it was reserved */
            memmove(room, w->reply, w->reply_len);
            rs_reply_add(s, w->reply_len, w->reply_fd);
        }
        s->held -= w->request.reserve;
        s->blocked--;
        w->guard.stop = 0;
        w->phase = RUNNING;
        w->blocked = 0;
    }
}

static void follow(struct rs_session *s, struct rs_work *w) {
    uint32_t seen = 0;
    change(&w->role, WORKING, change(&s->watching, NOBODY, 1) ? WATCHING : RESTING);
    for (;;) {
        uint32_t role = w->role, now = s->turn;
        if (role == LEADING)
            return;
        if (role == LEAVING)
            leave(s, w);
        if (role == WATCHING && now == seen) {
            if ((now & KINDS) == CALL) {
                if (!change(&s->turn, now, now & ~(uint32_t)KINDS))
                    continue;
                struct rs_work *old = s->work;
                if (w->blocked) { /* all others are, too: its own reply is where tx will be */
                    uint8_t *end = w->tx + RS_TX_SIZE - w->reply_len;
                    memmove(end, w->reply, w->reply_len);
                    w->reply = end;
                }
                take_over(s, w, RS_SIZE_HEADER + s->frame_len, old->request.nfds > 0);
                old->blocked = 1;
                s->blocked++;
                s->held += old->request.reserve;
                w->role = LEADING;
                s->watching = 0;
                deliver(s);
                return;
            }
            if (change(&w->role, WATCHING, RESTING)) {
                s->watching = 0;
                if (s->turn != now && change(&w->role, RESTING, WATCHING))
                    s->watching = 1;
            }
            continue;
        }
        seen = now;
        int64_t err = futex(&w->role, RS_FUTEX_WAIT, role,
                            role != WATCHING ? REST_NS
                            : s->blocked     ? SHORT_TICK_NS
                                             : TICK_NS);
        if (err == -RS_ETIMEDOUT && role == RESTING && w->index && !w->blocked &&
            !w->parent && change(&w->role, RESTING, LEAVING))
            leave(s, w);
    }
}

void rs_team_follow(struct rs_session *s, struct rs_work *w) {
    follow(s, w);
    w->role = WORKING;
}

void rs_team_over(struct rs_work *w) {
    if (atomic_exchange(&w->phase, OVER) == CANCELLED)
        hear(&w->heard);
}

int rs_team_finish(struct rs_session *s, struct rs_work *w, uint8_t *reply, uint32_t len,
                   int32_t fd) {
    for (uint32_t k = 0; k < w->request.nfds; k++)
        rs_close(w->packets[0].fds[k]);
    rs_team_over(w);
    w->deposed = 0;
    w->reply = reply;
    w->reply_len = len;
    w->reply_fd = fd;
    put(s, w);
    return RS_DEPOSED;
}

/* ---- what the leader does ---- */

uint32_t rs_team_sleep(struct rs_session *s) {
    uint32_t turn = (s->turn & ~(uint32_t)KINDS) + ROUND;
    s->turn = turn | SLEEP;
    return turn;
}

void rs_team_wake(struct rs_session *s, uint32_t turn) {
    if ((atomic_exchange(&s->turn, turn) & KINDS) == KICKED)
        hear(&s->kicked);
    deliver(s);
}

static int yield(struct rs_session *s) {
    struct rs_work *first = &s->first;
    if (first->blocked)
        return 0;
    while (!change(&first->role, RESTING, WORKING)) { /* its reply is here, so it is about to */
        if (change(&first->role, WATCHING, WORKING)) {
            s->watching = 0;
            break;
        }
        rs_sys3(RS_NR_sched_yield, 0, 0, 0);
    }
    take_over(s, first, 0, 0);
    wake(first, LEADING);
    return 1;
}

int rs_team_tidy(struct rs_session *s) {
    deliver(s);
    if (s->stall && !s->stall_told && s->state == RS_STATE_OPEN) {
        uint8_t *frame = rs_tx_room(s, 32), *p = frame + RS_SIZE_HEADER;
        s->stall_told = 1;
        if (frame) {
            *p++ = RS_FIXARRAY | 2;
            *p++ = RS_MSG_STALL;
            p = rs_put_uint(p, s->stall);
            rs_put_be(frame, RS_TAG_UINT32, (uint64_t)(p - frame) - RS_SIZE_HEADER, 4);
            rs_tx_add(s, (uint32_t)(p - frame));
        }
    }
    return s->work != &s->first && yield(s);
}

void rs_team_cancel(struct rs_session *s, uint64_t id) {
    for (uint32_t i = 0; i <= s->helpers; i++) {
        struct rs_work *w = s->slots[i];
        if (!w || !w->blocked || w->request.id != id || !change(&w->phase, RUNNING, CANCELLED))
            continue;
        w->guard.stop = -RS_EINTR;
        poke(s, i, RS_SIGNAL);
        w->heard = 1;
    }
}

int rs_team_alone(struct rs_session *s) {
    deliver(s);
    if (s->blocked)
        return -1;
    if (s->work != &s->first) {
        yield(s);
        return RS_DEPOSED;
    }
    for (uint32_t i = 1; i <= s->helpers; i++) {
        if (s->slots[i])
            wake(s->slots[i], LEAVING);
        while (s->slots[i]) {
            deliver(s);
            rs_pause();
        }
    }
    s->helpers = 0;
    s->watching = 0;
    return 0;
}

int rs_team_end(struct rs_session *s) {
    for (uint32_t i = 0; i <= s->helpers; i++)
        if (s->slots[i] && s->slots[i]->blocked)
            rs_team_cancel(s, s->slots[i]->request.id);
    while (s->blocked) {
        uint32_t turn = rs_team_sleep(s);
        rs_poll_until(0, 0, -1, &s->done);
        rs_team_wake(s, turn);
    }
    return rs_team_alone(s);
}
