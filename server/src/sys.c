#include "sys.h"

int64_t rs_poll_until(struct rs_pollfd *fds, uint32_t n, int64_t timeout_ms, const void *stop) {
    int64_t ts[2] = {timeout_ms / 1000, timeout_ms % 1000 * 1000000};
    return rs_wait_sys(RS_NR_ppoll, rs_addr(fds), n, timeout_ms < 0 ? 0 : rs_addr(ts), 0, 8, 0,
                       stop);
}

int64_t rs_poll(struct rs_pollfd *fds, uint32_t n, int64_t timeout_ms) {
    static const uint64_t never = 0;
    return rs_poll_until(fds, n, timeout_ms, &never);
}

uint64_t rs_clock(void) {
    uint64_t ts[2] = {0, 0};
    rs_sys3(RS_NR_clock_gettime, RS_CLOCK_MONOTONIC, rs_addr(ts), 0);
    return ts[0] * 1000000000 + ts[1];
}

int rs_one_cpu(void) {
    uint64_t mask[16] = {0}; /* of 1,024 CPUs; with more the call fails, and there are several */
    uint32_t cpus = 0;
    if (rs_sys3(RS_NR_sched_getaffinity, 0, sizeof mask, rs_addr(mask)) < 0)
        return 0;
    for (uint32_t i = 0; i < 16; i++)
        for (uint64_t bits = mask[i]; bits; bits &= bits - 1)
            cpus++;
    return cpus == 1;
}

uint64_t rs_dispose(uint32_t sig, uint64_t handler) {
    /* Handler, flags, restorer, mask. No handler of ours returns; the kernel wants to know all the
     * same where to. */
    uint64_t act[4] = {handler, RS_SA_RESTORER, handler, 0};
    rs_sys(RS_NR_rt_sigaction, sig, rs_addr(act), rs_addr(act), 8, 0, 0);
    return act[0];
}

int64_t rs_mmap(uint64_t length, uint32_t prot, uint32_t flags, int32_t fd) {
    return rs_sys(RS_NR_mmap, 0, length, prot, flags, (uint64_t)(int64_t)fd, 0);
}
