/* Descriptors that the client waits for, and nothing is done meanwhile. They are polled beside its
 * socket, by whoever leads: what a signalfd has depends on the thread that asks. */
#include "sys.h"
#include "transport.h"

int rs_watch(struct rs_session *s) {
    const struct rs_request *req = &s->work->request;
    if (s->watch_count == RS_SIZE_WATCHES)
        return 0;
    s->watches[s->watch_count++] = (struct rs_watch){req->id, (int32_t)req->which};
    s->held += req->reserve;
    return 1;
}

static void answer(struct rs_session *s, uint32_t i, int64_t value) {
    uint8_t *room = rs_tx_room(s, RS_SIZE_REPLY_BASE);
    if (room) /* always, as it was reserved */
        rs_reply_add(s, rs_result(s->watches[i].id, value, room), -1);
    s->held -= RS_SIZE_REPLY_BASE;
    s->watches[i] = s->watches[--s->watch_count];
}

void rs_watch_end(struct rs_session *s, uint64_t id) {
    for (uint32_t i = s->watch_count; i-- > 0;)
        if (!id || s->watches[i].id == id)
            answer(s, i, -RS_EINTR);
}

void rs_watch_told(struct rs_session *s, const struct rs_pollfd *fds) {
    for (uint32_t i = s->watch_count; i-- > 0;)
        if (fds[i].revents)
            answer(s, i, fds[i].revents);
}
