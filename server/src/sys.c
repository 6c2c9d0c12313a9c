#include "sys.h"

int64_t rs_poll(struct rs_pollfd *fds, uint32_t n, int64_t timeout_ms) {
    int64_t ts[2] = {timeout_ms / 1000, timeout_ms % 1000 * 1000000};
    return rs_sys(RS_NR_ppoll, rs_addr(fds), n, timeout_ms < 0 ? 0 : rs_addr(ts), 0, 8, 0);
}
