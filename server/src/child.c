/* What a child runs, see child.h. It has its own stack, and shares everything else with whoever
 * made it: no handler of theirs may run here, and nothing here may end them. */
#include "child.h"

#include "sys.h"

_Static_assert(sizeof(struct rs_session) <= RS_SIZE_CHILD_MEMORY, "SPEC.md promises that much");
_Static_assert(sizeof(struct rs_child) == 80, "SPEC.md says what is where");

#define BIT(sig) (1ull << ((sig) - 1))

/* Whose default action is to dump core: QUIT ILL TRAP ABRT BUS FPE SEGV XCPU SYS. Before 5.16 that
 * kills everybody who shares the memory, even if nothing is written. */
enum { DUMP = BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(7) | BIT(8) | BIT(11) | BIT(24) | BIT(31) };

/* What may have to be changed although there is no handler. */
#define OURS (DUMP | BIT(RS_SIGPIPE) | BIT(RS_SIGXFSZ))

static _Noreturn void end(int status) {
    for (;;)
        rs_sys3(RS_NR_exit_group, (uint64_t)status, 0, 0);
}

/* The handler of those signals. The init of a pid namespace cannot kill itself. */
static void die(int sig) {
    rs_sys3(RS_NR_kill, (uint64_t)rs_getpid(), RS_SIGKILL, 0);
    end(128 + sig);
}

/* By default SIG_DFL where there is a handler. What is ignored stays so, but for the two that
 * Python and the stub ignore for themselves: a program should find them as it expects them. */
static void dispositions(uint32_t flags) {
    for (uint32_t sig = 1; sig <= RS_SIGNALS; sig++) {
        uint64_t then = RS_SIG_DFL;
        int serves = sig == RS_SIGPIPE || sig == RS_SIGXFSZ;
        if (flags & RS_CHILD_CLEARED && !(OURS & BIT(sig)))
            continue;
        if (serves && !(flags & RS_CHILD_RUN))
            then = RS_SIG_IGN;
        else if (flags & RS_CHILD_SHARED && sig < 32 && DUMP & BIT(sig))
            then = (uint64_t)(uintptr_t)die;
        /* All of them are blocked: to look first would be a call more. */
        if (rs_dispose(sig, then) == RS_SIG_IGN && !serves)
            rs_dispose(sig, RS_SIG_IGN);
    }
}

/* Called by rs_child_entry, and does not return. */
__attribute__((used)) _Noreturn void rs_child_main(struct rs_child *c);

_Noreturn void rs_child_main(struct rs_child *c) {
    struct rs_session *s = (struct rs_session *)(uintptr_t)c->session;
    const uint32_t *range = (const uint32_t *)(uintptr_t)c->ranges;
    dispositions(c->flags);
    for (; c->range_count; c->range_count--, range += 2)
        rs_sys3(RS_NR_close_range, range[0], range[1], 0);
    rs_session_init(s, c->socket, c->pidfd, c->flags & RS_CHILD_RUN ? RS_SINGLE : 0, c->page_size);
    if (c->flags & RS_CHILD_RUN) {
        c->reply_len = rs_session_batch(s, (uint8_t *)(uintptr_t)c->data, c->size);
        c->reply = rs_addr(s->work->tx);
        end(127);
    }
#ifdef RS_INSIDE
    s->client = c->client;
#endif
    c->reply = rs_addr(&s->slots[1]);
    c->reply_len = RS_SIZE_HELPERS;
    rs_sys(RS_NR_rt_sigprocmask, RS_SIG_SETMASK, rs_addr(&c->mask), 0, 8, 0, 0);
    if (c->size)
        rs_session_begin(s, (void *)(uintptr_t)c->data, c->size, c->spin_us, c->spin_turns);
    rs_session_run(s);
    end(0);
}
